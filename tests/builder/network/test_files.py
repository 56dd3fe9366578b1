from pathlib import Path

import pytest

from builder.network import files
from builder.network.files import Resolvers, host_resolv_conf, hosts, resolv_conf


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the host's resolv.conf is, for this test."""
    monkeypatch.setattr(files, "_RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(files, "_BEHIND_STUB", tmp_path / "behind")
    return tmp_path / "resolv.conf"


def test_resolvers_are_the_host_s(host: Path) -> None:
    host.write_text(
        "# made by hand\nsearch a.example b.example\nnameserver 192.0.2.1\noptions x y:2\n"
    )
    assert resolv_conf() == "nameserver 192.0.2.1\nsearch a.example b.example\noptions x y:2\n"


def test_those_on_loopback_are_left_out(host: Path) -> None:
    host.write_text("nameserver 127.0.0.1\nnameserver ::1\nnameserver 192.0.2.1 ; last\n")
    assert resolv_conf() == "nameserver 192.0.2.1\n"


def test_behind_a_stub_are_the_true_ones(host: Path, tmp_path: Path) -> None:
    host.write_text("nameserver 127.0.0.53\noptions edns0\n")
    (tmp_path / "behind").write_text("nameserver 192.0.2.7\nsearch lan\n")
    assert resolv_conf() == "nameserver 192.0.2.7\nsearch lan\n"


@pytest.mark.parametrize("text", [None, "", "nameserver 127.0.0.53\n", "nameserver ::1\n"])
def test_public_ones_stand_in_where_there_is_none(host: Path, text: str | None) -> None:
    if text is not None:
        host.write_text(text)
    assert resolv_conf() == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_what_is_asked_for_takes_their_place(host: Path) -> None:
    host.write_text("nameserver 192.0.2.1\nsearch lan\noptions a\n")
    assert resolv_conf(Resolvers(servers=("127.0.0.9",))) == (
        "nameserver 127.0.0.9\nsearch lan\noptions a\n"
    )
    assert resolv_conf(Resolvers(search=(".",), options=("b", "c"))) == (
        "nameserver 192.0.2.1\noptions b c\n"
    )


def test_with_the_host_s_network_the_file_is_the_host_s_to_the_byte(host: Path) -> None:
    assert host_resolv_conf() == b""
    text = b"# \xff\nnameserver 127.0.0.53\n"
    host.write_bytes(text)
    assert host_resolv_conf() == text
    asked = Resolvers(search=("lan",))
    assert host_resolv_conf(asked) == b"nameserver 127.0.0.53\nsearch lan\n"
    assert files.host_hosts() == Path("/etc/hosts").read_text()


def test_resolvers_of_the_host_are_known_for_choosing_subnets(host: Path) -> None:
    host.write_text("nameserver 127.0.0.1\nnameserver 10.117.0.3\nnameserver fd00::3\n")
    assert files.host_resolvers() == ["10.117.0.3", "fd00::3"]


def test_a_hosts_file_names_loopback_us_and_what_was_asked_for() -> None:
    text = hosts((("10.0.0.2", "me.example me"), ("fd00::2", "me")), [("db", "10.0.0.9")])
    lines = text.splitlines()
    assert lines[:2] == ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    assert lines[-3:] == ["10.0.0.2\tme.example me", "fd00::2\tme", "10.0.0.9\tdb"]


@pytest.mark.parametrize("start", ["1.2.3.4\ta", "1.2.3.4\ta\n"])
def test_it_goes_on_where_another_ends(start: str) -> None:
    assert hosts((), [("b", "::2")], start=start) == "1.2.3.4\ta\n::2\tb\n"
