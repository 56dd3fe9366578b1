"""The way to every registry, for one command: settings, credentials and connections.

with RegistryClient(Settings(tls_verify=None)) as client:
    pulled = pull_image(client, store, Reference.parse("localhost:5000/hello"))
    client.repository(reference).manifest("latest")      the calls themselves, see repository.py

Several threads may use what it gives. Nothing is read, and nothing imported, before the first
request is made.
"""

from functools import partial
from typing import Self

from layerstore.reference import Reference
from layerstore.registry.connection import Connections, Stop
from layerstore.registry.credentials import Credentials, CredentialStore
from layerstore.registry.endpoint import Endpoint
from layerstore.registry.mirrors import Place, RegistriesConf
from layerstore.registry.repository import Repository
from layerstore.registry.secrets import Secrets
from layerstore.registry.settings import Settings


class RegistryClient:
    """A context manager: closes its connections."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.stop = Stop()
        self._secrets = Secrets()
        self._connections = Connections(self.settings, self.stop)
        self._store = CredentialStore(self.settings.environment, self.settings.auth_file)
        self._conf: RegistriesConf | None = None
        self._endpoints: dict[tuple[str, bool], Endpoint] = {}

    def repository(self, reference: Reference) -> Repository:
        """The repository of a name in the registry itself: to push to.

        Raises:
            BlockedRegistryError
        """
        return self._at(self._registries().places(reference, pull=False)[-1])

    def sources(self, reference: Reference) -> list[Repository]:
        """The repositories that a name may be pulled from, mirrors first.

        Raises:
            BlockedRegistryError
        """
        return [self._at(place) for place in self._registries().places(reference, pull=True)]

    def login(self, host: str, credentials: Credentials) -> str:
        """Have the registry check credentials, and keep them; returns where.

        In place of a password an identity token is kept, where the token service gives one.

        Raises:
            UnauthorizedError: they are not the right ones.
        """
        insecure = self._registries().is_insecure(host)
        with RegistryClient(self._with(host, credentials)) as other:
            endpoint = other._endpoint(host, insecure=insecure)
            identity = endpoint.check_login()
        if identity:
            credentials = Credentials(user=credentials.user, identity_token=identity)
        return self._store.save(host, credentials)

    def logged_in(self, host: str) -> Credentials | None:
        """What is kept for a registry."""
        return self._store.find(host)

    def logout(self, host: str) -> bool:
        """Forget the credentials for a registry; whether there were any."""
        return self._store.erase(host)

    def close(self) -> None:
        """Close all connections."""
        self.stop.set()
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _with(self, host: str, credentials: Credentials) -> Settings:
        from dataclasses import replace

        return replace(self.settings, credentials=credentials, credentials_host=host)

    def _registries(self) -> RegistriesConf:
        if self._conf is None:
            self._conf = RegistriesConf.load(self.settings.environment)
        return self._conf

    def _at(self, place: Place) -> Repository:
        endpoint = self._endpoint(place.host, insecure=place.insecure)
        return Repository(endpoint, place.path, self.settings.bounds)

    def _endpoint(self, host: str, *, insecure: bool) -> Endpoint:
        verify = self.settings.tls_verify
        insecure = insecure if verify is None else not verify
        known = self._endpoints.get((host, insecure))
        if known is None:
            known = self._endpoints[host, insecure] = Endpoint(
                host,
                connections=self._connections,
                settings=self.settings,
                find=partial(self._find, host),
                secrets=self._secrets,
                insecure=insecure,
                stop=self.stop,
            )
        return known

    def _find(self, host: str, path: str, scheme: str) -> Credentials | None:
        if self.settings.credentials is not None and host == self.settings.credentials_host:
            return self.settings.credentials
        return self._store.find(host, path, scheme=scheme)
