"""Images by name: here, or from a registry where the user's policy says so.

    missing   what is here is taken; else it is pulled                       (the default)
    always    the registry is asked; what is here stays if it is the same
    newer     the same, but what is here is taken if the registry cannot be asked
    never     what is here, and nothing else

An id, and a name with a digest that is here, are never asked for: they cannot have changed.
Whoever watches a pull is told of it when the registry is about to be asked, and not otherwise.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from layerstore import (
    CorruptBlobError,
    Image,
    InvalidReferenceError,
    NotFoundError,
    Platform,
    Reference,
    Store,
)

if TYPE_CHECKING:
    from layerstore.registry import RegistryClient, Transfer

PullPolicy = Literal["missing", "always", "newer", "never"]
Report = Callable[["Transfer"], object]
Watch = Callable[[Reference], AbstractContextManager[Report]]


# docker's words, and podman's and buildah's for the same
POLICIES: dict[str, PullPolicy] = {
    "missing": "missing",
    "false": "missing",
    "0": "missing",
    "ifmissing": "missing",
    "always": "always",
    "true": "always",
    "1": "always",
    "newer": "newer",
    "ifnewer": "newer",
    "never": "never",
}
_GET_HINT = (
    "`lamina images` lists what is here; without a network get one by "
    "`lamina bootstrap busybox|debian:SUITE`, `lamina import ROOTFS.tar NAME` or "
    "`lamina load -i ARCHIVE`"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulling:
    """How images are got. `client` is called, and HTTP imported, when a registry is to be asked.

    Without `fetches` it is asked what an image consists of, and no layer comes.
    """

    policy: PullPolicy
    client: "Callable[[], RegistryClient]"
    fetches: bool = True

    def image(
        self,
        store: Store,
        name: str,
        platform: Platform | None,
        watch: Watch,
        *,
        lazily: bool = False,
    ) -> Image:
        """The image that `name` stands for, in the store when this returns.

        With `lazily`, layers that build caches describe are only offered to the store then, and
        come when they are wanted (see layerstore/registry/offers.py).

        Raises:
            NotFoundError: it is neither here nor can it be had.
            RegistryError: the registry does not give it.
        """
        reference = reference_of(name)
        if self.policy == "never" or reference is None:
            return store.images.resolve(name, platform)
        store.lease()
        local = _local(store, name, platform)
        if local is not None and not self._is_to_be_asked(store, local, reference):
            return local
        from layerstore.registry import (
            RegistryError,
            UnreachableRegistryError,
            know_image,
            offer_image,
            pull_image,
        )
        from layerstore.registry import is_current as is_current_there

        client = self.client()
        try:
            with watch(reference) as report:
                if local is not None and is_current_there(client, store, local, reference):
                    return local
                if not self.fetches:
                    return know_image(client, store, reference, platform=platform)
                if lazily:
                    return offer_image(
                        client, store, reference, platform=platform, report=report, watch=watch
                    )
                return pull_image(client, store, reference, platform=platform, report=report).image
        except RegistryError as error:
            if local is not None and self.policy == "newer":
                return local
            if local is None and isinstance(error, UnreachableRegistryError):
                key = f"{name}: {error.message}"
                raise NotFoundError(kind="image", key=key, hint=_GET_HINT) from error
            raise

    def _is_to_be_asked(self, store: Store, local: Image, reference: Reference) -> bool:
        if self.policy == "missing" or reference.digest is not None:
            return False
        return reference.familiar in store.images.names(local)  # else it was called by its id


def reference_of(name: str) -> Reference | None:
    """The name as a registry knows it; None for an id, or a moment of an image."""
    if name.startswith("sha256:"):
        return None
    try:
        return Reference.parse(name)
    except InvalidReferenceError:
        return None


def _local(store: Store, name: str, platform: Platform | None) -> Image | None:
    """What is here; None also where documents of it are damaged, or of another platform."""
    try:
        return store.images.resolve(name, platform)
    except (NotFoundError, CorruptBlobError):
        return None


@contextmanager
def untold(name: Reference) -> Iterator[Report]:
    """Watch a pull without telling anybody."""
    yield lambda event: None
