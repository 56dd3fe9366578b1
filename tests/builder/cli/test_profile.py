"""What a container may do, by the options of `run`; then containers that do it."""

from pathlib import Path
from typing import Any

import pytest

from builder.cli.arguments import UsageError, split
from builder.cli.profile import profile_of
from builder.cli.run import RUN
from builder.errors import UnsupportedFeatureError
from builder.runner import NO_PROFILE, Profile
from tests.support.commands import Commands

ALLOW_ALL = '{"defaultAction": "SCMP_ACT_ALLOW"}'


def asked(*words: str) -> Profile:
    return profile_of(split(RUN, [*words, "image"]), memory_bytes=0)


def problem(*words: str) -> str:
    try:
        asked(*words)
    except (UsageError, UnsupportedFeatureError) as error:
        return f"{error.message} ({error.hint})"
    pytest.fail("it was taken")


def test_without_a_word_there_is_nothing_to_say() -> None:
    assert asked("-m", "64m", "--read-only", "--init") is NO_PROFILE


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--privileged",), Profile(privileged=True)),
        (("--privileged=false",), NO_PROFILE),
        (("--cap-add", "net_admin"), Profile(cap_add=("CAP_NET_ADMIN",))),
        (
            ("--cap-add=CAP_KILL", "--cap-add=sys_Time", "--cap-add", "kill"),
            Profile(cap_add=("CAP_KILL", "CAP_SYS_TIME")),
        ),
        (("--cap-drop", "all"), Profile(cap_drop=("ALL",))),
        (("--group-add", "tty", "--group-add", "5"), Profile(group_add=("tty", "5"))),
        (("--sysctl", "net.core.somaxconn=5"), Profile(sysctls=(("net.core.somaxconn", "5"),))),
        (("--sysctl", "net/a.b/c=5"), Profile(sysctls=(("net.a/b.c", "5"),))),
        (("--sysctl=net.a=1 2", "--sysctl=net.a=3"), Profile(sysctls=(("net.a", "3"),))),
        (("--sysctl", "fs.mqueue.msg_max=9"), Profile(sysctls=(("fs.mqueue.msg_max", "9"),))),
        (("--oom-score-adj", "-1000"), Profile(oom_score_adj=-1000)),
        (("--oom-score-adj", "0"), Profile(oom_score_adj=0)),
        (("--userns", "host"), Profile(userns="host")),
        (("--pid=host", "--uts=host", "--ipc=none"), Profile(pid="host", uts="host", ipc="none")),
        (("--pid", "container:a"), Profile(pid="container:a")),
        (("--cgroupns", "private"), Profile(cgroupns="private")),
        (("--ulimit", "nofile=1:2"), Profile(ulimits=(("nofile", 1, 2),))),
        (("--cpus", "0.5", "-c", "512"), Profile(nano_cpus=500_000_000, cpu_shares=512)),
        (("--cpuset-cpus", "0", "--cpu-period=5000"), Profile(cpuset_cpus="0", cpu_period_us=5000)),
    ],
)  # fmt: skip
def test_every_option(words: tuple[str, ...], expected: Profile) -> None:
    assert asked(*words) == expected


class TestSecurity:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("no-new-privileges", {"no_new_privileges": True}),
            ("no-new-privileges=true", {"no_new_privileges": True}),
            ("no-new-privileges:true", {"no_new_privileges": True}),
            ("no-new-privileges:false", {}),
            ("seccomp=unconfined", {"seccomp": "unconfined"}),
            ("seccomp:unconfined", {"seccomp": "unconfined"}),
            ("seccomp=builtin", {}),
            ("seccomp=default", {}),
            ("systempaths=unconfined", {"unconfined_paths": True}),
            ("label=disable", {}),
            ("apparmor=unconfined", {}),
        ],
    )
    def test_every_form(self, text: str, expected: dict[str, Any]) -> None:
        assert asked("--security-opt", text) == Profile(security_opt=(text,), **expected)

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text(ALLOW_ALL)
        assert asked("--security-opt", f"seccomp={tmp_path}/p.json").seccomp == ALLOW_ALL

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "invalid --security-opt: ''"),
            ("nope", "invalid --security-opt: 'nope'"),
            ("seccomp=", "invalid --security-opt"),
            ("seccomp", "invalid --security-opt"),
            ("no-new-privileges=maybe", "invalid --security-opt"),
            ("systempaths=x", "invalid --security-opt"),
            ("x=y", "invalid --security-opt: 'x=y'"),
            ("seccomp=/absent.json", "opening seccomp profile (/absent.json) failed: No such file"),
            ("label=type:spc_t", "--security-opt label=type:spc_t is not supported"),
            ("apparmor=docker-default", "is not supported"),
            ("mask=/proc", "is not supported"),
        ],
    )
    def test_what_is_wrong(self, text: str, message: str) -> None:
        assert message in problem("--security-opt", text)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        (tmp_path / "p").write_bytes(b"\xff\xfe")
        assert "it is no text" in problem("--security-opt", f"seccomp={tmp_path}/p")


class TestDevices:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("/dev/a", ("/dev/a", "/dev/a", "rwm")),
            ("/dev/a:/dev/b", ("/dev/a", "/dev/b", "rwm")),
            ("/dev/a:/dev/b:rw", ("/dev/a", "/dev/b", "rw")),
            ("/dev/a:mrw", ("/dev/a", "/dev/a", "mrw")),
            ("/dev/a::rw", ("/dev/a", "/dev/a", "rw")),
        ],
    )
    def test_every_form(self, text: str, expected: tuple[str, str, str]) -> None:
        assert asked("--device", text).devices == (expected,)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("dev/a", "dev/a is not an absolute path"),
            ("/dev/a:b", "b is not an absolute path"),
            ("/dev/a:/dev/b:x", "bad mode specified: x"),
            ("/dev/a:/dev/b:rr", "bad mode specified: rr"),
            ("/dev/a:/b:rw:x", "invalid device specification"),
            ("/dev/../etc/shadow", "is not an absolute path"),
            ("vendor.com/gpu=0", "is not supported"),
            ("/dev/a:r", "the access 'r' is not supported"),
        ],
    )
    def test_what_is_wrong(self, text: str, message: str) -> None:
        assert message in problem("--device", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--cap-add", "nope"), 'invalid CapAdd: unknown capability: "CAP_NOPE"'),
        (("--cap-drop", ""), 'invalid CapDrop: unknown capability: "CAP_"'),
        (("--sysctl", "kernel.core_pattern=x"), "sysctl 'kernel.core_pattern=x' is not allowed"),
        (("--sysctl", "net.core.somaxconn"), "is not allowed"),
        (("--sysctl", "net./../../kernel/core_pattern=x"), "is not allowed"),
        (("--sysctl", "vm.swappiness=1"), "is not allowed"),
        (("--oom-score-adj", "1001"), "range for oom score adj is [-1000, 1000]"),
        (("--oom-score-adj", "x"), "'x' for --oom-score-adj"),
        (("--userns", "x"), "--userns: invalid USER mode 'x' (host)"),
        (("--userns", "keep-id"), "--userns keep-id is not supported"),
        (("--pid", "private"), "--pid: invalid PID mode"),
        (("--pid", "container:"), "--pid: invalid PID mode"),
        (("--ipc", "x"), "--ipc: invalid IPC mode"),
        (("--uts", "x"), "--uts: invalid UTS mode"),
        (("--cgroupns", "x"), "--cgroupns: invalid CGROUP mode"),
        (("--cpus", "1", "--cpu-quota", "5000"), "Nano CPUs and CPU Quota cannot both be set"),
        (("--cpus", "1", "--cpu-period", "5000"), "Nano CPUs and CPU Period cannot both be set"),
        (("--memory-swap", "1g"), "always set the memory limit"),
        (("--memory-swappiness", "200"), "range is 0-100"),
    ],
)
def test_what_makes_no_sense_is_told(words: tuple[str, ...], message: str) -> None:
    assert message in problem(*words)


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestContainers:
    """As a user tries them."""

    def sh(self, box: Commands, *words: str, code: int = 0) -> list[str]:
        *options, script = words
        return box("run", "--rm", *options, "box", "sh", "-c", script, code=code).lines

    def test_capabilities(self, box: Commands) -> None:
        show = "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2"
        assert (
            self.sh(box, "--cap-drop=all", "--cap-add=net_admin", show) == [f"{1 << 12:016x}"] * 2
        )
        assert self.sh(box, "--cap-drop=ALL", show) == ["0" * 16] * 2
        assert self.sh(box, "-u", "7", "--cap-add=net_admin", show) == [
            "0" * 16,
            "00000000a80435fb",
        ]

    def test_privileged(self, box: Commands) -> None:
        script = (
            "mkdir /m; mount -t tmpfs none /m && echo mounted; mknod /null c 1 3; echo > /null"
            " && echo opened; grep Seccomp: /proc/self/status; test -w /proc/sys/kernel && ls /dev"
        )
        mounted, opened, seccomp, *devices = self.sh(box, "--privileged", script)
        assert (mounted, opened, seccomp) == ("mounted", "opened", "Seccomp:\t0")
        assert {path.name for path in Path("/dev").iterdir() if path.is_char_device()} - {
            *("console", "ptmx"),
        } <= set(devices)

    def test_a_seccomp_profile(self, box: Commands, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text(
            '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"],'
            '"action": "SCMP_ACT_ERRNO", "errnoRet": 30}]}'
        )
        done = box(
            *("run", "--rm", "--security-opt", f"seccomp={tmp_path}/p.json", "box"),
            *("mkdir", "/new"),
            code=1,
        )
        assert "Read-only file system" in done.err
        (tmp_path / "p.json").write_text("{")
        line = ("run", "--rm", "--security-opt", f"seccomp={tmp_path}/p.json", "box", "true")
        assert "decoding the seccomp profile failed" in box(*line, code=125).err

    def test_groups_limits_and_settings(self, box: Commands) -> None:
        assert self.sh(box, "--group-add=77", "--group-add=88", "id -G")[0].endswith("77 88")
        assert self.sh(box, "--ulimit=nofile=50:60", "ulimit -n; ulimit -Hn") == ["50", "60"]
        assert self.sh(box, "--oom-score-adj=7", "cat /proc/self/oom_score_adj") == ["7"]
        script = "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni"
        words = ("--network=none", "--sysctl=net.core.somaxconn=9", "--sysctl=kernel.shmmni=8")
        assert self.sh(box, *words, script) == ["9", "8"]
        wrong = ("--group-add=nobodys", "true")
        assert self.sh(box, *wrong, code=125) == []

    def test_devices(self, box: Commands) -> None:
        script = "head -c 2 /dev/deep/zero | od -An -tx1; ls /dev/deep"
        assert self.sh(box, "--device=/dev/zero:/dev/deep/zero", script) == [" 00 00", "zero"]
        script = "head -c 2 /srv/zero | od -An -tx1"
        assert self.sh(box, "--device=/dev/zero:/srv/zero", script) == [" 00 00"]

    def test_namespaces_of_another_container(self, box: Commands) -> None:
        box("run", "-d", "--name=donor", "--ipc=shareable", "-h", "giver", "box", "sleep", "60")
        try:
            box("exec", "donor", "sh", "-c", "echo shared > /dev/shm/it")
            modes = [f"--{kind}=container:donor" for kind in ("pid", "ipc", "uts")]
            script = "cat /dev/shm/it; hostname; tr '\\0' ' ' < /proc/2/cmdline"
            assert self.sh(box, *modes, script) == ["shared", "giver", "sleep 60 "]
            assert box("exec", "donor", "ps", "-o", "args").lines[1:3] == [
                *("lamina-init", "sleep 60"),
            ]
        finally:
            box("rm", "-f", "donor")
        missing = box("run", "--rm", "--pid=container:donor", "box", "true", code=125)
        assert "no such container: donor" in missing.err

    def test_what_is_not_shareable(self, box: Commands) -> None:
        box("run", "-d", "--name=miser", "box", "sleep", "60")
        try:
            done = box("run", "--rm", "--ipc=container:miser", "box", "true", code=125)
            assert "it is not shareable" in done.err
        finally:
            box("rm", "-f", "miser")

    def test_the_host_s_processes(self, box: Commands) -> None:
        """And nothing of it is left when it ends, whoever ran off."""
        script = "[ $$ -gt 2 ] || exit 1; (sleep 876 &) ; sleep 0.1; echo $(pidof sleep | wc -w)"
        (count,) = self.sh(box, "--pid=host", script)
        assert int(count) >= 1
        logged = box("run", "--name=logged", "--pid=host", "box", "sh", "-c", script)
        assert int(logged.out) >= 1
        assert not [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if path.exists() and path.read_bytes() == b"sleep\x00876\x00"
        ]

    def test_exec_has_the_container_s_rights_or_all(self, box: Commands) -> None:
        box("run", "-d", "--name=it", "--cap-drop=ALL", "--group-add=55", "box", "sleep", "60")
        try:
            show = ("sh", "-c", "grep CapEff /proc/self/status; id -G")
            assert box("exec", "it", *show).lines == ["CapEff:\t" + "0" * 16, "0 10 55"]
            privileged = box("exec", "--privileged", "it", *show).lines[0]
            assert int(privileged.split()[1], 16) & 1 << 21
        finally:
            box("rm", "-f", "it")

    def test_inspect_tells_all_of_it(self, box: Commands) -> None:
        words = (
            *("--cap-add=kill", "--security-opt=no-new-privileges", "--pid=host", "--cpus=0.5"),
            *("--ulimit=core=0", "--device=/dev/zero", "--sysctl=kernel.shmmni=8", "-m", "64m"),
        )
        box("create", "--name=told", *words, "box")
        form = (
            "{{.HostConfig.CapAdd}} {{.HostConfig.SecurityOpt}} {{.HostConfig.PidMode}} "
            "{{.HostConfig.NanoCpus}} {{json .HostConfig.Ulimits}} {{json .HostConfig.Devices}} "
            "{{json .HostConfig.Sysctls}} {{.HostConfig.MemorySwap}}"
        )
        assert box("inspect", "-f", form, "told").out.strip() == (
            '[CAP_KILL] [no-new-privileges] host 500000000 [{"Name":"core","Hard":0,"Soft":0}] '
            '[{"PathOnHost":"/dev/zero","PathInContainer":"/dev/zero","CgroupPermissions":"rwm"}] '
            '{"kernel.shmmni":"8"} 134217728'
        )

    def test_a_root_that_cannot_be_written_with_a_place_that_can(self, box: Commands) -> None:
        script = (
            "touch /x 2>&1; touch /scratch/x && echo written; stat -c %u:%a /scratch;"
            " grep -o ' /scratch [a-z,]*' /proc/self/mountinfo"
        )
        words = ("--read-only", "--tmpfs=/scratch:uid=7,mode=700")
        refused, written, owner, flags = self.sh(box, *words, script)
        assert "Read-only file system" in refused
        assert (written, owner) == ("written", "7:700")
        assert {"rw", "nosuid", "nodev", "noexec"} <= set(flags.split()[1].split(","))

    def test_a_program_in_memory_needs_a_word(self, box: Commands) -> None:
        script = "cp /bin/busybox /m/true; /m/true 2>&1"
        assert "Permission denied" in self.sh(box, "--tmpfs=/m", script, code=126)[0]
        assert self.sh(box, "--tmpfs=/m:exec", script) == []
