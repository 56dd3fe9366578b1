"""The cache key of a step: its named ingredients, and their digest.

    schema   changes when the meaning of a step changes
    parent   chain id of the file system below: content, so an equal result keeps what is below it;
             empty on scratch, and for a step that stands alone (--link)
    platform the os/architecture that is built for
    step     the step's compared fields
    epoch    SOURCE_DATE_EPOCH, where it decides about the times in the layer

The document is canonical JSON (every string is quoted and separated, so no two documents collide)
and is kept beside the result: it explains misses. Never in it: mtimes, secrets, proxy settings,
locators.
"""

import json

from builder.steps import Document, Step, document_of
from layerstore import Digest

SCHEMA = 1


def key_document(step: Step, *, parent: Digest | None, platform: str, epoch: int | None) -> bytes:
    """The ingredients, as canonical JSON."""
    document: dict[str, Document] = {
        "schema": SCHEMA,
        "parent": "" if parent is None else str(parent),
        "platform": platform,
        "epoch": epoch,
        "step": document_of(step),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
