"""The JSON schemas of the OCI image specification, asked about documents."""

import json
from pathlib import Path
from typing import Any

from layerstore import descriptor as media
from tests.support.conformance import MATERIAL

OCI = MATERIAL / "oci"
SCHEMAS = {
    media.OCI_MANIFEST: "image-manifest-schema.json",
    media.OCI_INDEX: "image-index-schema.json",
    media.OCI_CONFIG: "config-schema.json",
}


def schema_error(name: str, document: object) -> str:
    """What jsonschema says about a document; empty when it is valid."""
    import jsonschema
    from referencing import Registry, Resource
    from referencing.jsonschema import DRAFT4

    registry: Registry[Any] = Registry()
    for path in (OCI / "schema").glob("*.json"):
        schema = json.loads(path.read_bytes())
        resource = Resource.from_contents(schema, default_specification=DRAFT4)
        registry = registry.with_resource(path.name, resource)
        # References are relative to the schema's own id.
        base = schema.get("id", "").rpartition("/")[0]
        for prefix in (base, "https://opencontainers.org/schema"):
            registry = registry.with_resource(f"{prefix}/{path.name}", resource)
        for folder in ("image", "descriptor"):
            registry = registry.with_resource(
                f"https://opencontainers.org/schema/{folder}/{path.name}", resource
            )
    schema = json.loads((OCI / "schema" / name).read_bytes())
    validator = jsonschema.Draft4Validator(schema, registry=registry)
    return "; ".join(error.message for error in validator.iter_errors(document))


def layout_errors(root: Path) -> list[str]:
    """What is wrong with the documents of an OCI image layout, from its index.json downwards."""
    blobs = root / "blobs/sha256"
    errors = [
        schema_error("image-layout-schema.json", json.loads((root / "oci-layout").read_bytes()))
    ]
    index = json.loads((root / "index.json").read_bytes())
    errors.append(schema_error(SCHEMAS[media.OCI_INDEX], index))
    pending = list(index["manifests"])
    while pending:
        entry = pending.pop()
        schema = SCHEMAS.get(entry["mediaType"])
        if schema is None:
            continue
        document = json.loads((blobs / entry["digest"].removeprefix("sha256:")).read_bytes())
        errors.append(schema_error(schema, document))
        pending += document.get("manifests", [])
        pending += [document["config"]] if entry["mediaType"] == media.OCI_MANIFEST else []
    return [error for error in errors if error]
