"""What a request means when little is said."""

from dataclasses import FrozenInstanceError

import pytest

from builder import BuildRequest
from builder.grants import NO_GRANTS, Grants
from builder.steps import NO_SETTINGS
from tests.support.images import dockerfile

FILE = dockerfile("FROM scratch\n")


def test_nothing_is_granted_by_default() -> None:
    request = BuildRequest(dockerfile=FILE, context=None)
    assert request.allowed == frozenset()
    assert request.grants == NO_GRANTS
    assert request.run_settings == NO_SETTINGS
    assert not (request.no_cache or request.verify or request.squash or request.encoding)
    assert request.keep


def test_it_cannot_be_changed() -> None:
    request = BuildRequest(dockerfile=FILE, context=None)
    with pytest.raises(FrozenInstanceError):
        request.no_cache = True  # type: ignore[misc]  # what must not work


def test_secrets_are_in_no_description_of_it() -> None:
    grants = Grants(secrets={"id": b"open sesame"})
    assert "sesame" not in repr(BuildRequest(dockerfile=FILE, context=None, grants=grants))
