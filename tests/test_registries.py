"""The throw-away registry for tests: it is the real one, with its locks, and it leaves nothing."""

import hashlib
import json
import os
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support.peers import PeerError, run
from tests.support.registries import Auth, Registry, basic, registry
from tests.support.waiting import wait_until

pytestmark = pytest.mark.needs_registry

EMPTY = b"{}"
SKOPEO = ("skopeo", "--insecure-policy")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def descriptor(content: bytes, media_type: str) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def put_image(server: Registry, name: str, tag: str) -> str:
    server.put_blob(name, EMPTY)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(EMPTY, "application/vnd.oci.image.config.v1+json"),
        "layers": [],
    }
    return server.put_manifest(name, tag, json.dumps(manifest).encode(), MANIFEST)


def listeners() -> set[str]:
    """The sockets that some process listens on."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return {line.split()[1] for line in lines if line.split()[3] == "0A"}


def test_an_image_that_is_put_can_be_got_and_deleted(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as server:
        digest = put_image(server, "a/b", "v1")
        assert server.tags("a/b") == ["v1"]
        assert digest in server.blobs()
        assert (
            server.blob_path(digest).read_bytes()
            == server.ask("GET", "/v2/a/b/manifests/v1", headers={"Accept": MANIFEST}).content
        )
        assert server.ask("DELETE", f"/v2/a/b/manifests/{digest}").status == 202
        assert server.tags("a/b") == []
        assert server.tags("nobody") == []


def test_it_ends_with_its_block_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as server:
        digest = put_image(server, "a", "v1")
        port = f":{server.port:04X}"
        assert any(each.endswith(port) for each in listeners())
    assert not any(each.endswith(port) for each in listeners())
    with registry(tmp_path / "registry") as server:
        assert digest in server.blobs()
        assert server.tags("a") == ["v1"]


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with registry(tmp_path / "registry"):
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    wait_until(lambda: not any(_runs_in(path, tmp_path) for path in processes))


def _runs_in(process: Path, folder: Path) -> bool:
    try:
        return os.fsencode(folder) in (process / "cmdline").read_bytes()
    except OSError:
        return False


def test_two_run_side_by_side(tmp_path: Path) -> None:
    with registry(tmp_path / "1") as one, registry(tmp_path / "2") as two:
        put_image(one, "a", "v1")
        assert (one.tags("a"), two.tags("a")) == (["v1"], [])


def test_a_registry_that_does_not_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "data").write_text("not a folder")
    with registry(tmp_path / "registry") as server:
        assert server.ask("POST", "/v2/a/blobs/uploads/").status == 500
        assert "not a directory" in server.log


def test_a_name_and_a_password_are_asked_for(tmp_path: Path) -> None:
    with registry(tmp_path / "registry", auth="basic") as server:
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(f"{server.url}/v2/")
        assert refused.value.headers["WWW-Authenticate"].startswith("Basic ")
        refused.value.close()
        put_image(server, "a", "v1")
        assert server.tags("a") == ["v1"]
        wrong = urllib.request.Request(
            f"{server.url}/v2/", headers={"Authorization": basic("tester", "guess")}
        )
        with pytest.raises(urllib.error.HTTPError, match="401") as refused:
            urllib.request.urlopen(wrong)
        refused.value.close()


def test_its_certificate_is_believed_by_who_knows_it_alone(tmp_path: Path) -> None:
    with registry(tmp_path / "registry", tls=True) as server:
        assert server.url.startswith("https://")
        put_image(server, "a", "v1")
        context = ssl.create_default_context(cafile=str(server.ca_file))
        for host in ("127.0.0.1", "localhost"):
            with urllib.request.urlopen(
                f"https://{host}:{server.port}/v2/", context=context
            ) as answer:
                assert answer.status == 200
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            urllib.request.urlopen(f"{server.url}/v2/")


@pytest.mark.needs_peers("skopeo")
@pytest.mark.parametrize("auth", ["none", "basic", "token", "identity"])
@pytest.mark.parametrize("tls", [False, True])
def test_another_client_pushes_and_pulls(auth: Auth, tls: bool, tmp_path: Path) -> None:
    with registry(tmp_path / "source") as source:
        digest = put_image(source, "a", "v1")
        there = f"docker://{source.address}/a:v1"
        run(*SKOPEO, "copy", *unverified("src"), there, f"oci:{tmp_path}/layout")
    with registry(tmp_path / "registry", auth=auth, tls=tls) as server:
        there = f"docker://{server.address}/b/c:v2"
        run(*SKOPEO, "copy", *signed_in(server, "dest"), f"oci:{tmp_path}/layout", there)
        seen = run(*SKOPEO, "inspect", *signed_in(server), there)
        assert json.loads(seen)["Digest"] == digest
        if auth in ("token", "identity"):
            assert "repository:b/c:pull,push" in server.tokens_given
        if auth != "none":
            with pytest.raises(PeerError, match=r"authentication required|unauthorized"):
                run(*SKOPEO, "copy", *unverified("dest"), f"oci:{tmp_path}/layout", there)


def unverified(side: str = "") -> list[str]:
    return [f"--{side}-tls-verify=false" if side else "--tls-verify=false"]


def signed_in(server: Registry, side: str = "") -> list[str]:
    prefix = f"--{side}-" if side else "--"
    credentials = [f"{prefix}creds", f"{server.username}:{server.password}"]
    certificates = [f"{prefix}cert-dir", str(certificate_folder(server))] if server.ca_file else []
    verify = [] if server.ca_file else unverified(side)
    return [*verify, *certificates, *(credentials if server.auth != "none" else [])]


def certificate_folder(server: Registry) -> Path:
    assert server.ca_file is not None
    folder = server.folder / "certificates"
    folder.mkdir(exist_ok=True)
    (folder / "ca.crt").write_bytes(server.ca_file.read_bytes())
    return folder


def test_a_token_server_gives_a_stranger_a_token_for_pulling(tmp_path: Path) -> None:
    with registry(tmp_path / "registry", auth="token") as server:
        refused = server.ask("GET", "/v2/")
        assert refused.status == 401
        challenge = refused.headers["www-authenticate"]
        assert challenge.startswith("Bearer ")
        realm = challenge.partition('realm="')[2].partition('"')[0]
        scope = "repository:a:pull,push"
        with urllib.request.urlopen(f"{realm}?service=test-registry&scope={scope}") as answer:
            token = json.loads(answer.read())["token"]
        bearer = {"Authorization": f"Bearer {token}"}
        assert server.ask("GET", "/v2/a/tags/list", headers=bearer).status == 404
        assert server.ask("POST", "/v2/a/blobs/uploads/", headers=bearer).status == 401
        assert server.tokens_given == [scope]
