"""Mounts of a step -> mounts of a sandbox.

    bind, of a stage or an image    an overlay of the layers' own directories; nothing is copied
    bind, of the build context      the directory itself, read-only, where that shows just what COPY
                                    would take; else a copy
    cache                           a directory of the store, locked as `sharing` says
    tmpfs                           a file system in memory
    secret                          a file in memory, a variable, or both
    ssh                             a socket of our own that leads to the agent (agents.py)

What is opened here is closed by the caller's `cleanup`, once the program has ended.
"""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

from builder.context import ContextTree
from builder.errors import LoweringError, MissingGrantError
from builder.fileops import KEEP, FileChanges
from builder.grants import Grants
from builder.sandbox import (
    BindMount,
    FileMount,
    Mount,
    OverlayMount,
    TmpfsMount,
    in_user_namespace,
    why_no_overlay,
)
from builder.schedule import Later, Work
from builder.snapshot import copy_layers, open_snapshot
from builder.sources import LayerTree, Selection
from builder.steps import (
    AgentMount,
    CacheMount,
    ExecStep,
    MemoryMount,
    SecretMount,
    SourceMount,
    Step,
    StepMount,
)
from layerstore import Digest, HeldCache, Node, Store, TreeIndex, give_file, write_overlay

if TYPE_CHECKING:
    from builder.agents import AgentRelay

_STRENGTH = ("shared", "private", "locked")
_COPIED = "copied"
_ASK_AGAIN_S = 0.05


@dataclass(slots=True, kw_only=True)
class OpenedMounts:
    """For the sandbox: mounts and variables. `relays` want to be served while it runs."""

    mounts: list[Mount] = field(default_factory=list)
    env: list[str] = field(default_factory=list, repr=False)
    relays: "list[AgentRelay]" = field(default_factory=list)


def open_mounts(
    mounts: Sequence[StepMount],
    *,
    store: Store,
    grants: Grants,
    cleanup: ExitStack,
    tell: Callable[[str], None],
) -> Work[OpenedMounts]:
    """Open what `mounts` need.

    Args:
        tell: called with what the user should know when this takes long.

    Raises:
        MissingGrantError: a required secret or agent was not given.
    """
    opened = OpenedMounts()
    caches = yield from _hold_caches(
        [mount for mount in mounts if isinstance(mount, CacheMount)], store, cleanup, tell
    )
    for mount in mounts:
        match mount:
            case SourceMount():
                opened.mounts.append(_source(mount, store, cleanup))
            case CacheMount():
                opened.mounts.append(
                    BindMount(
                        source=caches[_cache_key(mount)],
                        target=mount.target,
                        read_only=mount.read_only,
                    )
                )
            case MemoryMount():
                opened.mounts.append(
                    TmpfsMount(
                        target=mount.target, size_bytes=mount.size_bytes, read_only=mount.read_only
                    )
                )
            case SecretMount():
                _add_secret(mount, grants, opened)
            case AgentMount():
                _add_agent(mount, grants, opened, store, cleanup)
            case _:
                assert_never(mount)
    return opened


def caches_of(step: Step) -> dict[str, str]:
    """The cache mounts of a step: the key of each, and where it is shown."""
    mounts = step.mounts if isinstance(step, ExecStep) else ()
    return {_cache_key(mount): mount.target for mount in mounts if isinstance(mount, CacheMount)}


def is_as_keyed(mounts: Sequence[StepMount]) -> bool:
    """Whether what the mounts showed is, now that the program has ended, what it was before.

    Only the build context can change: where it was shown as it is, others could write to it.
    """
    return all(
        selection.tree.is_unchanged(selection.path)
        for mount in mounts
        if isinstance(mount, SourceMount)
        and isinstance((selection := mount.selection).tree, ContextTree)
        and _host_root(mount) is not None
    )


# ---- sources


def _host_root(mount: SourceMount) -> Path | None:
    """The directory of a context that is shown as it is."""
    tree = mount.selection.tree
    if mount.read_only and isinstance(tree, ContextTree):
        return tree.host_root(mount.selection.path)
    return None


def _source(mount: SourceMount, store: Store, cleanup: ExitStack) -> Mount:
    selection = mount.selection
    tree = selection.tree
    if isinstance(tree, LayerTree) and why_no_overlay(store.private):
        directory = cleanup.enter_context(store.new_tmpdir()) / "layers"
        copy_layers(tree.layers, store, directory)
        return BindMount(
            source=directory,
            source_beneath=selection.path,
            target=mount.target,
            read_only=mount.read_only,
        )
    if isinstance(tree, LayerTree):
        snapshot = cleanup.enter_context(open_snapshot(tree.layers, store))
        return OverlayMount(
            overlay=replace(snapshot.root, volatile=True),  # it is thrown away
            target=mount.target,
            is_directory=mount.kind == "dir",
            read_only=mount.read_only,
            source_beneath=selection.path,
        )
    root = _host_root(mount)
    if root is not None:
        return BindMount(
            source=root, source_beneath=selection.path, target=mount.target, read_only=True
        )
    directory = cleanup.enter_context(store.new_tmpdir()) / "mount"
    directory.mkdir(mode=0o755)
    _copy(selection, directory)
    return BindMount(
        source=directory,
        source_beneath="" if mount.kind == "dir" else _COPIED,
        target=mount.target,
        read_only=mount.read_only,
    )


def _copy(selection: Selection, directory: Path) -> None:
    """Put what is selected into `directory`, which is empty; a file is called `copied` there."""
    top = selection.tree.get(selection.path)
    assert top is not None, "a selection exists"
    collected = FileChanges(TreeIndex(), now_ns=0, read=_nothing_below)
    collected.copy(selection, "/" if top.kind == "dir" else f"/{_COPIED}", KEEP)
    write_overlay(collected.changes(), directory, userxattr=in_user_namespace())
    if top.kind == "dir":
        _own(directory, top.meta.mode, top.meta.uid, top.meta.gid)


def _nothing_below(node: Node) -> bytes:
    raise AssertionError(f"{node} is not beneath an empty tree")


def _own(path: Path, mode: int, uid: int, gid: int) -> None:
    try:
        give_file(path, uid, gid)
    except OSError as error:
        raise LoweringError(
            f"a mount cannot belong to {uid}:{gid}: {error.strerror}",
            hint="without subordinate ids (/etc/subuid, /etc/subgid) there is only root",
        ) from error
    path.chmod(mode)


# ---- caches


def _hold_caches(
    mounts: Sequence[CacheMount],
    store: Store,
    cleanup: ExitStack,
    tell: Callable[[str], None],
) -> Work[dict[str, Path]]:
    """Lock each directory once, and in the order of their keys: so nobody waits in a circle."""
    strongest: dict[str, CacheMount] = {}
    for mount in sorted(mounts, key=lambda mount: _STRENGTH.index(mount.sharing)):
        strongest[_cache_key(mount)] = mount
    found = {}
    for key, mount in sorted(strongest.items()):
        if mount.is_renewed:
            store.cache_mounts.discard(key)
        held = yield from _hold_cache(key, mount, store, tell)
        found[key] = cleanup.enter_context(held).path
    return found


def _hold_cache(
    key: str, mount: CacheMount, store: Store, tell: Callable[[str], None]
) -> Work[HeldCache]:
    is_told = False
    while True:
        held = store.cache_mounts.hold(
            key, mount.sharing, lambda path: _fill(mount, path), is_anew=mount.is_renewed
        )
        if held is not None:
            return held
        if not is_told:
            tell(f"waiting for the cache {mount.target}, which another step or build uses")
            is_told = True
        yield Later(_ASK_AGAIN_S)


def _cache_key(mount: CacheMount) -> str:
    """All that decides which directory it is: `id`, and what it began with."""
    words = [mount.id, mount.mode, mount.uid, mount.gid, str(mount.initial or "")]
    return Digest.of(json.dumps(words).encode()).hex


def _fill(mount: CacheMount, directory: Path) -> None:
    if mount.selection is not None:
        _copy(mount.selection, directory)
    _own(directory, mount.mode, mount.uid, mount.gid)


# ---- what the caller lends


def _add_secret(mount: SecretMount, grants: Grants, opened: OpenedMounts) -> None:
    value = grants.secrets.get(mount.id)
    if value is None:
        if mount.is_required:
            raise MissingGrantError(kind="secret", id=mount.id)
        return
    if mount.variable:
        opened.env.append(f"{mount.variable}={_text(mount, value)}")
    if mount.target:
        opened.mounts.append(
            FileMount(
                target=mount.target,
                content=value,
                mode=mount.mode,
                uid=mount.uid,
                gid=mount.gid,
                read_only=True,
            )
        )


def _text(mount: SecretMount, value: bytes) -> str:
    if b"\0" in value or "=" in mount.variable or "\0" in mount.variable:
        raise LoweringError(
            f"the secret {mount.id!r} cannot be the variable {mount.variable!r}",
            hint="a variable holds no NUL byte, and its name no '='",
        )
    return os.fsdecode(value)


def _add_agent(
    mount: AgentMount, grants: Grants, opened: OpenedMounts, store: Store, cleanup: ExitStack
) -> None:
    from builder.agents import AgentRelay

    agent = grants.agents.get(mount.id)
    if agent is None:
        if mount.is_required:
            raise MissingGrantError(kind="ssh", id=mount.id)
        return
    directory = cleanup.enter_context(store.new_tmpdir())
    relay = cleanup.enter_context(AgentRelay(agent, directory))
    _own(relay.path, mount.mode, mount.uid, mount.gid)
    opened.relays.append(relay)
    opened.mounts.append(BindMount(source=relay.path, target=mount.target))
