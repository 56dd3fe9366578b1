import pytest

from builder.cli.arguments import UsageError, split
from builder.cli.networking import network_of, networking_of, parse_host
from builder.cli.run import RUN
from builder.runner import Endpoint, Networking


def asked(*words: str) -> Networking:
    return networking_of(split(RUN, [*words, "box"]))


def problem(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        asked(*words)
    return caught.value.message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "default"),
        (("--network", "host"), "host"),
        (("--net=none",), "none"),
        (("--network", "container:web"), "container:web"),
        (("--network", "bridge"), "bridge"),
    ],
)
def test_the_network_is_the_word_that_was_said(words: tuple[str, ...], expected: str) -> None:
    assert network_of(split(RUN, [*words, "box"])) == expected


def test_nothing_said_is_nothing_asked_for() -> None:
    assert asked() == Networking()


def test_every_option_is_taken() -> None:
    words = (
        *("--add-host", "a:10.0.0.1", "--add-host=b=::1", "--domainname", "example"),
        *("--dns", "192.0.2.1", "--dns=fe80::1%eth0", "--dns-search", "lan", "--dns-search=."),
        *("--dns-option", "ndots:2", "--dns-opt", "rotate", "--mac-address", "02-AB-00-00-00-01"),
    )
    assert asked(*words) == Networking(
        endpoints=(Endpoint(network="default", mac="02:ab:00:00:00:01"),),
        servers=("192.0.2.1", "fe80::1%eth0"),
        search=("lan", "."),
        options=("ndots:2", "rotate"),
        extra_hosts=(("a", "10.0.0.1"), ("b", "::1")),
        domainname="example",
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db:10.0.0.1", ("db", "10.0.0.1")),
        ("db=[::1]", ("db", "::1")),
        ("db:::1", ("db", "::1")),
        ("us:host-gateway", ("us", "host-gateway")),
    ],
)
def test_hosts_are_read_in_every_form(text: str, expected: tuple[str, str]) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize("text", ["db", "db:", ":1.2.3.4", "db:nowhere", "a b:1.2.3.4", "a\nb:::1"])
def test_what_is_no_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="for --add-host"):
        parse_host(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--dns", "resolver"), "it is no IP address"),
        (("--mac-address", "02:00:00"), "no hardware address"),
        (("--mac-address", "02:00:00:00:00:0g"), "no hardware address"),
        (("--mac-address", "01:00:00:00:00:00"), "multicast"),
        (("--network", "host", "--mac-address", "02:00:00:00:00:01"), "makes no sense"),
        (("--network", "container:"), "names no container"),
        (("--network", "container:x", "--dns", "192.0.2.1"), "--dns makes no sense"),
        (("--network", "container:x", "--hostname", "h"), "--hostname makes no sense"),
    ],
)
def test_what_makes_no_sense_is_said(words: tuple[str, ...], message: str) -> None:
    assert message in problem(*words)
