"""The rules of a network, as messages for the kernel's nf_tables. Pure.

Every network has a table of its own, named as its bridge, so that one message takes all away:

    table inet BRIDGE {
        chain forward     what may pass to and from the containers
        chain postrouting masquerade what leaves for somewhere else
    }

A chain that accepts does not overrule one that drops: where a program such as docker or ufw has a
chain FORWARD that drops (iptables makes it in table `filter`), two rules of ours at its head let
our bridge pass. They carry the bridge's name as their user data.

Source: include/uapi/linux/netfilter/{nf_tables,nfnetlink,nf_conntrack_common}.h.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from builder.network.subnets import Subnet
from builder.sandbox import netlink
from builder.sandbox.netlink import Answer, Message, attribute, text

_SUBSYSTEM = 10 << 8
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _GET_TABLE, _DELETE_TABLE = (_SUBSYSTEM | number for number in (0, 1, 2))
_NEW_CHAIN, _GET_CHAIN = (_SUBSYSTEM | number for number in (3, 4))
_NEW_RULE, _GET_RULE, _DELETE_RULE = (_SUBSYSTEM | number for number in (6, 7, 8))
_GET_GENERATION = _SUBSYSTEM | 16
_FAMILY_INET, FAMILY_IPV4, FAMILY_IPV6 = 1, 2, 10  # NFPROTO_...
_FORWARD, _POSTROUTING = 2, 4  # NF_INET_...
_PRIORITY_FILTER, _PRIORITY_SOURCE_NAT = 0, 100

_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_TYPE = 1, 3, 4, 7
_RULE_TABLE, _RULE_CHAIN, _RULE_HANDLE, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 3, 4, 7
_REGISTER = 1  # NFT_REG_1
_EQUAL, _NOT_EQUAL = 0, 1
_META_PROTOCOL, _META_IN, _META_OUT = 15, 6, 7
_CT_STATE, _CT_STATUS = 0, 2
_ESTABLISHED_OR_RELATED = 2 | 4
_DESTINATION_CHANGED = 1 << 5  # IPS_DST_NAT
_DROP, _ACCEPT = 0, 1

FOREIGN_TABLE, FOREIGN_CHAIN = "filter", "FORWARD"


class Batch(NamedTuple):
    """Messages that are carried out together or not at all."""

    begin: Message
    messages: tuple[Message, ...]
    end: Message


def batch(messages: Iterable[Message]) -> Batch:
    """Frame messages, for `Channel.transact`."""
    body = struct.pack(">BBH", 0, 0, _SUBSYSTEM >> 8)
    return Batch(Message(_BATCH_BEGIN, body), tuple(messages), Message(_BATCH_END, body))


def table_of(bridge: str, subnets: Iterable[Subnet], *, internal: bool) -> list[Message]:
    """The whole table of a network. An internal one leads nowhere else."""
    inside, outside = _interface(_META_IN, bridge), _interface(_META_OUT, bridge)
    into = [
        [*inside, *outside, *_verdict(_ACCEPT)],
        [*outside, *_conntrack(_CT_STATE, _ESTABLISHED_OR_RELATED), *_verdict(_ACCEPT)],
        [*outside, *_conntrack(_CT_STATUS, _DESTINATION_CHANGED), *_verdict(_ACCEPT)],
    ]
    closed = [[*outside, *_verdict(_DROP)]]
    if internal:
        into = into[:1]
        closed.append([*inside, *_verdict(_DROP)])
    messages = [
        _table(_NEW_TABLE, bridge, netlink.CREATE),
        _base_chain(bridge, "forward", "filter", _FORWARD, _PRIORITY_FILTER),
        *(_rule(bridge, "forward", rule) for rule in (*into, *closed)),
    ]
    if not internal:
        messages.append(
            _base_chain(bridge, "postrouting", "nat", _POSTROUTING, _PRIORITY_SOURCE_NAT)
        )
        elsewhere = _interface(_META_OUT, bridge, _NOT_EQUAL)
        messages += [
            _rule(bridge, "postrouting", [*_source(subnet), *elsewhere, _expression("masq")])
            for subnet in subnets
        ]
    return messages


def find_table(bridge: str) -> Message:
    """Asks for the table of a network; there is no answer but an error where there is none."""
    return _table(_GET_TABLE, bridge)


def delete_table(bridge: str) -> Message:
    """The table goes, with all that is in it."""
    return _table(_DELETE_TABLE, bridge)


def generation() -> Message:
    """Asks for the number that every change of any rule increases."""
    return Message(_GET_GENERATION, struct.pack(">BBH", 0, 0, 0))


def generation_of(answer: Answer) -> int:
    """The number in the answer."""
    return int.from_bytes(netlink.attributes_of(answer.body[4:])[1])


def find_foreign_chain(family: int) -> Message:
    """Asks for iptables' chain FORWARD."""
    words = text(_CHAIN_TABLE, FOREIGN_TABLE) + text(_CHAIN_NAME, FOREIGN_CHAIN)
    return Message(_GET_CHAIN, struct.pack(">BBH", family, 0, 0) + words)


def foreign_rules(family: int) -> Message:
    """Asks for its rules."""
    words = text(_RULE_TABLE, FOREIGN_TABLE) + text(_RULE_CHAIN, FOREIGN_CHAIN)
    return Message(_GET_RULE, struct.pack(">BBH", family, 0, 0) + words)


def handles_of(bridge: str, answers: Iterable[Answer]) -> list[bytes]:
    """Which of these rules are ours, for this bridge."""
    found = []
    for answer in answers:
        words = netlink.attributes_of(answer.body[4:])
        if words.get(_RULE_USERDATA) == _userdata(bridge):
            found.append(words[_RULE_HANDLE])
    return found


def pass_foreign_chain(family: int, bridge: str) -> list[Message]:
    """Two rules at the head of that chain: what our own table decides is not decided there."""
    return [
        _rule(
            FOREIGN_TABLE,
            FOREIGN_CHAIN,
            [*_interface(key, bridge), _counter(), *_verdict(_ACCEPT)],
            family=family,
            flags=netlink.CREATE,
            userdata=_userdata(bridge),
        )
        for key in (_META_IN, _META_OUT)
    ]


def delete_foreign_rule(family: int, handle: bytes) -> Message:
    """One of those goes."""
    words = (
        text(_RULE_TABLE, FOREIGN_TABLE)
        + text(_RULE_CHAIN, FOREIGN_CHAIN)
        + attribute(_RULE_HANDLE, handle)
    )
    return Message(_DELETE_RULE, struct.pack(">BBH", family, 0, 0) + words)


def _userdata(bridge: str) -> bytes:
    """A comment, as nft and iptables show it: type 0, length, text."""
    comment = f"lamina {bridge}".encode() + b"\0"
    return bytes((0, len(comment))) + comment


def _table(kind: int, name: str, flags: int = 0) -> Message:
    return Message(kind, struct.pack(">BBH", _FAMILY_INET, 0, 0) + text(_TABLE_NAME, name), flags)


def _base_chain(table: str, name: str, kind: str, hook: int, priority: int) -> Message:
    words = (
        text(_CHAIN_TABLE, table)
        + text(_CHAIN_NAME, name)
        + attribute(
            netlink.NESTED | _CHAIN_HOOK, _be32(1, hook), attribute(2, struct.pack(">i", priority))
        )
        + text(_CHAIN_TYPE, kind)
    )
    return Message(_NEW_CHAIN, struct.pack(">BBH", _FAMILY_INET, 0, 0) + words, netlink.CREATE)


def _rule(
    table: str,
    chain: str,
    expressions: Iterable[bytes],
    *,
    family: int = _FAMILY_INET,
    flags: int = netlink.CREATE | netlink.APPEND,
    userdata: bytes = b"",
) -> Message:
    words = (
        text(_RULE_TABLE, table)
        + text(_RULE_CHAIN, chain)
        + attribute(netlink.NESTED | _RULE_EXPRESSIONS, *expressions)
    )
    if userdata:
        words += attribute(_RULE_USERDATA, userdata)
    return Message(_NEW_RULE, struct.pack(">BBH", family, 0, 0) + words, flags)


def _expression(name: str, *words: bytes) -> bytes:
    data = attribute(netlink.NESTED | 2, *words)
    return attribute(netlink.NESTED | 1, text(1, name), data)


def _interface(key: int, name: str, how: int = _EQUAL) -> list[bytes]:
    return [_load_meta(key), _compare(name.encode() + b"\0", how)]


def _load_meta(key: int) -> bytes:
    return _expression("meta", _be32(1, _REGISTER), _be32(2, key))


def _compare(value: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", _be32(1, _REGISTER), _be32(2, how), _data(3, value))


def _masked(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        _be32(1, _REGISTER),
        _be32(2, _REGISTER),
        _be32(3, len(mask)),
        _data(4, mask),
        _data(5, bytes(len(mask))),
    )


def _conntrack(key: int, bits: int) -> list[bytes]:
    """Any of `bits` is set."""
    return [
        _expression("ct", _be32(1, _REGISTER), _be32(2, key)),
        _masked(struct.pack("=I", bits)),
        _compare(bytes(4), _NOT_EQUAL),
    ]


def _source(subnet: Subnet) -> list[bytes]:
    """The packet comes from an address of this subnet."""
    length = subnet.bits // 8
    mask = ((1 << subnet.bits) - subnet.size).to_bytes(length)
    family, offset = (FAMILY_IPV4, 12) if length == 4 else (FAMILY_IPV6, 8)
    return [
        _load_meta(_META_PROTOCOL),
        _compare(bytes((family,))),
        _expression(
            "payload", _be32(1, _REGISTER), _be32(2, 1), _be32(3, offset), _be32(4, length)
        ),
        _masked(mask),
        _compare(subnet.first.to_bytes(length)),
    ]


def _verdict(code: int) -> list[bytes]:
    words = attribute(netlink.NESTED | 2, attribute(netlink.NESTED | 2, _be32(1, code)))
    return [_expression("immediate", _be32(1, 0), words)]


def _counter() -> bytes:
    return _expression("counter", attribute(1, bytes(8)), attribute(2, bytes(8)))


def _data(kind: int, value: bytes) -> bytes:
    return attribute(netlink.NESTED | kind, attribute(1, value))


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))
