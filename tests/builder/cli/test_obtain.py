"""The image of `run`, pulled where it is not here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import Reference, Store
from layerstore.registry import RegistryClient, Settings, push_image
from tests.support.commands import Commands
from tests.support.faultproxy import FaultProxy, fault_proxy
from tests.support.registries import registry

pytestmark = [pytest.mark.needs_registry, pytest.mark.needs_overlay]


@pytest.fixture
def proxy(tmp_path: Path, box: Commands) -> Iterator[FaultProxy]:
    """A registry with the image `box`, which is not here any more."""
    with registry(tmp_path / "registry") as server:
        with (
            Store.open(box.root) as store,
            RegistryClient(Settings(environment={"HOME": str(tmp_path)})) as client,
        ):
            image = store.images.resolve("box")
            push_image(client, store, image, Reference.parse(f"{server.address}/box"))
            store.images.remove(image)
        with fault_proxy(server.port) as proxy:
            yield proxy


def test_an_image_that_is_not_here_is_pulled_and_run(proxy: FaultProxy, box: Commands) -> None:
    name = f"{proxy.address}/box"
    done = box("run", "--rm", name, "echo", "here")
    assert done.out == "here\n"
    assert f"Unable to find image '{name}:latest' locally" in done.err
    assert "Already exists" in done.err  # its layer, which nobody has pruned
    proxy.forget()
    assert box("run", "--rm", name, "echo", "again").err == ""
    assert proxy.exchanges == []


def test_quiet_shows_the_program_alone(proxy: FaultProxy, box: Commands) -> None:
    done = box("run", "--rm", "-q", f"{proxy.address}/box", "echo", "here")
    assert (done.out, done.err) == ("here\n", "")


def test_always_asks_although_the_image_is_remembered(proxy: FaultProxy, box: Commands) -> None:
    name = f"{proxy.address}/box"
    box("run", "--rm", name, "true")
    proxy.forget()
    box("run", "--rm", "--pull=always", name, "true")
    assert [each.method for each in proxy.exchanges if each.kind == "manifest"] == ["HEAD"]


def test_never_is_never_and_one_line_says_so(proxy: FaultProxy, box: Commands) -> None:
    done = box("run", "--pull=never", f"{proxy.address}/box", code=125)
    assert done.err.count("\n") == 1
    assert "no such image" in done.err
    assert proxy.exchanges == []


def test_create_pulls_as_well(proxy: FaultProxy, box: Commands) -> None:
    done = box("create", f"{proxy.address}/box", "echo", "later")
    assert len(done.out.strip()) == 64
    assert box("start", "-a", done.out.strip()).out == "later\n"


def test_what_the_registry_has_not_is_told_in_one_line(proxy: FaultProxy, box: Commands) -> None:
    done = box("run", f"{proxy.address}/nope", code=125)
    assert done.err.count("\n") == 1
    assert "manifest unknown" in done.err


def test_a_moment_is_not_looked_for_in_a_registry(proxy: FaultProxy, box: Commands) -> None:
    assert "no such image" in box("run", f"{proxy.address}/box@3", code=125).err
    assert proxy.exchanges == []
