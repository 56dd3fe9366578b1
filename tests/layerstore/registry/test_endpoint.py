"""A registry: how it is reached, who may know the user's password, and when to ask again."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from layerstore import Reference
from layerstore.registry import (
    Credentials,
    RegistryClient,
    Repository,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnreachableRegistryError,
    UntrustedRegistryError,
)
from layerstore.registry.connection import Response
from tests.layerstore.registry.conftest import NewClient
from tests.support.oddregistry import Asked, OddRegistry, Reply, error_body, odd_registry
from tests.support.registries import make_certificate

SECRET = "hunter22"
ME = Credentials(user="me", password=SECRET)
BASIC = "Basic " + base64.b64encode(f"me:{SECRET}".encode()).decode()
PULL = ("repository:a:pull",)


def client_of(new_client: NewClient, odd: OddRegistry, **settings: object) -> RegistryClient:
    """One that has logged in there."""
    return new_client(credentials=ME, credentials_host=odd.address, **settings)


def repository(client: RegistryClient, odd: OddRegistry) -> Repository:
    return client.repository(Reference.parse(f"{odd.address}/a"))


def ask(client: RegistryClient, odd: OddRegistry, path: str = "/v2/a/x") -> Response:
    return repository(client, odd).endpoint.request("GET", path, scopes=PULL)


def read(response: Response) -> bytes:
    with response:
        return response.read(1 << 20)


def basic_only(asked: Asked) -> Reply:
    if asked.headers.get("authorization") == BASIC:
        return Reply(b"in")
    return Reply(status=401, headers={"WWW-Authenticate": 'Basic realm="r"'})


# Passwords.


def test_nothing_is_sent_where_nothing_is_asked_for(
    odd: OddRegistry, new_client: NewClient
) -> None:
    odd.replies["GET /v2/a/x"] = Reply(b"in")
    assert read(ask(client_of(new_client, odd), odd)) == b"in"
    assert odd.sent("authorization") == []


def test_a_password_is_sent_where_it_is_asked_for(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies |= {"GET /v2/": basic_only, "GET /v2/a/x": basic_only}
    client = client_of(new_client, odd)
    assert read(ask(client, odd)) == b"in"
    assert read(ask(client, odd)) == b"in"
    assert [each.path for each in odd.asked] == ["/v2/", "/v2/a/x", "/v2/a/x"]


def test_a_challenge_may_come_later_than_the_first_request(
    odd: OddRegistry, new_client: NewClient
) -> None:
    odd.replies["GET /v2/a/x"] = basic_only
    assert read(ask(client_of(new_client, odd), odd)) == b"in"


def test_without_credentials_the_refusal_is_the_answer(
    odd: OddRegistry, new_client: NewClient
) -> None:
    odd.replies |= {"GET /v2/": basic_only, "GET /v2/a/x": basic_only}
    with ask(new_client(), odd) as response:
        assert response.status == 401


def test_a_wrong_password_is_sent_once(odd: OddRegistry, new_client: NewClient) -> None:
    refusal = Reply(status=401, headers={"WWW-Authenticate": "Basic"})
    odd.replies |= {"GET /v2/": refusal, "GET /v2/a/x": refusal}
    with ask(client_of(new_client, odd), odd) as response:
        assert response.status == 401
    assert len(odd.sent("authorization")) == 1


def test_credentials_are_for_one_registry(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies |= {"GET /v2/": basic_only, "GET /v2/a/x": basic_only}
    client = new_client(credentials=ME, credentials_host="127.0.0.1:1")
    with ask(client, odd) as response:
        assert response.status == 401
    assert odd.sent("authorization") == []


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_elsewhere_gets_no_credentials(
    odd: OddRegistry, new_client: NewClient, status: int
) -> None:
    with odd_registry() as other:
        other.replies["GET /blob"] = Reply(b"there")
        redirect = Reply(status=status, headers={"Location": f"{other.url}/blob?sig=1"})
        odd.replies["GET /v2/"] = basic_only
        odd.replies["GET /v2/a/x"] = lambda asked: (
            redirect if "authorization" in asked.headers else basic_only(asked)
        )
        assert read(ask(client_of(new_client, odd), odd)) == b"there"
        assert other.asked[0].path == "/blob?sig=1"
        assert other.sent("authorization") == []
        assert odd.sent("authorization") == [BASIC]


def test_a_redirect_to_the_same_server_gets_them(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies |= {
        "GET /v2/": basic_only,
        "GET /v2/a/x": Reply(status=307, headers={"Location": "/y"}),
        "GET /y": basic_only,
    }
    assert read(ask(client_of(new_client, odd), odd)) == b"in"


def test_who_is_redirected_to_cannot_ask_for_them(odd: OddRegistry, new_client: NewClient) -> None:
    with odd_registry() as other:
        other.replies["GET /blob"] = Reply(status=401, headers={"WWW-Authenticate": "Basic"})
        odd.replies["GET /v2/a/x"] = Reply(status=307, headers={"Location": f"{other.url}/blob"})
        with ask(client_of(new_client, odd), odd) as response:
            assert response.status == 401
        assert other.sent("authorization") == []
        assert odd.sent("authorization") == []


def test_credentials_in_a_redirect_are_not_used(odd: OddRegistry, new_client: NewClient) -> None:
    with odd_registry() as other:
        other.replies["GET /blob"] = Reply(b"there")
        location = other.url.replace("://", "://you:them@") + "/blob"
        odd.replies["GET /v2/a/x"] = Reply(status=307, headers={"Location": location})
        assert read(ask(client_of(new_client, odd), odd)) == b"there"
        assert other.sent("authorization") == []


def test_redirects_come_to_an_end(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/x"] = Reply(status=302, headers={"Location": "/v2/a/x"})
    with pytest.raises(UnexpectedAnswerError, match="more than 10 redirects"):
        ask(new_client(), odd)
    assert len(odd.paths()) == 11


@pytest.mark.parametrize("location", ["ftp://a/b", "http://[", "file:///etc/passwd", "http://a:0/"])
def test_a_redirect_to_what_is_no_url_is_an_error(
    odd: OddRegistry, new_client: NewClient, location: str
) -> None:
    odd.replies["GET /v2/a/x"] = Reply(status=302, headers={"Location": location})
    with pytest.raises(UnexpectedAnswerError, match="no URL"):
        ask(new_client(), odd)


def test_a_redirect_to_plain_http_elsewhere_is_refused(
    odd: OddRegistry, new_client: NewClient
) -> None:
    location = {"Location": "http://registry.example/x"}
    odd.replies["GET /v2/a/x"] = Reply(status=302, headers=location)
    with pytest.raises(UntrustedRegistryError, match=r"plain HTTP \(http://registry.example\)"):
        ask(new_client(), odd)


def test_what_is_sent_is_not_made_a_get_by_a_redirect(
    odd: OddRegistry, new_client: NewClient
) -> None:
    odd.replies["POST /v2/a/x"] = Reply(status=302, headers={"Location": "/y"})
    with pytest.raises(UnexpectedAnswerError, match=r"a redirect \(302\) of a POST"):
        repository(new_client(), odd).endpoint.request("POST", "/v2/a/x", scopes=PULL)


# Tokens.


class Tokens:
    """A registry with tokens, and the service that gives them."""

    def __init__(self, odd: OddRegistry, service: OddRegistry) -> None:
        self.odd, self.service = odd, service
        self.number = 0
        self.good = ""
        self.answer = '{"token": "T%d"}'
        self.realm = f"{service.url}/token"
        odd.replies |= {"GET /v2/": self.enter, "GET /v2/a/x": self.enter}
        service.replies["GET /token"] = self.give
        service.replies["POST /token"] = self.give

    def enter(self, asked: Asked) -> Reply:
        if self.good and asked.headers.get("authorization") == f"Bearer {self.good}":
            return Reply(b"in")
        challenge = f'Bearer realm="{self.realm}",service="s"'
        return Reply(error_body("UNAUTHORIZED", "log in"), 401, {"WWW-Authenticate": challenge})

    def give(self, asked: Asked) -> Reply:
        self.number += 1
        self.good = f"T{self.number}"
        answer = self.answer % self.number if "%d" in self.answer else self.answer
        return Reply(answer.encode())

    @property
    def queries(self) -> list[dict[str, list[str]]]:
        return [parse_qs(urlsplit(each.path).query) for each in self.service.asked]


@pytest.fixture
def tokens(odd: OddRegistry) -> Iterator[Tokens]:
    with odd_registry() as service:
        yield Tokens(odd, service)


def test_a_token_is_fetched_once_and_sent_to_the_registry(
    tokens: Tokens, new_client: NewClient
) -> None:
    client = client_of(new_client, tokens.odd)
    assert read(ask(client, tokens.odd)) == b"in"
    assert read(ask(client, tokens.odd)) == b"in"
    assert tokens.queries == [{"service": ["s"], "scope": ["repository:a:pull"], "account": ["me"]}]
    assert tokens.service.sent("authorization") == [BASIC]
    assert tokens.odd.sent("authorization") == ["Bearer T1", "Bearer T1"]


def test_without_credentials_a_token_is_asked_for_by_nobody(
    tokens: Tokens, new_client: NewClient
) -> None:
    assert read(ask(new_client(), tokens.odd)) == b"in"
    assert tokens.service.sent("authorization") == []
    assert "account" not in tokens.queries[0]


def test_an_old_token_is_replaced(tokens: Tokens, new_client: NewClient) -> None:
    client = client_of(new_client, tokens.odd)
    read(ask(client, tokens.odd))
    tokens.good = "another"
    assert read(ask(client, tokens.odd)) == b"in"
    assert tokens.number == 2


def test_a_token_that_does_not_help_is_replaced_once(tokens: Tokens, new_client: NewClient) -> None:
    tokens.odd.replies["GET /v2/a/x"] = lambda asked: tokens.enter(
        Asked(asked.method, asked.path, {}, b"")
    )
    with ask(client_of(new_client, tokens.odd), tokens.odd) as response:
        assert response.status == 401
    assert tokens.number == 2


def test_a_token_may_be_called_access_token(tokens: Tokens, new_client: NewClient) -> None:
    tokens.answer = '{"access_token": "T%d", "expires_in": 300}'
    assert read(ask(new_client(), tokens.odd)) == b"in"


def test_an_identity_token_is_exchanged(tokens: Tokens, new_client: NewClient) -> None:
    credentials = Credentials(identity_token="refresh22")
    client = new_client(credentials=credentials, credentials_host=tokens.odd.address)
    assert read(ask(client, tokens.odd)) == b"in"
    asked = tokens.service.asked[0]
    assert asked.method == "POST"
    assert parse_qs(asked.content.decode()) == {
        "grant_type": ["refresh_token"],
        "service": ["s"],
        "client_id": ["lamina"],
        "scope": ["repository:a:pull"],
        "refresh_token": ["refresh22"],
    }


def test_a_login_asks_for_an_identity_token_and_nobody_else_does(
    tokens: Tokens, new_client: NewClient
) -> None:
    tokens.answer = '{"token": "T%d", "refresh_token": "refresh22"}'
    client = new_client()
    client.login(tokens.odd.address, ME)
    assert tokens.queries[0] == {
        "service": ["s"],
        "account": ["me"],
        "offline_token": ["true"],
        "client_id": ["lamina"],
    }
    assert client.logged_in(tokens.odd.address) == Credentials(
        user="me", identity_token="refresh22"
    )
    assert read(ask(client, tokens.odd)) == b"in"
    assert tokens.service.asked[-1].method == "POST"
    assert tokens.service.sent("authorization") == [BASIC]


def test_a_login_with_an_identity_token_keeps_it_or_the_one_that_takes_its_place(
    tokens: Tokens, new_client: NewClient
) -> None:
    client, first = new_client(), Credentials(user="me", identity_token="refresh22")
    client.login(tokens.odd.address, first)
    assert client.logged_in(tokens.odd.address) == first
    tokens.answer = '{"access_token": "T%d", "refresh_token": "refresh33"}'
    client.login(tokens.odd.address, first)
    assert client.logged_in(tokens.odd.address) == Credentials(
        user="me", identity_token="refresh33"
    )


@pytest.mark.parametrize("status", [400, 401, 403])
def test_an_identity_token_that_is_not_taken_any_more_says_so(
    tokens: Tokens, new_client: NewClient, status: int
) -> None:
    tokens.service.replies["POST /token"] = Reply(b'{"error": "invalid_grant refresh22"}', status)
    credentials = Credentials(identity_token="refresh22")
    client = new_client(credentials=credentials, credentials_host=tokens.odd.address)
    with pytest.raises(UnauthorizedError, match="does not take the identity token") as caught:
        ask(client, tokens.odd)
    assert "lamina login" in caught.value.hint
    assert "refresh22" not in str(caught.value)


@pytest.mark.parametrize("identity", ['"a b"', '"x\\r\\ny"', "1", f'"{"x" * 70_000}"'])
def test_an_identity_token_that_makes_no_sense_is_not_kept(
    tokens: Tokens, new_client: NewClient, identity: str
) -> None:
    tokens.answer = f'{{"token": "T1", "refresh_token": {identity}}}'
    client = new_client()
    with pytest.raises(UnexpectedAnswerError):
        client.login(tokens.odd.address, ME)
    assert client.logged_in(tokens.odd.address) is None


@pytest.mark.parametrize("status", [307, 308])
def test_an_identity_token_is_sent_to_no_other_server(
    tokens: Tokens, new_client: NewClient, status: int
) -> None:
    with odd_registry() as other:
        other.replies["POST /token"] = tokens.give
        tokens.service.replies["POST /token"] = Reply(
            status=status, headers={"Location": f"{other.url}/token"}
        )
        credentials = Credentials(identity_token="refresh22")
        client = new_client(credentials=credentials, credentials_host=tokens.odd.address)
        with pytest.raises(UnexpectedAnswerError, match="a redirect of credentials to"):
            ask(client, tokens.odd)
        assert other.asked == []


def test_an_identity_token_goes_where_its_service_has_moved_to(
    tokens: Tokens, new_client: NewClient
) -> None:
    tokens.service.replies["POST /token"] = Reply(status=307, headers={"Location": "/new"})
    tokens.service.replies["POST /new"] = tokens.give
    credentials = Credentials(identity_token="refresh22")
    client = new_client(credentials=credentials, credentials_host=tokens.odd.address)
    assert read(ask(client, tokens.odd)) == b"in"
    assert b"refresh22" in tokens.service.asked[-1].content


def test_a_registry_token_is_sent_as_it_is(tokens: Tokens, new_client: NewClient) -> None:
    tokens.good = "mine"
    credentials = Credentials(registry_token="mine")
    client = new_client(credentials=credentials, credentials_host=tokens.odd.address)
    assert read(ask(client, tokens.odd)) == b"in"
    assert tokens.service.asked == []


def test_a_redirected_token_service_gives_no_credentials_away(
    tokens: Tokens, new_client: NewClient
) -> None:
    with odd_registry() as other:
        other.replies["GET /token"] = tokens.give
        tokens.service.replies["GET /token"] = Reply(
            status=307, headers={"Location": f"{other.url}/token"}
        )
        assert read(ask(client_of(new_client, tokens.odd), tokens.odd)) == b"in"
        assert other.sent("authorization") == []


@pytest.mark.parametrize(
    "realm", ["http://registry.example/token", "", "ftp://a", "/token", "http://["]
)
def test_a_token_service_that_cannot_be_trusted_gets_nothing(
    tokens: Tokens, new_client: NewClient, realm: str
) -> None:
    tokens.realm = realm
    with pytest.raises((UntrustedRegistryError, UnexpectedAnswerError), match="token service"):
        ask(client_of(new_client, tokens.odd), tokens.odd)


@pytest.mark.parametrize(
    "answer", ["", "[]", "{}", '{"token": 1}', '{"token": "a b"}', '{"token": "a\\r\\nX: y"}']
)
def test_a_token_that_is_none_is_an_error(
    tokens: Tokens, new_client: NewClient, answer: str
) -> None:
    tokens.answer = answer
    with pytest.raises(UnexpectedAnswerError, match="token service"):
        ask(new_client(), tokens.odd)


def test_an_endless_token_is_given_up(tokens: Tokens, new_client: NewClient) -> None:
    tokens.service.replies["GET /token"] = Reply(endless=True)
    with pytest.raises(UnexpectedAnswerError, match="more than"):
        ask(new_client(), tokens.odd)


def test_wrong_credentials_are_told_without_them(tokens: Tokens, new_client: NewClient) -> None:
    tokens.service.replies["GET /token"] = Reply(
        error_body("UNAUTHORIZED", f"{SECRET} and {BASIC} are wrong"), 401
    )
    with pytest.raises(UnauthorizedError, match="incorrect username or password") as caught:
        ask(client_of(new_client, tokens.odd), tokens.odd)
    assert SECRET not in str(caught.value)


# Again and again.


def test_a_transient_failure_is_tried_again(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/x"] = [Reply(status=503), Reply(status=429), Reply(b"in")]
    assert read(ask(new_client(), odd)) == b"in"


def test_failures_come_to_an_end(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/x"] = Reply(status=503)
    with pytest.raises(UnexpectedAnswerError, match="503 Service Unavailable"):
        ask(new_client(retries=2), odd)
    assert len(odd.paths()) == 3


def test_a_time_out_is_tried_again_once(odd: OddRegistry, new_client: NewClient) -> None:
    def late(asked: Asked) -> Reply:
        odd.ended.wait(2)
        return Reply()

    odd.replies["GET /v2/a/x"] = late
    with pytest.raises(UnreachableRegistryError, match="no answer in time"):
        ask(new_client(), odd)
    assert len(odd.paths()) == 2
    odd.ended.set()


def test_a_day_of_retry_after_is_not_waited_for(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/x"] = [
        Reply(status=429, headers={"Retry-After": "86400"}),
        Reply(status=503, headers={"Retry-After": "Fri, 01 Jan 2100 00:00:00 GMT"}),
        Reply(b"in"),
    ]
    started = time.monotonic()
    assert read(ask(new_client(), odd)) == b"in"
    assert time.monotonic() - started < 10


def test_other_refusals_are_final(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/x"] = Reply(status=404)
    with ask(new_client(), odd) as response:
        assert response.status == 404
    assert len(odd.paths()) == 1


# Reaching.


def test_a_registry_is_probed_once(odd: OddRegistry, new_client: NewClient) -> None:
    odd.replies["GET /v2/a/x"] = Reply(b"in")
    client = new_client()
    for _ in range(3):
        read(ask(client, odd))
    assert [each.path for each in odd.asked].count("/v2/") == 1


def test_a_registry_that_is_not_there_is_told_at_once(new_client: NewClient) -> None:
    started = time.monotonic()
    with pytest.raises(UnreachableRegistryError, match=r"registry\.invalid: no such host"):
        new_client().repository(Reference.parse("registry.invalid/a")).manifest("1")
    assert time.monotonic() - started < 20


@pytest.mark.needs_registry
def test_loopback_is_asked_with_and_without_tls(tmp_path: Path, new_client: NewClient) -> None:
    certificate = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(*certificate)
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_bytes(certificate[0].read_bytes())
    with odd_registry(certificate=certificate) as odd:
        odd.replies["GET /v2/a/x"] = Reply(b"in")
        assert read(ask(new_client(cert_dir=tmp_path / "certs"), odd)) == b"in"
        with pytest.raises(UntrustedRegistryError, match="x509"):
            ask(new_client(), odd)
        assert read(ask(new_client(tls_verify=False), odd)) == b"in"


@pytest.mark.needs_registry
def test_what_began_by_tls_goes_on_by_tls(
    tmp_path: Path, odd: OddRegistry, new_client: NewClient
) -> None:
    certificate = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(*certificate)
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.crt").write_bytes(certificate[0].read_bytes())
    with odd_registry(certificate=certificate) as safe:
        safe.replies["GET /v2/a/x"] = Reply(status=307, headers={"Location": f"{odd.url}/x"})
        odd.replies["GET /x"] = Reply(b"there")
        with pytest.raises(UntrustedRegistryError, match="from TLS to plain HTTP"):
            ask(new_client(cert_dir=tmp_path / "certs"), safe)
        assert odd.asked == []


def test_plain_http_is_refused_where_tls_is_asked_for(
    odd: OddRegistry, new_client: NewClient
) -> None:
    with pytest.raises((UntrustedRegistryError, UnreachableRegistryError)):
        ask(new_client(tls_verify=True, retries=0), odd)
    assert [each.path for each in odd.asked if each.path == "/v2/a/x"] == []


# Logging in.


def test_a_login_is_checked(odd: OddRegistry, new_client: NewClient, tmp_path: Path) -> None:
    odd.replies["GET /v2/"] = basic_only
    client = new_client()
    with pytest.raises(UnauthorizedError):
        client.login(odd.address, Credentials(user="me", password="wrong22"))
    assert client.logged_in(odd.address) is None
    client.login(odd.address, ME)
    assert client.logged_in(odd.address) == ME
    assert client.logout(odd.address)
    assert client.logged_in(odd.address) is None


def test_a_refusal_that_cannot_be_answered_leaves_no_connection_open(
    odd: OddRegistry, new_client: NewClient
) -> None:
    challenge = {"WWW-Authenticate": 'Bearer realm="ftp://a"'}
    odd.replies["GET /v2/a/x"] = Reply(status=401, headers=challenge, content=b"x" * 100_000)
    with pytest.raises(UnexpectedAnswerError) as caught:
        ask(client_of(new_client, odd), odd)
    (asking,) = (entry for entry in caught.traceback if entry.name == "_ask")
    assert asking.frame.f_locals["response"]._inner.closed
