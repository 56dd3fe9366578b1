"""Seccomp profiles in Docker's JSON format, read for one machine and one set of rights. Pure.

    text --parse--> SeccompProfile --seccomp.compile_profile--> BPF

What a file says depends on the machine: rules with `includes` and `excludes` apply to some
capabilities, architectures and kernels, `archMap` names the 32-bit ABIs that go with a 64-bit one.
`parse` settles all that; what is left has the form of the OCI runtime-spec (config-linux.md,
"Seccomp"), whose words are used.

Source: moby's profiles/seccomp/seccomp.go and seccomp_linux.go, runc's libcontainer/seccomp.
"""

import json
from typing import Any, NamedTuple

from builder.sandbox.errors import SandboxError
from builder.sandbox.spec import SeccompArgument, SeccompProfile, SeccompRule

_ARCHES = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
ACTIONS = (
    *("SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_TRAP"),
    *("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE", "SCMP_ACT_ALLOW", "SCMP_ACT_LOG"),
)
OPERATORS = (
    *("SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT"),
    "SCMP_CMP_MASKED_EQ",
)
FLAGS = (
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_TSYNC",
)
_ERRNO_MAX = 4095
_VALUE_MAX = (1 << 64) - 1
_RULES_MAX = 10_000
_VERSION_DIGITS_MAX = 9


def parse(
    text: str, *, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> SeccompProfile:
    """Read a profile.

    Args:
        text: the file.
        capabilities: what the program may have, by names with CAP_.
        machine: as uname(2) calls it.
        kernel: its version.

    Raises:
        SandboxError: it is no profile, or asks for what is not carried out.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise _bad(f"decoding the seccomp profile failed: {reason}") from None
    top = _object(document, "the profile")
    if not top:
        raise _bad("the seccomp profile is empty")
    if "listenerPath" in top:
        raise _bad("listenerPath is not supported", "there is nobody to ask about system calls")
    arch, native = _ARCHES[machine]
    conditions = _Conditions(capabilities=capabilities, arch=arch, kernel=kernel)
    rules = []
    for item in _items(top, "syscalls", "the profile"):
        rule = _object(item, "a rule of syscalls")
        if conditions.hold(rule):
            rules.append(_rule(rule))
    return SeccompProfile(
        default_action=_word(top, "defaultAction", ACTIONS, "the profile"),
        architectures=_architectures(top, native),
        rules=tuple(rules),
        default_errno=_errno(top.get("defaultErrnoRet")),
        flags=_flags(top),
    )


class _Conditions(NamedTuple):
    capabilities: frozenset[str]
    arch: str
    kernel: tuple[int, int]

    def hold(self, rule: dict[str, Any]) -> bool:
        """Whether a rule is meant for this machine and these rights."""
        includes = _object(rule.get("includes") or {}, "includes")
        excludes = _object(rule.get("excludes") or {}, "excludes")
        wanted_arches = _words(includes, "arches")
        return not (
            self.arch in _words(excludes, "arches")
            or self.capabilities.intersection(_words(excludes, "caps"))
            or self._reaches(excludes, otherwise=False)
            or (wanted_arches and self.arch not in wanted_arches)
            or not self.capabilities.issuperset(_words(includes, "caps"))
            or not self._reaches(includes, otherwise=True)
        )

    def _reaches(self, conditions: dict[str, Any], *, otherwise: bool) -> bool:
        text = conditions.get("minKernel")
        if not text:
            return otherwise
        numbers = str(text).split(".")
        if len(numbers) != 2 or not all(
            n.isascii() and n.isdigit() and len(n) <= _VERSION_DIGITS_MAX for n in numbers
        ):
            raise _bad(f"invalid kernel version {text!r} in minKernel", "MAJOR.MINOR, as 4.8")
        return self.kernel >= (int(numbers[0]), int(numbers[1]))


def _architectures(top: dict[str, Any], native: str) -> tuple[str, ...]:
    """The native ABI and those that the profile adds to it; alone where it names none."""
    given, mapped = _words(top, "architectures"), _items(top, "archMap", "the profile")
    if given and mapped:
        raise _bad(
            "'architectures' and 'archMap' were specified in the seccomp profile",
            "use either 'architectures' or 'archMap'",
        )
    found = [native, *given]
    for item in mapped:
        entry = _object(item, "archMap")
        if entry.get("architecture") == native:
            found += _words(entry, "subArchitectures")
    return tuple(dict.fromkeys(found))


def _rule(rule: dict[str, Any]) -> SeccompRule:
    name, names = rule.get("name"), _words(rule, "names")
    if name and names:
        raise _bad("'name' and 'names' were specified in the seccomp profile", "use either of them")
    where = f"the rule of {name or ', '.join(names[:3])}"
    if name and not isinstance(name, str):
        raise _bad(f"name in {where} is no text")
    return SeccompRule(
        names=(name,) if name else names,
        action=_word(rule, "action", ACTIONS, where),
        errno=_errno(rule.get("errnoRet")),
        arguments=tuple(_argument(item, where) for item in _items(rule, "args", where)),
    )


def _argument(item: object, where: str) -> SeccompArgument:
    fields = _object(item, f"args of {where}")
    index = fields.get("index", 0)
    if type(index) is not int or not 0 <= index <= 5:
        raise _bad(f"index {index!r} in {where}", "calls have the arguments 0 to 5")
    return SeccompArgument(
        position=index,
        operator=_word(fields, "op", OPERATORS, where),
        value=_value(fields, "value", where),
        value_two=_value(fields, "valueTwo", where),
    )


def _value(fields: dict[str, Any], key: str, where: str) -> int:
    value = fields.get(key, 0)
    if type(value) is not int or not 0 <= value <= _VALUE_MAX:
        raise _bad(f"{key} {value!r} in {where} is no number of 64 bits")
    return value


def _errno(value: object) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= _ERRNO_MAX:
        raise _bad(f"errnoRet {value!r} is no error number")
    return value


def _flags(top: dict[str, Any]) -> tuple[str, ...] | None:
    if top.get("flags") is None:
        return None
    flags = _words(top, "flags")
    for flag in flags:
        if flag not in FLAGS:
            raise _bad(f"the flag {flag!r} is not supported", "there are " + ", ".join(FLAGS))
    return flags


def _word(fields: dict[str, Any], key: str, known: tuple[str, ...], where: str) -> str:
    value = fields.get(key)
    if value not in known:
        missing = f"{key} is missing in {where}"
        problem = missing if value is None else f"{key} {value!r} in {where} is not supported"
        raise _bad(problem, "there are " + ", ".join(known))
    assert isinstance(value, str)
    return value


def _words(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    items = _items(fields, key, "the profile")
    if not all(isinstance(item, str) for item in items):
        raise _bad(f"{key} in the seccomp profile has something else than words")
    return tuple(items)


def _items(fields: dict[str, Any], key: str, where: str) -> list[Any]:
    items = fields.get(key)
    if items is None:
        return []
    if not isinstance(items, list) or len(items) > _RULES_MAX:
        raise _bad(f"{key} in {where} is no list of at most {_RULES_MAX}")
    return items


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _bad(f"{what} is no JSON object")
    return value


def _bad(message: str, hint: str = "") -> SandboxError:
    return SandboxError(phase="seccomp profile", message=message, hint=hint)
