"""RUN --mount -> the mounts of a step.

Values are expanded with the stage's variables, all but that of `from`, which the plan must know
before there are any (the grammar refuses it). Defaults:

    bind     read-only, of all of the build context, at the working directory
    cache    `id` is the target as written; a directory 0755 of root's, shared by all who want it
    tmpfs    as large as the kernel lets it be
    secret   `id` is the last part of the target; the target /run/secrets/ID, unless `env` is given;
             0400 of root's; nothing happens where the caller gives no such secret
    ssh      `id` is "default"; the target /run/buildkit/ssh_agent.N, 0600 of root's

Differs: options may come in any order, where BuildKit wants `type` before `required` and `size`.
With `mode`, `uid` or `gid`, a cache keeps the initial content that `from` gives it.

Source: Dockerfile reference, "RUN --mount"; BuildKit instructions/commands_runmount.go,
dockerfile2llb/convert_runmount.go, convert_secrets.go and convert_ssh.go.
"""

import posixpath
from collections.abc import Callable, Mapping
from typing import Literal, get_args

from builder.errors import LoweringError
from builder.lower.files import absolute_path, inside, not_found
from builder.lower.surroundings import Surroundings, expanded
from builder.nearest import nearest
from builder.sizes import parse_size
from builder.sources import LayerTree, Selection, SourceTree, select
from builder.state import StageState
from builder.steps import (
    AgentMount,
    CacheMount,
    MemoryMount,
    SecretMount,
    SourceMount,
    StepMount,
)
from builder.truth import TRUTH
from grammar import DockerfileError, Run, RunMount, Word, expand

_Sharing = Literal["shared", "private", "locked"]

_ALIASES = {
    **dict.fromkeys(("src", "source"), "source"),
    **dict.fromkeys(("dst", "destination", "target"), "target"),
    **dict.fromkeys(("ro", "readonly"), "readonly"),
    **dict.fromkeys(("rw", "readwrite"), "readwrite"),
    **{name: name for name in ("type", "from", "id", "sharing", "required", "size", "env")},
    **{name: name for name in ("mode", "uid", "gid")},
}
_SWITCHES = ("readonly", "readwrite", "required")  # need no value
_OWNED = ("cache", "secret", "ssh")
_ONLY_OF = {
    "required": ("secret", "ssh"),
    "size": ("tmpfs",),
    "sharing": ("cache",),
    **dict.fromkeys(("mode", "uid", "gid"), _OWNED),
}
_MODE_MAX = 0o7777
_ID_MAX = (1 << 31) - 1
_NAMESPACE = "BUILDKIT_CACHE_MOUNT_NS"


def run_mounts(node: Run, state: StageState, around: Surroundings) -> tuple[StepMount, ...]:
    """The mounts of RUN, in the order they are written.

    Raises:
        grammar.DockerfileError: an option is unknown, or its value impossible.
        LoweringError, ContextError: a source is not there, or not what it has to be.
    """
    mounts: list[StepMount] = []
    for written in node.mounts:
        options = _Options(written, lambda word: expanded(word, state, around))
        agents = sum(isinstance(mount, AgentMount) for mount in mounts)
        mounts.append(_KINDS[options.kind](options, state, around, agents))
    return tuple(mounts)


def check_mounts(node: Run, *, escape: str) -> None:
    """Find what is wrong whatever the variables are, before anything has been built.

    Raises:
        grammar.DockerfileError: as `run_mounts`.
    """
    for mount in node.mounts:
        if not any("$" in (value or "") for _, value in mount.options):
            _Options(mount, lambda word: expand(word, {}, escape=escape))


class _Options:
    """The options of one mount: names without their aliases, values expanded."""

    def __init__(self, mount: RunMount, expanded: Callable[[Word], str]) -> None:
        self._mount = mount
        self._values: dict[str, str] = {}
        for written, value in mount.options:
            name = self._known(written, value)
            if value is None:
                value = "true"
            elif name != "from":
                value = expanded(Word(text=value, span=mount.span))
            if name in ("readonly", "readwrite"):
                truth = self._truth(written, value)
                name, value = "readonly", str(truth == (name == "readonly")).lower()
            self._values[name] = value
        self.kind = self._chosen("type", _KINDS, "bind")
        for name, kinds in _ONLY_OF.items():
            if name in self._values and self.kind not in kinds:
                raise self.error(
                    f"{name} is no option of a {self.kind} mount",
                    hint=f"it belongs to {' and '.join(kinds)}",
                )

    def text(self, name: str) -> str:
        return self._values.get(name, "")

    def given(self, *names: str) -> bool:
        return any(name in self._values for name in names)

    def truth(self, name: str, *, default: bool = False) -> bool:
        return self._truth(name, self._values[name]) if name in self._values else default

    def number(self, name: str, base: int, maximum: int, default: int) -> int:
        if name not in self._values:
            return default
        text = self._values[name]
        digits = "01234567" if base == 8 else "0123456789"
        if not text or text.strip(digits) or len(text) > 20 or int(text, base) > maximum:
            wanted = "an octal number up to 7777" if base == 8 else f"from 0 to {maximum}"
            raise self.error(f"invalid value {text!r} for {name}", hint=f"{name} is {wanted}")
        return int(text, base)

    def size_bytes(self) -> int | None:
        if "size" not in self._values:
            return None
        try:
            return parse_size(self._values["size"]) or None  # 0 is no limit, as in BuildKit
        except ValueError as error:
            raise self.error(
                f"invalid value {self._values['size']!r} for size", hint="write 64m or 1g"
            ) from error

    def sharing(self) -> _Sharing:
        chosen = self._chosen("sharing", get_args(_Sharing), "shared")
        return "locked" if chosen == "locked" else "private" if chosen == "private" else "shared"

    def target(self, state: StageState) -> str:
        target = absolute_path(self.text("target") or ".", state.workdir)
        if target == "/":
            raise self.error("invalid mount target '/'", hint="write target=/PATH")
        return target

    def error(self, message: str, *, hint: str = "") -> DockerfileError:
        return DockerfileError(message, span=self._mount.span, hint=hint)

    def _known(self, written: str, value: str | None) -> str:
        name = _ALIASES.get(written)
        if name is None:
            close = nearest(written, _ALIASES)
            shown = written if value is None else f"{written}={value}"
            hint = f"did you mean {close}?" if close else "there are " + ", ".join(_ALIASES)
            raise self.error(f"unexpected key {written!r} in {shown!r}", hint=hint)
        if value is None and name not in _SWITCHES:
            raise self.error(
                f"invalid field {written!r}: it must be a key=value pair",
                hint=f"write {written}=VALUE",
            )
        return name

    def _truth(self, name: str, value: str) -> bool:
        if value not in TRUTH:
            raise self.error(f"invalid value {value!r} for {name}", hint="write true or false")
        return TRUTH[value]

    def _chosen(
        self, name: str, known: Mapping[str, object] | tuple[str, ...], default: str
    ) -> str:
        value = self._values.get(name, default).lower()
        if value in known:
            return value
        close = nearest(value, known)
        hint = f"did you mean {close}?" if close else "there are " + ", ".join(known)
        what = "mount type" if name == "type" else f"{name} value"
        raise self.error(f"unsupported {what} {self._values[name]!r}", hint=hint)


def _bind(options: _Options, state: StageState, around: Surroundings, _agents: int) -> SourceMount:
    target = options.target(state)
    selection = _selection(options, around.find_source(options.text("from") or None))
    return SourceMount(
        target=target,
        kind=selection.kind,
        digest=selection.digest,
        read_only=options.truth("readonly", default=True),
        selection=selection,
    )


def _cache(options: _Options, state: StageState, around: Surroundings, _agents: int) -> CacheMount:
    target = options.target(state)
    selection = None
    if options.text("from") not in ("", "scratch"):
        selection = _selection(options, around.find_source(options.text("from")))
        if selection.kind != "dir":
            raise LoweringError(
                f"{options.text('source')!r} is not a directory, which a cache has to begin with"
            )
    top = None if selection is None else selection.tree.get(selection.path)
    mode, uid, gid = (0o755, 0, 0) if top is None else (top.meta.mode, top.meta.uid, top.meta.gid)
    begins_with_something = selection is not None or options.given("mode", "uid", "gid")
    own_id = options.text("id") or posixpath.normpath(options.text("target") or ".")
    return CacheMount(
        target=target,
        id=f"{around.build_args.get(_NAMESPACE, '')}/{own_id}",
        sharing=options.sharing(),
        read_only=options.truth("readonly"),
        mode=options.number("mode", 8, _MODE_MAX, mode),
        uid=options.number("uid", 10, _ID_MAX, uid),
        gid=options.number("gid", 10, _ID_MAX, gid),
        initial=None if selection is None else selection.digest,
        selection=selection,
        # as in BuildKit, whose caches hang on the step that makes what they begin with
        is_renewed=around.no_cache and begins_with_something,
    )


def _tmpfs(
    options: _Options, state: StageState, _around: Surroundings, _agents: int
) -> MemoryMount:
    return MemoryMount(
        target=options.target(state),
        size_bytes=options.size_bytes(),
        read_only=options.truth("readonly"),
    )


def _secret(
    options: _Options, state: StageState, _around: Surroundings, _agents: int
) -> SecretMount:
    source, own_id, target = options.text("source"), options.text("id"), options.text("target")
    if options.given("from"):
        raise options.error("a secret mount has no from")
    if source and own_id:
        raise options.error(
            "source and id of a secret are the same thing", hint="write one of them"
        )
    found_id = source or own_id or posixpath.basename(target)
    if not found_id:
        raise options.error("a secret mount needs an id or a target", hint="write id=NAME")
    with_variable = options.given("env")
    if not target and not with_variable:
        target = f"/run/secrets/{posixpath.basename(found_id)}"
    return SecretMount(
        id=found_id,
        target=absolute_path(target, state.workdir) if target else "",
        variable=(options.text("env") or found_id) if with_variable else "",
        is_required=options.truth("required"),
        mode=options.number("mode", 8, _MODE_MAX, 0o400),
        uid=options.number("uid", 10, _ID_MAX, 0),
        gid=options.number("gid", 10, _ID_MAX, 0),
    )


def _ssh(options: _Options, state: StageState, _around: Surroundings, agents: int) -> AgentMount:
    if options.text("source"):
        raise options.error("an ssh mount has no source", hint="name the agent by id=NAME")
    target = options.text("target") or f"/run/buildkit/ssh_agent.{agents}"
    return AgentMount(
        id=options.text("id") or "default",
        target=absolute_path(target, state.workdir),
        is_required=options.truth("required"),
        mode=options.number("mode", 8, _MODE_MAX, 0o600),
        uid=options.number("uid", 10, _ID_MAX, 0),
        gid=options.number("gid", 10, _ID_MAX, 0),
    )


def _selection(options: _Options, tree: SourceTree) -> Selection:
    source = options.text("source")
    path = inside(source)
    if not path and isinstance(tree, LayerTree):
        return tree.everything()
    selection = select(tree, path)
    if selection is None:
        raise not_found(tree, source, path)
    if selection.kind not in ("file", "dir"):
        raise LoweringError(
            f"{source!r} in {tree.description} is neither a file nor a directory",
            hint="mount the directory that it is in",
        )
    return selection


_KINDS: dict[str, Callable[[_Options, StageState, Surroundings, int], StepMount]] = {
    "bind": _bind,
    "cache": _cache,
    "tmpfs": _tmpfs,
    "secret": _secret,
    "ssh": _ssh,
}
