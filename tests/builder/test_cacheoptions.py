"""--cache-to and --cache-from: what is read, what is written, and what of a build is exported."""

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from builder.cacheoptions import (
    CacheExport,
    RegistryCache,
    add_cache,
    parse_cache_from,
    parse_cache_to,
    write_caches,
)
from builder.errors import OutputError, UnsupportedFeatureError
from builder.events import Event, Notice, VertexDone, VertexStarted
from builder.grants import NO_GRANTS
from builder.sandbox import BindMount, SandboxSpec
from builder.squash import Squash
from layerstore import (
    Export,
    InvalidReferenceError,
    Reference,
    Store,
    StoreError,
    load_images,
    prune,
    save_images,
)
from layerstore.registry import RegistryClient, RegistryError, Settings
from tests.support.executors import FakeExecutor, no_executor
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.images import Built, make_image, run_build
from tests.support.registries import Registry
from tests.support.stores import findings, flip

TEXT = """\
FROM base AS build
RUN echo made > /made
RUN echo more > /more
FROM base
COPY --from=build /made /copied
RUN touch /own
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as store:
        make_image(store, "base", {"base": b"1"})
        yield store


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """Another store with the same base, and nothing built yet."""
    with Store.open(tmp_path / "other") as store:
        make_image(store, "base", {"base": b"1"})
        yield store


NOWHERE = "127.0.0.1:1/missing:1"


def connect(insecure: bool) -> RegistryClient:
    """A client that asks nobody anything, until it is used; it need not be closed then."""
    return RegistryClient(Settings(tls_verify=False if insecure else None, retries=0))


def named(*names: str) -> tuple[RegistryCache, ...]:
    return tuple(
        RegistryCache(reference=Reference.parse(name), client=connect(False), is_bare=True)
        for name in names
    )


def export(
    store: Store,
    built: Built,
    dest: Path,
    mode: str = "min",
    ignore_error: bool = False,
    more: str = "",
    secrets: Mapping[str, bytes] = NO_GRANTS.secrets,
) -> list[Event]:
    events: list[Event] = []
    text = f"type=local,dest={dest},mode={mode},ignore-error={str(ignore_error).lower()}{more}"
    write_caches(
        parse_cache_to([text], connect)[0], built.result, store, events.append, secrets=secrets
    )
    return events


MOUNTED = """\
FROM base AS build
RUN --mount=type=cache,target=/one echo made > /made
FROM base
COPY --from=build /made /copied
RUN --mount=type=cache,target=/two,sharing=locked touch /own
"""


class Appending(FakeExecutor):
    """Before a program runs, it leaves a line in `log` of every cache mount, and sees it all."""

    def __init__(self, line: str) -> None:
        super().__init__(before=self._append)
        self.line = line
        self.seen: dict[str, str] = {}

    def _append(self, spec: SandboxSpec) -> None:
        for mount in spec.mounts:
            if isinstance(mount, BindMount):
                log = mount.source / "log"
                with log.open("a") as file:
                    file.write(f"{self.line}\n")
                self.seen[mount.target] = log.read_text()


def mounts_in(cache: Path) -> int:
    folder = cache / "lamina/mounts"
    return len(list(folder.iterdir())) if folder.exists() else 0


def notices_of(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, Notice)]


def data_of(store: Store, target: str, built: Built) -> Path:
    """What is in one of the cache mounts of a build."""
    (key,) = (key for key, shown in built.result.cache_mounts.items() if shown == target)
    (path,) = (path for path in store.cache_mounts.paths() if path.name == f"{key[:32]}-0")
    return path / "data"


def steps(cache: Path) -> int:
    return len(list((cache / "lamina/steps").iterdir()))


def test_what_a_local_export_says() -> None:
    texts = ["type=local,dest=a", "type=local,dest=b,mode=max,mounts=true,ignore-error=1"]
    assert parse_cache_to(texts, connect) == (
        (
            CacheExport(dest=Path("a"), mode="min", mounts=False, ignore_error=False),
            CacheExport(dest=Path("b"), mode="max", mounts=True, ignore_error=True),
        ),
        False,
    )
    assert parse_cache_to([], connect) == ((), False)


def test_inline_is_no_directory() -> None:
    (export,), is_inline = parse_cache_to(["type=inline", "type=local,dest=a"], connect)
    assert (export.dest, is_inline) == (Path("a"), True)
    with pytest.raises(OutputError, match="type=inline is for --cache-to"):
        parse_cache_from(["type=inline"], connect)


def test_what_a_local_import_says() -> None:
    assert parse_cache_from(["type=local,src=a", "src=b,type=local"], connect) == (
        Path("a"),
        Path("b"),
    )


def test_a_bare_name_is_an_image_of_the_store_first() -> None:
    found = parse_cache_from(["user/app", "it:1"], connect)
    assert [str(each) for each in found] == ["user/app:latest", "it:1"]
    assert all(isinstance(each, RegistryCache) and each.is_bare for each in found)
    with pytest.raises(InvalidReferenceError):
        parse_cache_from(["UPPER"], connect)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=local", "dest is required"),
        ("dest=a", "type is required"),
        ("type=local,dest=a,mode=all", "mode=all: neither min nor max"),
        ("type=local,dest", "invalid value dest"),
        ('type="local"', "bare"),
    ],
)
def test_what_makes_no_sense_to_export(text: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        parse_cache_to([text], connect)


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("type=gha", "type=gha"),
        ("type=s3,bucket=b", "type=s3"),
        ("type=azblob", "type=azblob"),
        ("type=local,PLACE=a,compression=zstd", "compression="),
    ],
)
def test_what_is_not_there_yet_is_refused_by_name(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=f"{feature}.*not supported|{feature} of"):
        parse_cache_to([text.replace("PLACE", "dest")], connect)
    with pytest.raises(UnsupportedFeatureError, match=f"{feature}.*not supported|{feature} of"):
        parse_cache_from([text.replace("PLACE", "src")], connect)


def test_mounts_come_with_the_directory_they_are_in() -> None:
    with pytest.raises(UnsupportedFeatureError, match="mounts= of --cache-from"):
        parse_cache_from(["type=local,src=a,mounts=true"], connect)
    with pytest.raises(UnsupportedFeatureError, match="mounts= of --cache-to type=inline"):
        parse_cache_to(["type=inline,mounts=true"], connect)
    with pytest.raises(OutputError, match="mounts"):
        parse_cache_to(["type=local,dest=a,mounts=maybe"], connect)


def test_an_import_needs_a_source() -> None:
    with pytest.raises(OutputError, match="src is required"):
        parse_cache_from(["type=local,tag=x"], connect)
    with pytest.raises(OutputError, match="ref is required"):
        parse_cache_from(["type=registry"], connect)


def test_what_a_registry_export_and_import_say() -> None:
    (plain, full), _ = parse_cache_to(
        [
            "type=registry,ref=host:5000/app:cache",
            "type=registry,ref=app,mode=max,mounts=true,ignore-error=true,image-manifest=true",
        ],
        connect,
    )
    assert (str(plain.dest), plain.mode, plain.mounts) == ("host:5000/app:cache", "min", False)
    assert (str(full.dest), full.mode, full.mounts) == ("app:latest", "max", True)
    assert full.ignore_error
    (short,), _ = parse_cache_to(["user/app"], connect)
    assert str(short.dest) == "user/app:latest"
    (found,) = parse_cache_from(["type=registry,ref=host:5000/app:cache"], connect)
    assert found == RegistryCache(
        reference=Reference.parse("host:5000/app:cache"), client=connect(False)
    )
    asked: list[bool] = []

    def remember(insecure: bool) -> RegistryClient:
        asked.append(insecure)
        return connect(insecure)

    parse_cache_from(
        ["type=registry,ref=a,registry.insecure=true", "type=registry,ref=a"], remember
    )
    assert asked == [True, False]
    with pytest.raises(UnsupportedFeatureError, match="image-manifest=false"):
        parse_cache_to(["type=registry,ref=a,image-manifest=false"], connect)
    with pytest.raises(UnsupportedFeatureError, match="compression="):
        parse_cache_to(["type=registry,ref=a,compression=zstd"], connect)


def test_another_store_builds_the_same_image_from_it_without_running_anything(
    store: Store, other: Store, tmp_path: Path
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    export(store, built, tmp_path / "cache", "max")
    again = run_build(other, TEXT, executor=no_executor, cache_from=(tmp_path / "cache",))
    assert again.outcomes == ["cached"] * 4
    assert again.digest == built.digest
    assert again.notices == []
    other.flush()
    assert findings(other) == []


def test_layers_that_the_image_has_not_are_not_copied(
    store: Store, other: Store, tmp_path: Path
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    export(store, built, tmp_path / "cache", "max")
    again = run_build(other, TEXT, executor=no_executor, cache_from=(tmp_path / "cache",))
    needed = {layer.digest for layer in again.image.manifest.layers}
    documents = {again.digest, again.image.id}
    base = other.images.resolve("base")
    assert set(other.blobs.digests()) == {*needed, *documents, base.id, base.descriptor.digest}


def test_min_has_the_steps_of_the_result_alone(store: Store, tmp_path: Path) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    export(store, built, tmp_path / "min")
    export(store, built, tmp_path / "max", "max")
    assert (steps(tmp_path / "min"), steps(tmp_path / "max")) == (2, 4)


def test_steps_of_stages_that_the_target_stands_on_are_the_results_own(
    store: Store, tmp_path: Path
) -> None:
    text = "FROM base AS one\nRUN touch /a\nFROM one\nRUN touch /b\n"
    export(store, run_build(store, text, executor=FakeExecutor()), tmp_path / "cache")
    assert steps(tmp_path / "cache") == 2


def test_with_max_a_changed_source_runs_only_what_it_must(
    store: Store, other: Store, tmp_path: Path
) -> None:
    export(store, run_build(store, TEXT, executor=FakeExecutor()), tmp_path / "cache", "max")
    text = TEXT.replace("echo more", "echo others")
    again = run_build(other, text, executor=FakeExecutor(), cache_from=(tmp_path / "cache",))
    assert again.outcomes == ["cached", "executed", "cached", "cached"]


def test_a_squashed_build_exports_its_steps(store: Store, other: Store, tmp_path: Path) -> None:
    text = "FROM base\nRUN touch /a\nRUN touch /b\n"
    built = run_build(store, text, executor=FakeExecutor(), squash=Squash())
    export(store, built, tmp_path / "cache")
    for squash in (Squash(), None):
        again = run_build(
            other, text, executor=no_executor, cache_from=(tmp_path / "cache",), squash=squash
        )
        assert again.outcomes == ["cached", "cached"]
        assert (again.digest == built.digest) is (squash is not None)


def test_an_equal_result_of_another_program_is_taken_from_it(
    store: Store, other: Store, tmp_path: Path
) -> None:
    """As in the store itself, so that what stands on it stays cached."""
    text = "FROM base\nRUN echo hi > /a\nRUN cat /a > /b\n"
    built = run_build(store, text, executor=FakeExecutor())
    export(store, built, tmp_path / "cache")
    rewritten = text.replace("echo hi", "printf 'hi\\n'")
    again = run_build(other, rewritten, executor=FakeExecutor(), cache_from=(tmp_path / "cache",))
    assert again.outcomes == ["reused", "cached"]
    assert again.image.layers == built.image.layers
    # this store has no build of the Dockerfile whose history could be kept
    assert "printf" in again.image.config.history[-2].created_by


def test_a_directory_that_is_not_there_is_a_notice(store: Store, tmp_path: Path) -> None:
    built = run_build(
        store, "FROM base\nRUN touch /a\n", executor=FakeExecutor(), cache_from=(tmp_path / "no",)
    )
    assert built.outcomes == ["executed"]
    assert built.notices == [f"no build cache in {tmp_path / 'no'}"]


def test_every_kind_of_damage_costs_steps_and_nothing_else(store: Store, tmp_path: Path) -> None:
    """Whatever file of the directory is damaged: the build succeeds, with the same files."""
    built = run_build(store, TEXT, executor=FakeExecutor(), epoch=0)
    cache = tmp_path / "cache"
    export(store, built, cache, "max")
    for number, path in enumerate(sorted(path for path in cache.rglob("*") if path.is_file())):
        content = path.read_bytes()
        flip(path, len(content) // 2)
        with Store.open(tmp_path / f"store-{number}") as other:
            make_image(other, "base", {"base": b"1"})
            again = run_build(other, TEXT, executor=FakeExecutor(), cache_from=(cache,), epoch=0)
            assert again.digest == built.digest
            other.flush()
            assert findings(other) == []
        path.write_bytes(content)


def test_a_layer_that_turns_out_damaged_is_built_again_with_a_notice(
    store: Store, other: Store, tmp_path: Path
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    cache = tmp_path / "cache"
    export(store, built, cache, "max")
    damaged = built.image.manifest.layers[-1].digest
    flip(cache / "blobs/sha256" / damaged.hex, 20)
    fake = FakeExecutor()
    again = run_build(other, TEXT, executor=fake, cache_from=(cache,))
    assert again.outcomes == ["cached", "cached", "cached", "executed"]
    assert fake.scripts == ["touch /own"]
    assert fake.closed == 1
    assert len([text for text in again.notices if damaged in text]) == 1
    assert "own" in again.tree


def test_an_export_that_fails_fails_the_build_unless_told_not_to(
    store: Store, tmp_path: Path
) -> None:
    built = run_build(store, "FROM base\nRUN touch /a\n", executor=FakeExecutor())
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/file").write_text("")
    with pytest.raises(StoreError, match="neither empty nor"):
        export(store, built, tmp_path / "precious")
    events = export(store, built, tmp_path / "precious", ignore_error=True)
    assert [type(event) for event in events] == [VertexStarted, Notice, VertexDone]
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]


def test_work_is_numbered_after_that_of_the_build(store: Store, tmp_path: Path) -> None:
    built = run_build(store, "FROM base\nRUN touch /a\n", executor=FakeExecutor())
    events = export(store, built, tmp_path / "cache")
    before = {event.vertex for event in built.events if isinstance(event, VertexStarted)}
    started = [event.vertex for event in events if isinstance(event, VertexStarted)]
    assert started == [max(before) + 1]


# Inside of the image.


def test_an_image_that_was_loaded_is_a_cache(store: Store, other: Store, tmp_path: Path) -> None:
    text = "FROM base\nRUN touch /a\nRUN touch /b\n"
    built = run_build(store, text, executor=FakeExecutor(), tag="it", inline_cache=True)
    with (tmp_path / "it.tar").open("wb") as file:
        exports = [Export(image=built.image, names=(Reference.parse("it"),))]
        save_images(store, exports, file, format="oci-archive")
    load_images(other, tmp_path / "it.tar")
    other.flush()
    again = run_build(other, text, executor=no_executor, cache_from=named("it"), inline_cache=True)
    assert again.outcomes == ["cached", "cached"]
    assert again.digest == built.digest
    assert again.notices == []
    more = run_build(other, text + "RUN touch /c\n", executor=FakeExecutor())
    assert more.outcomes == ["cached", "cached", "executed"]
    assert findings(other) == []


def test_an_inline_cache_is_deterministic_and_changes_the_id(store: Store) -> None:
    text = "FROM base\nRUN touch /a\n"
    plain = run_build(store, text, executor=FakeExecutor())
    ids = {
        run_build(store, text, executor=no_executor, inline_cache=True).image.id for _ in range(2)
    }
    assert len(ids) == 1
    assert plain.image.id not in ids


def test_an_inline_cache_names_the_layers_of_the_image_alone(store: Store) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor(), inline_cache=True)
    cache = json.loads(built.image.config.inline_cache)
    steps, layers = ([each["diffId"] for each in cache[kind]] for kind in ("steps", "layers"))
    assert steps == [*built.image.config.diff_ids[1:]]
    assert layers == [*built.image.config.diff_ids]


def test_an_image_without_a_cache_or_no_image_is_a_notice(store: Store) -> None:
    text = "FROM base\nRUN touch /a\n"
    built = run_build(store, text, executor=FakeExecutor(), cache_from=named("base", NOWHERE))
    assert built.outcomes == ["executed"]
    first, second = built.notices
    assert "build it with type=inline" in first
    assert second.startswith(f"no build cache in {NOWHERE}: cannot reach the registry")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_mounts_of_all_stages_are_exported_and_only_when_asked_for(
    store: Store, tmp_path: Path, mode: str
) -> None:
    built = run_build(store, MOUNTED, executor=Appending("first"))
    assert sorted(built.result.cache_mounts.values()) == ["/one", "/two"]
    for more, count in (("", 0), (",mounts=false", 0), (",mounts=true", 2)):
        events = export(store, built, tmp_path / "cache", mode, more=more)
        assert mounts_in(tmp_path / "cache") == count
        assert notices_of(events) == []


def test_elsewhere_mounts_are_warm_when_a_program_needs_them(
    store: Store, other: Store, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    export(
        store, run_build(store, MOUNTED, executor=Appending("1")), cache, "max", more=",mounts=true"
    )
    again = run_build(other, MOUNTED, executor=no_executor, cache_from=(cache,))
    assert again.outcomes == ["cached"] * 3
    assert other.cache_mounts.paths() == []
    fake = Appending("2")
    changed = MOUNTED.replace("touch /own", "touch /others")
    built = run_build(other, changed, executor=fake, cache_from=(cache,))
    assert built.outcomes == ["cached", "cached", "executed"]
    assert fake.seen == {"/two": "1\n2\n"}
    assert len(other.cache_mounts.paths()) == 1
    fake = Appending("3")
    run_build(other, MOUNTED, executor=fake, cache_from=(cache,), no_cache=True)
    assert fake.seen == {"/one": "1\n3\n", "/two": "1\n2\n3\n"}, "what is there stays"


def test_mounts_change_no_key_and_no_layer(store: Store, other: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    built = run_build(store, MOUNTED, executor=Appending("1"), epoch=0)
    export(store, built, cache, more=",mounts=true")
    shutil.rmtree(cache / "lamina/steps")
    shutil.rmtree(cache / "lamina/results")
    again = run_build(other, MOUNTED, executor=Appending("2"), cache_from=(cache,), epoch=0)
    assert again.outcomes == ["executed"] * 3
    keys = [[step.key for step in each.result.record.steps] for each in (built, again)]
    assert keys[0] == keys[1]
    assert again.digest == built.digest


def test_a_cached_build_exports_mounts_as_well(store: Store, tmp_path: Path) -> None:
    run_build(store, MOUNTED, executor=Appending("1"))
    built = run_build(store, MOUNTED, executor=no_executor)
    export(store, built, tmp_path / "cache", more=",mounts=true")
    assert mounts_in(tmp_path / "cache") == 2


def test_a_directory_can_be_handed_on_without_a_mount_in_use(
    store: Store, other: Store, tmp_path: Path
) -> None:
    """`--cache-from old --cache-to new`, everything cached."""
    built = run_build(store, MOUNTED, executor=Appending("1"))
    export(store, built, tmp_path / "old", "max", more=",mounts=true")
    again = run_build(other, MOUNTED, executor=no_executor, cache_from=(tmp_path / "old",))
    events = export(other, again, tmp_path / "new", "max", more=",mounts=true")
    assert (mounts_in(tmp_path / "new"), notices_of(events)) == (2, [])
    assert other.cache_mounts.paths() == []


def test_a_mount_that_cannot_be_exported_is_a_notice(store: Store, tmp_path: Path) -> None:
    built = run_build(store, MOUNTED, executor=Appending("1"))
    (data_of(store, "/one", built) / ".wh.name").touch()
    os.mknod(data_of(store, "/two", built) / "agent", stat.S_IFSOCK | 0o600)
    events = export(store, built, tmp_path / "cache", more=",mounts=true")
    messages = sorted(notices_of(events))
    assert messages[0].startswith("cache mount /one is not exported: unsafe path '.wh.name'")
    assert messages[1] == "cache mount /two is exported without the socket 'agent'"
    assert mounts_in(tmp_path / "cache") == 1


def test_so_is_one_that_was_removed_meanwhile(store: Store, tmp_path: Path) -> None:
    built = run_build(store, MOUNTED, executor=Appending("1"))
    assert prune(store, cache="unused").cache_mounts == 2
    events = export(store, built, tmp_path / "cache", more=",mounts=true")
    assert sorted(notices_of(events)) == [
        f"cache mount {target} is not exported: there is none in this store"
        for target in ("/one", "/two")
    ]


def test_a_secret_of_the_build_leaves_with_no_mount(store: Store, tmp_path: Path) -> None:
    built = run_build(store, MOUNTED, executor=Appending("1"))
    (data_of(store, "/one", built) / "npmrc").write_text("token=hunter2hunter2\n")
    events = export(
        store,
        built,
        tmp_path / "cache",
        more=",mounts=true",
        secrets={"npm": b"hunter2hunter2"},
    )
    assert notices_of(events) == [
        "cache mount /one is not exported: the secret 'npm' is in it, at 'npmrc'"
    ]
    assert mounts_in(tmp_path / "cache") == 1


def test_with_no_cache_a_mount_that_begins_with_something_begins_anew(
    store: Store, other: Store, tmp_path: Path
) -> None:
    text = "FROM base\nRUN --mount=type=cache,target=/c,from=base touch /a\n"
    cache = tmp_path / "cache"
    export(store, run_build(store, text, executor=Appending("1")), cache, more=",mounts=true")
    for no_cache, seen in ((True, "2\n"), (False, "1\n2\n")):
        prune(other, cache="all")
        fake = Appending("2")
        rewritten = text.replace("touch /a", "touch /b")
        run_build(other, rewritten, executor=fake, cache_from=(cache,), no_cache=no_cache)
        assert fake.seen == {"/c": seen}


def test_a_damaged_mount_costs_its_content_alone(
    store: Store, other: Store, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    export(store, run_build(store, MOUNTED, executor=Appending("1")), cache, more=",mounts=true")
    entries = [json.loads(path.read_bytes()) for path in (cache / "lamina/mounts").iterdir()]
    for digest in {entry["blob"]["digest"] for entry in entries}:
        flip(cache / "blobs/sha256" / digest.removeprefix("sha256:"), 15)
    fake = Appending("2")
    built = run_build(other, MOUNTED, executor=fake, cache_from=(cache,), no_cache=True)
    assert fake.seen == {"/one": "2\n", "/two": "2\n"}
    assert len(built.notices) == 2
    assert all(text.startswith("not used of the build cache in") for text in built.notices)


# In a registry.


@pytest.fixture
def client() -> Iterator[RegistryClient]:
    with RegistryClient() as client:
        yield client


def remote(server: Registry | FaultProxy, client: RegistryClient) -> RegistryCache:
    return RegistryCache(reference=Reference.parse(f"{server.address}/cache:1"), client=client)


def send(
    store: Store,
    built: Built,
    cache: RegistryCache,
    mode: str = "min",
    *,
    mounts: bool = False,
    ignore_error: bool = False,
    secrets: Mapping[str, bytes] = NO_GRANTS.secrets,
) -> list[Event]:
    events: list[Event] = []
    it = CacheExport(
        dest=cache,
        mode="max" if mode == "max" else "min",
        mounts=mounts,
        ignore_error=ignore_error,
    )
    write_caches([it], built.result, store, events.append, secrets=secrets)
    return events


def layer_blobs(proxy: FaultProxy, *stores: Store) -> set[str]:
    """The diff_ids of layers whose blobs were fetched through the proxy."""
    names = {
        layer.descriptor.digest: layer.diff_id for store in stores for layer in store.layers.all()
    }
    fetched = {
        exchange.path.rpartition("/")[2]
        for exchange in proxy.exchanges
        if exchange.kind == "blob" and exchange.method == "GET"
    }
    return {names[digest] for digest in names if digest in fetched}


@pytest.mark.needs_registry
def test_two_stores_share_a_cache_and_the_second_executes_nothing(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    events = send(store, built, remote(server, client), "max")
    assert notices_of(events) == []
    with fault_proxy(server.port) as proxy:
        again = run_build(other, TEXT, executor=no_executor, cache_from=(remote(proxy, client),))
        assert again.outcomes == ["cached"] * 4
        assert again.digest == built.digest
        assert again.notices == []
        # of all stages' layers those of the image alone, and not that of its base
        own = {layer.diff_id for layer in built.image.layers[1:]}
        assert layer_blobs(proxy, store, other) == own
    assert findings(other) == []
    assert run_build(other, TEXT, executor=no_executor).digest == built.digest


@pytest.mark.needs_registry
def test_a_fully_cached_build_that_nobody_reads_fetches_no_layer(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    send(store, built, remote(server, client), "max")
    with fault_proxy(server.port) as proxy:
        again = run_build(
            other,
            TEXT,
            executor=no_executor,
            cache_from=(remote(proxy, client),),
            keep=False,
            wants_layers=False,
        )
        assert again.outcomes == ["cached"] * 4
        assert layer_blobs(proxy, store, other) == set()
        # and handing it on moves no layer either
        send(other, again, remote(proxy, client), "max")
        assert layer_blobs(proxy, store, other) == set()
        assert proxy.bytes_sent("upload") == 0
    assert findings(other) == []


@pytest.mark.needs_registry
@pytest.mark.parametrize("kind", ["registry", "directory"])
def test_the_layers_of_all_base_images_are_described(
    store: Store, server: Registry, client: RegistryClient, tmp_path: Path, kind: str
) -> None:
    make_image(store, "other", {"other": b"2"})
    text = "FROM other AS build\nRUN echo 1 > /made\nFROM base\nCOPY --from=build /made /made\n"
    built = run_build(store, text, executor=FakeExecutor())
    brought = {
        layer.diff_id: layer
        for name in ("base", "other")
        for layer in store.images.resolve(name).layers
    }
    assert {layer.diff_id for layer in built.result.foreign} == set(brought)
    with Store.open(tmp_path / "empty") as empty:
        if kind == "registry":
            cache: RegistryCache | Path = remote(server, client)
            send(store, built, remote(server, client))
        else:
            cache = tmp_path / "cache"
            export(store, built, cache)
        add_cache(cache, empty, pytest.fail)
        for diff_id, layer in brought.items():
            found = empty.cache.describe(diff_id)
            assert found is not None
            assert found.layer == layer


@pytest.mark.needs_registry
def test_only_what_a_changed_step_stands_on_is_fetched(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    send(store, built, remote(server, client), "max")
    changed = TEXT.replace("touch /own", "touch /other")
    with fault_proxy(server.port) as proxy:
        fake = FakeExecutor()
        again = run_build(other, changed, executor=fake, cache_from=(remote(proxy, client),))
        assert again.outcomes == ["cached"] * 3 + ["executed"]
        assert layer_blobs(proxy, store, other) == {built.image.layers[1].diff_id}


@pytest.mark.needs_registry
def test_mode_min_has_the_layers_of_the_image_alone(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    send(store, built, remote(server, client), "min")
    stored = server.blobs()
    assert {layer.descriptor.digest for layer in built.image.layers[1:]} <= stored
    assert built.image.layers[0].descriptor.digest not in stored
    again = run_build(other, TEXT, executor=FakeExecutor(), cache_from=(remote(server, client),))
    assert again.outcomes == ["executed", "executed", "cached", "cached"]
    assert again.digest == built.digest


@pytest.mark.needs_registry
def test_cache_mounts_go_along_when_asked_for(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    first = Appending("first")
    built = run_build(store, MOUNTED, executor=first)
    cache = remote(server, client)
    send(store, built, cache, mounts=True)
    fake = Appending("second")
    changed = MOUNTED.replace("touch /own", "touch /other")
    run_build(other, changed, executor=fake, cache_from=(cache,))
    assert fake.seen["/two"] == "first\nsecond\n"
    assert findings(other) == []


@pytest.mark.needs_registry
def test_a_secret_in_a_cache_mount_does_not_leave(
    store: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, MOUNTED, executor=Appending("hunter2hunter2"))
    events = send(
        store,
        built,
        remote(server, client),
        mounts=True,
        secrets={"key": b"hunter2hunter2"},
    )
    assert len([text for text in notices_of(events) if "the secret 'key' is in it" in text]) == 2
    assert all(b"hunter2" not in server.blob_path(blob).read_bytes() for blob in server.blobs())


@pytest.mark.needs_registry
def test_a_cache_that_is_not_there_or_not_one_is_a_notice(
    store: Store, server: Registry, client: RegistryClient
) -> None:
    text = "FROM base\nRUN touch /a\n"
    manifest = "application/vnd.oci.image.manifest.v1+json"
    config = server.put_blob("odd", b"{}")
    server.put_manifest(
        "odd",
        "1",
        json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": manifest,
                "config": {
                    "mediaType": "application/vnd.lamina.buildcache.v1+json",
                    "digest": config,
                    "size": 2,
                },
                "layers": [],
            }
        ).encode(),
        manifest,
    )
    caches = tuple(
        RegistryCache(reference=Reference.parse(name), client=client)
        for name in (f"{server.address}/none:1", f"{server.address}/odd:1", "127.0.0.1:1/a:1")
    )
    built = run_build(store, text, executor=FakeExecutor(), cache_from=caches)
    assert built.outcomes == ["executed"]
    missing, odd, unreachable = built.notices
    assert missing.startswith(f"no build cache in {server.address}/none:1: ")
    assert "not found" in missing
    assert "'schema' is not 1" in odd
    assert "cannot reach the registry" in unreachable


@pytest.mark.needs_registry
def test_an_image_with_its_cache_inside_is_one_in_a_registry_too(
    store: Store, other: Store, server: Registry, client: RegistryClient, tmp_path: Path
) -> None:
    from layerstore import RegistryPlace, StoredImage, copy_between
    from layerstore.registry import RegistryCopies

    text = "FROM base\nRUN touch /a\n"
    built = run_build(store, text, executor=FakeExecutor(), tag="it", inline_cache=True)
    cache = remote(server, client)
    there = RegistryPlace(reference=cache.reference)
    ways = RegistryCopies(client)
    copy_between(store, StoredImage(name="it"), there, registries=ways)
    again = run_build(other, text, executor=no_executor, cache_from=(cache,), inline_cache=True)
    assert again.digest == built.digest
    bare = RegistryCache(reference=cache.reference, client=client, is_bare=True)
    with Store.open(tmp_path / "third") as third:
        make_image(third, "base", {"base": b"1"})
        assert run_build(third, text, executor=no_executor, cache_from=(bare,)).outcomes == [
            "cached"
        ]
    copy_between(store, StoredImage(name="base"), there, registries=ways)
    told = run_build(other, text, executor=no_executor, cache_from=(cache,)).notices
    assert ["without one" in notice for notice in told] == [True]


@pytest.mark.needs_registry
def test_what_damages_the_cache_costs_time_and_nothing_else(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor(), epoch=0)
    send(store, built, remote(server, client), "max")
    damaged = server.blob_path(built.image.layers[-1].descriptor.digest)
    flip(damaged)
    again = run_build(
        other, TEXT, executor=FakeExecutor(), epoch=0, cache_from=(remote(server, client),)
    )
    assert again.digest == built.digest
    assert any("build cache in" in notice for notice in again.notices)
    assert findings(other) == []


@pytest.mark.needs_registry
@pytest.mark.parametrize("seed", range(6))
def test_faults_on_the_way_cost_time_and_nothing_else(
    seed: int, store: Store, other: Store, server: Registry
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor(), epoch=0)
    with (
        RegistryClient() as client,
        fault_proxy(server.port, seed=seed, rate=0.1) as proxy,
    ):
        cache = remote(proxy, client)
        send(store, built, cache, "max", ignore_error=True)
        again = run_build(other, TEXT, executor=FakeExecutor(), epoch=0, cache_from=(cache,))
        assert again.digest == built.digest
    assert findings(other) == []


@pytest.mark.needs_registry
def test_an_export_that_fails_ends_the_build_unless_told_otherwise(
    store: Store, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    cache = RegistryCache(reference=Reference.parse("127.0.0.1:1/a:1"), client=client)
    with pytest.raises(RegistryError, match="cannot reach the registry"):
        send(store, built, cache)
    (notice,) = notices_of(send(store, built, cache, ignore_error=True))
    assert notice.startswith("cache not exported to 127.0.0.1:1/a:1: cannot reach")


@pytest.mark.needs_registry
def test_one_export_that_fails_does_not_spoil_the_next(
    store: Store, other: Store, server: Registry, client: RegistryClient
) -> None:
    built = run_build(store, TEXT, executor=FakeExecutor())
    with fault_proxy(server.port) as proxy:
        proxy.fail_next("500", "(POST|PATCH|PUT) .*/blobs/", times=100)
        bad = remote(proxy, client)
        assert len(notices_of(send(store, built, bad, "max", ignore_error=True))) == 1
        good = remote(server, client)
        assert notices_of(send(store, built, good, "max")) == []
        again = run_build(other, TEXT, executor=no_executor, cache_from=(good,))
        assert again.digest == built.digest
