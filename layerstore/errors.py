"""What can go wrong with stored things.

StoreError(message, hint)
  NotFoundError(kind, key)              no such image, blob, layer
    NoPlatformError(wanted, offered)    an index, or an image, is not for that platform
  CorruptBlobError(what, expected, actual)
  MalformedDocumentError(context, problem)
  UnsafePathError(path, reason)         a name that would leave, or confuse, its root
  UnsupportedMediaTypeError(media_type)
  UnusableLayerError(source, error)     a layer that was offered could not be fetched
  StoreBusyError(path)
  DiskFullError(message)
  InvalidReferenceError(text, reason)
"""

FULL_HINT = (
    "`lamina system df` shows what takes the room, `lamina system prune` frees what nothing needs"
)


class StoreError(Exception):
    """A store operation failed; `hint` says what to do about it, empty when nothing helps."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotFoundError(StoreError):
    def __init__(self, *, kind: str, key: str, hint: str = "") -> None:
        super().__init__(f"no such {kind}: {key}", hint=hint)
        self.kind = kind
        self.key = key


class NoPlatformError(NotFoundError):
    def __init__(self, *, wanted: str, offered: str, what: str = "the index offers") -> None:
        super().__init__(
            kind=f"image for {wanted}",
            key=f"{what} {offered}",
            hint="--platform of build, pull, load, save and copy takes another one",
        )
        self.wanted = wanted
        self.offered = offered


class CorruptBlobError(StoreError):
    def __init__(self, *, what: str, expected: str, actual: str, hint: str = "") -> None:
        super().__init__(f"{what} is damaged: expected {expected}, found {actual}", hint=hint)
        self.expected = expected
        self.actual = actual


class MalformedDocumentError(StoreError):
    def __init__(self, *, context: str, problem: str, hint: str = "") -> None:
        super().__init__(f"{context}: {problem}", hint=hint)
        self.context = context
        self.problem = problem


class UnsafePathError(StoreError):
    def __init__(self, *, path: str, reason: str, hint: str = "") -> None:
        super().__init__(f"unsafe path {path!r}: {reason}", hint=hint)
        self.path = path
        self.reason = reason


class UnsupportedMediaTypeError(StoreError):
    def __init__(self, *, media_type: str, hint: str = "") -> None:
        super().__init__(f"unsupported media type {media_type!r}", hint=hint)
        self.media_type = media_type


class UnusableLayerError(StoreError):
    """What was built on the promise of that layer must be built again without it."""

    def __init__(self, *, source: str, error: Exception) -> None:
        super().__init__(f"{source}: {error}")
        self.source = source


class StoreBusyError(StoreError):
    def __init__(self, *, path: str, hint: str = "") -> None:
        super().__init__(f"{path} is in use by another process", hint=hint)
        self.path = path


class DiskFullError(StoreError):
    def __init__(self, message: str) -> None:
        super().__init__(message, hint=FULL_HINT)


class InvalidReferenceError(StoreError):
    def __init__(self, *, text: str, reason: str, hint: str = "") -> None:
        super().__init__(f"invalid image name {text!r}: {reason}", hint=hint)
        self.text = text
        self.reason = reason
