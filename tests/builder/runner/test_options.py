import os
import signal
from pathlib import Path
from typing import Any

import pytest

from builder.errors import ContainerError
from builder.runner.container import ContainerRecord, MountPoint
from builder.runner.options import (
    RunOptions,
    environment,
    from_caller,
    parse_env_file,
    parse_mount,
    parse_tmpfs,
    parse_volume,
    record_of,
    signal_name,
    signal_number,
)
from builder.runner.runnable import RunnableImage
from tests.support.containers import IMAGE, image_with

ID = "f" * 64


def made(image: RunnableImage = IMAGE, **options: Any) -> ContainerRecord:
    chosen = RunOptions(**options)
    return record_of(image, chosen, container_id=ID, name="web", now=5.0)


@pytest.mark.parametrize(
    ("image", "options", "argv", "entrypoint_length"),
    [
        ({"command": ("sh",)}, {}, ("sh",), 0),
        ({"command": ("sh",)}, {"command": ("ls", "-l")}, ("ls", "-l"), 0),
        ({"entrypoint": ("/e",), "command": ("a",)}, {}, ("/e", "a"), 1),
        ({"entrypoint": ("/e",), "command": ("a",)}, {"command": ("b",)}, ("/e", "b"), 1),
        ({"entrypoint": ("/e",), "command": ("a",)}, {"entrypoint": "/f"}, ("/f",), 1),
        (
            {"entrypoint": ("/e", "x"), "command": ("a",)},
            {"entrypoint": "/f", "command": ("b",)},
            ("/f", "b"),
            1,
        ),
        ({"entrypoint": ("/e",)}, {"entrypoint": "", "command": ("b",)}, ("b",), 0),
        ({"entrypoint": ("/e",), "command": ()}, {}, ("/e",), 1),
    ],
)
def test_entrypoint_and_command_go_together_as_in_docker(
    image: dict[str, object],
    options: dict[str, object],
    argv: tuple[str, ...],
    entrypoint_length: int,
) -> None:
    record = made(image_with(**image), **options)
    assert record.argv == argv
    assert record.entrypoint_length == entrypoint_length


@pytest.mark.parametrize(
    ("image", "options"),
    [({"command": ()}, {}), ({"command": ("a",), "entrypoint": ("/e",)}, {"entrypoint": ""})],
)
def test_nothing_to_execute_is_an_error(
    image: dict[str, object], options: dict[str, object]
) -> None:
    with pytest.raises(ContainerError, match="no command specified"):
        made(image_with(**image), **options)


def test_what_the_user_says_goes_before_the_image() -> None:
    image = image_with(user="www", working_dir="/srv", stop_signal="INT", labels=(("a", "1"),))
    plain = made(image)
    assert (plain.user, plain.cwd, plain.stop_signal) == ("www", "/srv", 2)
    assert plain.labels == (("a", "1"),)
    own = made(image, user="0", cwd="/tmp", stop_signal="KILL", labels=(("a", "2"), ("b", "3")))
    assert (own.user, own.cwd, own.stop_signal) == ("0", "/tmp", 9)
    assert own.labels == (("a", "2"), ("b", "3"))


def test_the_record_knows_its_image_and_itself() -> None:
    record = made(name="web")
    assert (record.id, record.name, record.created, record.state) == (ID, "web", 5.0, "created")
    assert record.layers == IMAGE.layers
    assert record.manifest_digest == IMAGE.manifest_digest


def test_a_relative_working_directory_is_refused() -> None:
    with pytest.raises(ContainerError, match="'tmp' is invalid"):
        made(cwd="tmp")


def test_the_host_name_is_the_host_s_where_its_network_is_shared() -> None:
    assert made(network="host").hostname == os.uname().nodename
    assert made().hostname == made(network="none").hostname == ID[:12]
    assert made(hostname="mine").hostname == "mine"


def test_the_environment_is_defaults_then_image_then_user() -> None:
    found = environment(("A=1", "PATH=/bin"), ("A=2", "B=3"), hostname="h", terminal=False)
    assert found == ("PATH=/bin", "HOSTNAME=h", "A=2", "B=3")


def test_only_a_terminal_has_a_kind_of_terminal() -> None:
    assert "TERM=xterm" in environment((), (), hostname="h", terminal=True)
    assert "TERM=vt100" in environment((), ("TERM=vt100",), hostname="h", terminal=True)
    assert not any(
        item.startswith("TERM") for item in environment((), (), hostname="h", terminal=False)
    )


def test_a_path_is_there_without_an_image_s() -> None:
    assert environment((), (), hostname="h", terminal=False)[0].startswith("PATH=/usr/local/sbin:")


def test_a_name_alone_takes_the_variable_away() -> None:
    assert environment(("A=1", "B=2"), ("A",), hostname="h", terminal=False)[2:] == ("B=2",)


def test_a_name_alone_takes_the_caller_s_value() -> None:
    caller = {"HOME": "/root", "EMPTY": ""}
    assert from_caller(("HOME", "EMPTY", "NONE", "A=b=c"), caller) == (
        "HOME=/root",
        "EMPTY=",
        "NONE",
        "A=b=c",
    )
    with pytest.raises(ContainerError, match="invalid environment variable: '=x'"):
        from_caller(("=x",), caller)


def test_an_env_file_is_read_as_docker_reads_it() -> None:
    text = '\ufeff# comment\n\nA=1\n  B="quoted" \nC\nD=x=y # no comment\r\n'
    assert parse_env_file(text, name="f") == ("A=1", 'B="quoted" ', "C", "D=x=y # no comment")
    for bad in ("=x", "A B=c"):
        with pytest.raises(ContainerError, match="f:2: "):
            parse_env_file(f"OK=1\n{bad}\n", name="f")


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/data", MountPoint(kind="volume", target="/data", anonymous=True)),
        ("name:/data", MountPoint(kind="volume", target="/data", source="name")),
        ("name:/data:ro", MountPoint("volume", "/data", source="name", read_only=True)),
        ("/host:/data", MountPoint(kind="bind", target="/data", source="/host")),
        ("/host:/data:ro,z", MountPoint("bind", "/data", source="/host", read_only=True)),
        ("/host/../x:/a/./b/", MountPoint(kind="bind", target="/a/b", source="/x")),
        ("name:/data:nocopy", MountPoint("volume", "/data", source="name", copy_up=False)),
    ],
)
def test_volumes(text: str, mount: MountPoint) -> None:
    assert parse_volume(text) == mount


def test_a_leading_dot_makes_a_host_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_volume("./x:/data").source == str(tmp_path / "x")
    assert parse_volume(".:/data").source == str(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "a:",
        ":/b",
        "/a:b",
        "relative",
        "a:/",
        "a:/..",
        "/a:/b:xx",
        "/a:/b:ro:rw",
        "a:/b:/c",
    ],
)
def test_volumes_that_make_no_sense(text: str) -> None:
    with pytest.raises(ContainerError, match="invalid"):
        parse_volume(text)


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        (
            "type=bind,source=/,target=/host,readonly",
            MountPoint("bind", "/host", source="/", read_only=True),
        ),
        ("type=bind,src=/,dst=/host,ro=false", MountPoint("bind", "/host", source="/")),
        ("source=v,target=/d", MountPoint("volume", "/d", source="v")),
        ("type=volume,target=/d", MountPoint("volume", "/d", anonymous=True)),
        (
            "type=volume,src=v,dst=/d,volume-nocopy",
            MountPoint("volume", "/d", source="v", copy_up=False),
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=1k,tmpfs-mode=700",
            MountPoint("tmpfs", "/t", size_bytes=1024, mode=0o700, no_exec=True),
        ),
    ],
)
def test_mounts(text: str, mount: MountPoint) -> None:
    assert parse_mount(text) == mount


@pytest.mark.parametrize(
    "text",
    [
        "",
        "type=bind,target=/x",
        "type=bind,source=/does/not/exist,target=/x",
        "type=flying,target=/x",
        "type=volume,source=a/b,target=/x",
        "type=tmpfs,target=x",
        "type=tmpfs,target=/x,tmpfs-mode=9",
        "bind:/x",
        "target=/x,colour=red",
    ],
)
def test_mounts_that_make_no_sense(text: str) -> None:
    with pytest.raises(ContainerError, match="invalid"):
        parse_mount(text)


def test_tmpfs() -> None:
    assert parse_tmpfs("/t") == MountPoint("tmpfs", "/t", no_exec=True)
    assert parse_tmpfs("/t:size=64m,mode=755,noexec,nosuid,nodev,rw") == MountPoint(
        "tmpfs", "/t", size_bytes=64 << 20, mode=0o755, no_exec=True
    )
    assert parse_tmpfs("/t:exec,ro,uid=7,gid=8") == MountPoint(
        "tmpfs", "/t", read_only=True, uid=7, gid=8
    )
    assert parse_mount("type=tmpfs,target=/t,readonly").read_only
    wrong = ("t", "/t:size=big", "/t:colour=red", "/", "/t:mode=rwx", "/t:uid=-1", "/t:uid=x")
    for text in (*wrong, "/t:suid", "/t:dev", "/t:gid=4294967295"):
        with pytest.raises(ContainerError, match="invalid"):
            parse_tmpfs(text)


def test_volumes_of_the_image_become_anonymous_unless_something_is_mounted_there() -> None:
    image = image_with(volumes=("/a", "/b/", "c"))
    mounts = made(image, mounts=(parse_volume("x:/b"),)).mounts
    assert [(mount.target, mount.anonymous) for mount in mounts] == [
        ("/b", False),
        ("/a", True),
        ("/c", True),
    ]


def test_an_image_cannot_mount_over_the_root() -> None:
    for target in ("/", "..", "/x/.."):
        with pytest.raises(ContainerError, match="cannot be the root"):
            made(image_with(volumes=(target,)))


def test_two_mounts_in_one_place_are_refused() -> None:
    with pytest.raises(ContainerError, match="duplicate mount point: /d"):
        made(mounts=(parse_volume("a:/d"), parse_tmpfs("/d")))


@pytest.mark.parametrize(
    ("word", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigint", 2), ("9", 9), ("RTMIN", 34), ("SIGRTMIN+3", 37)],
)
def test_signals_by_any_name(word: str, number: int) -> None:
    assert signal_number(word) == number


@pytest.mark.parametrize(
    "word", ["", "SIG", "NOPE", "0", "99", "SIG_DFL", "_BLOCK", "TERM+1", "RTMIN+99"]
)
def test_what_is_no_signal(word: str) -> None:
    with pytest.raises(ContainerError, match="invalid signal"):
        signal_number(word)


def test_signals_have_names() -> None:
    assert signal_name(15) == "SIGTERM"
    assert signal_name(signal.SIGRTMIN + 3) == "37"
