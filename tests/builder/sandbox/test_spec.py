import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import (
    BindMount,
    Executor,
    ExitStatus,
    FileMount,
    ForkServer,
    Limits,
    LocalExecutor,
    OverlayRoot,
    PlainRoot,
    Program,
    Running,
    SandboxSpec,
    TmpfsMount,
    spec,
)
from builder.sandbox.executor import SandboxRunning

VALUES: tuple[Any, ...] = (
    OverlayRoot(lowerdirs=(Path("/a"),), upperdir=Path("/u"), workdir=Path("/w")),
    PlainRoot(path=Path("/root")),
    BindMount(source=Path("/a"), target="/b"),
    TmpfsMount(target="/t"),
    FileMount(target="/f", content=b"x"),
    Program(argv=("true",)),
    Limits(),
    SandboxSpec(root=PlainRoot(path=Path("/")), program=Program(argv=("true",))),
    ExitStatus(),
)


class TestExitStatus:
    @given(st.integers(0, 255))
    def test_a_program_that_exits_gives_its_code(self, code: int) -> None:
        assert ExitStatus(code=code).shell_code == code

    @given(st.integers(1, 64))
    def test_one_that_was_killed_gives_128_and_the_signal(self, number: int) -> None:
        assert ExitStatus(signal=number).shell_code == 128 + number

    def test_success_is_nothing_said(self) -> None:
        assert ExitStatus() == ExitStatus(code=0, signal=0)
        assert ExitStatus().shell_code == 0


class TestValues:
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_cannot_be_changed_and_are_keys(self, value: Any) -> None:
        name = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, name, None)
        assert hash(value) == hash(dataclasses.replace(value))
        assert value == dataclasses.replace(value)

    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_they_are_made_by_keywords_alone(self, value: Any) -> None:
        with pytest.raises(TypeError, match="positional"):
            type(value)(*(getattr(value, field.name) for field in dataclasses.fields(value)))

    def test_so_is_everything_that_this_file_defines(self) -> None:
        found: list[Any] = [each for each in vars(spec).values() if dataclasses.is_dataclass(each)]
        assert {type(value) for value in VALUES} <= set(found)
        for each in found:
            assert each.__dataclass_params__.frozen, each
            assert all(field.kw_only for field in dataclasses.fields(each)), each
            assert "__slots__" in vars(each), each


class TestDefaults:
    """What a caller who says nothing gets is what docker's default is."""

    SPEC = SandboxSpec(root=PlainRoot(path=Path("/")), program=Program(argv=("true",)))

    def test_nothing_of_the_host_is_shared(self) -> None:
        assert self.SPEC.network == "none"
        assert self.SPEC.mounts == ()
        assert not self.SPEC.read_only_root
        assert self.SPEC.shm_size_bytes == 64 << 20

    def test_a_program_is_root_with_the_default_rights_and_no_terminal(self) -> None:
        program = self.SPEC.program
        assert (program.user, program.cwd, program.env) == ("", "/", ())
        assert program.capabilities is None
        assert program.seccomp == "default"
        assert not program.no_new_privs
        assert not program.terminal

    def test_there_is_no_limit_unless_one_is_given(self) -> None:
        assert Limits() == Limits(pids_max=None, memory_bytes=None)

    def test_mounts_can_be_written_unless_they_say_otherwise(self) -> None:
        assert not BindMount(source=Path("/a"), target="/b").read_only
        assert not FileMount(target="/f", content=b"").read_only
        assert TmpfsMount(target="/t").mode == 0o1777
        assert FileMount(target="/f", content=b"").mode == 0o644


class TestProtocols:
    @pytest.mark.parametrize("kind", [LocalExecutor, ForkServer])
    def test_executors_take_what_the_protocol_says(self, kind: type[Executor]) -> None:
        assert parameters(kind) == parameters(Executor)

    def test_what_they_start_has_all_that_a_caller_may_ask(self) -> None:
        assert parameters(SandboxRunning) == parameters(Running)
        fields = {field.name for field in dataclasses.fields(SandboxRunning)}
        asked = {name for name, each in vars(Running).items() if isinstance(each, property)}
        assert asked == {"init_pid", "network_fd", "terminal_fd"}
        assert asked <= fields


def parameters(kind: type) -> dict[str, list[str]]:
    """The words of every method that a protocol has, as `kind` has them."""
    names = (
        name
        for protocol in (Executor, Running)
        for name, each in vars(protocol).items()
        if inspect.isfunction(each) and not name.startswith("_") and hasattr(kind, name)
    )
    return {name: list(inspect.signature(getattr(kind, name)).parameters) for name in names}
