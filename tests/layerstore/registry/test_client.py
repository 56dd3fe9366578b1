"""The way to every registry: which places, which credentials."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import Digest, Reference
from layerstore.registry import Credentials, RegistryClient, Settings, UnauthorizedError
from tests.layerstore.registry.conftest import NewClient
from tests.support.oddregistry import OddRegistry, Reply
from tests.support.registries import PASSWORD, USERNAME, Auth, registry

ME = Credentials(user=USERNAME, password=PASSWORD)


def test_places_come_from_registries_conf(new_client: NewClient, tmp_path: Path) -> None:
    (tmp_path / "registries.conf").write_text(
        '[[registry]]\nlocation = "a.b"\n[[registry.mirror]]\nlocation = "m.example/x"\n'
    )
    client, reference = new_client(), Reference.parse("a.b/c")
    assert [each.name for each in client.sources(reference)] == ["m.example/x/c", "a.b/c"]
    assert client.repository(reference).name == "a.b/c"


def test_an_endpoint_is_made_once(new_client: NewClient) -> None:
    client = new_client()
    one, two = (client.repository(Reference.parse(f"a.b/{name}")) for name in ("c", "d"))
    assert one.endpoint is two.endpoint


def test_credentials_that_were_given_are_for_their_host_and_come_first(
    new_client: NewClient,
) -> None:
    given = Credentials(user="given", password="x")
    client = new_client(credentials=given, credentials_host="a.b")
    client._store.save("a.b", ME)
    client._store.save("c.d", ME)
    assert client._find("a.b", "x", "https") == given
    assert client._find("c.d", "x", "https") == ME


@pytest.mark.needs_registry
@pytest.mark.parametrize("auth", ["basic", "token"])
def test_a_login_is_checked_by_the_registry_and_kept(
    tmp_path: Path, new_client: NewClient, auth: Auth
) -> None:
    with registry(tmp_path / "registry", auth=auth) as server:
        client = new_client()
        with pytest.raises(UnauthorizedError):
            client.login(server.address, Credentials(user=USERNAME, password="wrong"))
        assert client.logged_in(server.address) is None
        where = client.login(server.address, ME)
        assert where.endswith("/.docker/config.json")
        other = new_client()
        assert other.logged_in(server.address) == ME
        assert other.repository(Reference.parse(f"{server.address}/a")).find_manifest("1") is None
        assert other.logout(server.address)
        assert not other.logout(server.address)


@pytest.mark.needs_registry
def test_an_identity_token_is_kept_in_place_of_the_password(
    tmp_path: Path, new_client: NewClient
) -> None:
    with registry(tmp_path / "registry", auth="identity") as server:
        file = Path(new_client().login(server.address, ME))
        (identity,) = server.identities
        entry = json.loads(file.read_text())["auths"][server.address]
        assert entry["identitytoken"] == identity
        assert base64.b64decode(entry["auth"]) == f"{USERNAME}:".encode()
        repository = new_client().repository(Reference.parse(f"{server.address}/a"))
        assert not repository.has_blob(Digest.of(b""), to_push=True)
        assert server.tokens_given[-1] == "repository:a:pull,push"
        assert new_client().logout(server.address)
        assert identity not in file.read_text()


def test_a_registry_that_asks_for_nothing_takes_every_login(
    odd: OddRegistry, new_client: NewClient
) -> None:
    client = new_client()
    client.login(odd.address, ME)
    assert client.logged_in(odd.address) == ME
    assert odd.sent("authorization") == []


def test_certificates_are_not_checked_where_the_user_says_so(
    new_client: NewClient, tmp_path: Path
) -> None:
    (tmp_path / "registries.conf").write_text('[[registry]]\nlocation = "a.b"\ninsecure = true\n')
    insecure = {
        verify: new_client(tls_verify=verify)
        .repository(Reference.parse("a.b/c"))
        .endpoint._insecure
        for verify in (None, True, False)
    }
    assert insecure == {None: True, True: False, False: True}
    plain = new_client().repository(Reference.parse("c.d/e")).endpoint
    assert not plain._insecure


def test_a_repository_is_asked_again_after_a_failure(
    odd: OddRegistry, new_client: NewClient
) -> None:
    repository = new_client(retries=0).repository(Reference.parse(f"{odd.address}/a"))
    odd.replies["HEAD /v2/a/manifests/1"] = Reply(status=404)
    assert repository.find_manifest("1") is None
    assert repository.find_manifest("1") is None


def test_nothing_is_imported_before_a_request_is_made() -> None:
    program = (
        "import sys\n"
        "from layerstore import Reference\n"
        "from layerstore.registry import RegistryClient\n"
        "client = RegistryClient()\n"
        "client.sources(Reference.parse('a.b/c'))\n"
        "sys.exit('urllib3' in sys.modules)\n"
    )
    root = Path(__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def test_a_client_without_settings_has_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/nonexistent/auth.json")
    with RegistryClient() as client:
        assert client.logged_in("a.b") is None
        assert client.settings.environment["REGISTRY_AUTH_FILE"] == "/nonexistent/auth.json"
    assert Settings().tls_verify is None
