"""Credential helpers: programs `docker-credential-NAME` that keep passwords for docker.

    get    < server             > {"ServerURL": ..., "Username": ..., "Secret": ...}
    store  < the same document
    erase  < server

Spec: docker/docker-credential-helpers, README ("Development").
"""

import json
import re

from layerstore.documents import Reader
from layerstore.errors import MalformedDocumentError
from layerstore.registry.errors import CredentialsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_TIMEOUT_S = 60
_NOT_FOUND = "credentials not found"  # how each helper says it, in different words around it


class HelperProgram:
    """One helper, by the name it has in a configuration file."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise CredentialsError(f"{name[:80]!r} is no name of a credential helper")
        self.name = f"docker-credential-{name}"

    def get(self, server: str) -> tuple[str, str] | None:
        """User and secret; None when it has none."""
        output = self._run("get", server)
        if output is None:
            return None
        try:
            reader = Reader.of(output, context=self.name)
            return reader.text("Username"), reader.text("Secret")
        except MalformedDocumentError:  # whose text could show what was there
            raise CredentialsError(f"{self.name}: its answer is not what it should be") from None

    def store(self, server: str, user: str, secret: str) -> None:
        """Keep a secret."""
        document = {"ServerURL": server, "Username": user, "Secret": secret}
        self._run("store", json.dumps(document))

    def erase(self, server: str) -> bool:
        """Forget it; whether there was one."""
        return self._run("erase", server) is not None

    def _run(self, action: str, text: str) -> bytes | None:
        """What it writes; None when it says that it has no such credentials."""
        import subprocess

        try:
            done = subprocess.run(
                [self.name, action],
                input=text.encode(),
                capture_output=True,
                check=False,
                timeout=_TIMEOUT_S,
            )
        except OSError as error:
            raise CredentialsError(
                f"{self.name}: {error.strerror}",
                hint="it is named by credsStore or credHelpers of docker's config.json",
            ) from error
        except subprocess.TimeoutExpired:
            raise CredentialsError(f"{self.name}: no answer in {_TIMEOUT_S} s") from None
        if done.returncode == 0:
            return done.stdout
        said = (done.stdout or done.stderr).decode("utf-8", "replace").strip()
        if _NOT_FOUND in said or action == "erase":
            return None
        # `get` failing says why; `store` might repeat what it was given
        reason = said.splitlines()[0][:200] if said and action == "get" else "it failed"
        raise CredentialsError(f"{self.name} {action}: {reason}")
