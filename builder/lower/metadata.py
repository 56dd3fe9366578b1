"""Instructions that only change the image's configuration.

Source: Dockerfile reference, one section per instruction; OCI image-spec v1.1 config.md for the
fields; BuildKit dockerfile2llb/convert.go for the wording of history entries.
"""

import json
import re
from dataclasses import replace

from builder.errors import LoweringError
from builder.lower.surroundings import Lowered, Surroundings, expanded
from builder.state import StageState
from grammar import (
    Arg,
    Cmd,
    Command,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Shell,
    ShellForm,
    Stopsignal,
    User,
    Volume,
    expand_words,
)
from layerstore import HealthcheckConfig

_PORT = re.compile(r"(?:[^/:]*:)*([0-9]+)(?:-([0-9]+))?(?:/([a-z0-9]+))?")
_PROTOCOLS = ("tcp", "udp", "sctp")
_SIGNAL_MAX = 64


def env(node: Env, state: StageState, around: Surroundings) -> Lowered:
    """ENV: every value sees the environment as it was before the instruction."""
    pairs = []
    for pair in node.pairs:
        name = expanded(pair.name, state, around)
        if not name:
            raise LoweringError("ENV names can not be blank")
        pairs.append((name, expanded(pair.value, state, around)))
    created_by = "ENV " + " ".join(f"{name}={value}" for name, value in pairs)
    return _described(state.with_env(dict(pairs)), created_by)


def label(node: Label, state: StageState, around: Surroundings) -> Lowered:
    """LABEL: a later value replaces an earlier one."""
    pairs = []
    for pair in node.pairs:
        name = expanded(pair.name, state, around)
        if not name:
            raise LoweringError("LABEL names can not be blank")
        pairs.append((name, expanded(pair.value, state, around)))
    labels = with_labels(state.config.labels, pairs)
    created_by = "LABEL " + " ".join(f"{name}={value}" for name, value in pairs)
    return _described(replace(state, config=replace(state.config, labels=labels)), created_by)


def with_labels(
    labels: tuple[tuple[str, str], ...], added: list[tuple[str, str]]
) -> tuple[tuple[str, str], ...]:
    """`labels` with `added` on top, sorted by name."""
    return tuple(sorted({**dict(labels), **dict(added)}.items()))


def arg(node: Arg, state: StageState, around: Surroundings) -> Lowered:
    """ARG: --build-arg, else the default, else the global scope's value of that name."""
    described = []
    for declaration in node.declarations:
        name = declaration.name.text  # never expanded
        value = around.build_args.get(name)
        if value is None and declaration.default is not None:
            value = expanded(declaration.default, state, around)
        elif value is None:
            value = around.global_args.get(name)
        state = state.with_arg(name, value)
        described.append(name if value is None else f"{name}={value}")
    return _described(state, "ARG " + " ".join(described))


def user(node: User, state: StageState, around: Surroundings) -> Lowered:
    """USER: who it names is looked up in the image when something runs."""
    name = expanded(node.user, state, around)
    if not name:  # Differs: BuildKit takes it for root
        raise LoweringError("USER requires a user", hint="the variable in it is empty")
    return _described(replace(state, config=replace(state.config, user=name)), f"USER {name}")


def cmd(node: Cmd, state: StageState) -> Lowered:
    """CMD: the last one counts."""
    argv = _argv(node.command, state)
    config = replace(state.config, cmd=argv)
    return _described(replace(state, config=config, cmd_is_own=True), f"CMD {_quoted(argv)}")


def entrypoint(node: Entrypoint, state: StageState) -> Lowered:
    """ENTRYPOINT: a CMD that came from the base belongs to the base's entry point and goes."""
    argv = _argv(node.command, state)
    kept_cmd = state.config.cmd if state.cmd_is_own else None
    config = replace(state.config, entrypoint=argv, cmd=kept_cmd)
    return _described(replace(state, config=config), f"ENTRYPOINT {_quoted(argv)}")


def expose(node: Expose, state: StageState, around: Surroundings) -> Lowered:
    """EXPOSE: ranges are written out; of HOST:CONTAINER the container's port counts."""
    ports: list[str] = []
    environment = state.environment()
    for word in node.ports:
        for text in expand_words(word, environment, escape=around.escape):
            ports.extend(_ports(text))
    known = sorted({*state.config.exposed_ports, *ports})
    created_by = f"EXPOSE [{' '.join(ports)}]"
    return _described(
        replace(state, config=replace(state.config, exposed_ports=tuple(known))), created_by
    )


def _ports(text: str) -> list[str]:
    match = _PORT.fullmatch(text.lower())
    if match is None or (match[3] or "tcp") not in _PROTOCOLS:
        raise LoweringError(
            f"invalid containerPort: {text}", hint="a port or a range: 80, 53/udp, 8000-8010/tcp"
        )
    first, last = int(match[1]), int(match[2] or match[1])
    if not (1 <= first <= last <= 65535):
        hint = "a range goes up" if first > last else "ports go from 1 to 65535"
        raise LoweringError(f"invalid containerPort: {text}", hint=hint)
    return [f"{port}/{match[3] or 'tcp'}" for port in range(first, last + 1)]


def volume(node: Volume, state: StageState, around: Surroundings) -> Lowered:
    """VOLUME: noted in the config; no directory is made."""
    paths = [expanded(word, state, around) for word in node.paths]
    if any(not path.strip() for path in paths):
        raise LoweringError("VOLUME specified can not be an empty string")
    volumes = tuple(sorted({*state.config.volumes, *paths}))
    return _described(
        replace(state, config=replace(state.config, volumes=volumes)),
        "VOLUME [" + " ".join(paths) + "]",
    )


def stopsignal(node: Stopsignal, state: StageState, around: Surroundings) -> Lowered:
    """STOPSIGNAL: kept as written."""
    import signal

    name = expanded(node.signal, state, around)
    plain = name.upper().removeprefix("SIG")
    if name.isdigit():
        known = 1 <= int(name) <= _SIGNAL_MAX
    else:
        known = f"SIG{plain}" in signal.Signals.__members__ or bool(
            re.fullmatch(r"RTM(IN(\+([0-9]|1[0-5]))?|AX(-([0-9]|1[0-4]))?)", plain)
        )
    if not known:
        raise LoweringError(f"invalid signal: {name}", hint="a name (SIGTERM) or a number")
    return _described(
        replace(state, config=replace(state.config, stop_signal=name)), f"STOPSIGNAL {name}"
    )


def healthcheck(node: Healthcheck, state: StageState) -> Lowered:
    """HEALTHCHECK: the last one counts; the shell of its shell form is the runner's matter."""
    test: tuple[str, ...]
    match node.command:
        case None:
            test = ("NONE",)
        case ShellForm(text=text):
            test = ("CMD-SHELL", text)
        case ExecForm(argv=argv):
            test = ("CMD", *argv)
    config = HealthcheckConfig(
        test=test,
        interval_ns=node.interval_ns,
        timeout_ns=node.timeout_ns,
        start_period_ns=node.start_period_ns,
        start_interval_ns=node.start_interval_ns,
        retries=node.retries,
    )
    created_by = "HEALTHCHECK " + " ".join([*node.written.flags, _quoted(test)])
    return _described(replace(state, config=replace(state.config, healthcheck=config)), created_by)


def shell(node: Shell, state: StageState) -> Lowered:
    """SHELL: for the shell forms below it."""
    config = replace(state.config, shell=node.argv)
    return _described(replace(state, config=config), f"SHELL [{' '.join(node.argv)}]")


def maintainer(node: Maintainer, state: StageState) -> Lowered:
    """MAINTAINER: the image's author."""
    return _described(replace(state, author=node.name), f"MAINTAINER {node.name}")


def onbuild(node: Onbuild, state: StageState) -> Lowered:
    """ONBUILD: the trigger is kept as text, for the build that stands on this image.

    It leaves no entry in the history, as with BuildKit; the config says it.
    """
    config = replace(state.config, on_build=(*state.config.on_build, node.text))
    return Lowered(state=replace(state, config=config), created_by=f"ONBUILD {node.text}")


def _argv(command: Command, state: StageState) -> tuple[str, ...]:
    match command:
        case ShellForm(text=text):
            return (*state.shell, text)
        case ExecForm(argv=argv):
            return argv


def _quoted(argv: tuple[str, ...]) -> str:
    """`["sh" "-c" "true"]`: how builders write an argument list into the history."""
    return "[" + " ".join(json.dumps(each, ensure_ascii=False) for each in argv) + "]"


def _described(state: StageState, created_by: str) -> Lowered:
    return Lowered(state=state.with_history(created_by), created_by=created_by)
