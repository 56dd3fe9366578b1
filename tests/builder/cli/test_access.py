"""The options by which registries are reached."""

import io
from pathlib import Path

import pytest

from builder.cli.access import (
    ACCESS,
    CREDS,
    DIGEST_FILE,
    Access,
    client_of,
    parse_creds,
    write_digest,
)
from builder.cli.arguments import Arguments, Command, UsageError, flag, split, value
from layerstore import Reference

COMMAND = Command(
    name="x",
    synopsis="",
    about="",
    act=lambda arguments, session: 0,
    options=(
        *(*ACCESS, CREDS, DIGEST_FILE),
        value("--src-authfile", about=""),
        flag("--src-tls-verify", about=""),
    ),
)
NAME = Reference.parse("a.b:5000/c")


def given(*words: str) -> Arguments:
    return split(COMMAND, list(words))


def test_nothing_given_is_what_the_users_files_say() -> None:
    with client_of(given()) as client:
        settings = client.settings
    assert (settings.auth_file, settings.cert_dir, settings.tls_verify) == (None, None, None)
    assert settings.retries == 3
    assert settings.credentials is None


def test_options_become_settings() -> None:
    words = ("--authfile=f", "--cert-dir", "d", "--tls-verify=false", "--retry", "0")
    with client_of(given(*words)) as client:
        settings = client.settings
    assert (settings.auth_file, settings.cert_dir) == (Path("f"), Path("d"))
    assert (settings.tls_verify, settings.retries) == (False, 0)
    with client_of(given("--tls-verify")) as client:
        assert client.settings.tls_verify is True


def test_what_is_said_of_one_side_goes_before_what_is_said_of_both() -> None:
    words = given("--authfile=f", "--src-authfile=g", "--cert-dir=d", "--src-tls-verify=false")
    with client_of(words, side="src-") as source, client_of(words, side="dest-") as target:
        ours, theirs = source.settings, target.settings
    assert (ours.auth_file, theirs.auth_file) == (Path("g"), Path("f"))
    assert (ours.cert_dir, theirs.cert_dir) == (Path("d"), Path("d"))
    assert (ours.tls_verify, theirs.tls_verify) == (False, None)


def test_a_digest_is_written_where_it_is_wanted(tmp_path: Path) -> None:
    write_digest(given(), "sha256:0")
    write_digest(given(f"--digestfile={tmp_path / 'digest'}"), "sha256:0")
    assert (tmp_path / "digest").read_text() == "sha256:0"


def test_credentials_are_for_the_registry_of_the_name() -> None:
    with client_of(given("--creds", "me:a:b"), NAME) as client:
        settings = client.settings
    assert settings.credentials is not None
    assert (settings.credentials.user, settings.credentials.password) == ("me", "a:b")
    assert settings.credentials_host == "a.b:5000"


@pytest.mark.parametrize("words", [("--retry", "-1"), ("--retry", "x"), ("--tls-verify=maybe",)])
def test_what_makes_no_sense_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        client_of(given(*words))


def test_credentials_have_a_user() -> None:
    with pytest.raises(UsageError, match="no user"):
        parse_creds(":x")


def test_a_password_is_not_asked_for_where_nobody_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    monkeypatch.setattr("os.isatty", lambda fd: False)
    with pytest.raises(UsageError, match="not a TTY"):
        parse_creds("me")


def test_a_client_is_made_once_and_only_when_asked_for() -> None:
    with Access(given()) as access:
        assert access._client is None
    with Access(given()) as access:
        assert access.client() is access.client()
    assert access.client().stop.is_set()
