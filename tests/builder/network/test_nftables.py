"""Rules as the kernel takes them. What they do to packets is in test_attachments.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.network import nftables
from builder.network.subnets import parse_subnet
from builder.sandbox import netlink
from builder.sandbox.netlink import Answer, Channel

SUBNETS = (parse_subnet("10.9.8.0/22"), parse_subnet("fd12::/64"))
GET_RULE = 10 << 8 | 7


def test_a_batch_is_framed() -> None:
    batch = nftables.batch([nftables.delete_table("a")])
    assert [batch.begin.kind, batch.end.kind] == [0x10, 0x11]
    assert len(batch.messages) == 1


def test_an_internal_table_has_no_address_translation() -> None:
    inside = nftables.table_of("br0", SUBNETS, internal=True)
    outside = nftables.table_of("br0", SUBNETS, internal=False)
    assert not any(b"masq" in message.body for message in inside)
    assert sum(b"masq" in message.body for message in outside) == 2


def test_the_comment_is_ours_and_names_the_bridge() -> None:
    message = nftables.pass_foreign_chain(nftables.FAMILY_IPV4, "br0")[0]
    words = netlink.attributes_of(message.body[4:]) | {3: b"\0" * 7 + b"\x09"}
    packed = message.body[:4] + b"".join(netlink.attribute(k, v) for k, v in words.items())
    answer = Answer(0, packed)
    assert nftables.handles_of("br0", [answer]) == [words[3]]
    assert nftables.handles_of("br1", [answer]) == []


@pytest.mark.needs_root
@pytest.mark.needs_networks
class TestKernel:
    @pytest.fixture
    def channel(self, own_network: Path) -> Iterator[Channel]:
        with Channel(netlink.NETFILTER) as channel:
            yield channel

    def rules(self, channel: Channel) -> int:
        return len(channel.dump(netlink.Message(GET_RULE, bytes(4))))

    @pytest.mark.parametrize(("internal", "count"), [(True, 3), (False, 6)])
    def test_a_table_comes_and_goes_whole(
        self, channel: Channel, internal: bool, count: int
    ) -> None:
        channel.transact(*nftables.batch(nftables.table_of("br0", SUBNETS, internal=internal)))
        assert self.rules(channel) == count
        assert channel.ask(nftables.find_table("br0")).body
        channel.transact(*nftables.batch([nftables.delete_table("br0")]))
        assert self.rules(channel) == 0
        with pytest.raises(FileNotFoundError):
            channel.ask(nftables.find_table("br0"))

    def test_of_a_batch_all_is_done_or_nothing(self, channel: Channel) -> None:
        messages = nftables.table_of("br0", SUBNETS, internal=False)
        with pytest.raises(FileNotFoundError):
            channel.transact(*nftables.batch([*messages, nftables.delete_table("nope")]))
        assert self.rules(channel) == 0
        channel.transact(*nftables.batch(messages))
        assert self.rules(channel) == 6

    def test_every_change_is_another_generation(self, channel: Channel) -> None:
        def now() -> int:
            return nftables.generation_of(channel.ask(nftables.generation()))

        before = now()
        assert now() == before
        channel.transact(*nftables.batch(nftables.table_of("br0", SUBNETS, internal=True)))
        assert now() > before

    def test_without_iptables_there_is_no_foreign_chain(self, channel: Channel) -> None:
        with pytest.raises(FileNotFoundError):
            channel.ask(nftables.find_foreign_chain(nftables.FAMILY_IPV4))
