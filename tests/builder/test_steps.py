"""Steps: identity and locator, and the plain document that says the identity."""

import json
from dataclasses import fields, replace

import pytest

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
    document_of,
)
from layerstore import Digest, TreePath
from tests.support.sources import DictTree
from tests.support.steps import cache_mount

TREE = DictTree({"f": b"1", "elsewhere": b"2"})

EXEC = ExecStep(
    argv=("/bin/sh", "-c", "make"),
    env=("PATH=/bin", "A=1"),
    cwd="/src",
    user="builder",
    network="none",
    scripts=(ScriptFile(target="/dev/pipes/EOF", content="#!/bin/sh\n"),),
    secret_env=("HTTP_PROXY=http://user:password@proxy",),
    title="RUN make",
)
SELECTION = Selection(name="f", kind="file", digest=Digest.of(b"1"), tree=TREE, path=TreePath("f"))
COPY = FileStep(
    action=CopyFiles(
        selections=(SELECTION,),
        inline=(InlineFile(name="EOF", content=b"text"),),
        destination="/dst/",
        chown="1:2",
        chmod="0755",
        unpack=False,
    ),
    title="COPY f /dst/",
)
WORKDIR = FileStep(action=MakeDirectory(path="/src", user="builder"), title="WORKDIR /src")

MOUNTED = SourceMount(
    target="/src", kind="file", digest=Digest.of(b"1"), read_only=True, selection=SELECTION
)
CACHE = cache_mount(sharing="locked", initial=Digest.of(b"1"), selection=SELECTION)

# What identity and locator are, spelled out: a new field must be put on one of the two sides.
COMPARED = {
    ExecStep: {
        *("argv", "env", "cwd", "user", "network", "scripts"),
        *("mounts", "security", "settings"),
    },
    RunSettings: {"extra_hosts", "shm_size_bytes", "resource_limits"},
    ResourceLimit: {"name", "soft", "hard"},
    SourceMount: {"target", "kind", "digest", "read_only"},
    CacheMount: {"target", "id", "sharing", "read_only", "mode", "uid", "gid", "initial"},
    MemoryMount: {"target", "size_bytes", "read_only"},
    SecretMount: {"target", "id", "variable", "is_required", "mode", "uid", "gid"},
    AgentMount: {"target", "id", "is_required", "mode", "uid", "gid"},
    ScriptFile: {"target", "content"},
    FileStep: {"action"},
    MakeDirectory: {"path", "user"},
    InlineFile: {"name", "content"},
    CopyFiles: {"selections", "inline", "destination", "chown", "chmod", "unpack"},
    Selection: {"name", "kind", "digest", "unpacks"},
}


@pytest.mark.parametrize("kind", COMPARED)
def test_every_field_is_on_the_side_where_it_belongs(kind: type) -> None:
    assert {each.name for each in fields(kind) if each.compare} == COMPARED[kind]


def test_titles_secrets_and_places_are_no_identity() -> None:
    assert replace(EXEC, title="other", secret_env=()) == EXEC
    assert replace(COPY, title="other") == COPY
    assert replace(SELECTION, path=TreePath("elsewhere"), tree=DictTree({})) == SELECTION


@pytest.mark.parametrize("step", [EXEC, COPY, WORKDIR])
def test_a_step_can_be_hashed_and_printed(step: ExecStep | FileStep) -> None:
    assert step in {step}
    assert type(step).__name__ in repr(step)


def test_a_document_holds_the_compared_fields_and_the_types() -> None:
    assert document_of(EXEC) == {
        "type": "ExecStep",
        "argv": ["/bin/sh", "-c", "make"],
        "env": ["PATH=/bin", "A=1"],
        "cwd": "/src",
        "user": "builder",
        "network": "none",
        "scripts": [{"type": "ScriptFile", "target": "/dev/pipes/EOF", "content": "#!/bin/sh\n"}],
        "mounts": [],
        "security": "sandbox",
        "settings": {
            "type": "RunSettings",
            "extra_hosts": [],
            "shm_size_bytes": None,
            "resource_limits": [],
        },
    }
    assert document_of(WORKDIR) == {
        "type": "FileStep",
        "action": {"type": "MakeDirectory", "path": "/src", "user": "builder"},
    }


def test_contents_are_in_a_document_by_digest() -> None:
    document = document_of(COPY)
    assert document == {
        "type": "FileStep",
        "action": {
            "type": "CopyFiles",
            "selections": [
                {
                    "type": "Selection",
                    "name": "f",
                    "kind": "file",
                    "digest": str(Digest.of(b"1")),
                    "unpacks": None,
                }
            ],
            "inline": [{"type": "InlineFile", "name": "EOF", "content": str(Digest.of(b"text"))}],
            "destination": "/dst/",
            "chown": "1:2",
            "chmod": "0755",
            "unpack": False,
        },
    }


def test_a_mount_is_known_by_what_it_shows_and_not_by_where_that_is() -> None:
    elsewhere = replace(SELECTION, path=TreePath("elsewhere"), name="other")
    assert replace(MOUNTED, selection=elsewhere) == MOUNTED
    assert replace(MOUNTED, digest=Digest.of(b"2")) != MOUNTED
    assert replace(CACHE, selection=None, is_renewed=True) == CACHE
    assert document_of(MOUNTED) == {
        "type": "SourceMount",
        "target": "/src",
        "kind": "file",
        "digest": str(Digest.of(b"1")),
        "read_only": True,
    }


def test_secrets_are_in_no_document() -> None:
    assert "password" not in json.dumps(document_of(EXEC))


@pytest.mark.parametrize("value", [None, True, 3, "text", "", "\udcff"])
def test_plain_values_stand_for_themselves(value: str | int | None) -> None:
    assert document_of(value) == value


def test_a_digest_becomes_plain_text() -> None:
    assert type(document_of(Digest.of(b""))) is str


def test_tuples_become_lists_however_deep() -> None:
    assert document_of(((1, ("a",)), ())) == [[1, ["a"]], []]
