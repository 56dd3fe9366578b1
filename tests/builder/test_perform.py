"""Performing steps: programs through the executor, file changes without one."""

import io
import os
import socket
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from builder.agents import AgentRelay
from builder.errors import (
    BuilderError,
    LoweringError,
    MissingGrantError,
    SecretLeakError,
    StepFailedError,
)
from builder.grants import NO_GRANTS, Grants
from builder.perform import RUN_PIDS_MAX, Conditions, perform, run_program
from builder.sandbox import (
    ALL_CAPABILITIES,
    BindMount,
    FileMount,
    ForkServer,
    OverlayRoot,
    Program,
    ProgramNotFoundError,
    ResourceLimit,
    SandboxSpec,
    Stdio,
    TmpfsMount,
)
from builder.sources import select
from builder.steps import (
    CopyFiles,
    ExecStep,
    FileStep,
    InlineFile,
    MakeDirectory,
    MemoryMount,
    RunSettings,
    ScriptFile,
    SecretMount,
    Step,
)
from layerstore import Layer, Store, StoreError, TocEntry
from tests.support import rootfs
from tests.support.executors import FakeExecutor, FakeRunning, no_executor
from tests.support.layers import bytes_of, make_layer
from tests.support.sandboxes import Bench as SandboxBench
from tests.support.sandboxes import host_python
from tests.support.sources import DictTree, File, Items, Link
from tests.support.steps import cache_mount
from tests.support.work import run_one

USERS: Items = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nada:x:1000:100::/home/ada:/bin/sh\n",
    "etc/group": b"root:x:0:\nusers:x:100:\nstaff:x:50:ada\n",
}


@pytest.fixture
def executor() -> FakeExecutor:
    return FakeExecutor()


def program(*argv: str, **changes: Any) -> ExecStep:
    fields: dict[str, Any] = {
        "argv": argv,
        "env": ("A=1",),
        "cwd": "/",
        "user": "",
        "network": "none",
    }
    return ExecStep(**(fields | changes))


def script(text: str, **changes: Any) -> ExecStep:
    return program("/bin/sh", "-c", text, **changes)


def copying(
    items: Items,
    *sources: str,
    to: str,
    chown: str | None = None,
    chmod: str | None = None,
    unpack: bool = False,
    inline: tuple[InlineFile, ...] = (),
) -> FileStep:
    tree = DictTree(items)
    selections = tuple(found for name in sources if (found := select(tree, name)) is not None)
    assert len(selections) == len(sources)
    return FileStep(
        action=CopyFiles(
            selections=selections,
            inline=inline,
            destination=to,
            chown=chown,
            chmod=chmod,
            unpack=unpack,
        )
    )


class Bench:
    """Performs steps one on top of another."""

    def __init__(
        self,
        store: Store,
        executor: FakeExecutor,
        base: Items | None = None,
        grants: Grants = NO_GRANTS,
    ) -> None:
        self.store = store
        self.grants = grants
        self.executor = executor
        self.layers: tuple[Layer, ...] = (make_layer(store, base),) if base else ()
        self.output: list[tuple[str, bytes]] = []
        self.packed: list[int] = []

    def do(self, step: Step, *, epoch: int | None = None) -> Layer:
        layer = run_one(
            perform(
                step,
                self.layers,
                Conditions(
                    store=self.store,
                    executor=self.executor if isinstance(step, ExecStep) else no_executor,
                    output=lambda stream, data: self.output.append((stream, data)),
                    packed=self.packed.append,
                    epoch=epoch,
                    grants=self.grants,
                    secrets=self.grants.secrets,
                ),
            )
        )
        self.layers = (*self.layers, layer)
        return layer

    def entry(self, path: str) -> TocEntry:
        node = self.store.layers.tree(self.layers).get(path)
        assert node is not None, path
        return node.entry

    def read(self, path: str) -> bytes:
        tree = self.store.layers.tree(self.layers)
        node = tree.get(path)
        assert node is not None, path
        return bytes_of(self.store.layers.read_file(self.layers, node))

    def owner(self, path: str) -> tuple[int, int]:
        meta = self.entry(path).meta
        return meta.uid, meta.gid


@pytest.fixture
def bench(store: Store, executor: FakeExecutor) -> Bench:
    return Bench(store, executor, USERS)


# Programs.


def test_a_program_leaves_a_layer(bench: Bench) -> None:
    layer = bench.do(script("echo hi > /a; rm /etc/group"))
    assert (layer.files, layer.removed) == (1, 1)
    assert bench.read("a") == b"hi\n"
    assert bench.store.layers.tree(bench.layers).get("etc/group") is None


def test_a_program_that_changes_nothing_leaves_an_empty_layer(bench: Bench) -> None:
    assert bench.do(script("true")).is_empty


@pytest.mark.parametrize("kind", ["program", "files"])
def test_the_bytes_of_the_layer_are_told(bench: Bench, kind: str) -> None:
    files = copying({"big": b"x" * 3_000_000}, "big", to="/big")
    layer = bench.do(files if kind == "files" else script("echo hi > /a"))
    assert bench.packed[-1] == layer.tar_size_bytes


def test_output_is_passed_on_as_it_comes(bench: Bench) -> None:
    bench.do(script("echo one; echo two"))
    assert b"".join(data for stream, data in bench.output if stream == "stdout") == b"one\ntwo\n"
    with pytest.raises(StepFailedError):
        bench.do(script("fail no such thing"))
    assert ("stderr", b"no such thing\n") in bench.output


def test_a_program_gets_what_the_step_says(bench: Bench) -> None:
    bench.do(
        program("true", cwd="/src", user="ada", secret_env=("HTTP_PROXY=secret",), network="host")
    )
    (spec,) = bench.executor.specs
    assert spec.program == Program(
        argv=("true",), env=("A=1", "HTTP_PROXY=secret"), cwd="/src", user="ada"
    )
    assert spec.network == "host"
    assert spec.hostname
    assert spec.limits.pids_max == RUN_PIDS_MAX
    assert isinstance(spec.root, OverlayRoot)


def test_standard_input_is_empty_and_nothing_else_is_given(bench: Bench) -> None:
    seen: list[tuple[bytes, bool, bool]] = []

    class Looking(FakeExecutor):
        def start(self, spec: SandboxSpec, stdio: Stdio) -> FakeRunning:
            out, err = (os.get_inheritable(fd) for fd in (stdio.stdout, stdio.stderr))
            seen.append((os.read(stdio.stdin, 10), out, err))
            return FakeRunning(status=super().start(spec, stdio).wait())

    bench.executor = Looking()
    bench.do(script("true"))
    assert seen == [(b"", False, False)]


def test_scripts_are_shown_and_never_part_of_the_layer(bench: Bench) -> None:
    text = "#!/bin/sh\necho \udcff\n"
    layer = bench.do(program("true", scripts=(ScriptFile(target="/dev/pipes/EOF", content=text),)))
    mount = next(each for each in bench.executor.specs[0].mounts if each.target.startswith("/dev"))
    assert mount == FileMount(
        target="/dev/pipes/EOF", content=b"#!/bin/sh\necho \xff\n", mode=0o755, read_only=True
    )
    assert layer.is_empty


def test_hosts_and_resolver_are_shown_in_every_run(bench: Bench) -> None:
    bench.do(program("true"))
    targets = {each.target for each in bench.executor.specs[0].mounts}
    assert targets == {"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}


@pytest.mark.parametrize(
    ("text", "code", "signal", "said"),
    [
        ("exit 3", 3, 0, "did not complete: exit code: 3"),
        ("false", 1, 0, "exit code: 1"),
        ("kill 9", 137, 9, "was killed by signal 9"),
    ],
)
def test_a_program_that_fails_is_an_error_that_says_how(
    bench: Bench, text: str, code: int, signal: int, said: str
) -> None:
    with pytest.raises(StepFailedError, match=said) as caught:
        bench.do(script(f"echo before; {text}"))
    assert (caught.value.code, caught.value.signal) == (code, signal)
    assert caught.value.title == f"/bin/sh -c echo before; {text}"
    assert caught.value.tail == b"before\n"


def test_only_the_last_of_much_output_is_kept(bench: Bench) -> None:
    class Chatty(FakeExecutor):
        def start(self, spec: SandboxSpec, stdio: Stdio) -> FakeRunning:
            for number in range(12):
                os.write(stdio.stdout, b"%04d" % number + b"x" * 4092)
            return FakeRunning(status=super().start(spec, stdio).wait())

    bench.executor = Chatty()
    with pytest.raises(StepFailedError) as caught:
        bench.do(script("exit 1"))
    assert caught.value.tail.endswith(b"x")
    assert 16 << 10 <= len(caught.value.tail) <= (16 << 10) + (64 << 10)
    assert sum(len(data) for _, data in bench.output) == 12 * 4096


def test_a_program_that_is_not_there_is_the_sandboxs_error(bench: Bench) -> None:
    with pytest.raises(ProgramNotFoundError, match="nosuch"):
        bench.do(program("nosuch"))


def test_a_failure_leaves_no_layer_and_no_snapshot(bench: Bench) -> None:
    before = sorted(path.name for path in bench.store.tmp.rglob("*") if path.name == "upper")
    with pytest.raises(StepFailedError):
        bench.do(script("echo > /a; exit 1"))
    assert (
        sorted(path.name for path in bench.store.tmp.rglob("*") if path.name == "upper") == before
    )


def test_nothing_outlives_a_step_that_was_interrupted(bench: Bench) -> None:
    running: list[FakeRunning] = []

    class Remembering(FakeExecutor):
        def start(self, spec: SandboxSpec, stdio: Stdio) -> FakeRunning:
            running.append(FakeRunning(status=super().start(spec, stdio).wait()))
            return running[-1]

    def interrupted(stream: str, data: bytes) -> None:
        raise KeyboardInterrupt

    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(KeyboardInterrupt):
        run_one(
            perform(
                script("echo x"),
                bench.layers,
                Conditions(store=bench.store, executor=Remembering(), output=interrupted),
            )
        )
    assert running[0].killed
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_no_descriptor_is_left_open(bench: Bench) -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    bench.do(script("echo x"))
    with pytest.raises(StepFailedError):
        bench.do(script("exit 1"))
    with pytest.raises(ProgramNotFoundError):
        bench.do(program("nosuch"))
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_times_never_pass_the_epoch(bench: Bench) -> None:
    bench.do(script("touch /now"), epoch=1_000)
    assert bench.entry("now").meta.mtime_ns == 1_000 * 10**9
    bench.do(
        copying({"f": File(mtime_s=10), "g": File(mtime_s=9_999)}, "f", "g", to="/d/"), epoch=500
    )
    assert bench.entry("d/f").meta.mtime_ns == 10 * 10**9
    assert bench.entry("d/g").meta.mtime_ns == 500 * 10**9
    assert bench.entry("d").meta.mtime_ns == 500 * 10**9


# WORKDIR.


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", (0, 0)),
        ("ada", (1000, 100)),
        ("ada:staff", (1000, 50)),
        ("1234", (1234, 1234)),
        ("1234:5", (1234, 5)),
        ("1000", (1000, 1000)),
    ],
)
def test_a_working_directory_belongs_to_its_user(
    bench: Bench, user: str, expected: tuple[int, int]
) -> None:
    bench.do(FileStep(action=MakeDirectory(path="/a/b", user=user)))
    assert bench.owner("a") == bench.owner("a/b") == expected
    assert bench.entry("a/b").meta.mode == 0o755


def test_an_unknown_user_of_a_working_directory_is_an_error(bench: Bench) -> None:
    with pytest.raises(LoweringError, match="USER nobody") as caught:
        bench.do(FileStep(action=MakeDirectory(path="/a", user="nobody")))
    assert "/etc/passwd" in caught.value.hint


def test_a_working_directory_that_exists_is_an_empty_layer(bench: Bench) -> None:
    assert bench.do(FileStep(action=MakeDirectory(path="/etc", user="ada"))).is_empty
    assert bench.owner("etc") == (0, 0)


# COPY and ADD.


@pytest.mark.parametrize(
    ("chown", "expected"),
    [
        (None, (7, 8)),
        ("ada", (1000, 100)),
        ("ada:staff", (1000, 50)),
        ("ada:9", (1000, 9)),
        ("5", (5, 5)),
        ("5:staff", (5, 50)),
        ("0:0", (0, 0)),
        (":staff", (0, 50)),
        ("ada:", (1000, 0)),
        ("5:", (5, 0)),
        ("root", (0, 0)),
        ("5:root", (5, 0)),
    ],
)
def test_names_of_owners_are_looked_up_in_the_image(
    bench: Bench, chown: str | None, expected: tuple[int, int]
) -> None:
    bench.do(copying({"f": File(uid=7, gid=8)}, "f", to="/new/g", chown=chown))
    assert bench.owner("new/g") == expected
    assert bench.owner("new") == (expected if chown else (0, 0))


@pytest.mark.parametrize("chown", ["eve", "ada:nogroup", "4294967296", "-1"])
def test_an_unknown_owner_is_an_error_and_never_root(bench: Bench, chown: str) -> None:
    with pytest.raises(LoweringError, match=f"--chown={chown}"):
        bench.do(copying({"f": b""}, "f", to="/g", chown=chown))


def test_names_of_owners_need_no_passwd_file_where_they_are_numbers(
    store: Store, executor: FakeExecutor
) -> None:
    bench = Bench(store, executor)
    bench.do(copying({"f": b""}, "f", to="/g", chown="3:4"))
    assert bench.owner("g") == (3, 4)
    with pytest.raises(LoweringError, match="--chown=ada"):
        bench.do(copying({"f": b""}, "f", to="/g", chown="ada"))


def test_a_passwd_that_is_a_link_is_read_inside_the_image(
    store: Store, executor: FakeExecutor
) -> None:
    base: Items = {
        "etc/passwd": Link("/../../data/users"),
        "data/users": b"eve:x:66:77::/:/bin/sh\n",
    }
    bench = Bench(store, executor, base)
    bench.do(copying({"f": b""}, "f", to="/g", chown="eve"))
    assert bench.owner("g") == (66, 77)
    outside = Bench(store, executor, {"etc/passwd": Link("../../../etc/passwd")})
    with pytest.raises((LoweringError, StoreError)):
        outside.do(copying({"f": b""}, "f", to="/g", chown="daemon"))


def test_root_needs_no_passwd_file_and_is_nobody_else(store: Store, executor: FakeExecutor) -> None:
    """BuildKit looks for no name `root`, whatever the image makes of it."""
    bench = Bench(store, executor, {"etc/passwd": b"root:x:5:6::/:/bin/sh\n"})
    for number, chown in enumerate(("root", "root:root", ":root", "0:root")):
        bench.do(copying({"f": File(uid=7, gid=8)}, "f", to=f"/{number}", chown=chown))
        assert bench.owner(str(number)) == (0, 0), chown


def test_modes_are_laid_over_files(bench: Bench) -> None:
    bench.do(copying({"f": File(mode=0o644)}, "f", to="/g", chmod="u+x,g="))
    assert bench.entry("g").meta.mode == 0o704
    with pytest.raises(LoweringError, match="invalid chmod parameter"):
        bench.do(copying({"f": b""}, "f", to="/g", chmod="u+q"))


def test_several_files_go_into_a_directory(bench: Bench) -> None:
    bench.do(copying({"f": b"1", "g": b"2"}, "f", "g", to="/d/"))
    bench.do(copying({"h": b"3", "i": b"4"}, "h", "i", to="/d"))  # it is one by now
    assert [bench.read(f"d/{name}") for name in "fghi"] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("to", ["/new", "/etc/passwd"])
def test_of_several_files_onto_one_name_the_last_stays(bench: Bench, to: str) -> None:
    """As in BuildKit, although the reference asks for a directory."""
    bench.do(copying({"f": b"1", "g": b"2"}, "f", "g", to=to))
    assert bench.read(to.strip("/")) == b"2"


def test_several_directories_are_merged(bench: Bench) -> None:
    bench.do(copying({"d/f": b"1", "e/g": b"2", "e/f": b"3"}, "d", "e", to="/new"))
    assert (bench.read("new/f"), bench.read("new/g")) == (b"3", b"2")


def test_nothing_to_copy_is_an_empty_layer(bench: Bench) -> None:
    assert bench.do(copying({}, to="/new/")).is_empty


def test_here_documents_are_written_beside_files(bench: Bench) -> None:
    inline = (InlineFile(name="EOF", content=b"text"),)
    bench.do(copying({"f": b"1"}, "f", to="/d/", inline=inline, chown="ada", chmod="0600"))
    assert bench.read("d/EOF") == b"text"
    assert bench.owner("d/EOF") == (1000, 100)
    assert bench.entry("d/EOF").meta.mode == 0o600


def tar(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_archives_are_unpacked_by_add_alone(bench: Bench) -> None:
    archive = tar(inner=b"content", other=os.urandom(100_000))
    bench.do(copying({"a.tgz": archive}, "a.tgz", to="/add/", unpack=True))
    bench.do(copying({"a.tgz": archive}, "a.tgz", to="/copy/"))
    assert bench.read("add/inner") == b"content"
    assert bench.entry("add/other").size_bytes == 100_000
    assert bench.read("copy/a.tgz") == archive


def test_add_copies_what_is_no_archive(bench: Bench) -> None:
    bench.do(copying({"a.tgz": b"no archive", "d/f": b"1"}, "a.tgz", "d", to="/x/", unpack=True))
    assert (bench.read("x/a.tgz"), bench.read("x/f")) == (b"no archive", b"1")


def test_a_hard_link_of_an_archive_to_a_file_of_the_image_has_its_content(bench: Bench) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("users")
        member.type, member.linkname = tarfile.LNKTYPE, "etc/passwd"
        archive.addfile(member)
    bench.do(copying({"a.tar": stream.getvalue()}, "a.tar", to="/", unpack=True))
    assert bench.read("users") == bench.read("etc/passwd") == USERS["etc/passwd"]


def test_an_archive_that_leads_out_or_removes_is_an_error(bench: Bench) -> None:
    for name, message in (("../up", "leaves the root"), ("etc/.wh.passwd", "whiteout")):
        data = tar(**{name: b""})
        with pytest.raises(BuilderError, match=message):
            bench.do(copying({"a.tgz": data}, "a.tgz", to="/etc/", unpack=True))


def test_names_of_an_archive_may_be_absolute_and_are_beneath_the_destination(bench: Bench) -> None:
    bench.do(copying({"a.tgz": tar(**{"/etc/f": b"1"})}, "a.tgz", to="/new", unpack=True))
    assert bench.read("new/etc/f") == b"1"


def test_names_that_mean_a_removal_are_refused(bench: Bench) -> None:
    with pytest.raises(StoreError, match=r"\.wh\.passwd"):
        bench.do(copying({"d/.wh.passwd": b""}, "d", to="/etc"))


def test_file_steps_are_the_same_whatever_the_order_of_their_sources(
    store: Store, executor: FakeExecutor
) -> None:
    files: Items = {f"d/{name}": name.encode() for name in "abcdef"}
    turned: Items = dict(reversed(list(files.items())))
    layers = [
        Bench(store, executor).do(copying(items, "d", to="/"), epoch=1) for items in (files, turned)
    ]
    assert layers[0].diff_id == layers[1].diff_id


# Mounts, secrets, agents: what the sandbox is asked for. What comes of it: tests/endtoend.


def asked_for(executor: FakeExecutor) -> SandboxSpec:
    return executor.specs[-1]


def test_mounts_of_a_step_come_after_those_of_every_step(
    store: Store, executor: FakeExecutor
) -> None:
    memory = MemoryMount(target="/t", size_bytes=None, read_only=False)
    Bench(store, executor).do(script("true", mounts=(memory,)))
    mounts = asked_for(executor).mounts
    assert mounts[-1] == TmpfsMount(target="/t")
    assert {mount.target for mount in mounts[:-1]} == {
        *("/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
    }


def test_mounts_are_gone_when_the_layer_is_made(store: Store, executor: FakeExecutor) -> None:
    mount = cache_mount(id="c", sharing="locked")
    held: list[int] = []
    executor.before = lambda spec: held.append(len(store.cache_mounts.unused()))
    Bench(store, executor).do(script("echo x > f", mounts=(mount,)))
    assert held == [0]
    assert len(store.cache_mounts.unused()) == 1
    with pytest.raises(StepFailedError):
        Bench(store, executor).do(script("exit 3", mounts=(mount,)))
    assert len(store.cache_mounts.unused()) == 1


SECRET = SecretMount(
    id="token", target="", variable="TOKEN", is_required=True, mode=0o400, uid=0, gid=0
)


def test_secrets_reach_the_program(store: Store, executor: FakeExecutor) -> None:
    bench = Bench(store, executor, grants=Grants(secrets={"token": b"a-long-secret"}))
    bench.do(script("env TOKEN", mounts=(SECRET,)))
    assert bench.output == [("stdout", b"a-long-secret\n")]


def test_a_secret_hides_a_variable_of_its_name(store: Store, executor: FakeExecutor) -> None:
    bench = Bench(store, executor, grants=Grants(secrets={"token": b"a-long-secret"}))
    bench.do(script("true", env=("A=1", "TOKEN=x"), secret_env=("B=2",), mounts=(SECRET,)))
    assert asked_for(executor).program.env == ("A=1", "B=2", "TOKEN=a-long-secret")


def test_a_secret_that_is_not_given_is_an_error(store: Store, executor: FakeExecutor) -> None:
    with pytest.raises(MissingGrantError):
        Bench(store, executor).do(script("true", mounts=(SECRET,)))
    assert executor.specs == []


def test_a_secret_in_the_layer_is_an_error(store: Store, executor: FakeExecutor) -> None:
    bench = Bench(store, executor, grants=Grants(secrets={"token": b"a-long-secret"}))
    with pytest.raises(SecretLeakError, match="'/config'"):
        bench.do(script("echo my-a-long-secret > /config", mounts=(SECRET,)))
    bench.do(script("echo my-long-secret > /config", mounts=(SECRET,)))
    assert bench.read("config") == b"my-long-secret\n"


def test_a_secret_is_looked_for_in_every_layer_of_the_build(
    store: Store, executor: FakeExecutor
) -> None:
    """A cache mount may carry it from one step to another, and a context may hold its file."""
    grants = Grants(secrets={"token": b"a-long-secret"})
    with pytest.raises(SecretLeakError, match="'/config'"):
        Bench(store, executor, grants=grants).do(script("echo a-long-secret > /config"))
    copied = copying({"a": b"x", "env": b"TOKEN=a-long-secret"}, "a", "env", to="/to/")
    with pytest.raises(SecretLeakError, match="'/to/env'"):
        Bench(store, executor, grants=grants).do(copied)
    Bench(store, executor).do(copied)


def test_insecure_takes_the_walls_down(store: Store, executor: FakeExecutor) -> None:
    Bench(store, executor).do(script("true", security="insecure"))
    spec = asked_for(executor)
    assert spec.unmasked
    assert spec.program.capabilities == ALL_CAPABILITIES
    assert spec.program.seccomp == "unconfined"
    Bench(store, executor).do(script("true"))
    assert not asked_for(executor).unmasked
    assert asked_for(executor).program.capabilities is None


def test_settings_reach_the_sandbox(store: Store, executor: FakeExecutor) -> None:
    limit = ResourceLimit(name="nofile", soft=1, hard=2)
    settings = RunSettings(
        extra_hosts=(("db", "10.0.0.1"),), shm_size_bytes=7, resource_limits=(limit,)
    )
    Bench(store, executor).do(script("true", settings=settings))
    spec = asked_for(executor)
    assert spec.shm_size_bytes == 7
    assert spec.program.resource_limits == (limit,)
    (hosts,) = (m for m in spec.mounts if isinstance(m, FileMount) and m.target == "/etc/hosts")
    assert hosts.content.endswith(b"\n10.0.0.1\tdb\n")
    Bench(store, executor).do(script("true"))
    assert asked_for(executor).shm_size_bytes == 64 << 20


@pytest.mark.needs_root
@pytest.mark.needs_overlay
def test_a_program_talks_to_an_agent_through_a_relay(tmp_path: Path) -> None:
    """Listing keys reaches the agent, adding one does not."""
    rootfs.need_busybox()
    lower = rootfs.make_root(tmp_path / "root")
    received = []

    def agent(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            while data := connection.recv(1000):
                received.append(data)
                connection.sendall(b"\0\0\0\5\x0c\0\0\0\0")

    program = (
        "import socket\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "s.connect('/agent')\n"
        "for number in 11, 17:\n"
        "    s.sendall(bytes((0, 0, 0, 1, number)))\n"
        "    print(s.recv(100).hex())\n"
    )
    output: list[bytes] = []
    with (
        ForkServer() as server,  # before the thread
        socket.socket(socket.AF_UNIX) as listener,
    ):
        listener.bind(os.fspath(tmp_path / "agent"))
        listener.listen()
        thread = threading.Thread(target=agent, args=(listener,))
        thread.start()
        sandboxes = SandboxBench(executor=server, lower=lower, scratch=tmp_path)
        (tmp_path / "relay").mkdir()
        with AgentRelay(tmp_path / "agent", tmp_path / "relay") as relay:
            spec = sandboxes.spec(
                *(sys.executable, "-I", "-S", "-c", program),
                mounts=(*host_python(), BindMount(source=relay.path, target="/agent")),
            )
            status, _, _ = run_one(
                run_program(server, spec, lambda _, data: output.append(data), [relay])
            )
        thread.join(timeout=30)
    assert status.shell_code == 0
    assert b"".join(output).split() == [b"000000050c00000000", b"0000000105"]
    assert received == [bytes((0, 0, 0, 1, 11))]
