"""Capability names, Docker's default set, and the bit masks the kernel takes. Pure.

Source: include/uapi/linux/capability.h; the default set is that of moby's oci/caps/defaults.go.
"""

from builder.sandbox.errors import SandboxError

# In the order of their numbers.
NAMES = tuple(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "DAC_READ_SEARCH",
        "FOWNER",
        "FSETID",
        "KILL",
        "SETGID",
        "SETUID",
        "SETPCAP",
        "LINUX_IMMUTABLE",
        "NET_BIND_SERVICE",
        "NET_BROADCAST",
        "NET_ADMIN",
        "NET_RAW",
        "IPC_LOCK",
        "IPC_OWNER",
        "SYS_MODULE",
        "SYS_RAWIO",
        "SYS_CHROOT",
        "SYS_PTRACE",
        "SYS_PACCT",
        "SYS_ADMIN",
        "SYS_BOOT",
        "SYS_NICE",
        "SYS_RESOURCE",
        "SYS_TIME",
        "SYS_TTY_CONFIG",
        "MKNOD",
        "LEASE",
        "AUDIT_WRITE",
        "AUDIT_CONTROL",
        "SETFCAP",
        "MAC_OVERRIDE",
        "MAC_ADMIN",
        "SYSLOG",
        "WAKE_ALARM",
        "BLOCK_SUSPEND",
        "AUDIT_READ",
        "PERFMON",
        "BPF",
        "CHECKPOINT_RESTORE",
    ]
)
ALL = frozenset(NAMES)
_BITS = {name: 1 << number for number, name in enumerate(NAMES)}

DEFAULT = frozenset(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)


def names(bits: int) -> tuple[str, ...]:
    """The names of a bit mask, in the order of their numbers."""
    return tuple(name for name, bit in _BITS.items() if bits & bit)


def mask(names: frozenset[str] | None) -> int:
    """The bit mask of a set of names; None is the default set.

    Raises:
        SandboxError: a name is not a capability.
    """
    bits = 0
    for name in DEFAULT if names is None else names:
        if name not in _BITS:
            raise SandboxError(
                phase="capabilities",
                message=f"there is no capability {name!r}",
                hint="names look like CAP_NET_ADMIN",
            )
        bits |= _BITS[name]
    return bits
