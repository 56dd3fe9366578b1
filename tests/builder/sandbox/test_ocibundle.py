"""config.json: valid, the same walls as ours, and nothing left out."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import jsonschema
import pytest

from builder.sandbox import capabilities, ocibundle, seccomp
from builder.sandbox.errors import SandboxError
from builder.sandbox.limits import Limits, ResourceLimit
from builder.sandbox.mounts import MASKED, READ_ONLY
from builder.sandbox.ocibundle import Facts, Shown, check, config
from builder.sandbox.spec import (
    Device,
    Namespaces,
    PlainRoot,
    Program,
    SandboxSpec,
    SeccompArgument,
    SeccompProfile,
    SeccompRule,
    TmpfsMount,
)
from builder.sandbox.users import Ids

ROOT = PlainRoot(path=Path("/r"))
FACTS = Facts(root=Path("/b/root"), ids=Ids(uid=0, gid=0, groups=(10,)), cgroups_path="/g")


def spec(*argv: str, program: dict[str, Any] | None = None, **words: Any) -> SandboxSpec:
    return SandboxSpec(root=ROOT, program=Program(argv=argv or ("x",), **(program or {})), **words)


def process(facts: Facts = FACTS, **program: Any) -> dict[str, Any]:
    found: dict[str, Any] = config(spec(program=program), facts)["process"]
    return found


# The rules of config.md and config-linux.md for what we write. `additionalProperties` is false
# where the specification has fixed names, so that a slip of the pen is seen.
def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
        "additionalProperties": False,
    }


_TEXT = {"type": "string", "minLength": 1}
_PATH = {"type": "string", "pattern": "^/"}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1}
_ID = {"type": "integer", "minimum": 0, "maximum": (1 << 32) - 1}
_SIGNED = {"type": "integer", "minimum": -(1 << 63), "maximum": (1 << 63) - 1}
_FLAG = {"type": "boolean"}


def _list(item: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, **more}


_CAPABILITIES = _list({"enum": list(capabilities.NAMES)}, uniqueItems=True)
_RLIMITS = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK LOCKS SIGPENDING MSGQUEUE NICE"
SCHEMA = _object(
    {
        "ociVersion": {"type": "string", "pattern": r"^1\.\d+\.\d+$"},
        "process": _object(
            {
                "cwd": _PATH,
                "args": _list({"type": "string"}, minItems=1),
                "user": _object(
                    {"uid": _ID, "gid": _ID},
                    {"umask": {"enum": [0o022]}, "additionalGids": _list(_ID)},
                ),
            },
            {
                "terminal": _FLAG,
                "consoleSize": _object({"height": _NUMBER, "width": _NUMBER}),
                "env": _list({"type": "string", "pattern": "^[^=]+="}),
                "noNewPrivileges": _FLAG,
                "oomScoreAdj": {"type": "integer", "minimum": -1000, "maximum": 1000},
                "rlimits": _list(
                    _object(
                        {
                            "type": {"enum": [f"RLIMIT_{name}" for name in _RLIMITS.split()]},
                            "soft": _NUMBER,
                            "hard": _NUMBER,
                        }
                    )
                ),
                "capabilities": _object(
                    {},
                    dict.fromkeys(
                        ("bounding", "effective", "inheritable", "permitted", "ambient"),
                        _CAPABILITIES,
                    ),
                ),
            },
        ),
        "root": _object({"path": _TEXT}, {"readonly": _FLAG}),
        "mounts": _list(
            _object({"destination": _PATH, "type": _TEXT, "source": _TEXT, "options": _list(_TEXT)})
        ),
        "linux": _object(
            {"namespaces": _list(_object({"type": _TEXT}, {"path": _PATH}), uniqueItems=True)},
            {
                "cgroupsPath": _TEXT,
                "rootfsPropagation": {"enum": ["shared", "slave", "private", "unbindable"]},
                "maskedPaths": _list(_PATH),
                "readonlyPaths": _list(_PATH),
                "sysctl": {"type": "object", "additionalProperties": _TEXT},
                "resources": _object(
                    {},
                    {
                        "devices": _list(
                            _object(
                                {"allow": _FLAG},
                                {
                                    "type": {"enum": ["a", "b", "c"]},
                                    "major": _SIGNED,
                                    "minor": _SIGNED,
                                    "access": {"type": "string", "pattern": "^r?w?m?$"},
                                },
                            )
                        ),
                        "pids": _object({"limit": _SIGNED}),
                        "memory": _object(
                            {},
                            {
                                **dict.fromkeys(("limit", "swap", "reservation"), _SIGNED),
                                "swappiness": _NUMBER,
                            },
                        ),
                        "cpu": _object(
                            {},
                            {
                                **dict.fromkeys(("period", "shares"), _NUMBER),
                                "quota": _SIGNED,
                                **dict.fromkeys(("cpus", "mems"), _TEXT),
                            },
                        ),
                    },
                ),
                "seccomp": _object(
                    {"defaultAction": {"enum": ["SCMP_ACT_ERRNO"]}},
                    {
                        "defaultErrnoRet": _ID,
                        "flags": _list({"type": "string", "pattern": "^SECCOMP_FILTER_FLAG_"}),
                        "architectures": _list({"type": "string", "pattern": "^SCMP_ARCH_"}),
                        "syscalls": _list(
                            _object(
                                {
                                    "names": _list(_TEXT, minItems=1),
                                    "action": {"enum": ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"]},
                                },
                                {
                                    "errnoRet": _ID,
                                    "args": _list(
                                        _object(
                                            {
                                                "index": {"enum": [0, 1, 2, 3, 4, 5]},
                                                "value": _NUMBER,
                                                "op": {
                                                    "enum": ["SCMP_CMP_EQ", "SCMP_CMP_MASKED_EQ"]
                                                },
                                            },
                                            {"valueTwo": _NUMBER},
                                        )
                                    ),
                                },
                            )
                        ),
                    },
                ),
            },
        ),
    },
    {"hostname": _TEXT},
)


def complaints(document: dict[str, Any]) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return [error.message for error in validator.iter_errors(document)]


FULL = spec(
    "/bin/x",
    "a b",
    program={
        "env": ("A=1",),
        "cwd": "/w",
        "user": "ada",
        "terminal": True,
        "terminal_size": (24, 80),
        "no_new_privs": True,
        "capabilities": frozenset({"CAP_KILL"}),
        "resource_limits": (ResourceLimit(name="nofile", soft=10, hard=-1),),
    },
    mounts=(TmpfsMount(target="/t"),),
    hostname="ship",
    network="host",
    shm_size_bytes=4096,
    read_only_root=True,
    limits=Limits(pids_max=5, memory_bytes=1 << 20),
)
FULL_FACTS = Facts(
    root=Path("/b/root"),
    ids=Ids(uid=1000, gid=100, groups=(50, 100), home="/home/ada"),
    cgroups_path="/lamina-1-r0",
    shown=(
        Shown("/t", Path("/b/shown/0"), options=("nosuid",)),
        Shown("/data", Path("/b/shown/1"), read_only=True, is_recursive=True),
    ),
    throttled_cpus=("cpu0",),
    has_swap_limit=True,
)


class TestSchema:
    @pytest.mark.parametrize(
        ("asked", "facts"),
        [(spec(), FACTS), (FULL, FULL_FACTS), (spec(), FACTS._replace(machine="aarch64"))],
    )
    def test_the_document_is_valid(self, asked: SandboxSpec, facts: Facts) -> None:
        assert complaints(config(asked, facts)) == []

    def test_the_schema_finds_something(self) -> None:
        document = config(FULL, FULL_FACTS)
        document["process"]["cwd"] = "relative"
        document["linux"]["resource"] = {}
        del document["root"]["path"]
        assert len(complaints(document)) == 3


class TestWhatCannotBeSaid:
    OTHERS: dict[str, dict[str, Any]] = {  # noqa: RUF012 - read only
        "SandboxSpec": {
            "unmasked": True,
            "domainname": "example",
            "namespaces": Namespaces(pid="host"),
        },
        "Program": {"processors": 1, "skipped_pids": 3},
        "Limits": {},
    }

    def test_every_field_that_is_not_carried_is_refused(self) -> None:
        """Also one that somebody adds tomorrow."""
        for kind, carried in ocibundle.CARRIED.items():
            names = {field.name for field in fields(kind)}
            assert carried <= names
            assert names - carried == set(self.OTHERS[kind.__name__])

    @pytest.mark.parametrize(
        ("asked", "name"),
        [
            (spec(unmasked=True), "--privileged"),
            (spec(namespaces=Namespaces(ipc=77)), "--pid, --ipc, --uts or --cgroupns"),
            (spec(program={"processors": 1}), "processors"),
            (spec(program={"skipped_pids": 3}), "skipped_pids"),
        ],
    )
    def test_the_error_names_the_option_or_the_field(self, asked: SandboxSpec, name: str) -> None:
        with pytest.raises(
            SandboxError, match=f"^write config.json: {name} is not carried out"
        ) as caught:
            config(asked, FACTS)
        assert "--runtime" in caught.value.hint

    def test_defaults_are_no_request(self) -> None:
        check(spec())
        check(FULL)


class TestProcess:
    def test_it_is_what_was_asked_for(self) -> None:
        found = config(FULL, FULL_FACTS)["process"]
        assert found["args"] == ["/bin/x", "a b"]
        assert found["cwd"] == "/w"
        assert found["consoleSize"] == {"height": 24, "width": 80}
        assert found["noNewPrivileges"] is True

    def test_home_is_that_of_the_user_unless_given(self) -> None:
        assert config(FULL, FULL_FACTS)["process"]["env"] == ["A=1", "HOME=/home/ada"]
        assert process(env=("HOME=/x",))["env"] == ["HOME=/x"]

    def test_groups_are_listed_once_the_primary_one_first(self) -> None:
        assert config(FULL, FULL_FACTS)["process"]["user"]["additionalGids"] == [100, 50]
        assert process()["user"] == {"uid": 0, "gid": 0, "additionalGids": [0, 10], "umask": 0o022}

    def test_root_has_dockers_capabilities(self) -> None:
        found = process()["capabilities"]
        assert found["bounding"] == found["effective"] == found["permitted"]
        assert set(found["bounding"]) == capabilities.DEFAULT
        assert found["inheritable"] == found["ambient"] == []

    def test_another_user_has_none_but_may_get_them(self) -> None:
        found = config(FULL, FULL_FACTS)["process"]["capabilities"]
        assert found["bounding"] == ["CAP_KILL"]
        assert found["effective"] == found["permitted"] == []

    def test_no_bound_is_the_largest_number(self) -> None:
        assert config(FULL, FULL_FACTS)["process"]["rlimits"] == [
            {"type": "RLIMIT_NOFILE", "soft": 10, "hard": (1 << 64) - 1}
        ]


class TestMounts:
    def mounts(self, asked: SandboxSpec = FULL, facts: Facts = FULL_FACTS) -> dict[str, Any]:
        return {mount["destination"]: mount for mount in config(asked, facts)["mounts"]}

    def test_the_kernels_views_are_ours(self) -> None:
        found = self.mounts()
        assert set(found) == {
            *("/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"),
            *("/t", "/data"),
        }
        for name in ("/proc", "/sys", "/sys/fs/cgroup", "/dev/shm", "/dev/mqueue"):
            assert {"nosuid", "noexec", "nodev"} <= set(found[name]["options"])
        for name in ("/sys", "/sys/fs/cgroup"):
            assert "ro" in found[name]["options"]
        assert "size=4096" in found["/dev/shm"]["options"]

    def test_outer_mounts_come_first(self) -> None:
        names = list(self.mounts())
        assert names.index("/dev") < names.index("/dev/shm")
        assert names.index("/sys") < names.index("/sys/fs/cgroup")

    def test_binds_let_no_device_be_opened_and_stay_private(self) -> None:
        found = self.mounts()
        assert found["/data"]["options"] == ["rbind", "rprivate", "nodev", "ro"]
        assert found["/t"]["options"] == ["bind", "rprivate", "nodev", "rw", "nosuid"]
        assert found["/t"]["source"] == "/b/shown/0"

    def test_no_shared_memory_at_all(self) -> None:
        """A size of 0 would be one without a bound."""
        assert "/dev/shm" not in self.mounts(replace(FULL, shm_size_bytes=0))

    def test_a_mount_of_the_callers_replaces_ours(self) -> None:
        asked = replace(FULL, mounts=(TmpfsMount(target="/dev/shm"),))
        facts = FULL_FACTS._replace(shown=(Shown("/dev/shm", Path("/b/shown/0")),))
        mounts = [m for m in config(asked, facts)["mounts"] if m["destination"] == "/dev/shm"]
        assert [mount["source"] for mount in mounts] == ["/b/shown/0"]


class TestOrdinaryUsers:
    FACTS = FULL_FACTS._replace(
        is_in_user_namespace=True, has_tty_group=False, may_set_groups=False
    )

    def document(self, network: Literal["none", "host"]) -> dict[str, Any]:
        return config(replace(FULL, network=network, limits=Limits()), self.FACTS)

    @pytest.mark.parametrize("network", ["host", "none"])
    def test_the_document_is_valid(self, network: Literal["none", "host"]) -> None:
        assert complaints(self.document(network)) == []

    def test_there_are_neither_groups_nor_limits(self) -> None:
        document = self.document("none")
        assert not {"cgroupsPath", "resources"} & set(document["linux"])
        assert document["process"]["user"]["additionalGids"] == []

    def test_what_they_cannot_mount_is_shown_otherwise(self) -> None:
        own = {mount["destination"]: mount for mount in self.document("host")["mounts"]}
        assert own["/sys"]["type"] == "bind"
        assert "ro" in own["/sys"]["options"]
        assert own["/sys/fs/cgroup"]["type"] == "tmpfs"
        assert not [option for option in own["/dev/pts"]["options"] if option.startswith("gid")]
        alone = {mount["destination"]: mount for mount in self.document("none")["mounts"]}
        assert alone["/sys"]["type"] == "sysfs"


class TestLinux:
    def test_namespaces_are_new_but_for_the_network_of_the_host(self) -> None:
        own = {"mount", "pid", "ipc", "uts", "cgroup"}
        assert {n["type"] for n in config(FULL, FULL_FACTS)["linux"]["namespaces"]} == own
        alone = {n["type"] for n in config(spec(), FACTS)["linux"]["namespaces"]}
        assert alone == own  # the network is that of who calls the runtime

    def test_masks_are_ours(self) -> None:
        found = config(FULL, FULL_FACTS)["linux"]
        assert found["maskedPaths"] == [*MASKED, "/sys/devices/system/cpu/cpu0/thermal_throttle"]
        assert found["readonlyPaths"] == list(READ_ONLY)

    def test_nodes_may_be_made_and_not_opened(self) -> None:
        rules = config(spec(), FACTS)["linux"]["resources"]["devices"]
        assert rules[0] == {"allow": False, "access": "rwm"}
        assert all(rule["access"] == "m" for rule in rules[1:])

    def test_a_device_that_was_asked_for_can_be_opened(self) -> None:
        device = Shown("/dev/x", Path("/b/shown/x"), read_only=True, device=("c", 1, 5))
        asked = spec(devices=(Device(source=Path("/dev/zero"), target="/dev/x"),))
        found = config(asked, FACTS._replace(shown=(device,)))
        assert complaints(found) == []
        assert found["mounts"][-1]["options"] == ["bind", "rprivate", "ro"]
        assert found["linux"]["resources"]["devices"][3:] == [
            {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"}
        ]

    def test_limits(self) -> None:
        found = config(FULL, FULL_FACTS)["linux"]
        assert found["cgroupsPath"] == "/lamina-1-r0"
        assert found["resources"]["pids"] == {"limit": 5}
        assert found["resources"]["memory"] == {"limit": 1 << 20, "swap": 2 << 20}
        facts = FULL_FACTS._replace(has_swap_limit=False)
        assert config(FULL, facts)["linux"]["resources"]["memory"] == {"limit": 1 << 20}
        assert "pids" not in config(spec(), FACTS)["linux"]["resources"]

    def test_all_limits(self) -> None:
        limits = Limits(
            memory_bytes=1 << 20,
            memory_swap_bytes=-1,
            memory_reservation_bytes=5,
            memory_swappiness=0,
            cpu_quota_us=1,
            cpu_period_us=2,
            cpu_shares=3,
            cpuset_cpus="0",
            cpuset_mems="1",
        )
        document = config(spec(limits=limits), FACTS)
        assert complaints(document) == []
        resources = document["linux"]["resources"]
        assert resources["memory"] == {
            "limit": 1 << 20,
            "swap": -1,
            "reservation": 5,
            "swappiness": 0,
        }
        assert resources["cpu"] == {
            "quota": 1,
            "period": 2,
            "shares": 3,
            "cpus": "0",
            "mems": "1",
        }

    def test_settings_and_what_is_hidden(self) -> None:
        asked = spec(
            sysctls=(("net.core.somaxconn", "9"), ("kernel.msgmax", "7")),
            hide_system_paths=False,
            program={"oom_score_adj": -7},
        )
        document = config(asked, FACTS)
        assert complaints(document) == []
        assert document["linux"]["sysctl"] == {"kernel.msgmax": "7"}  # the network's is set before
        assert document["linux"]["maskedPaths"] == document["linux"]["readonlyPaths"] == []
        assert document["process"]["oomScoreAdj"] == -7


class TestSeccomp:
    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    @pytest.mark.parametrize("names", [None, frozenset(), frozenset({"CAP_SYS_ADMIN"})])
    def test_the_rules_answer_as_our_filter_does(
        self, machine: str, names: frozenset[str] | None
    ) -> None:
        asked = spec(program={"capabilities": names})
        found = config(asked, FACTS._replace(machine=machine))["linux"]["seccomp"]
        mask = capabilities.mask(names)
        abis = {"x86_64": ("x86_64", "i386"), "aarch64": ("aarch64", "arm")}[machine]
        tables = [seccomp.answers(mask, abi) for abi in abis]
        for table in tables:
            for name, answer in table.items():
                allowed = any(other.get(name) == "allow" for other in tables)  # names have no ABI
                assert self.answer_of(found, name) == ("allow" if allowed else answer), name

    def answer_of(self, profile: dict[str, Any], name: str) -> str:
        rules = [rule for rule in profile["syscalls"] if name in rule["names"]]
        if not rules:
            return "eperm"
        if any("args" in rule for rule in rules):
            assert all("args" in rule and rule["action"] == "SCMP_ACT_ALLOW" for rule in rules)
            return "check"
        (rule,) = rules
        return "allow" if rule["action"] == "SCMP_ACT_ALLOW" else "enosys"

    def test_clone_makes_no_namespace(self) -> None:
        rules = config(spec(), FACTS)["linux"]["seccomp"]["syscalls"]
        (rule,) = [rule for rule in rules if rule["names"] == ["clone"]]
        (argument,) = rule["args"]
        assert argument["op"] == "SCMP_CMP_MASKED_EQ"
        assert argument["value"] & 0x10000000  # CLONE_NEWUSER
        assert argument["valueTwo"] == 0

    def test_a_profile_of_the_user_s_goes_there_as_it_is(self) -> None:
        condition = SeccompArgument(position=1, operator="SCMP_CMP_EQ", value=7)
        profile = SeccompProfile(
            default_action="SCMP_ACT_ERRNO",
            architectures=("SCMP_ARCH_X86_64",),
            rules=(
                SeccompRule(names=("socket",), action="SCMP_ACT_ALLOW", arguments=(condition,)),
                SeccompRule(names=("chmod",), action="SCMP_ACT_ERRNO", errno=5),
            ),
            default_errno=38,
            flags=("SECCOMP_FILTER_FLAG_LOG",),
        )
        document = config(spec(program={"seccomp": profile}), FACTS)
        assert complaints(document) == []
        assert document["linux"]["seccomp"] == {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {
                    "names": ["socket"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 1, "value": 7, "valueTwo": 0, "op": "SCMP_CMP_EQ"}],
                },
                {"names": ["chmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5, "args": []},
            ],
        }

    def test_unconfined_is_no_filter(self) -> None:
        asked = spec(program={"seccomp": "unconfined"})
        assert "seccomp" not in config(asked, FACTS)["linux"]
