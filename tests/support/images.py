"""Dockerfiles, stores, images and whole builds out of a few words.

with opened(tmp_path) as store:
    make_image(store, "base", {"etc/passwd": b"..."}, env=("A=1",))
    built = run_build(store, "FROM base\\nCOPY a /a\\n", context=tmp_path, executor=fake)
    built.tree["a"], built.outcomes, built.image.id
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import BuildRequest, BuildResult, build
from builder.events import Event, Notice, VertexOutput
from builder.sandbox import Executor, ForkServer
from builder.sources import SourceTree
from grammar import Dockerfile, parse
from layerstore import (
    Change,
    ContainerConfig,
    History,
    Image,
    ImageConfig,
    Platform,
    Reference,
    Store,
    TocEntry,
)
from tests.support.executors import FakeExecutor
from tests.support.layers import bytes_of, changes_of
from tests.support.sources import Items

EPOCH = 1_700_000_000


def dockerfile(text: str) -> Dockerfile:
    return parse(text, name="Dockerfile")


@contextmanager
def opened(root: Path) -> Iterator[Store]:
    """A store at `root`, made if it is not there."""
    with Store.open(root) as store:
        yield store


def make_image(
    store: Store,
    name: str,
    *layers: Items | Iterable[Change],
    platform: Platform | None = None,
    **config: Any,
) -> Image:
    """An image of layers made from dictionaries or changes; `config` are ContainerConfig's."""
    made = [
        store.layers.commit(changes_of(each) if isinstance(each, Mapping) else each)
        for each in layers
    ]
    platform = platform or Platform(os="linux", architecture="amd64")
    image = store.images.seal(
        ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            variant=platform.variant,
            created="2020-01-01T00:00:00Z",
            config=ContainerConfig(**config),
            history=tuple(History(created_by=f"layer {number}") for number in range(len(made))),
        ),
        made,
    )
    store.images.tag(image, Reference.parse(name))
    store.flush()
    return image


@dataclass
class Built:
    """A finished build, seen through its result and its events."""

    result: BuildResult
    events: list[Event]
    store: Store = field(repr=False)

    @property
    def image(self) -> Image:
        return self.result.image

    @property
    def config(self) -> ContainerConfig:
        return self.image.config.config

    @property
    def digest(self) -> str:
        return self.image.descriptor.digest

    @property
    def outcomes(self) -> list[str]:
        """How each step with work came about."""
        return [step.outcome for step in self.result.record.steps if step.outcome != "metadata"]

    @property
    def notices(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, Notice)]

    @property
    def output(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, VertexOutput))

    @property
    def tree(self) -> dict[str, TocEntry]:
        """Every path of the image but its root."""
        nodes = self.store.layers.tree(self.image.layers).walk()
        return {node.entry.path: node.entry for node in nodes if node.entry.path}

    def read(self, path: str) -> bytes:
        node = self.store.layers.tree(self.image.layers).get(path)
        assert node is not None, path
        return bytes_of(self.store.layers.read_file(self.image.layers, node))


def run_build(
    store: Store,
    text: str,
    *,
    context: Path | SourceTree | None = None,
    contexts: Mapping[str, str] | None = None,
    platform: Platform | None = None,
    executor: Callable[[], Executor] = ForkServer,
    events: list[Event] | None = None,
    ignore: str = "",
    tag: str = "",
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    no_cache: bool = False,
    epoch: int | None = None,
    **more: Any,
) -> Built:
    """Build `text`; the events are in `events` also when it fails. `more`: as in BuildRequest."""
    seen = [] if events is None else events
    request = BuildRequest(
        dockerfile=dockerfile(text),
        context=context,
        contexts=contexts or {},
        platform=platform,
        ignore_file=ignore.encode() or None,
        names=(Reference.parse(tag),) if tag else (),
        target=target,
        build_args=build_args or {},
        labels=labels or {},
        no_cache=no_cache,
        network="none",
        source_date_epoch=epoch,
        **more,
    )
    result = build(request, store, seen.append, start_executor=executor)
    return Built(result=result, events=seen, store=store)


def rebuilt(store: Store, text: str, fake: FakeExecutor, **more: Any) -> tuple[Built, list[str]]:
    """Build, and say which programs ran."""
    before = len(fake.scripts)
    built = run_build(store, text, executor=fake, **more)
    return built, fake.scripts[before:]
