"""One registry as one client sees it: its scheme, what it asks for, and how often to ask again.

    request -> attempts (back-off, Retry-After) -> authorization -> redirects -> connection.py

Rules (tests/layerstore/registry/test_endpoint.py):
  1. Credentials and tokens are sent to the scheme, host and port of the registry, and credentials
     to the token service that it names; a redirect to anywhere else gets none of them.
     An identity token stands in for a password once a token service has given it (`check_login`).
  2. What began by TLS goes on by TLS: no redirect, token service or upload leads to plain HTTP.
  3. Plain HTTP is for loopback, where nothing else answers, and for what the user calls insecure.

Spec: distribution, "Token Authentication Specification", "OAuth2 Token Authentication".
"""

import base64
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlencode, urljoin, urlsplit

from layerstore.documents import Reader
from layerstore.errors import MalformedDocumentError
from layerstore.registry.answers import problem_of
from layerstore.registry.challenges import Challenge, choose, parse_challenges
from layerstore.registry.connection import (
    Body,
    Connections,
    PlainHttpError,
    Response,
    TransientError,
    host_shown,
    without_userinfo,
)
from layerstore.registry.credentials import Credentials
from layerstore.registry.endpoints import Origin, is_loopback, server_of
from layerstore.registry.errors import (
    CanceledError,
    RegistryError,
    UnauthorizedError,
    UnexpectedAnswerError,
    UnreachableRegistryError,
    UntrustedRegistryError,
)
from layerstore.registry.secrets import Secrets
from layerstore.registry.settings import Settings

T = TypeVar("T")
FindCredentials = Callable[[str, str], Credentials | None]  # repository path, scheme

_REDIRECTS = (301, 302, 303, 307, 308)
_KEEPING_METHOD = (307, 308)
_CLIENT_ID = "lamina"
_WRONG = "incorrect username or password"
_WRONG_TOKEN = "its token service does not take the identity token (any more)"
_TOKEN = re.compile(r"[\x21-\x7e]{1,60000}")
_TOKEN_S_MIN = 60  # how long a token lives when nobody says; it is replaced a little earlier


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    """What a token service gives. `identity` gets more of them in the user's place."""

    text: str = field(repr=False)
    until_s: float = float("inf")
    identity: str = field(default="", repr=False)

    @property
    def header(self) -> str:
        """What it is shown as."""
        return f"Bearer {self.text}"


class Endpoint:
    """May be used by several threads.

    Args:
        host: as image names have it.
        find: the credentials for a repository over a scheme.
        insecure: certificates are not checked, and plain HTTP may be used.
        stop: set when nobody waits for an answer any more.
    """

    def __init__(
        self,
        host: str,
        *,
        connections: Connections,
        settings: Settings,
        find: FindCredentials,
        secrets: Secrets,
        insecure: bool,
        stop: threading.Event,
    ) -> None:
        self.host = host
        self.secrets = secrets
        self.retries = settings.retries
        self._server = server_of(host)
        self._connections = connections
        self._settings = settings
        self._bounds = settings.bounds
        self._find = find
        self._insecure = insecure
        self._stop = stop
        self._lock = threading.Lock()
        self._base = ""
        self._challenge: Challenge | None = None
        self._is_login = False
        self._tokens: dict[tuple[str, ...], _Token] = {}

    def request(
        self,
        method: str,
        where: str,
        *,
        scopes: tuple[str, ...] = (),
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        once: bool = False,
        is_commit: bool = False,
    ) -> Response:
        """Ask, as whoever the user is; the answer's status is the caller's to look at.

        Args:
            where: a path on this registry, or a URL it gave.
            scopes: what the token must allow, as `repository:hello:pull`.
            once: a transient failure is a TransientError and not tried again.
            is_commit: the answer may take long.
        """

        def ask() -> Response:
            return self._ask(method, where, scopes, headers or {}, body, is_commit)

        self.reach()
        return ask() if once else self.attempts(ask)

    def attempts(self, ask: Callable[[], T]) -> T:
        """Ask again after transient failures, as often as the user allows; after time-outs once."""
        waited_s, slow = 0.0, 0
        for attempt in range(self._settings.retries + 1):
            try:
                return ask()
            except TransientError as error:
                wait_s = max(error.wait_s, self._bounds.backoff_s * 2**attempt)
                wait_s = min(wait_s, self._bounds.retry_after_max_s)
                waited_s += wait_s
                slow += error.is_slow
                is_last = attempt == self._settings.retries or slow > 1
                if is_last or waited_s > self._bounds.waits_max_s:
                    raise error.why from error
                self.pause(wait_s)
        raise AssertionError("the last attempt returns or raises")

    def pause(self, seconds: float) -> None:
        """Wait, unless nobody waits for us."""
        if self._stop.wait(seconds):
            raise CanceledError

    def check_wanted(self) -> None:
        """Raise CanceledError when nobody waits for an answer any more."""
        if self._stop.is_set():
            raise CanceledError

    def location(self, response: Response) -> str:
        """The absolute URL of a Location header, which must be as trustworthy as the registry."""
        return self._redirected(response.url, response.header("Location"))

    def reach(self) -> str:
        """Find out how to talk to the registry, once.

        Raises:
            UnreachableRegistryError, UntrustedRegistryError
        """
        with self._lock:
            if not self._base:
                self._base = self.attempts(self._probe)
            return self._base

    def check_login(self) -> str:
        """Have the registry let the user in, if it does not let in everybody.

        Returns:
            The identity token that its token service gives to be kept in place of the password;
            empty if it gives none.

        Raises:
            UnauthorizedError: it does not let the user in.
        """
        self.reach()
        if self._challenge is None:
            return ""
        self._is_login = True
        with self._ask("GET", "/v2/", (), {}, None, is_commit=False) as response:
            if response.status == 401:
                raise UnauthorizedError(what=self.host, detail=_WRONG)
            if response.status >= 400:
                raise problem_of(response, what=self.host, secrets=self.secrets)
        token = self._tokens.get(())
        return "" if token is None else token.identity

    # ---- one request

    def _ask(
        self,
        method: str,
        where: str,
        scopes: tuple[str, ...],
        headers: Mapping[str, str],
        body: Body | None,
        is_commit: bool,
    ) -> Response:
        home = Origin.of(self._base)
        url = self._base + where if where.startswith("/") else where
        authorization = self._authorization(scopes)
        while True:
            self.check_wanted()
            response = self._follow(method, url, headers, authorization, home, body, is_commit)
            if response.status != 401 or Origin.of(response.url) != home:
                return response
            challenge = choose(parse_challenges(response.headers.getlist("WWW-Authenticate")))
            if challenge is not None:
                self._challenge = challenge
            try:
                again = (
                    "" if challenge is None else self._authorization(scopes, refused=authorization)
                )
            except BaseException:
                response.close()
                raise
            if not again or again == authorization:
                return response
            response.finish()
            if authorization:  # the second refusal is the last one
                return self._follow(method, url, headers, again, home, body, is_commit)
            authorization = again

    def _follow(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        authorization: str,
        home: Origin,
        body: Body | None = None,
        is_commit: bool = False,
        *,
        is_secret: bool = False,
    ) -> Response:
        """Send a request wherever it is redirected to; `authorization` is for `home` alone.

        So is a body that `is_secret`.
        """
        at = url
        for _ in range(self._bounds.redirects_max + 1):
            own = dict(headers)
            here = Origin.of(at)
            if authorization and here == home:
                own["Authorization"] = authorization
            response = self._connections.send(
                method,
                at,
                own,
                body,
                insecure=self._is_insecure(here),
                is_commit=is_commit,
            )
            if response.status not in _REDIRECTS or not response.header("Location"):
                return response
            response.finish()
            if method not in ("GET", "HEAD") and response.status not in _KEEPING_METHOD:
                raise self._unexpected(f"a redirect ({response.status}) of a {method}")
            at = self._redirected(at, response.header("Location"))
            if is_secret and Origin.of(at) != home:
                raise self._unexpected(f"a redirect of credentials to {Origin.of(at)}")
        raise self._unexpected(f"more than {self._bounds.redirects_max} redirects")

    def _redirected(self, at: str, location: str) -> str:
        try:
            target = without_userinfo(urljoin(at, location))
            origin = Origin.of(target)
        except ValueError:
            raise self._unexpected("a redirect to what is no URL") from None
        if origin.scheme == "http" and not self._insecure:
            if urlsplit(at).scheme == "https":
                problem = f"a redirect from TLS to plain HTTP ({origin})"
                raise UntrustedRegistryError(host=self.host, problem=problem)
            if not is_loopback(origin.host):
                problem = f"a redirect to plain HTTP ({origin})"
                raise UntrustedRegistryError(host=self.host, problem=problem)
        return target

    def _is_insecure(self, here: Origin) -> bool:
        """A registry that is insecure says nothing about others it redirects to."""
        if self._settings.tls_verify is not None:
            return not self._settings.tls_verify
        return self._insecure and host_shown(f"//{here.host}:{here.port}") in (
            self._server,
            f"{self._server}:{here.port}",
        )

    # ---- how to talk

    def _probe(self) -> str:
        """The first scheme by which the registry answers.

        On loopback plain HTTP comes first: a server without TLS might wait for the end of what it
        takes for a line. Nothing secret is sent.
        """
        plain = self._insecure or (
            is_loopback(self._server) and self._settings.tls_verify is not True
        )
        schemes = ["https", "http"] if plain else ["https"]
        if is_loopback(self._server):
            schemes.reverse()
        failure: Exception | None = None
        for scheme in schemes:
            base = f"{scheme}://{self._server}"
            try:
                response = self._follow("GET", f"{base}/v2/", {}, "", Origin.of(base))
            except ValueError:
                raise UnreachableRegistryError(host=self.host, problem="no such host") from None
            except PlainHttpError:
                failure = failure or UntrustedRegistryError(
                    host=self.host,
                    problem="server gave HTTP response to HTTPS client",
                    hint="plain HTTP needs --tls-verify=false, or insecure=true in registries.conf",
                )
            except TransientError as error:
                failure = error if not isinstance(failure, RegistryError) else failure
            except UnreachableRegistryError as error:
                failure = failure or error
            else:
                challenges = parse_challenges(response.headers.getlist("WWW-Authenticate"))
                response.finish()
                if scheme == "http" and response.status == 400 and schemes[-1] == "https":
                    continue  # a TLS server, asked without TLS
                if response.status == 401:
                    self._challenge = choose(challenges)
                return base
        raise failure or self._unexpected("it answers neither by TLS nor without")

    # ---- who we are

    def _authorization(self, scopes: tuple[str, ...], *, refused: str = "") -> str:
        """The Authorization header; empty when none is needed or there are no credentials."""
        challenge = self._challenge
        if challenge is None:
            return ""
        scheme = urlsplit(self._base).scheme
        path = scopes[0].split(":")[1] if scopes else ""
        if challenge.scheme == "basic":
            found = self._find(path, scheme)
            return "" if found is None or not found.user else self._basic(found)
        with self._lock:
            token = self._tokens.get(scopes)
            if token is None or time.monotonic() > token.until_s or refused == token.header:
                token = self._new_token(challenge, scopes, self._find(path, scheme))
                self.secrets.add(token.text)
                self.secrets.add(token.identity)
                self._tokens[scopes] = token
        return token.header

    def _basic(self, credentials: Credentials) -> str:
        user, password = credentials.user, credentials.password
        self.secrets.add(password, user=user)
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def _new_token(
        self, challenge: Challenge, scopes: tuple[str, ...], found: Credentials | None
    ) -> "_Token":
        if found is not None and found.registry_token:
            return _Token(text=found.registry_token)
        realm, home = self._realm(challenge)
        service = challenge.get("service")
        fields = [("service", service)] if service else []
        fields += [("scope", scope) for scope in scopes]
        if found is not None and found.identity_token:
            self.secrets.add(found.identity_token)
            form = [
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", _CLIENT_ID),
                ("scope", " ".join(scopes)),
                ("refresh_token", found.identity_token),
            ]
            data = urlencode(form).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            headers["Content-Length"] = str(len(data))
            response = self._follow(
                "POST", realm, headers, "", home, lambda: (data,), is_secret=True
            )
        else:
            if self._is_login:
                fields += [("offline_token", "true"), ("client_id", _CLIENT_ID)]
            authorization = "" if found is None else self._basic(found)
            if found is not None:
                fields.append(("account", found.user))
            url = realm + ("&" if urlsplit(realm).query else "?") + urlencode(fields)
            response = self._follow("GET", url, {}, authorization, home)
        with response:
            return self._read_token(response, found)

    def _realm(self, challenge: Challenge) -> tuple[str, Origin]:
        realm = challenge.get("realm")
        try:
            realm = without_userinfo(realm)
            origin = Origin.of(realm)
        except ValueError:
            raise self._unexpected("a token service that is no URL") from None
        on_loopback = is_loopback(origin.host) and is_loopback(self._server)
        if origin.scheme == "http" and not (self._insecure or on_loopback):
            problem = f"its token service {origin} has no TLS"
            raise UntrustedRegistryError(host=self.host, problem=problem)
        return realm, origin

    def _read_token(self, response: Response, found: Credentials | None) -> "_Token":
        with_identity = found is not None and bool(found.identity_token)
        # OAuth2 says 400 of a token that has been revoked, or is too old (RFC 6749, 5.2)
        if response.status in (401, 403) or (response.status == 400 and with_identity):
            problem = problem_of(response, what=self.host, secrets=self.secrets)
            if found is None:
                raise problem
            raise UnauthorizedError(
                what=self.host,
                detail=_WRONG_TOKEN if with_identity else _WRONG,
                hint="log in again: lamina login",
            )
        if response.status != 200:
            raise problem_of(response, what=self.host, secrets=self.secrets)
        data = response.read(self._bounds.token_bytes_max)
        try:
            reader = Reader.of(data, context="token")
            token = reader.text("token") or reader.text("access_token")
            identity = reader.text("refresh_token")
            said_s = reader.integer("expires_in")
        except MalformedDocumentError:  # whose text could show what was there
            raise self._unexpected("its token service's answer is not what it should be") from None
        if not _TOKEN.fullmatch(token) or (identity and not _TOKEN.fullmatch(identity)):
            raise self._unexpected("its token service gave no usable token")
        lifetime_s = max(said_s, _TOKEN_S_MIN) * 0.9
        return _Token(text=token, until_s=time.monotonic() + lifetime_s, identity=identity)

    def _unexpected(self, problem: str) -> UnexpectedAnswerError:
        return UnexpectedAnswerError(host=self.host, problem=problem)
