"""The options by which registries are reached."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.cli.access import (
    ACCESS,
    CREDS,
    DIGEST_FILE,
    Access,
    client_of,
    parse_creds,
    registry_of,
    write_digest,
)
from builder.cli.arguments import Arguments, Command, UsageError, flag, split, value
from layerstore import Reference, Store
from tests.support.commands import Commands
from tests.support.oddregistry import OddRegistry, Reply, odd_registry
from tests.support.registries import PASSWORD, USERNAME, Registry, registry
from tests.support.stores import make_image

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


def test_one_registry_is_that_of_all_names_and_ids_are_of_none() -> None:
    assert registry_of([]) is None
    assert registry_of(["sha256:" + "0" * 64, "NOT a name", "$X"]) is None
    found = registry_of(["a.b:5000/x", "a.b:5000/y:2", "sha256:" + "0" * 64])
    assert found is not None
    assert found.host == "a.b:5000"
    with pytest.raises(UsageError, match=r"one registry, .* of a\.b, docker\.io") as refused:
        registry_of(["debian", "a.b/x"])
    assert "lamina login" in refused.value.hint


def test_with_a_name_the_client_is_there_at_once() -> None:
    with Access(given("--creds=me:x"), NAME) as access:
        assert access.client().settings.credentials_host == "a.b:5000"


def test_a_password_is_asked_for_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: False)
    with pytest.raises(UsageError, match="not a TTY"):
        Access(given("--creds=me"), NAME)


@pytest.fixture
def odd() -> Iterator[OddRegistry]:
    with odd_registry() as server:
        yield server


@pytest.fixture
def closed(tmp_path: Path, bare: Commands, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry that wants a password, with an image `base:1`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with registry(tmp_path / "closed", auth="basic") as server:
        name = f"{server.address}/base:1"
        with Store.open(bare.root) as store:
            make_image(store, name, {"a": b"x"})
        bare("push", "-q", f"--creds={USERNAME}:{PASSWORD}", name)
        bare("rmi", name)
        yield server


def context(tmp_path: Path, text: str) -> Path:
    (tmp_path / "context").mkdir(exist_ok=True)
    (tmp_path / "context/Dockerfile").write_text(text)
    return tmp_path / "context"


@pytest.mark.needs_registry
@pytest.mark.parametrize(
    "text",
    [
        "FROM {}/base:1\n",
        "ARG HOST\nFROM ${{HOST}}/base:1\n",
        "FROM scratch\nCOPY --from={}/base:1 /a /b\n",
        "FROM given\n",
    ],
)
def test_a_build_pulls_as_who_is_given(
    text: str, closed: Registry, bare: Commands, tmp_path: Path
) -> None:
    there = context(tmp_path, text.format(closed.address))
    more = (
        f"--build-arg=HOST={closed.address}",
        f"--build-context=given=docker-image://{closed.address}/base:1",
        there,
    )
    assert "pull access denied" in bare("build", "-q", *more, code=1).err
    refused = bare("build", "-q", f"--creds={USERNAME}:not-it", *more, code=1)
    assert "pull access denied" in refused.err
    assert "not-it" not in refused.err
    creds = f"--creds={USERNAME}:{PASSWORD}"
    assert bare("build", "-q", creds, *more).out.startswith("sha256:")
    kept = (path for path in bare.root.rglob("*") if path.is_file())
    assert not any(PASSWORD.encode() in path.read_bytes() for path in kept)
    assert not (tmp_path / "home/.docker").exists()


@pytest.mark.needs_registry
def test_a_build_on_nothing_pushes_as_who_is_given_and_keeps_its_cache_there(
    closed: Registry, bare: Commands, tmp_path: Path
) -> None:
    there = context(tmp_path, "FROM scratch\nCOPY Dockerfile /\n")
    name = f"{closed.address}/made:1"
    cache = f"--cache-to=type=registry,ref={closed.address}/cache"
    assert "unauthorized" in bare("build", "-t", name, "--push", there, code=1).err
    bare("build", f"--creds={USERNAME}:{PASSWORD}", cache, "-t", name, "--push", there)
    assert (closed.tags("made"), closed.tags("cache")) == (["1"], ["latest"])


def test_a_build_gives_no_registry_what_may_be_for_another(
    odd: OddRegistry, bare: Commands, tmp_path: Path
) -> None:
    there = context(tmp_path, f"FROM {odd.address}/a\nCOPY --from=127.0.0.1:1/b / /\n")
    done = bare("build", "--creds=me:pass", there, code=125)
    assert "--creds is for one registry" in done.err
    assert "pass" not in done.err
    assert odd.asked == []


@pytest.mark.needs_registry
def test_what_a_base_image_names_in_its_triggers_is_asked_without_them(
    closed: Registry, odd: OddRegistry, bare: Commands, tmp_path: Path
) -> None:
    challenge = {"WWW-Authenticate": 'Basic realm="x"'}
    odd.replies["GET /v2/"] = Reply(b"", 401, challenge)
    odd.replies["GET /v2/b/manifests/latest"] = Reply(b"", 401, challenge)
    creds = f"--creds={USERNAME}:{PASSWORD}"
    base = f"{closed.address}/trigger:1"
    text = f"FROM scratch\nONBUILD COPY --from={odd.address}/b / /\n"
    bare("build", creds, "-t", base, "--push", context(tmp_path, text))
    done = bare("build", creds, context(tmp_path, f"FROM {base}\n"), code=1)
    assert "pull access denied" in done.err
    assert odd.asked
    assert odd.sent("authorization") == []


def test_a_client_is_made_once_and_only_when_asked_for() -> None:
    with Access(given()) as access:
        assert access._client is None
    with Access(given()) as access:
        assert access.client() is access.client()
    assert access.client().stop.is_set()
