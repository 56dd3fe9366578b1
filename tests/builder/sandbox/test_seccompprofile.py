"""What a profile says on which machine, and what is wrong with others."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builder.sandbox import (
    DEFAULT_CAPABILITIES,
    SandboxError,
    SeccompArgument,
    SeccompProfile,
    parse_seccomp_profile,
    seccomp,
)
from tests.support.sandboxes import Bench

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
ARCH_MAP = [
    {
        "architecture": "SCMP_ARCH_X86_64",
        "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    },
    {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
]


def parsed(
    *rules: dict[str, Any],
    capabilities: frozenset[str] = DEFAULT_CAPABILITIES,
    machine: str = "x86_64",
    kernel: tuple[int, int] = (6, 1),
    **top: Any,
) -> SeccompProfile:
    document = {"defaultAction": ERRNO, "archMap": ARCH_MAP, "syscalls": rules, **top}
    return parse_seccomp_profile(
        json.dumps({key: value for key, value in document.items() if value is not None}),
        capabilities=capabilities,
        machine=machine,
        kernel=kernel,
    )


def names(profile: SeccompProfile) -> list[str]:
    return [name for rule in profile.rules for name in rule.names]


def rule(name: str, **more: Any) -> dict[str, Any]:
    return {"names": [name], "action": ALLOW, **more}


def problem(text: str) -> str:
    with pytest.raises(SandboxError) as caught:
        parse_seccomp_profile(text, capabilities=frozenset(), machine="x86_64", kernel=(6, 1))
    return f"{caught.value.message} ({caught.value.hint})"


class TestArchitectures:
    def test_the_map_tells_what_goes_with_this_machine(self) -> None:
        x86 = ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32")
        assert parsed().architectures == x86
        arm = ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM")
        assert parsed(machine="aarch64").architectures == arm

    def test_without_a_word_about_it_there_is_the_machine_s_own(self) -> None:
        assert parsed(archMap=None).architectures == ("SCMP_ARCH_X86_64",)

    def test_a_plain_list_is_added_to_the_machine_s_own(self) -> None:
        found = parsed(archMap=None, architectures=["SCMP_ARCH_X86"]).architectures
        assert found == ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86")


class TestConditions:
    @pytest.mark.parametrize(
        ("more", "holds"),
        [
            ({}, True),
            ({"includes": {}, "excludes": {}}, True),
            ({"includes": None}, True),
            ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
            ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
            ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
            ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
            ({"excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}}, False),
            ({"includes": {"arches": ["amd64", "x32"]}}, True),
            ({"includes": {"arches": ["arm64"]}}, False),
            ({"excludes": {"arches": ["amd64"]}}, False),
            ({"excludes": {"arches": ["s390"]}}, True),
            ({"includes": {"minKernel": "6.1"}}, True),
            ({"includes": {"minKernel": "6.2"}}, False),
            ({"includes": {"minKernel": "4.8"}}, True),
            ({"excludes": {"minKernel": "4.8"}}, False),
            ({"excludes": {"minKernel": "6.10"}}, True),
            ({"includes": {"minKernel": "4.8"}, "excludes": {"arches": ["amd64"]}}, False),
        ],
    )
    def test_a_rule_may_be_for_some_alone(self, more: dict[str, Any], holds: bool) -> None:
        assert names(parsed(rule("chmod", **more))) == (["chmod"] if holds else [])

    def test_kernels_are_compared_as_numbers(self) -> None:
        ten = rule("chmod", includes={"minKernel": "5.10"})
        assert names(parsed(ten, kernel=(5, 9))) == []
        assert names(parsed(ten, kernel=(5, 10))) == ["chmod"]


class TestRules:
    def test_all_that_can_be_said(self) -> None:
        given = {
            "names": ["socket", "bind"],
            "action": ERRNO,
            "errnoRet": 22,
            "comment": "ours",
            "args": [
                {"index": 1, "value": 5, "op": "SCMP_CMP_NE"},
                {"index": 0, "value": 7, "valueTwo": 1 << 63, "op": "SCMP_CMP_MASKED_EQ"},
            ],
        }
        profile = parsed(given, defaultErrnoRet=38, flags=["SECCOMP_FILTER_FLAG_LOG"])
        assert profile.default_errno == 38
        assert profile.flags == ("SECCOMP_FILTER_FLAG_LOG",)
        (found,) = profile.rules
        assert (found.names, found.action, found.errno) == (("socket", "bind"), ERRNO, 22)
        assert found.arguments == (
            SeccompArgument(position=1, operator="SCMP_CMP_NE", value=5),
            SeccompArgument(position=0, operator="SCMP_CMP_MASKED_EQ", value=7, value_two=1 << 63),
        )

    def test_one_name_the_old_way(self) -> None:
        assert names(parsed({"name": "chmod", "action": ALLOW})) == ["chmod"]

    def test_nothing_needs_to_be_there_but_the_default(self) -> None:
        assert parse_seccomp_profile(
            '{"defaultAction": "SCMP_ACT_ALLOW"}',
            capabilities=frozenset(),
            machine="aarch64",
            kernel=(6, 1),
        ) == SeccompProfile(default_action=ALLOW, architectures=("SCMP_ARCH_AARCH64",), rules=())


def with_rule(**fields: Any) -> str:
    return json.dumps({"defaultAction": ERRNO, "syscalls": [{"action": ALLOW, **fields}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "decoding the seccomp profile failed"),
        ("{", "decoding the seccomp profile failed"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "the profile is no JSON object"),
        ("{}", "is empty"),
        ('{"syscalls": []}', "defaultAction is missing in the profile"),
        ('{"defaultAction": "ALLOW"}', "'ALLOW' in the profile is not supported"),
        ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "'SCMP_ACT_NOTIFY'"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/s"}', "listenerPath"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}', "syscalls in the profile"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [1]}', "a rule of syscalls"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}', "the flag 'X'"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": -1}', "errnoRet -1"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 4096}', "errnoRet 4096"),
        (
            '{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["a"], "archMap": [{}]}',
            "use either 'architectures' or 'archMap'",
        ),
        (with_rule(name="a", names=["b"]), "'name' and 'names'"),
        (with_rule(name=5), "is no text"),
        (with_rule(names=[5]), "something else than words"),
        (with_rule(names=["a"], action="KILL"), "action 'KILL' in the rule of a"),
        (with_rule(names=["a"], args=[5]), "args of the rule of a is no JSON object"),
        (with_rule(names=["a"], args=[{"index": 6, "op": "SCMP_CMP_EQ"}]), "index 6"),
        (with_rule(names=["a"], args=[{"index": True, "op": "SCMP_CMP_EQ"}]), "index True"),
        (with_rule(names=["a"], args=[{"index": 0, "op": "=="}]), "op '=='"),
        (with_rule(names=["a"], args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": -1}]), "value -1"),
        (
            with_rule(names=["a"], args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 1 << 64}]),
            "no number of 64 bits",
        ),
        (with_rule(names=["a"], includes=[1]), "includes is no JSON object"),
        (with_rule(names=["a"], includes={"minKernel": "new"}), "invalid kernel version 'new'"),
        (with_rule(names=["a"], includes={"minKernel": "6"}), "invalid kernel version '6'"),
        (
            with_rule(names=["a"], includes={"minKernel": "4." + "9" * 5000}),
            "invalid kernel version",
        ),
    ],
)
def test_what_is_no_profile_is_told(text: str, message: str) -> None:
    assert message in problem(text)


PODMANS = "/usr/share/containers/seccomp.json"


@pytest.mark.needs_peers(PODMANS)
def test_the_profile_of_another_tool_can_be_read() -> None:
    """Docker's format, and a default of ENOSYS."""
    text = Path(PODMANS).read_text()
    profile = parse_seccomp_profile(
        text, capabilities=DEFAULT_CAPABILITIES, machine="x86_64", kernel=(6, 1)
    )
    assert {"read", "execve", "clone"} <= set(names(profile))
    assert "bpf" not in {
        name for rule in profile.rules for name in rule.names if rule.action == ALLOW
    }
    assert len(seccomp.compile_profile(profile, "x86_64")) % 8 == 0


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestAtWork:
    def profile(self, *rules: dict[str, Any], **top: Any) -> SeccompProfile:
        return parsed(*rules, machine=os.uname().machine, **top)

    def test_what_it_forbids_fails_and_the_rest_works(self, bench: Bench) -> None:
        denied = {"names": ["chmod", "fchmodat", "fchmodat2"], "action": ERRNO, "errnoRet": 28}
        profile = self.profile(denied, defaultAction=ALLOW)
        outcome = bench.sh("touch /f; chmod 600 /f; echo after", seccomp=profile)
        assert outcome.text == "after\n"
        assert b"No space left on device" in outcome.stderr

    def test_with_no_new_privs_it_is_loaded_last(self, bench: Bench) -> None:
        """Neither the ids nor the capabilities can be changed under it, yet they are."""
        calls = ["setresuid", "setresgid", "setgroups", "capset"]
        denied = {"names": calls, "action": "SCMP_ACT_KILL_PROCESS"}
        profile = self.profile(denied, defaultAction=ALLOW)
        words: dict[str, Any] = {"seccomp": profile, "user": "1000:1000", "no_new_privs": True}
        lines = bench.run("/bin/cat", "/proc/self/status", **words).lines
        found = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert found["Uid"].split() == ["1000"] * 4
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")

    def test_execve_is_all_that_the_start_needs(self, bench: Bench) -> None:
        profile = self.profile(
            {"names": ["execveat"], "action": "SCMP_ACT_KILL_PROCESS"}, defaultAction=ALLOW
        )
        assert bench.sh("echo hi", seccomp=profile).text == "hi\n"
