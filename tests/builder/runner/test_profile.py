"""What was asked for becomes what the sandbox gets."""

import os
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ContainerError
from builder.runner.profile import (
    NO_PROFILE,
    Profile,
    check_sysctls,
    limits_fields,
    namespaces_fields,
    program_fields,
    sandbox_fields,
)
from builder.sandbox import (
    ALL_CAPABILITIES,
    DEFAULT_CAPABILITIES,
    Device,
    Limits,
    Namespaces,
    Network,
    PlainRoot,
    Program,
    ResourceLimit,
    SandboxError,
    SandboxSpec,
    SeccompProfile,
)


class TestCapabilities:
    @pytest.mark.parametrize(
        ("profile", "expected"),
        [
            (Profile(cap_add=("CAP_SYS_TIME",)), DEFAULT_CAPABILITIES | {"CAP_SYS_TIME"}),
            (Profile(cap_drop=("CAP_CHOWN",)), DEFAULT_CAPABILITIES - {"CAP_CHOWN"}),
            (Profile(cap_drop=("ALL",)), frozenset()),
            (Profile(cap_drop=("ALL",), cap_add=("CAP_KILL",)), {"CAP_KILL"}),
            (Profile(cap_add=("ALL",)), ALL_CAPABILITIES),
            (Profile(cap_add=("ALL",), cap_drop=("CAP_KILL",)), ALL_CAPABILITIES - {"CAP_KILL"}),
            (Profile(cap_add=("CAP_KILL",), cap_drop=("CAP_KILL",)), DEFAULT_CAPABILITIES),
            (Profile(privileged=True, cap_drop=("ALL",)), ALL_CAPABILITIES),
        ],
    )
    def test_as_docker_adds_and_drops(self, profile: Profile, expected: frozenset[str]) -> None:
        assert program_fields(profile)["capabilities"] == expected

    def test_nothing_asked_for_leaves_everything_as_it_is(self) -> None:
        assert program_fields(NO_PROFILE) == {}
        assert limits_fields(NO_PROFILE) == dict.fromkeys(limits_fields(NO_PROFILE))

    def test_a_privileged_program_in_a_container_that_is_not(self) -> None:
        for profile in (NO_PROFILE, Profile(cap_drop=("ALL",), group_add=("55",))):
            fields = program_fields(profile, privileged=True)
            assert fields["capabilities"] == ALL_CAPABILITIES
            assert fields["seccomp"] == "unconfined"
            assert fields["extra_groups"] == profile.group_add


class TestProgram:
    def test_all_of_it(self) -> None:
        profile = Profile(
            no_new_privileges=True,
            group_add=("tty", "77"),
            ulimits=(("nofile", 10, 20),),
            oom_score_adj=-5,
        )
        program = Program(argv=("x",), **program_fields(profile))
        assert program.no_new_privs
        assert program.extra_groups == ("tty", "77")
        assert program.resource_limits == (ResourceLimit(name="nofile", soft=10, hard=20),)
        assert program.oom_score_adj == -5
        assert program.seccomp == "default"

    @pytest.mark.parametrize(
        ("profile", "expected"),
        [
            (Profile(privileged=True), "unconfined"),
            (Profile(seccomp="unconfined"), "unconfined"),
            (Profile(cap_add=("ALL",)), "default"),
        ],
    )
    def test_filters(self, profile: Profile, expected: str) -> None:
        assert program_fields(profile)["seccomp"] == expected

    def test_a_filter_of_the_user_s_own_holds_for_the_privileged_too(self) -> None:
        for privileged in (True, False):
            text = '{"defaultAction": "SCMP_ACT_ALLOW"}'
            profile = Profile(seccomp=text, privileged=privileged)
            found = program_fields(profile)["seccomp"]
            assert isinstance(found, SeccompProfile)
            assert found.default_action == "SCMP_ACT_ALLOW"

    def test_a_filter_is_read_for_the_rights_there_are(self) -> None:
        text = """{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW",
             "includes": {"caps": ["CAP_SYS_ADMIN"]}}]}"""
        assert not program_fields(Profile(seccomp=text))["seccomp"].rules
        more = Profile(seccomp=text, cap_add=("CAP_SYS_ADMIN",))
        assert program_fields(more)["seccomp"].rules

    def test_a_file_that_is_no_filter_is_told(self) -> None:
        with pytest.raises(SandboxError, match="seccomp profile"):
            program_fields(Profile(seccomp="nope"))


_ALL_PRIVATE = Namespaces()
_NET, _IPC = ("net.core.somaxconn", "77"), ("kernel.shmmax", "9999")


def _spec(network: Network, namespaces: Namespaces = _ALL_PRIVATE) -> SandboxSpec:
    return SandboxSpec(
        root=PlainRoot(path=Path("/")),
        program=Program(argv=("true",)),
        network=network,
        namespaces=namespaces,
    )


class TestSysctls:
    @pytest.mark.parametrize(
        ("asked", "spec", "whose"),
        [
            (_NET, _spec("host"), "network"),
            # --network container:NAME, of one that has the host's
            (_NET, _spec(Path("/proc/self/ns/net")), "network"),
            (_IPC, _spec("none", Namespaces(ipc="host")), "IPC"),
            (("fs.mqueue.msg_max", "9"), _spec("none", Namespaces(ipc="host")), "IPC"),
            (_IPC, _spec("none", Namespaces(ipc=os.getpid())), "IPC"),
        ],
    )
    def test_those_of_the_host_are_not_set(
        self, asked: tuple[str, str], spec: SandboxSpec, whose: str
    ) -> None:
        with pytest.raises(ContainerError, match=f"{asked[0]}.*the host's {whose} namespace"):
            check_sysctls((asked,), spec)

    def test_those_of_its_own_namespaces_are(self) -> None:
        check_sysctls((_NET, _IPC), _spec("none"))
        check_sysctls((_IPC,), _spec("host"))
        check_sysctls((_NET,), _spec("none", Namespaces(ipc="host")))

    def test_one_that_is_gone_is_for_who_joins_it(self, tmp_path: Path) -> None:
        check_sysctls((_NET,), _spec(tmp_path / "gone"))


class TestSandbox:
    def test_a_network_of_its_own_has_docker_s_settings(self) -> None:
        assert sandbox_fields(NO_PROFILE, has_own_network=False) == {"sysctls": ()}
        names = [name for name, _ in sandbox_fields(NO_PROFILE, has_own_network=True)["sysctls"]]
        assert "net.ipv4.ip_unprivileged_port_start" in names

    def test_what_was_asked_for_replaces_these(self) -> None:
        asked = ("net.ipv4.ip_unprivileged_port_start", "80")
        fields = sandbox_fields(Profile(sysctls=(asked,)), has_own_network=True)
        assert asked in fields["sysctls"]
        assert len({name for name, _ in fields["sysctls"]}) == len(fields["sysctls"])

    def test_what_is_hidden(self) -> None:
        plain = sandbox_fields(Profile(cap_add=("CAP_KILL",)), has_own_network=False)
        assert (plain["unmasked"], plain["hide_system_paths"]) == (False, True)
        shown = sandbox_fields(Profile(unconfined_paths=True), has_own_network=False)
        assert (shown["unmasked"], shown["hide_system_paths"]) == (False, False)
        everything = sandbox_fields(Profile(privileged=True), has_own_network=False)
        assert (everything["unmasked"], everything["hide_system_paths"]) == (True, False)


class TestDevices:
    def test_one_under_another_name(self) -> None:
        profile = Profile(devices=(("/dev/zero", "/dev/nought", "rwm"),))
        fields = sandbox_fields(profile, has_own_network=False)
        assert fields["devices"] == (Device(source=Path("/dev/zero"), target="/dev/nought"),)

    def test_the_privileged_get_those_of_the_host_but_no_terminals_and_memory(self) -> None:
        devices = sandbox_fields(Profile(privileged=True), has_own_network=False)["devices"]
        targets = {device.target for device in devices}
        assert {"/dev/null", "/dev/zero"} <= targets
        assert not [name for name in targets if name.startswith(("/dev/pts", "/dev/shm"))]
        assert not {"/dev/console", "/dev/ptmx"} & targets
        assert all(str(device.source) == device.target for device in devices)

    @pytest.mark.needs_root
    def test_those_of_a_directory(self, tmp_path: Path) -> None:
        (tmp_path / "in").mkdir()
        (tmp_path / "file").write_text("no device")
        for name in ("in/one", "two"):
            os.mknod(tmp_path / name, 0o20666, os.makedev(1, 5))
        profile = Profile(devices=((str(tmp_path), "/dev/mine", "rwm"),))
        devices = sandbox_fields(profile, has_own_network=False)["devices"]
        assert {device.target: device.source for device in devices} == {
            "/dev/mine/in/one": tmp_path / "in/one",
            "/dev/mine/two": tmp_path / "two",
        }

    @pytest.mark.parametrize(
        ("source", "message"),
        [("/dev/absent", "no such file or directory"), ("/etc/passwd", "not a device node")],
    )
    def test_what_is_none_is_told(self, source: str, message: str) -> None:
        profile = Profile(devices=((source, "/dev/x", "rwm"),))
        with pytest.raises(ContainerError, match=message):
            sandbox_fields(profile, has_own_network=False)


class TestNamespaces:
    def fields(self, **modes: Any) -> Namespaces:
        return Namespaces(**namespaces_fields(Profile(**modes), {"web": 77}.__getitem__))

    def test_modes(self) -> None:
        assert self.fields() == Namespaces()
        assert self.fields(pid="host", ipc="host", uts="host", cgroupns="host") == Namespaces(
            pid="host", ipc="host", uts="host", cgroup="host"
        )
        for mode in ("private", "shareable", "none"):
            assert self.fields(ipc=mode) == Namespaces()
        assert self.fields(pid="container:web", uts="container:web") == Namespaces(pid=77, uts=77)

    def test_whom_it_shares_with(self) -> None:
        profile = Profile(pid="container:a", ipc="host", uts="container:b")
        assert profile.shared == ("a", "b")
        assert NO_PROFILE.shared == ()


class TestLimits:
    def test_processors_are_time_in_periods(self) -> None:
        fields = limits_fields(Profile(nano_cpus=1_500_000_000))
        assert (fields["cpu_quota_us"], fields["cpu_period_us"]) == (150_000, 100_000)

    def test_all_of_them_are_limits_of_a_sandbox(self) -> None:
        profile = Profile(
            memory_swap_bytes=-1,
            memory_reservation_bytes=1,
            memory_swappiness=0,
            cpu_quota_us=2,
            cpu_period_us=3,
            cpu_shares=4,
            cpuset_cpus="0",
            cpuset_mems="1",
        )
        limits = Limits(**limits_fields(profile))
        assert limits == Limits(
            memory_swap_bytes=-1,
            memory_reservation_bytes=1,
            memory_swappiness=0,
            cpu_quota_us=2,
            cpu_period_us=3,
            cpu_shares=4,
            cpuset_cpus="0",
            cpuset_mems="1",
        )
