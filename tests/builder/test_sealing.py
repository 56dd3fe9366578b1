"""What an image says of itself: labels, times, platform."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from builder import BuildRequest
from builder.sealing import Sealer, rfc3339
from builder.squash import Squash
from builder.state import StageState, empty_state
from layerstore import ContainerConfig, Platform, Store
from layerstore.documents import is_rfc3339
from tests.support.images import dockerfile
from tests.support.layers import make_layer
from tests.support.stores import cached_step

ARM = Platform(os="linux", architecture="arm64", variant="v8")
FILE = dockerfile("FROM scratch\n")


def sealer(store: Store, *, epoch: int | None = None, **more: Any) -> Sealer:
    return Sealer(BuildRequest(dockerfile=FILE, context=None, **more), store, epoch)


def with_two_layers(store: Store) -> StageState:
    state = empty_state(ARM)
    for number, content in enumerate((b"1", b"2"), 1):
        layer = make_layer(store, {"f": content})
        created = f"2024-01-0{number}T00:00:00Z"
        state = state.with_layer(layer, created=created, created_by=f"RUN {number}", line=number)
    return state


def test_the_config_is_the_state_s(store: Store) -> None:
    config = sealer(store).image_config(with_two_layers(store))
    assert (config.os, config.architecture, config.variant) == ("linux", "arm64", "v8")
    assert config.created == "2024-01-02T00:00:00Z"
    assert [entry.created_by for entry in config.history] == ["RUN 1", "RUN 2"]
    assert len(config.diff_ids) == 2


def test_what_the_command_line_says_comes_last(store: Store) -> None:
    state = empty_state(ARM)
    state = replace(state, config=ContainerConfig(labels=(("a", "1"), ("b", "1"))))
    platform = Platform(os="linux", architecture="amd64", variant="")
    sealing = sealer(store, labels={"b": "2", "c": "3"}, platform=platform)
    config = sealing.image_config(state)
    assert config.config.labels == (("a", "1"), ("b", "2"), ("c", "3"))
    assert config.architecture == "amd64"


def test_the_epoch_is_when_it_was_made(store: Store) -> None:
    config = sealer(store, epoch=1_700_000_000).image_config(with_two_layers(store))
    assert config.created == "2023-11-14T22:13:20Z"
    assert sealer(store, epoch=0).created_now() == "1970-01-01T00:00:00Z"
    assert sealer(store).created_now() > "2024"


def test_who_does_not_want_layers_gets_an_image_without_them(store: Store, tmp_path: Path) -> None:
    """Also where the image says which steps made them."""
    from builder.record import StepRecord
    from layerstore import DirectoryPlace, StepCache, export_steps

    with Store.open(tmp_path / "there") as there:
        layer = make_layer(there, {"f": b"1"})
        step = cached_step(b'{"step":"one"}', layer)
        there.cache.put(step, parent=None, variant="None")
        there.flush()
        export_steps(there, [step.key], tmp_path / "cache")
    store.cache.add_source(StepCache(DirectoryPlace(tmp_path / "cache"), store, print))
    assert store.cache.get(step.key) is not None
    state = empty_state(ARM).with_layer(layer, created="2024-01-01T00:00:00Z", created_by="RUN")
    noted = StepRecord(
        instruction="RUN",
        line=1,
        stage="",
        outcome="cached",
        reason="",
        seconds=0.0,
        key=step.key,
        layer=layer.diff_id,
    )
    image = sealer(store, wants_layers=False, inline_cache=True).seal(state, [noted])
    assert store.layers.is_offered(layer.diff_id)
    assert layer.diff_id in image.config.inline_cache
    again = sealer(store, inline_cache=True).seal(state, [noted])
    assert not store.layers.is_offered(layer.diff_id)
    assert again == image


def test_an_image_is_sealed_and_its_layers_can_be_merged(store: Store) -> None:
    state = with_two_layers(store)
    assert len(sealer(store).seal(state, ()).layers) == 2
    assert sealer(store).squash(state) is state
    squashing = sealer(store, squash=Squash())
    image = squashing.seal(squashing.squash(state), ())
    assert len(image.layers) == 1
    assert store.layers.tree(image.layers).get("f") is not None


@given(st.floats(0, 253402300799, allow_nan=False))
def test_any_moment_is_written_as_the_specification_wants(seconds: float) -> None:
    assert is_rfc3339(rfc3339(seconds))
