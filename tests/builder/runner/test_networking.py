import json

import pytest

from builder.network import Publication
from builder.runner import networking
from builder.runner.container import dump, load
from builder.runner.networking import Attached, Endpoint, Networking, is_private, load_attached
from tests.support.containers import record_with

FULL = Networking(
    endpoints=(Endpoint(network="back", aliases=("db", "sql"), address="10.0.0.9", mac="02::1"),),
    servers=("192.0.2.1",),
    search=("lan",),
    options=("ndots:2",),
    extra_hosts=(("a", "10.0.0.1"), ("b", "host-gateway")),
    domainname="example",
    ports=(Publication(80, "udp", "::1", 8080),),
    publish_all=True,
    exposed=("80/udp",),
)
ATTACHED = Attached("back", "10.0.0.9", 24, "10.0.0.1", "fd::9", 64, "", "02::1", "eth0")


@pytest.mark.parametrize("value", [Networking(), FULL])
def test_what_was_asked_for_survives_json(value: Networking) -> None:
    assert networking.load(json.loads(json.dumps(networking.dump(value)))) == value


def test_so_does_a_record_with_networks() -> None:
    record = record_with(networking=FULL, attached=(ATTACHED,))
    assert load(dump(record)) == record


@pytest.mark.parametrize(
    "fields",
    [{}, {"endpoints": 1}, {"endpoints": [{"aliases": []}]}, networking.dump(FULL) | {"search": 1}],
)
def test_what_is_no_such_thing_is_an_error(fields: dict[str, object]) -> None:
    with pytest.raises((TypeError, KeyError, ValueError)):
        networking.load(fields)


def test_attachments_are_read_again() -> None:
    assert load_attached(json.loads(json.dumps([ATTACHED._asdict()]))) == (ATTACHED,)
    with pytest.raises(TypeError):
        load_attached([{"network": "x"}])


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        *(("default", True), ("bridge", True), ("mine", True)),
        *(("host", False), ("none", False), ("container:web", False)),
    ],
)
def test_private_is_what_is_neither_shared_nor_nothing(word: str, expected: bool) -> None:
    assert is_private(word) == expected
