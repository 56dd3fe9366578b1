"""What can go wrong between this machine and a registry.

RegistryError(message, hint)                    is a StoreError
  UnreachableRegistryError(host, problem)       no such host, refused, no network
  UntrustedRegistryError(host, problem)         TLS, or a redirect that would give something away
  UnauthorizedError(what, detail)               401, or credentials that are not accepted
  DeniedError(what, detail)                     403
  UnknownManifestError(what, detail)            there is no such image, or a part of it is not there
  BlockedRegistryError(name)                    registries.conf says so
  CredentialsError                              a file or program with credentials is of no use
  UnexpectedAnswerError(host, problem)          a registry does not keep to the specification
  CanceledError                                 another part of the same transfer has failed

No message ever holds a password or token: `secrets.py` takes them out of what a server says.
"""

from layerstore.errors import StoreError


class RegistryError(StoreError):
    """Any of them."""


class UnreachableRegistryError(RegistryError):
    def __init__(self, *, host: str, problem: str, hint: str = "") -> None:
        super().__init__(f"cannot reach the registry {host}: {problem}", hint=hint)
        self.host = host


class UntrustedRegistryError(RegistryError):
    def __init__(self, *, host: str, problem: str, hint: str = "") -> None:
        super().__init__(f"registry {host}: {problem}", hint=hint)
        self.host = host


class UnauthorizedError(RegistryError):
    def __init__(self, *, what: str, detail: str = "", hint: str = "") -> None:
        text = detail or "authentication required"
        super().__init__(f"{what}: unauthorized: {text}", hint=hint)


class DeniedError(RegistryError):
    def __init__(self, *, what: str, detail: str = "", hint: str = "") -> None:
        text = detail or "requested access to the resource is denied"
        super().__init__(f"{what}: denied: {text}", hint=hint)


class UnknownManifestError(RegistryError):
    def __init__(self, *, what: str, detail: str, hint: str = "") -> None:
        super().__init__(f"{what} not found: {detail}", hint=hint)


class BlockedRegistryError(RegistryError):
    def __init__(self, *, name: str) -> None:
        super().__init__(f"{name}: this registry is blocked", hint="registries.conf says so")


class CredentialsError(RegistryError):
    """The message says what file or program it is, and what is wrong with it."""


class UnexpectedAnswerError(RegistryError):
    def __init__(self, *, host: str, problem: str, hint: str = "") -> None:
        super().__init__(f"registry {host}: {problem}", hint=hint)
        self.host = host


class CanceledError(RegistryError):
    def __init__(self) -> None:
        super().__init__("the transfer was given up")
