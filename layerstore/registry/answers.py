"""What a registry says when it does not do what was asked, as one of our errors.

Spec: OCI distribution-spec v1.1, "Error Codes".
"""

from layerstore.documents import Reader
from layerstore.errors import MalformedDocumentError
from layerstore.registry.connection import Response
from layerstore.registry.errors import (
    DeniedError,
    RegistryError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownManifestError,
)
from layerstore.registry.secrets import Secrets

_BODY_BYTES_MAX = 64 << 10
_TEXT_LENGTH_MAX = 300
_LOGIN = "log in first: lamina login"


def problem_of(
    response: Response, *, what: str, secrets: Secrets, missing: str = "manifest unknown"
) -> RegistryError:
    """The error for an answer; reads what is left of it.

    Args:
        what: what was asked for, as the message begins.
        secrets: is taken out of what the registry says.
        missing: what a 404 means that says nothing.
    """
    status = response.status
    detail = secrets.hide(_detail(response.excerpt(_BODY_BYTES_MAX)))
    match status:
        case 401:
            return UnauthorizedError(what=what, detail=detail, hint=_LOGIN)
        case 403:
            return DeniedError(what=what, detail=detail)
        case 404:
            return UnknownManifestError(what=what, detail=detail or missing)
        case _:
            problem = f"{what}: it answers {status}" + (f": {detail}" if detail else "")
            return UnexpectedAnswerError(host=response.host, problem=problem)


def _detail(data: bytes) -> str:
    """`code: message` of the first error of a body; empty where there is none to be read."""
    try:
        reader = Reader.of(data, context="error")
        errors = reader.items("errors", lambda each: (each.text("code"), each.text("message")))
        if not errors:
            return reader.text("details") or reader.text("message")
    except MalformedDocumentError:
        return ""
    code, message = errors[0]
    words = code.replace("_", " ").lower()
    text = f"{words}: {message}" if message and words else message or words
    if code in ("UNAUTHORIZED", "DENIED"):  # the error has that word already
        text = message
    return text[:_TEXT_LENGTH_MAX]
