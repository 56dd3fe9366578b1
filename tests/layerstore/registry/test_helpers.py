"""Credential helpers, as shell scripts."""

import json
from pathlib import Path

import pytest

from layerstore.registry import CredentialsError
from layerstore.registry.helpers import HelperProgram


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of docker-credential-test, alone on the path with the shell's own programs."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "docker-credential-test"


def write(helper: Path, script: str) -> HelperProgram:
    helper.write_text(f"#!/bin/sh\n{script}\n")
    helper.chmod(0o755)
    return HelperProgram("test")


def test_get_gives_user_and_secret(helper: Path) -> None:
    program = write(helper, """[ $1 = get ] && echo '{"Username":"me","Secret":"'$(cat)'"}'""")
    assert program.get("a.b") == ("me", "a.b")


def test_a_helper_that_has_none_says_so(helper: Path) -> None:
    program = write(helper, "echo credentials not found in native keychain; exit 1")
    assert program.get("a.b") is None


def test_store_hands_over_everything(helper: Path, tmp_path: Path) -> None:
    write(helper, f"cat > {tmp_path}/$1").store("a.b", "me", "secret")
    document = json.loads((tmp_path / "store").read_text())
    assert document == {"ServerURL": "a.b", "Username": "me", "Secret": "secret"}


def test_erase_says_whether_there_was_one(helper: Path, tmp_path: Path) -> None:
    assert write(helper, f"cat > {tmp_path}/$1").erase("a.b")
    assert (tmp_path / "erase").read_text() == "a.b"
    assert not write(helper, "exit 1").erase("a.b")


def test_a_helper_that_fails_says_why(helper: Path) -> None:
    with pytest.raises(CredentialsError, match="docker-credential-test get: the keyring is locked"):
        write(helper, "echo the keyring is locked; exit 1").get("a.b")


def test_a_failing_store_does_not_repeat_the_secret(helper: Path) -> None:
    with pytest.raises(CredentialsError) as caught:
        write(helper, "cat; exit 1").store("a.b", "me", "hunter22")
    assert "hunter22" not in str(caught.value)


def test_a_bad_answer_is_not_repeated(helper: Path) -> None:
    with pytest.raises(CredentialsError) as caught:
        write(helper, "echo hunter22").get("a.b")
    assert "hunter22" not in str(caught.value)


def test_a_missing_helper_is_named(helper: Path) -> None:
    with pytest.raises(CredentialsError, match="docker-credential-test") as caught:
        HelperProgram("test").get("a.b")
    assert "credsStore" in caught.value.hint


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a b"])
def test_a_name_is_no_path(name: str) -> None:
    with pytest.raises(CredentialsError):
        HelperProgram(name)
