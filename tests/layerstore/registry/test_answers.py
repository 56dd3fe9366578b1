"""What a registry says, as errors."""

import pytest

from layerstore.registry import (
    DeniedError,
    RegistryError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnknownManifestError,
)
from layerstore.registry.answers import problem_of
from layerstore.registry.connection import Connections
from layerstore.registry.secrets import Secrets
from layerstore.registry.settings import Settings
from tests.layerstore.registry.conftest import QUICK
from tests.support.oddregistry import OddRegistry, Reply, error_body


def problem(odd: OddRegistry, reply: Reply, secret: str = "") -> RegistryError:
    odd.replies["GET /a"] = reply
    connections = Connections(Settings(bounds=QUICK, environment={}))
    secrets = Secrets()
    secrets.add(secret, user="me")
    try:
        with connections.send("GET", odd.url + "/a", {}) as response:
            return problem_of(response, what="manifest for a:1", secrets=secrets)
    finally:
        connections.close()


@pytest.mark.parametrize(
    ("status", "body", "kind", "text"),
    [
        (
            404,
            error_body("MANIFEST_UNKNOWN", "manifest unknown"),
            UnknownManifestError,
            "manifest for a:1 not found: manifest unknown: manifest unknown",
        ),
        (404, b"", UnknownManifestError, "manifest for a:1 not found: manifest unknown"),
        (404, b"<html>", UnknownManifestError, "manifest for a:1 not found: manifest unknown"),
        (
            401,
            error_body("UNAUTHORIZED", "authentication required"),
            UnauthorizedError,
            "manifest for a:1: unauthorized: authentication required",
        ),
        (401, b"", UnauthorizedError, "manifest for a:1: unauthorized: authentication required"),
        (
            403,
            error_body("DENIED", "not yours"),
            DeniedError,
            "manifest for a:1: denied: not yours",
        ),
        (
            403,
            b"",
            DeniedError,
            "manifest for a:1: denied: requested access to the resource is denied",
        ),
        (400, b'{"details": "incorrect"}', UnexpectedAnswerError, "answers 400: incorrect"),
        (418, b"", UnexpectedAnswerError, "manifest for a:1: it answers 418"),
        (400, b'{"errors": []}', UnexpectedAnswerError, "it answers 400"),
        (400, b'{"errors": [1]}', UnexpectedAnswerError, "it answers 400"),
        (400, b'{"errors": [{"code": "X_Y"}]}', UnexpectedAnswerError, "answers 400: x y"),
    ],
)
def test_an_answer_becomes_an_error(
    odd: OddRegistry, status: int, body: bytes, kind: type[RegistryError], text: str
) -> None:
    found = problem(odd, Reply(body, status))
    assert type(found) is kind
    assert str(found).endswith(text)


def test_who_is_not_known_is_told_to_log_in(odd: OddRegistry) -> None:
    assert "lamina login" in problem(odd, Reply(status=401)).hint


def test_secrets_that_a_registry_repeats_are_hidden(odd: OddRegistry) -> None:
    body = error_body("UNAUTHORIZED", "hunter22 is wrong: Basic bWU6aHVudGVyMjI=")
    text = str(problem(odd, Reply(body, 401), "hunter22"))
    assert "hunter22" not in text
    assert "bWU6" not in text
    assert "*** is wrong" in text


def test_a_long_story_is_cut(odd: OddRegistry) -> None:
    assert len(str(problem(odd, Reply(error_body("X", "y" * 10_000), 400)))) < 500


def test_an_endless_story_is_not_read(odd: OddRegistry) -> None:
    assert "400" in str(problem(odd, Reply(b"", 400, endless=True)))
