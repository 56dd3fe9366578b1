"""Descriptors: how one document or image names a blob, and the media types that say what it is.

Spec: OCI image-spec v1.1, descriptor.md, media-types.md; Docker's image-manifest v2 schema 2.
"""

from dataclasses import dataclass

from layerstore.digest import Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFEST_TYPES = frozenset((OCI_MANIFEST, DOCKER_MANIFEST))
INDEX_TYPES = frozenset((OCI_INDEX, DOCKER_INDEX))
CONFIG_TYPES = frozenset((OCI_CONFIG, DOCKER_CONFIG))

# Annotations of the entries of an index.json that give an image its name.
REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """What an image runs on, in Go's words (`linux`, `amd64`)."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "/".join(filter(None, (self.os, self.architecture, self.variant)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Media type, digest and size. `annotations` are sorted by name.

    Differs: `urls` and `data` are not kept; neither ever says where bytes come from here.
    """

    media_type: str
    digest: Digest
    size_bytes: int
    annotations: tuple[tuple[str, str], ...] = ()
    platform: Platform | None = None

    @property
    def plain(self) -> "Descriptor":
        """Without what an index says about it."""
        return Descriptor(
            media_type=self.media_type, digest=self.digest, size_bytes=self.size_bytes
        )

    def annotation(self, name: str) -> str:
        """The annotation `name`, empty when it is not there."""
        return next((value for key, value in self.annotations if key == name), "")
