"""pull, push, login, logout: what is printed, what is stored, what goes wrong."""

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Digest, Image, Reference, Store
from layerstore.reference import DEFAULT_HOST
from layerstore.registry import RegistryClient, Settings, push_image
from layerstore.registry.endpoints import DOCKER_HUB_KEY
from tests.support.commands import Commands
from tests.support.oddregistry import odd_registry
from tests.support.peers import run
from tests.support.registries import PASSWORD, USERNAME, Registry, registry
from tests.support.stores import make_image, problems

pytestmark = pytest.mark.needs_registry
ME = f"{USERNAME}:{PASSWORD}"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the user's passwords nor the user's settings."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Registry]:
    with registry(tmp_path / "private", auth="basic") as server:
        yield server


def fill(server: Registry, tmp_path: Path, *tags: str) -> Image:
    """Another machine stores an image in the registry, as `a` with these tags."""
    with (
        Store.open(tmp_path / "filler") as store,
        RegistryClient(Settings(environment={})) as client,
    ):
        image = make_image(store, "a", {"a": b"x" * 1000}, {"b": b"y"})
        for tag in tags:
            push_image(client, store, image, Reference.parse(f"{server.address}/a:{tag}"))
    return image


def stock(bare: Commands, *names: str) -> Image:
    """An image here, under these names."""
    with Store.open(bare.root) as store:
        image = make_image(store, names[0], {"a": b"here" * 1000}, {"b": b"y"})
        for name in names[1:]:
            store.images.tag(image, Reference.parse(name))
    return image


# pull


def test_a_pull_prints_what_docker_prints(server: Registry, bare: Commands, tmp_path: Path) -> None:
    image = fill(server, tmp_path, "latest")
    name = f"{server.address}/a"
    done = bare("pull", name)
    assert done.lines == [
        "Using default tag: latest",
        "latest: Pulling from a",
        f"Digest: {image.descriptor.digest}",
        f"Status: Downloaded newer image for {name}:latest",
        f"{name}:latest",
    ]
    for layer in image.manifest.layers:
        assert f"{layer.digest.short}: Pull complete" in done.err
    again = bare("pull", f"{name}:latest")
    assert again.lines[-2] == f"Status: Image is up to date for {name}:latest"
    assert again.err == ""
    assert problems(bare.root) == []


def test_quiet_prints_the_name_alone(server: Registry, bare: Commands, tmp_path: Path) -> None:
    fill(server, tmp_path, "1")
    done = bare("pull", "-q", f"{server.address}/a:1")
    assert (done.lines, done.err) == ([f"{server.address}/a:1"], "")


def test_by_digest(server: Registry, bare: Commands, tmp_path: Path) -> None:
    digest = fill(server, tmp_path, "1").descriptor.digest
    done = bare("pull", f"{server.address}/a@{digest}")
    assert done.lines[0] == f"{digest}: Pulling from a"
    assert done.lines[-1] == f"{server.address}/a@{digest}"
    assert bare("inspect", f"{server.address}/a@{digest}").code == 0


def test_what_was_pulled_by_digest_is_listed_as_docker_lists_it(
    server: Registry, bare: Commands, tmp_path: Path
) -> None:
    digest = fill(server, tmp_path, "1").descriptor.digest
    repository = f"{server.address}/a"
    name = f"{repository}@{digest}"
    bare("pull", "-q", name)
    rows = bare("images", "--digests", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}").lines
    assert rows == [f"{repository} <none> {digest}"]
    found = json.loads(bare("inspect", name).out)[0]
    assert (found["RepoTags"], found["RepoDigests"]) == ([], [name])
    bare("image", "prune", "-f")
    assert bare("images", "-q").lines != []
    assert f"Untagged: {name}" in bare("rmi", name).lines
    assert bare("images", "-q").lines == []


def test_the_digest_of_an_index_is_the_one_that_is_listed(
    server: Registry, bare: Commands, tmp_path: Path
) -> None:
    stock(bare, "one")
    name = f"{server.address}/multi:1"
    bare("manifest", "create", name, "one")
    digest = bare("push", name).lines[-1].split()[2]
    other = Commands(tmp_path / "elsewhere", bare.capture)
    assert f"Digest: {digest}" in other("pull", name).lines
    assert other("images", "--digests", "--format", "{{.Digest}}").lines == [digest]
    found = json.loads(other("inspect", name).out)[0]
    assert found["RepoDigests"] == [f"{server.address}/multi@{digest}"]


def test_all_tags(server: Registry, bare: Commands, tmp_path: Path) -> None:
    fill(server, tmp_path, "1", "2")
    done = bare("pull", "-a", f"{server.address}/a")
    assert sorted(line for line in done.lines if "Pulling" in line) == [
        *("1: Pulling from a", "2: Pulling from a")
    ]
    assert done.lines[-2:] == [
        f"Status: Downloaded newer image for {server.address}/a",
        f"{server.address}/a",
    ]
    names = bare("images", "--format", "{{.Repository}}:{{.Tag}}").lines
    assert sorted(names) == [f"{server.address}/a:1", f"{server.address}/a:2"]
    assert "tag can't be used" in bare("pull", "-a", f"{server.address}/a:1", code=125).err


def test_an_image_for_another_platform_is_taken_with_a_warning(
    server: Registry, bare: Commands, tmp_path: Path
) -> None:
    fill(server, tmp_path, "1")
    done = bare("pull", "--platform", "linux/s390x", f"{server.address}/a:1")
    assert f"{server.address}/a:1 is for linux/amd64, and not for linux/s390x" in done.err
    assert "not for" not in bare("pull", "--platform", "linux/amd64", f"{server.address}/a:1").err


def test_progress_in_json(server: Registry, bare: Commands, tmp_path: Path) -> None:
    fill(server, tmp_path, "1")
    done = bare("pull", "--progress", "json", f"{server.address}/a:1")
    events = [json.loads(line) for line in done.err.splitlines()]
    assert {event["status"] for event in events} >= {"Waiting", "Downloading", "Pull complete"}


def test_policies(server: Registry, bare: Commands, tmp_path: Path) -> None:
    name = f"{server.address}/a:1"
    assert "no such image" in bare("pull", "--policy=never", name, code=1).err
    old = stock(bare, name)
    for policy in ("missing", "never", "newer"):
        assert f"Digest: {old.descriptor.digest}" in bare("pull", "--policy", policy, name).out
    assert "manifest unknown" in bare("pull", name, code=1).err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("{}/nope",), 1, "manifest for {}/nope:latest not found: manifest unknown"),
        (("{}/a:b:c",), 1, "invalid image name"),
        (("127.0.0.1:1/a",), 1, "cannot reach the registry 127.0.0.1:1: connection refused"),
        (("registry.invalid/a",), 1, "cannot reach the registry registry.invalid: no such host"),
        (("--policy=often", "{}/a"), 125, "'often' for --policy"),
        (("--platform=plan9", "{}/a"), 1, "plan9"),
        (("--creds=:x", "{}/a"), 125, "no user"),
        (("--progress=loud", "{}/a"), 125, "'loud' for --progress"),
        ((), 1, "requires exactly 1 argument"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: Registry, bare: Commands, words: tuple[str, ...], code: int, message: str
) -> None:
    done = bare("pull", *(word.format(server.address) for word in words), code=code)
    assert message.format(server.address) in done.err
    assert done.err.count("\n") == 1


# push


def test_a_push_prints_what_docker_prints(server: Registry, bare: Commands) -> None:
    name = f"{server.address}/team/app:1"
    image = stock(bare, name)
    done = bare("push", name)
    assert done.lines == [
        f"The push refers to repository [{server.address}/team/app]",
        f"1: digest: {image.descriptor.digest} size: {image.descriptor.size_bytes}",
    ]
    for layer in image.manifest.layers:
        assert f"{layer.digest.short}: Pushed" in done.err
    again = bare("push", name)
    assert again.lines == done.lines
    assert "Layer already exists" in again.err


def test_an_image_is_pushed_under_another_name(server: Registry, bare: Commands) -> None:
    stock(bare, "app")
    done = bare("push", "-q", "app", f"docker://{server.address}/b:2")
    assert (done.lines, done.err) == ([f"{server.address}/b:2"], "")
    assert server.tags("b") == ["2"]


def test_all_tags_of_a_repository_are_pushed(server: Registry, bare: Commands) -> None:
    names = [f"{server.address}/app:{tag}" for tag in ("1", "2")]
    stock(bare, *names, f"{server.address}/other:3")
    done = bare("push", "--all-tags", f"{server.address}/app")
    assert [line.partition(":")[0] for line in done.lines[1:]] == ["1", "2"]
    assert server.tags("app") == ["1", "2"]
    assert server.tags("other") == []
    assert "no such image" in bare("push", "-a", f"{server.address}/none", code=1).err


@pytest.mark.parametrize("kind", ["zstd", "gzip", "uncompressed"])
def test_layers_are_compressed_for_the_registry_alone(
    server: Registry, bare: Commands, tmp_path: Path, kind: str
) -> None:
    name = f"{server.address}/app:1"
    image = stock(bare, name)
    before = sorted((bare.root / "blobs/sha256").iterdir())
    file = tmp_path / "digest"
    bare("push", "--compression", kind, "--force-compression", "--digestfile", file, name)
    digest = file.read_text()
    accept = {"Accept": image.descriptor.media_type}
    answer = server.ask("GET", f"/v2/app/manifests/{digest}", headers=accept)
    assert Digest.of(answer.content) == digest
    manifest = json.loads(answer.content)
    end = "tar" if kind == "uncompressed" else f"tar+{kind}"
    assert {layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]} == {end}
    assert manifest["config"]["digest"] == image.id
    assert sorted((bare.root / "blobs/sha256").iterdir()) == before
    other = Commands(tmp_path / "elsewhere", bare.capture)
    other("pull", name)
    with Store.open(other.root) as store:
        assert store.images.resolve(name).config.diff_ids == image.config.diff_ids
    assert problems(bare.root) == problems(other.root) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--compression=xz",), "'xz' for --compression"),
        (("--compression=zstd", "--compression-level=99"), "'99' for --compression-level"),
        (("--compression=uncompressed", "--compression-level=1"), "there are no levels"),
    ],
)
def test_compressions_that_are_none(
    server: Registry, bare: Commands, words: tuple[str, ...], message: str
) -> None:
    stock(bare, "app")
    assert message in bare("push", *words, "app", f"{server.address}/a", code=125).err


def test_an_index_is_pushed_whole_if_it_is_here(
    server: Registry, bare: Commands, tmp_path: Path
) -> None:
    stock(bare, "one")
    with Store.open(bare.root) as store:
        make_image(store, "two", {"c": b"z"})
    name = f"{server.address}/multi:1"
    bare("manifest", "create", name, "one")
    bare("manifest", "add", "--arch", "s390x", name, "two")
    done = bare("push", name)
    digest = done.lines[-1].split()[2]
    accept = {"Accept": "application/vnd.oci.image.index.v1+json"}
    answer = server.ask("GET", "/v2/multi/manifests/1", headers=accept)
    assert Digest.of(answer.content) == digest
    assert len(json.loads(answer.content)["manifests"]) == 2
    other = Commands(tmp_path / "elsewhere", bare.capture)
    other("pull", name)
    said = other("push", name, f"{server.address}/part:1")
    assert "only a part" in said.err
    assert problems(other.root) == []
    other("pull", "--platform", "linux/s390x", name)
    assert "only a part" not in other("push", name, f"{server.address}/whole:1").err
    whole = server.ask("GET", "/v2/whole/manifests/1", headers=accept)
    assert Digest.of(whole.content) == digest


def test_what_is_not_here_cannot_be_pushed(server: Registry, bare: Commands) -> None:
    done = bare("push", "nope", f"{server.address}/a", code=1)
    assert "no such image: nope" in done.err
    assert server.tags("a") == []


# login and logout


def log_in(bare: Commands, host: str, password: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{password}\n"))
    assert bare("login", "-u", USERNAME, "--password-stdin", host).lines == ["Login Succeeded"]


def test_who_is_logged_in_may_push_and_pull(
    private: Registry, bare: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{private.address}/app:1"
    stock(bare, name)
    assert "unauthorized" in bare("push", name, code=1).err
    log_in(bare, private.address, PASSWORD, monkeypatch)
    bare("push", name)
    other = Commands(tmp_path / "elsewhere", bare.capture)
    other("pull", name)
    removed = f"Removing login credentials for {private.address}"
    assert bare("logout", private.address).lines == [removed]
    assert bare("logout", private.address).lines == [f"Not logged in to {private.address}"]
    done = other("pull", name, code=1)
    assert "pull access denied" in done.err
    assert PASSWORD not in done.err


def test_a_wrong_password_is_told_and_not_kept(
    private: Registry, bare: Commands, tmp_path: Path
) -> None:
    done = bare("login", "-u", USERNAME, "-p", "wrong-one", private.address, code=1)
    assert "incorrect username or password" in done.err
    assert "wrong-one" not in done.err
    assert not (tmp_path / "home/.docker").exists()


def test_what_is_kept_is_the_users_alone(private: Registry, bare: Commands, tmp_path: Path) -> None:
    file = tmp_path / "auth.json"
    words = ("--authfile", file, private.address)
    done = bare("login", "-u", USERNAME, "-p", PASSWORD, *words)
    assert "insecure" in done.err
    assert file.stat().st_mode & 0o777 == 0o600
    assert bare("login", *words).err.startswith("Authenticating with existing credentials")
    assert bare("logout", *words).code == 0
    assert json.loads(file.read_text()) == {"auths": {}}


def test_a_token_takes_the_place_of_the_password_where_the_registry_gives_one(
    bare: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path / "tokens", auth="identity") as server:
        name = f"{server.address}/app:1"
        stock(bare, name)
        log_in(bare, server.address, PASSWORD, monkeypatch)
        bare("push", name)
        assert bare("login", server.address).err.startswith("Authenticating with existing")
        (token,) = server.identities
        kept = json.loads((tmp_path / "home/.docker/config.json").read_text())["auths"]
        assert kept[server.address]["identitytoken"] == token
        assert base64.b64decode(kept[server.address]["auth"]) == f"{USERNAME}:".encode()
        server.identities.clear()
        done = bare("push", name, code=1)
        assert "does not take the identity token" in done.err
        assert "lamina login" in done.err
        assert token not in done.err
        monkeypatch.setattr("os.isatty", lambda fd: False)
        done = bare("login", server.address, code=125)
        assert "Stored credentials invalid or expired" in done.err
        assert "non-TTY device" in done.err
        log_in(bare, server.address, PASSWORD, monkeypatch)
        bare("push", name)
        bare("logout", server.address)
        assert "unauthorized" in bare("push", name, code=1).err


def test_a_helper_is_given_the_token_as_dockers_are(
    bare: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "docker-credential-here"
    program.write_text(
        f"""#!/bin/sh
cd {tmp_path}
case $1 in store) cat > kept ;; get) cat kept ;; erase) rm kept ;; esac
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    file = tmp_path / "home/.docker/config.json"
    file.parent.mkdir(parents=True)
    file.write_text('{"credsStore": "here"}')
    with registry(tmp_path / "tokens", auth="identity") as server:
        name = f"{server.address}/app:1"
        stock(bare, name)
        log_in(bare, server.address, PASSWORD, monkeypatch)
        kept = json.loads((tmp_path / "kept").read_text())
        assert kept == {
            "ServerURL": server.address,
            "Username": "<token>",
            "Secret": server.identities[0],
        }
        assert server.identities[0] not in file.read_text()
        bare("push", name)
        bare("logout", server.address)
        assert not (tmp_path / "kept").exists()


@pytest.mark.needs_peers("skopeo")
def test_skopeo_uses_the_token_that_was_kept(
    bare: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry(tmp_path / "tokens", auth="identity") as server:
        name = f"{server.address}/app:1"
        stock(bare, name)
        log_in(bare, server.address, PASSWORD, monkeypatch)
        bare("push", name)
        file = tmp_path / "home/.docker/config.json"
        words = ("--tls-verify=false", "--authfile", str(file), f"docker://{name}")
        assert json.loads(run("skopeo", "inspect", *words))["Name"] == name.removesuffix(":1")
        run("skopeo", "delete", *words)
        assert "manifest unknown" in bare("pull", name, code=1).err


def test_credentials_may_be_given_for_once(private: Registry, bare: Commands) -> None:
    name = f"{private.address}/app:1"
    stock(bare, name)
    bare("push", "--creds", ME, name)
    bare("pull", "--creds", ME, name)
    done = bare("pull", "--creds", f"{USERNAME}:not-it", name, code=1)
    assert "unauthorized" in done.err
    assert "not-it" not in done.err


def test_credentials_do_not_go_to_a_mirror(
    bare: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with odd_registry() as mirror, odd_registry() as origin:
        (tmp_path / "conf").write_text(
            f'[[registry]]\nlocation = "{origin.address}"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.address}"\n'
        )
        monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "conf"))
        bare("pull", "--creds", ME, f"{origin.address}/a:1", code=1)
        assert mirror.asked
        assert mirror.sent("authorization") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-u", "me", "-p", "x", "--password-stdin", "a.b"), "exclude each other"),
        (("--password-stdin", "a.b"), "Must provide --username"),
        (("a.b",), "non-TTY device"),
        (("nonsense",), "no registry"),
    ],
)
def test_logins_that_make_no_sense(
    bare: Commands, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.isatty", lambda fd: False)
    assert message in bare("login", *words, code=125).err


def test_docker_hub_is_where_nobody_says_otherwise(bare: Commands) -> None:
    for words in ((), ("index." + DEFAULT_HOST,), (DOCKER_HUB_KEY,)):
        assert bare("logout", *words).lines == ["Not logged in to docker.io"]


def test_a_logout_asks_no_registry_and_takes_no_word_on_how(bare: Commands) -> None:
    for option in ("--tls-verify=false", "--cert-dir=x", "--retry=1"):
        assert "unknown flag" in bare("logout", option, code=125).err


def test_a_registry_with_a_certificate_of_its_own(bare: Commands, tmp_path: Path) -> None:
    with registry(tmp_path / "tls", tls=True) as server:
        name = f"{server.address}/a:1"
        stock(bare, name)
        assert "x509: certificate signed by unknown authority" in bare("push", name, code=1).err
        bare("push", "--tls-verify=false", name)
        assert server.ca_file is not None
        (tmp_path / "certs").mkdir()
        (tmp_path / "certs/ca.crt").write_bytes(server.ca_file.read_bytes())
        bare("pull", "--cert-dir", tmp_path / "certs", name)


def test_an_image_for_one_platform_is_pushed_for_no_other(
    bare: Commands, server: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(bare.root) as store:
        make_image(store, "a:1", {"a": b"1"})
    done = bare("push", "--platform", "linux/s390x", "a:1", f"{server.address}/a:1", code=1)
    assert "no such image for linux/s390x: the image is for linux/" in done.err
    monkeypatch.setenv("DOCKER_DEFAULT_PLATFORM", "linux/s390x")  # is for what is pulled and built
    bare("push", "a:1", f"{server.address}/a:1")


def test_the_image_may_be_named_as_a_place_in_its_registry(
    server: Registry, bare: Commands
) -> None:
    stock(bare, f"{server.address}/a:1")
    done = bare("push", f"docker://{server.address}/a:1")
    assert f"repository [{server.address}/a]" in done.out
