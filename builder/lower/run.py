"""RUN -> ExecStep.

A here-document as the whole command is a script: for the shell, or, with `#!`, for the program
that it names. Here-documents beside other words are given back to the shell to handle.

Source: Dockerfile reference, "RUN", "Here-Documents", "Predefined ARGs"; BuildKit
dockerfile2llb/convert.go, dispatchRun; BuildKit solver/llbsolver, "is not allowed".
"""

import re
from collections.abc import Mapping
from typing import Literal

from builder.errors import LoweringError, UnsupportedFeatureError
from builder.lower.heredocs import chomped
from builder.lower.runmounts import check_mounts, run_mounts
from builder.lower.surroundings import Lowered, Surroundings
from builder.sandbox import DEFAULT_PATH
from builder.state import StageState
from builder.steps import AgentMount, ExecStep, ScriptFile, StepMount
from grammar import ExecForm, Run

_PROXY_ARGS = frozenset(
    name.upper() if upper else name
    for name in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for upper in (False, True)
)
_WHOLE_HEREDOC = re.compile(r"[0-9]*<<-?\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>]+)\s*")
_SCRIPT_DIRECTORY = "/dev/pipes"


def run(node: Run, state: StageState, around: Surroundings) -> Lowered:
    """Lower RUN."""
    _check_rights(node, around.allowed)
    argv, scripts = _command(node, state)
    mounts = run_mounts(node, state, around)
    environment = _environment(state, mounts)
    proxies = _proxies(around.build_args, environment)
    created_by = "RUN " + " ".join([*_described_args(state), *argv])
    title = "RUN " + " ".join([*node.written.flags, *_words(node)])
    step = ExecStep(
        argv=argv,
        env=tuple(f"{name}={value}" for name, value in environment.items()),
        cwd=state.workdir,
        user=state.config.user,
        network=_network(node, around),
        scripts=scripts,
        mounts=mounts,
        security="insecure" if node.security == "insecure" else "sandbox",
        settings=around.settings,
        secret_env=proxies,
        title=title,
    )
    return Lowered(state=state, created_by=created_by, step=step)


def _network(node: Run, around: Surroundings) -> Literal["default", "host", "none"]:
    """What the instruction says, else the build."""
    match node.network:
        case "host":
            return "host"
        case "none":
            return "none"
        case _:
            return around.network


def check(node: Run, *, allowed: frozenset[str], escape: str) -> None:
    """Find what is wrong with RUN whatever the state is, before anything has been built.

    Raises:
        LoweringError, UnsupportedFeatureError, grammar.DockerfileError: as `run`.
    """
    _check_rights(node, allowed)
    check_mounts(node, escape=escape)


def _check_rights(node: Run, allowed: frozenset[str]) -> None:
    """A Dockerfile may ask, but only who builds it may grant."""
    asked = {
        "network.host": node.network == "host" and "RUN --network=host",
        "security.insecure": node.security == "insecure" and "RUN --security=insecure",
    }
    for right, flag in asked.items():
        if flag and right not in allowed:
            raise LoweringError(
                f"{flag}: {right} is not allowed",
                hint=f"if the Dockerfile can be trusted with it, build with --allow {right}",
            )
    if node.devices:  # Differs: an image must not depend on devices of the host that built it
        raise UnsupportedFeatureError(feature="RUN --device")


def _command(node: Run, state: StageState) -> tuple[tuple[str, ...], tuple[ScriptFile, ...]]:
    if isinstance(node.command, ExecForm):
        return node.command.argv, ()
    text = node.command.text
    if not node.heredocs:
        return (*state.shell, text), ()
    if len(node.heredocs) == 1 and _WHOLE_HEREDOC.fullmatch(text):
        heredoc = node.heredocs[0]
        content = chomped(heredoc)
        if content.startswith("#!"):
            target = f"{_SCRIPT_DIRECTORY}/{heredoc.name}"
            return (*state.shell, target), (ScriptFile(target=target, content=content),)
        return (*state.shell, content), ()
    full = text
    for heredoc in node.heredocs:
        full += f"\n{heredoc.content}{heredoc.name}"
    return (*state.shell, full), ()


def _environment(state: StageState, mounts: tuple[StepMount, ...]) -> dict[str, str]:
    environment = state.environment()
    environment.setdefault("PATH", DEFAULT_PATH)
    for agent in [mount for mount in mounts if isinstance(mount, AgentMount)]:
        environment.setdefault("SSH_AUTH_SOCK", agent.target)
    return environment


def _proxies(build_args: Mapping[str, str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The proxy settings of the build, in both spellings."""
    values: dict[str, str] = {}
    for name, value in build_args.items():
        if name in _PROXY_ARGS:
            values.setdefault(name.swapcase(), value)
            values[name] = value
    return tuple(f"{name}={value}" for name, value in values.items() if name not in environment)


def _described_args(state: StageState) -> list[str]:
    """`|2 A=1 B=2`, the way builders record the ARGs a RUN saw."""
    if not state.args:
        return []
    environment = state.environment()
    pairs = [f"{name}={environment.get(name, '')}" for name, _ in state.args]
    return [f"|{len(pairs)}", *pairs]


def _words(node: Run) -> list[str]:
    if isinstance(node.command, ExecForm):
        return list(node.command.argv)
    return [node.command.text]
