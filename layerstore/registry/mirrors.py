"""registries.conf: mirrors, insecure and blocked registries, as podman and skopeo read them.

    CONTAINERS_REGISTRIES_CONF, else ~/.config/containers/registries.conf, else /etc/containers/...,
    and then every registries.conf.d/*.conf beside it (not beside the one of the variable)

    [[registry]]
    prefix = "docker.io/library"        # or "*.example.org"; without it the location
    location = "mirror.example/hub"     # what the prefix is replaced by; without it the prefix
    insecure = false
    blocked = false
    [[registry.mirror]]                 # asked before, in this order; only for pulling
    location = "cache.example/hub"
    insecure = false
    pull-from-mirror = "all"            # or digest-only, tag-only

Differs: short names go to Docker Hub, as docker has it; `unqualified-search-registries` and
`[aliases]` are not read.

Spec: containers-registries.conf(5), version 2.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from layerstore.reference import Reference
from layerstore.registry.errors import BlockedRegistryError, RegistryError

_SYSTEM = Path("/etc/containers/registries.conf")
_WHEN = ("all", "digest-only", "tag-only")
_FILE_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a repository can be had."""

    host: str
    path: str
    insecure: bool = False

    @property
    def repository(self) -> str:
        """Host and path."""
        return f"{self.host}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mirror:
    location: str
    insecure: bool
    when: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rule:
    prefix: str
    location: str
    insecure: bool
    blocked: bool
    mirrors: tuple[_Mirror, ...]

    def match(self, repository: str) -> int:
        """How many characters of `repository` the prefix stands for; 0 when it does not fit."""
        if self.prefix.startswith("*."):
            host = repository.partition("/")[0]
            return len(host) if host.endswith(self.prefix[1:]) else 0
        rest = repository[len(self.prefix) :]
        fits = repository.startswith(self.prefix) and rest[:1] in ("", "/")
        return len(self.prefix) if fits else 0


class RegistriesConf:
    """The rules of one user."""

    def __init__(self, rules: tuple[_Rule, ...] = ()) -> None:
        self._rules = rules

    @classmethod
    def load(cls, environment: Mapping[str, str]) -> "RegistriesConf":
        """Read what there is; nothing is fine.

        Raises:
            RegistryError: a file makes no sense.
        """
        rules: dict[str, _Rule] = {}
        for file in _files(environment):
            for rule in _read(file):
                rules[rule.prefix] = rule
        return cls(tuple(rules.values()))

    def places(self, reference: Reference, *, pull: bool) -> list[Place]:
        """Where to look for `reference`, the first first; one place to push to.

        Raises:
            BlockedRegistryError
        """
        matches = [(rule.match(reference.repository), rule) for rule in self._rules]
        length, rule = max(matches, key=lambda match: match[0], default=(0, None))
        if rule is None or not length:
            return [Place(host=reference.host, path=reference.path)]
        if rule.blocked:
            raise BlockedRegistryError(name=reference.familiar)
        rest = reference.repository[length:]
        kind = "tag-only" if reference.digest is None else "digest-only"
        mirrors = [each for each in rule.mirrors if pull and each.when in ("all", kind)]
        places = [_place(each.location + rest, insecure=each.insecure) for each in mirrors]
        location = reference.repository[:length] if not rule.location else rule.location
        return [*places, _place(location + rest, insecure=rule.insecure)]

    def is_insecure(self, host: str) -> bool:
        """Whether a registry as a whole may be asked without TLS: for `login`."""
        return any(rule.insecure and rule.prefix == host for rule in self._rules)


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    named = environment.get("CONTAINERS_REGISTRIES_CONF")
    if named:
        yield Path(named)
        return
    home = environment.get("HOME")
    config = environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
    own = Path(config) / "containers" / "registries.conf" if config else None
    main = own if own is not None and own.is_file() else _SYSTEM
    yield main
    yield from sorted(main.with_name("registries.conf.d").glob("*.conf"))


def _read(file: Path) -> Iterator[_Rule]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_FILE_BYTES_MAX).decode()
        document = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise RegistryError(f"cannot read {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8
        raise RegistryError(f"{file}: {error}") from None
    for table in _tables(document, "registry", file):
        location = _text(table, "location", file).rstrip("/")
        prefix = _text(table, "prefix", file).rstrip("/") or location
        if not prefix:
            raise RegistryError(f"{file}: a registry with neither prefix nor location")
        digest_only = _boolean(table, "mirror-by-digest-only", file)
        yield _Rule(
            prefix=prefix,
            location=location,
            insecure=_boolean(table, "insecure", file),
            blocked=_boolean(table, "blocked", file),
            mirrors=tuple(
                _mirror(mirror, file, digest_only=digest_only)
                for mirror in _tables(table, "mirror", file)
            ),
        )


def _mirror(table: dict[str, object], file: Path, *, digest_only: bool) -> _Mirror:
    location = _text(table, "location", file).rstrip("/")
    if not location:
        raise RegistryError(f"{file}: a mirror without a location")
    when = _text(table, "pull-from-mirror", file) or ("digest-only" if digest_only else "all")
    if when not in _WHEN:
        raise RegistryError(f"{file}: pull-from-mirror is {when!r}", hint=", ".join(_WHEN))
    return _Mirror(location=location, insecure=_boolean(table, "insecure", file), when=when)


def _place(repository: str, *, insecure: bool) -> Place:
    host, _, path = repository.partition("/")
    return Place(host=host, path=path, insecure=insecure)


def _tables(table: dict[str, object], key: str, file: Path) -> list[dict[str, object]]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise RegistryError(f"{file}: {key!r} is not a list of tables")
    return found


def _text(table: dict[str, object], key: str, file: Path) -> str:
    found = table.get(key, "")
    if not isinstance(found, str):
        raise RegistryError(f"{file}: {key!r} is not a string")
    return found


def _boolean(table: dict[str, object], key: str, file: Path) -> bool:
    found = table.get(key, False)
    if not isinstance(found, bool):
        raise RegistryError(f"{file}: {key!r} is neither true nor false")
    return found
