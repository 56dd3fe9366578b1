"""Networks with names, as a user meets them; on a machine with loopback alone."""

import json
from pathlib import Path

import pytest

from tests.support.commands import Commands
from tests.support.networks import UNTIL_SERVED, devices
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_overlay,
    pytest.mark.needs_networks,
    pytest.mark.usefixtures("own_network"),
]

SERVE = ("sh", "-c", "nc -ll -p 80 -e /bin/echo hello")


def reach(box: Commands, who: str, whom: str) -> str:
    return box("exec", who, "sh", "-c", f"nc -w 2 {whom} 80 < /dev/null || echo no").out


def serve(box: Commands, name: str, *options: str) -> None:
    box("run", "-d", "--name", name, *options, "box", *SERVE)
    box("exec", name, "sh", "-c", UNTIL_SERVED)


def test_containers_of_a_network_reach_each_other_by_name(box: Commands) -> None:
    network_id = box("network", "create", "back").out.strip()
    assert len(network_id) == 64
    serve(box, "one", "--network", "back")
    serve(box, "two", "--network", "back", "--network-alias", "db")
    for name in ("two", "db"):
        assert reach(box, "one", name) == "hello\n"
    assert reach(box, "two", "one") == "hello\n"
    box("rm", "-f", "two")
    assert "two" not in box("exec", "one", "cat", "/etc/hosts").out
    assert box("ps", "--format", "{{.Networks}}").out == "back\n"
    box("rm", "-f", "one")
    box("network", "rm", "back")
    wait_until(lambda: devices() == {"lo"})


def test_networks_are_apart(box: Commands) -> None:
    box("network", "create", "back")
    box("network", "create", "front")
    serve(box, "one", "--network", "back")
    serve(box, "other", "--network", "front")
    serve(box, "both", "--network", "front", "--network", "back")
    address = '{{(index .NetworkSettings.Networks "back").IPAddress}}'
    target = box("inspect", "-f", address, "one").out.strip()
    assert reach(box, "other", target) == "no\n"
    assert reach(box, "both", "one") == "hello\n"
    assert reach(box, "both", "other") == "hello\n"


def test_what_a_killed_minder_left_is_named_no_more(box: Commands) -> None:
    import os
    import signal

    from builder.runner import ContainerStore

    box("network", "create", "back")
    serve(box, "one", "--network", "back")
    serve(box, "two", "--network", "back")
    pid = int(box("inspect", "-f", "{{.State.Pid}}", "two").out)
    minder = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(minder, signal.SIGKILL)
    containers = ContainerStore(box.root / "lamina")
    two = containers.find("two")
    wait_until(lambda: not containers.is_running(two.id))
    box("ps")
    assert "two" not in box("exec", "one", "cat", "/etc/hosts").out


def test_an_address_is_given_where_it_was_asked_for(box: Commands) -> None:
    box("network", "create", "--subnet", "10.9.1.0/24", "back")
    script = "ip -o addr show eth0 | grep -o 'inet [^ ]*'"
    options = ("--network", "back", "--ip", "10.9.1.77")
    assert box("run", "--rm", *options, "box", "sh", "-c", script).out == "inet 10.9.1.77/24\n"
    refused = box("run", "--rm", "--network", "back", "--ip", "10.9.2.1", "box", "true", code=125)
    assert "none of the subnet 10.9.1.0/24" in refused.err
    refused = box("run", "--rm", "--ip", "10.9.1.7", "box", "true", code=125)
    assert "--ip needs a network with a name" in refused.err


def test_networks_are_listed_and_described(box: Commands) -> None:
    box("network", "create", "--internal", "--label", "a=b", "--subnet", "10.9.1.0/24", "back")
    rows = [line.split()[1:] for line in box("network", "ls").lines]
    assert rows == [
        ["ID", "NAME", "DRIVER", "SCOPE"],
        ["back", "bridge", "local"],
        ["bridge", "bridge", "local"],
        ["host", "host", "local"],
        ["none", "null", "local"],
    ]
    assert len(box("network", "ls", "-q", "--no-trunc", "-f", "name=back").out.strip()) == 64
    box("network", "create", "--label", "list=b,c", "--label", "a=d", "front")

    def chosen(*filters: str) -> list[str]:
        options = [option for text in filters for option in ("-f", text)]
        return box("network", "ls", *options, "--format", "{{.Name}}").lines

    assert chosen("label=a") == ["back", "front"]
    assert chosen("label=a=b") == ["back"]
    assert chosen("label=list=b,c", "label=a") == ["front"]
    assert chosen("label=c") == chosen("label=list=b") == chosen("label=a=b", "label=list") == []
    assert chosen("name=back", "name=host") == ["back", "host"]
    assert chosen("name=back", "driver=null") == []
    assert chosen("type=builtin") == ["bridge", "host", "none"]
    (network_id,) = box("network", "ls", "-q", "--no-trunc", "-f", "name=front").lines
    assert chosen(f"id={network_id}") == ["front"]
    box("network", "rm", "front")
    serve(box, "web", "--network", "back")
    (found,) = json.loads(box("network", "inspect", "back").out)
    assert found["IPAM"]["Config"] == [{"Subnet": "10.9.1.0/24", "Gateway": "10.9.1.1"}]
    assert (found["Internal"], found["Labels"]) == (True, {"a": "b"})
    assert [each["Name"] for each in found["Containers"].values()] == ["web"]
    assert box("network", "inspect", "-f", "{{.Driver}}", "host").out == "host\n"
    assert "no such network: nope" in box("network", "inspect", "nope", code=1).err


def test_what_is_in_use_or_not_there_is_not_removed(box: Commands) -> None:
    box("network", "create", "back")
    serve(box, "web", "--network", "back")
    assert "active endpoints: web" in box("network", "rm", "back", code=1).err
    assert "pre-defined network" in box("network", "rm", "bridge", code=1).err
    assert "no such network: nope" in box("network", "rm", "nope", code=1).err
    forced = box("network", "rm", "-f", "nope")
    assert (forced.out, forced.err) == ("", "")
    box("network", "create", "front")
    several = box("network", "rm", "nope", "back", "front", code=1)
    assert several.out == "front\n"
    assert len(several.err.splitlines()) == 2


def test_unused_ones_are_pruned(box: Commands) -> None:
    for name in ("one", "two", "used"):
        box("network", "create", name)
    box("create", "--network", "used", "--name", "web", "box", "true")
    assert box("network", "prune", "-f").out == "Deleted Networks:\none\ntwo\n\n"
    box("network", "create", "three")
    assert "Deleted Networks:\nthree\n" in box("system", "prune", "-f").out
    box("network", "create", "used")
    box("create", "--network", "used", "--name", "app", "box", "true")
    assert box("network", "ls", "-f", "driver=bridge", "--format", "{{.Name}}").lines == [
        *("bridge", "used"),
    ]


def test_a_container_that_does_not_run_changes_its_networks(box: Commands) -> None:
    box("network", "create", "back")
    box("create", "--name", "web", "box", *SERVE)
    box("network", "connect", "--alias", "db", "back", "web")
    shown = ("ps", "-a", "--format", "{{.Networks}}")
    assert box(*shown).out == "bridge,back\n"
    assert "already" in box("network", "connect", "back", "web", code=1).err
    box("start", "web")
    assert box("exec", "web", "ls", "/sys/class/net").out.split() == ["eth0", "eth1", "lo"]
    assert "that runs is not supported" in box("network", "connect", "back", "web", code=1).err
    box("stop", "-t", "0", "web")
    box("network", "disconnect", "bridge", "web")
    box("network", "disconnect", "-f", "back", "web")
    assert box(*shown).out == "none\n"
    assert "is not on the network" in box("network", "disconnect", "back", "web", code=1).err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("create", "-d", "macvlan", "x1"), "--driver macvlan is not supported"),
        (("create", "--subnet", "nope", "x1"), "'nope' is no subnet"),
        (("create", "host"), "already exists"),
        (("ls", "-f", "colour=red"), "invalid filter"),
    ],
)
def test_what_cannot_be_is_said(box: Commands, words: tuple[str, ...], message: str) -> None:
    code = 125 if words[0] == "ls" else 1
    assert message in box("network", *words, code=code).err
