"""Cache keys: they change with every ingredient, and with nothing else."""

import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cachekey import SCHEMA, key_document
from builder.filters import Filter
from builder.sandbox import ResourceLimit
from builder.sources import Selection
from builder.steps import (
    AgentMount,
    CacheMount,
    CopyFiles,
    ExecStep,
    FileStep,
    InlineFile,
    MakeDirectory,
    MemoryMount,
    RunSettings,
    ScriptFile,
    SecretMount,
    SourceMount,
    Step,
)
from layerstore import Digest, TreePath
from tests.support.sources import DictTree

PARENT = Digest.of(b"parent")
TREE = DictTree({})

TEXT = st.text(max_size=5)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
SELECTIONS = st.builds(
    Selection,
    name=TEXT,
    kind=st.sampled_from(["file", "dir"]),
    digest=st.binary(max_size=2).map(Digest.of),
    tree=st.just(TREE),
    path=TEXT.map(TreePath),
)
DIGESTS = st.binary(max_size=2).map(Digest.of)
OWNED = {"mode": st.integers(0, 7), "uid": st.integers(0, 7), "gid": st.integers(0, 7)}
LENT = {"id": TEXT, "target": TEXT, "is_required": st.booleans(), **OWNED}
MOUNTS = st.one_of(
    st.builds(
        SourceMount,
        target=TEXT,
        kind=st.sampled_from(["file", "dir"]),
        digest=DIGESTS,
        read_only=st.booleans(),
        selection=SELECTIONS,
    ),
    st.builds(
        CacheMount,
        target=TEXT,
        id=TEXT,
        sharing=st.sampled_from(["shared", "private", "locked"]),
        read_only=st.booleans(),
        initial=st.none() | DIGESTS,
        selection=st.none() | SELECTIONS,
        is_renewed=st.booleans(),
        **OWNED,
    ),
    st.builds(
        MemoryMount,
        target=TEXT,
        size_bytes=st.none() | st.integers(0, 9),
        read_only=st.booleans(),
    ),
    st.builds(SecretMount, variable=TEXT, **LENT),
    st.builds(AgentMount, **LENT),
)
LIMITS = st.builds(ResourceLimit, name=TEXT, soft=st.integers(-1, 9), hard=st.integers(-1, 9))
SETTINGS = st.builds(
    RunSettings,
    extra_hosts=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
    shm_size_bytes=st.none() | st.integers(1, 9),
    resource_limits=st.lists(LIMITS, max_size=2).map(tuple),
)
EXEC_STEPS = st.builds(
    ExecStep,
    argv=TEXTS,
    env=TEXTS,
    cwd=TEXT,
    user=TEXT,
    network=st.sampled_from(["host", "none"]),
    scripts=st.lists(st.builds(ScriptFile, target=TEXT, content=TEXT), max_size=2).map(tuple),
    mounts=st.lists(MOUNTS, max_size=2).map(tuple),
    security=st.sampled_from(["sandbox", "insecure"]),
    settings=SETTINGS,
    secret_env=TEXTS,
    title=TEXT,
)
FILE_STEPS = st.builds(
    FileStep,
    action=st.one_of(
        st.builds(MakeDirectory, path=TEXT, user=TEXT),
        st.builds(
            CopyFiles,
            selections=st.lists(SELECTIONS, max_size=2).map(tuple),
            inline=st.lists(
                st.builds(InlineFile, name=TEXT, content=st.binary(max_size=3)), max_size=2
            ).map(tuple),
            destination=TEXT,
            chown=st.none() | TEXT,
            chmod=st.none() | TEXT,
            unpack=st.booleans(),
        ),
    ),
    title=TEXT,
)
STEPS = st.one_of(EXEC_STEPS, FILE_STEPS)


def document(
    step: Step,
    parent: Digest | None = PARENT,
    platform: str = "linux/amd64",
    epoch: int | None = None,
) -> bytes:
    return key_document(step, parent=parent, platform=platform, epoch=epoch)


def variations(value: Any) -> Iterator[Any]:
    """The value with one thing in it changed, for every thing there is."""
    if isinstance(value, Digest):
        yield Digest.of(value.encode())
    elif isinstance(value, str):
        yield value + "x"
    elif isinstance(value, bytes):
        yield value + b"x"
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif value is None:
        yield ""
    elif isinstance(value, tuple):
        yield (*value, "x")
        for index, item in enumerate(value):
            yield (*value[:index], *value[index + 1 :])
            for other in variations(item):
                yield (*value[:index], other, *value[index + 1 :])
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            if each.compare:
                for other in variations(getattr(value, each.name)):
                    yield replace(value, **{each.name: other})


@settings(max_examples=60, deadline=None)
@given(step=STEPS)
def test_changing_anything_compared_changes_the_key(step: Step) -> None:
    keys = [document(other) for other in variations(step)]
    assert document(step) not in keys


@settings(max_examples=60, deadline=None)
@given(step=STEPS, title=TEXT, path=TEXT)
def test_changing_a_locator_does_not_change_the_key(step: Step, title: str, path: str) -> None:
    other: Step = replace(step, title=title)
    if isinstance(other, ExecStep):
        other = replace(other, secret_env=("NO_PROXY=x",))
    elif isinstance(other.action, CopyFiles):
        moved = tuple(
            replace(each, path=TreePath(path), tree=DictTree({"other": b""}), only=Filter())
            for each in other.action.selections
        )
        other = replace(other, action=replace(other.action, selections=moved))
    assert document(other) == document(step)


@settings(max_examples=100, deadline=None)
@given(left=STEPS, right=STEPS)
def test_two_steps_have_the_same_key_exactly_when_they_are_equal(left: Step, right: Step) -> None:
    assert (document(left) == document(right)) is (left == right)


STEP = ExecStep(argv=("make",), env=(), cwd="/", user="", network="none")


def test_parent_platform_and_epoch_are_ingredients() -> None:
    keys = {
        document(STEP),
        document(STEP, parent=None),
        document(STEP, parent=Digest.of(b"other")),
        document(STEP, platform="linux/arm64"),
        document(STEP, epoch=0),
        document(STEP, epoch=1),
    }
    assert len(keys) == 6


def test_the_document_names_its_ingredients() -> None:
    assert json.loads(document(STEP, epoch=7)) == {
        "schema": SCHEMA,
        "parent": PARENT,
        "platform": "linux/amd64",
        "epoch": 7,
        "step": {
            "type": "ExecStep",
            "argv": ["make"],
            "env": [],
            "cwd": "/",
            "user": "",
            "network": "none",
            "scripts": [],
            "mounts": [],
            "security": "sandbox",
            "settings": {
                "type": "RunSettings",
                "extra_hosts": [],
                "shm_size_bytes": None,
                "resource_limits": [],
            },
        },
    }


def test_the_document_is_canonical() -> None:
    text = document(STEP).decode("ascii")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("a b",), ("a", "b")),
        (("a", ""), ("a",)),
        (('a","b',), ("a", "b")),
        (("a-", "b"), ("a", "-b")),
        (("\udcff",), ("\\udcff",)),
        (("é",), ("e\u0301",)),
    ],
)
def test_lists_are_never_joined_to_text(left: tuple[str, ...], right: tuple[str, ...]) -> None:
    assert document(replace(STEP, argv=left)) != document(replace(STEP, argv=right))
