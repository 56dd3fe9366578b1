"""Credentials: where they are looked for, and where they are kept."""

import base64
import json
import os
from pathlib import Path

import pytest

from layerstore.reference import DEFAULT_HOST
from layerstore.registry import Credentials, CredentialsError
from layerstore.registry.credentials import CredentialStore
from layerstore.registry.endpoints import DOCKER_HUB_KEY

ME = Credentials(user="me", password="pass:word")


def entry(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    folder = tmp_path / ".docker"
    folder.mkdir()
    return folder / "config.json"


def store(tmp_path: Path, auth_file: Path | None = None, **environment: str) -> CredentialStore:
    return CredentialStore({"HOME": str(tmp_path), **environment}, auth_file)


def write(file: Path, **members: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(members))


def user_for(found: CredentialStore, host: str = "a.b", path: str = "") -> str | None:
    credentials = found.find(host, path)
    return None if credentials is None else credentials.user


# Finding.


def test_without_any_file_there_are_none(tmp_path: Path) -> None:
    assert store(tmp_path).find("a.b") is None


def test_dockers_file_is_read(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"a.b": entry("me", "pass:word")})
    assert store(tmp_path).find("a.b", "c/d") == ME
    assert store(tmp_path).find("a.b:5000") is None
    assert store(tmp_path).find("x.a.b") is None


def test_user_and_password_may_stand_in_words(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"a.b": {"username": "me", "password": "pass:word"}})
    assert store(tmp_path).find("a.b") == ME


@pytest.mark.parametrize("key", ["https://a.b", "https://a.b/", "https://a.b/v1/", "a.b/"])
def test_keys_may_be_urls(tmp_path: Path, docker: Path, key: str) -> None:
    write(docker, auths={key: entry("me", "x")})
    assert user_for(store(tmp_path)) == "me"


def test_a_key_with_a_scheme_is_for_that_scheme(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"https://a.b": entry("me", "x"), "http://c.d": entry("you", "x")})
    found = store(tmp_path)
    assert found.find("a.b", scheme="http") is None
    assert found.find("c.d", scheme="https") is None
    assert found.find("c.d", scheme="http") is not None


@pytest.mark.parametrize("key", [DOCKER_HUB_KEY, DEFAULT_HOST, f"index.{DEFAULT_HOST}"])
def test_docker_hub_has_several_keys(tmp_path: Path, docker: Path, key: str) -> None:
    write(docker, auths={key: entry("me", "x")})
    assert user_for(store(tmp_path), "docker.io", "library/a") == "me"


def test_the_closest_key_counts(tmp_path: Path, docker: Path) -> None:
    write(
        docker,
        auths={"a.b": entry("all", "x"), "a.b/c": entry("c", "x"), "a.b/c/d": entry("d", "x")},
    )
    found = store(tmp_path)
    assert [user_for(found, path=path) for path in ("c/d", "c/e", "f", "")] == [
        *("d", "c", "all", "all")
    ]


def test_podmans_files_come_after_dockers(tmp_path: Path, docker: Path) -> None:
    runtime = tmp_path / "run"
    write(runtime / "containers" / "auth.json", auths={"a.b": entry("runtime", "x")})
    write(tmp_path / ".config/containers/auth.json", auths={"a.b": entry("config", "x")})
    assert user_for(store(tmp_path)) == "config"
    assert user_for(store(tmp_path, XDG_RUNTIME_DIR=str(runtime))) == "runtime"
    write(docker, auths={"a.b": entry("docker", "x")})
    assert user_for(store(tmp_path, XDG_RUNTIME_DIR=str(runtime))) == "docker"


def test_a_file_that_is_named_is_the_only_one(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"a.b": entry("docker", "x")})
    write(tmp_path / "one.json", auths={"c.d": entry("one", "x")})
    found = store(tmp_path, REGISTRY_AUTH_FILE=str(tmp_path / "one.json"))
    assert user_for(found, "c.d") == "one"
    assert user_for(found, "a.b") is None
    write(tmp_path / "two.json", auths={"c.d": entry("two", "x")})
    found = store(tmp_path, tmp_path / "two.json", REGISTRY_AUTH_FILE=str(tmp_path / "one.json"))
    assert user_for(found, "c.d") == "two"


def test_the_text_of_a_file_may_stand_in_a_variable(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"a.b": entry("docker", "x"), "c.d": entry("docker", "x")})
    text = json.dumps({"auths": {"a.b": entry("inline", "x")}})
    found = store(tmp_path, DOCKER_AUTH_CONFIG=text)
    assert user_for(found, "a.b") == "inline"
    assert user_for(found, "c.d") == "docker"


def test_the_directory_of_dockers_file_may_be_named(tmp_path: Path) -> None:
    write(tmp_path / "x" / "config.json", auths={"a.b": entry("me", "x")})
    assert user_for(store(tmp_path, DOCKER_CONFIG=str(tmp_path / "x"))) == "me"


def test_tokens_take_the_place_of_passwords(tmp_path: Path, docker: Path) -> None:
    write(
        docker,
        auths={
            "a.b": entry("me", "") | {"identitytoken": "abc"},
            "c.d": {"registrytoken": "def"},
        },
    )
    found = store(tmp_path)
    assert found.find("a.b") == Credentials(user="me", identity_token="abc")
    assert found.find("c.d") == Credentials(registry_token="def")


def test_an_empty_entry_is_none(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"a.b": {}, "c.d": None, "e.f": {"auth": ""}})
    found = store(tmp_path)
    assert [found.find(host) for host in ("a.b", "c.d", "e.f")] == [None, None, None]


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"auths": []}', '{"auths": {"a.b": {"auth": "!"}}}', '{"credHelpers": 1}']
)
def test_a_file_that_makes_no_sense_is_an_error(tmp_path: Path, docker: Path, text: str) -> None:
    docker.write_text(text)
    with pytest.raises(CredentialsError):
        store(tmp_path).find("a.b")


def test_nothing_of_credentials_is_in_their_repr() -> None:
    shown = repr(Credentials(user="me", password="p1", identity_token="p2", registry_token="p3"))
    assert "me" in shown
    assert not any(secret in shown for secret in ("p1", "p2", "p3"))


# Helpers.


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A helper that keeps each server's document in a file."""
    program = tmp_path / "docker-credential-test"
    program.write_text(
        f"""#!/bin/sh
cd {tmp_path}
case $1 in
get) cat "kept-$(sed 's:/:_:g')" 2>/dev/null || {{ echo credentials not found; exit 1; }} ;;
store)
    cat > new
    mv new "kept-$(sed 's/.*ServerURL": "\\([^"]*\\)".*/\\1/; s:/:_:g' new)" ;;
erase) rm "kept-$(sed 's:/:_:g')" 2>/dev/null ;;
esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return program


def test_a_helper_keeps_what_login_gives_and_gives_it_back(
    tmp_path: Path, docker: Path, helper: Path
) -> None:
    write(docker, credsStore="test", other=1)
    assert "docker-credential-test" in store(tmp_path).save("a.b", ME)
    assert json.loads(docker.read_text()) == {
        "credsStore": "test",
        "other": 1,
        "auths": {"a.b": {}},
    }
    assert store(tmp_path).find("a.b", "c") == ME
    assert store(tmp_path).erase("a.b")
    assert store(tmp_path).find("a.b") is None
    assert not store(tmp_path).erase("a.b")


def test_a_helper_may_be_for_one_registry(tmp_path: Path, docker: Path, helper: Path) -> None:
    write(docker, credHelpers={"a.b": "test"}, auths={"c.d": entry("file", "x")})
    store(tmp_path).save("a.b", ME)
    found = store(tmp_path)
    assert user_for(found, "a.b") == "me"
    assert user_for(found, "c.d") == "file"


def test_a_helper_may_give_an_identity_token(tmp_path: Path, docker: Path, helper: Path) -> None:
    write(docker, credsStore="test")
    store(tmp_path).save("a.b", Credentials(user="me", identity_token="abc"))
    assert store(tmp_path).find("a.b") == Credentials(identity_token="abc")


def test_a_registry_that_the_helper_does_not_know_may_be_in_the_file(
    tmp_path: Path, docker: Path, helper: Path
) -> None:
    write(docker, credsStore="test", auths={"a.b": entry("file", "x")})
    assert user_for(store(tmp_path)) == "file"


def test_docker_hub_is_one_server_for_helpers(tmp_path: Path, docker: Path, helper: Path) -> None:
    write(docker, credsStore="test")
    store(tmp_path).save("docker.io", ME)
    assert (tmp_path / f"kept-https:__index.{DEFAULT_HOST}_v1_").exists()
    assert store(tmp_path).find("docker.io", "library/a") == ME


# Keeping.


def test_what_is_kept_is_found_and_can_be_forgotten(tmp_path: Path) -> None:
    one = store(tmp_path)
    assert one.save("a.b", ME) == str(tmp_path / ".docker/config.json")
    assert store(tmp_path).find("a.b") == ME
    assert one.find("a.b") == ME
    assert one.erase("a.b")
    assert one.find("a.b") is None
    assert not one.erase("a.b")


def test_the_file_is_the_users_alone_and_keeps_the_rest(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"c.d": entry("you", "x")}, psFormat="table")
    docker.chmod(0o644)
    store(tmp_path).save("docker.io", ME)
    assert docker.stat().st_mode & 0o777 == 0o600
    document = json.loads(docker.read_text())
    assert document["psFormat"] == "table"
    assert sorted(document["auths"]) == ["c.d", DOCKER_HUB_KEY]
    assert list(docker.parent.iterdir()) == [docker]


def test_a_link_stays_one(tmp_path: Path, docker: Path) -> None:
    write(tmp_path / "real.json", psFormat="table")
    docker.symlink_to(tmp_path / "real.json")
    store(tmp_path).save("a.b", ME)
    assert docker.is_symlink()
    assert "a.b" in (tmp_path / "real.json").read_text()


def test_login_writes_to_the_file_that_is_named(tmp_path: Path, docker: Path) -> None:
    named = tmp_path / "new" / "auth.json"
    assert store(tmp_path, named).save("a.b", ME) == str(named)
    assert not docker.exists()
    assert store(tmp_path, named).find("a.b") == ME


def test_an_identity_token_is_kept_beside_the_user(tmp_path: Path) -> None:
    credentials = Credentials(user="me", identity_token="abc")
    store(tmp_path).save("a.b", credentials)
    assert store(tmp_path).find("a.b") == credentials


def test_every_key_of_a_registry_is_forgotten(tmp_path: Path, docker: Path) -> None:
    write(docker, auths={"https://a.b/v1/": entry("me", "x"), "a.b": entry("me", "x")})
    assert store(tmp_path).erase("a.b")
    assert json.loads(docker.read_text()) == {"auths": {}}


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CredentialsError, match="cannot write"):
        store(tmp_path, tmp_path / "file" / "auth.json").save("a.b", ME)
