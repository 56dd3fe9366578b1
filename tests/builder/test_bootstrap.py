"""Base images of the distribution's packages: what is in them, and that they are the same twice."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.bootstrap import (
    BootstrapError,
    Repository,
    bootstrap,
    busybox_changes,
    debian_changes,
    is_static,
    parse_index_targets,
    repositories_for,
    sources_text,
)
from layerstore import Change, Meta, PutDir, PutFile, PutHardlink, PutNode, Store, TreePath
from tests.support.imagetree import Entry, OciLayout

HOST = (
    Repository(uri="http://m/debian/", suite="bookworm", components=("main", "contrib")),
    Repository(uri="http://m/debian/", suite="bookworm-updates", components=("main",)),
    Repository(uri="http://s/security/", suite="bookworm-security", components=("main",)),
    Repository(uri="http://elsewhere/tools/", suite="stable", components=("tools",)),
)


def file(path: str, text: str = "") -> PutFile:
    return PutFile(TreePath(path), Meta(0o644), len(text), text.encode())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


# What is in an image.


def test_every_applet_is_a_hard_link_to_the_one_program() -> None:
    changes = busybox_changes(b"program", applets=["sh", "ls", "[", "busybox"], mtime_s=7)
    (program,) = [it for it in changes if isinstance(it, PutFile) and it.path == "bin/busybox"]
    assert program.content == b"program"
    links = {it.path: it.target for it in changes if isinstance(it, PutHardlink)}
    assert links == dict.fromkeys(("bin/[", "bin/ls", "bin/sh"), "bin/busybox")


def test_busybox_has_the_directories_and_modes_that_programs_expect() -> None:
    changes = busybox_changes(b"", applets=[], mtime_s=7)
    folders = {it.path: it.meta.mode for it in changes if isinstance(it, PutDir)}
    assert folders[TreePath("root")] == 0o700
    assert folders[TreePath("tmp")] == 0o1777
    files = {it.path: it for it in changes if isinstance(it, PutFile)}
    assert files[TreePath("etc/shadow")].meta.mode == 0o640
    passwd = files[TreePath("etc/passwd")].content
    assert isinstance(passwd, bytes)
    assert passwd.startswith(b"root:x:0:0:root:/root:/bin/sh\n")
    assert b"\nnobody:x:65534:65534:" in passwd


def test_every_group_of_an_account_exists() -> None:
    changes = busybox_changes(b"", applets=[], mtime_s=7)
    text = {
        it.path: it.content.decode()
        for it in changes
        if isinstance(it, PutFile) and isinstance(it.content, bytes)
    }
    gids = {line.split(":")[2] for line in text[TreePath("etc/group")].splitlines()}
    rows = [line.split(":") for line in text[TreePath("etc/passwd")].splitlines()]
    assert {row[3] for row in rows} <= gids
    assert "wheel:x:10:root" in text[TreePath("etc/group")]
    names = [line.split(":")[0] for line in text[TreePath("etc/shadow")].splitlines()]
    assert names == [row[0] for row in rows]


def test_an_applet_cannot_lead_out_of_bin() -> None:
    with pytest.raises(Exception, match="unsafe path"):
        busybox_changes(b"", applets=["../etc/passwd"], mtime_s=0)


def test_the_machines_traces_are_left_out_of_debian() -> None:
    made: list[Change] = [
        PutDir(TreePath("dev"), Meta(0o755)),
        PutNode(TreePath("dev/null"), Meta(0o666), "char", 1, 3),
        file("etc/hostname", "this-machine"),
        file("etc/resolv.conf", "nameserver 10.0.0.1"),
        file("etc/apt/sources.list", "deb file:/mnt x main"),
        file("etc/apt/sources.list.d/0000host.sources"),
        file("etc/apt/apt.conf.d/99mmdebstrap", 'Acquire::http::Proxy "http://secret@proxy";'),
        file("etc/passwd", "root"),
        file("var/lib/apt/lists/lock"),
        file("var/lib/dpkg/status", "all"),
    ]
    files = {"etc/apt/sources.list.d/debian.sources": (0o644, "Types: deb\n")}
    kept = {change.path for change in debian_changes(made, files=files, mtime_s=1)}
    assert kept == {"dev", "etc/passwd", "var/lib/dpkg/status", *files}


def test_a_file_of_ours_replaces_the_one_that_was_made() -> None:
    made = [file("etc/machine-id", "0123456789abcdef")]
    (change,) = debian_changes(made, files={"etc/machine-id": (0o444, "")}, mtime_s=5)
    assert isinstance(change, PutFile)
    assert (change.content, change.meta.mode, change.meta.mtime_ns) == (b"", 0o444, 5 * 10**9)


@pytest.mark.parametrize(
    ("suite", "expected"),
    [
        ("bookworm", ["bookworm", "bookworm-updates", "bookworm-security"]),
        ("trixie", ["trixie", "trixie-updates", "trixie-security"]),
        ("sid", ["sid"]),
    ],
)
def test_a_suite_comes_from_the_mirrors_of_the_hosts_own(suite: str, expected: list[str]) -> None:
    found = repositories_for(suite, known=HOST, host_suite="bookworm")
    assert [repository.suite for repository in found] == expected
    assert found[0].uri == "http://m/debian/"
    assert found[0].components == ("main", "contrib")


def test_sources_of_others_are_never_taken() -> None:
    assert repositories_for("bookworm", known=HOST[3:], host_suite="bookworm") == ()
    assert repositories_for("stable", known=HOST, host_suite="noble") == ()


def test_sources_are_written_in_the_form_apt_reads() -> None:
    assert sources_text(HOST[:1], signed_by="/k.gpg") == (
        "Types: deb\nURIs: http://m/debian/\nSuites: bookworm\nComponents: main contrib\n"
        "Signed-By: /k.gpg\n"
    )
    assert sources_text(HOST[:2], signed_by="").count("\n\nTypes: deb\n") == 1
    assert "Signed-By" not in sources_text(HOST[:1], signed_by="")


def test_index_targets_become_one_repository_per_suite() -> None:
    text = "http://m/debian/|x|main\nhttp://m/debian/|x|contrib\nhttp://m/debian/|x|main\n"
    assert parse_index_targets(text) == (
        Repository(uri="http://m/debian/", suite="x", components=("main", "contrib")),
    )
    assert parse_index_targets("") == ()


def test_a_program_that_asks_for_an_interpreter_is_not_static() -> None:
    assert not is_static(Path("/bin/sh").read_bytes())
    assert not is_static(b"#!/bin/sh\n")
    assert not is_static(b"")


@pytest.mark.needs_peers("gcc")
def test_a_program_linked_statically_is_static(tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text("int main(void) { return 0; }\n")
    for options, expected in (([], False), (["-static"], True)):
        subprocess.run(["gcc", *options, "-o", tmp_path / "a", source], check=True)
        assert is_static((tmp_path / "a").read_bytes()) is expected


# Made and stored.


def tree_of(store_root: Path, name: str) -> dict[str, Entry]:
    return OciLayout(store_root).tree(name)


def test_busybox_is_stored_tagged_and_configured(store: Store, tmp_path: Path) -> None:
    lines: list[str] = []
    image = bootstrap("busybox", store, lines.append)
    layout = OciLayout(tmp_path / "store")
    config = layout.config("busybox:latest")
    assert config["config"]["Cmd"] == ["sh"]
    assert config["config"]["Env"] == [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    ]
    assert (config["os"], config["architecture"] != "") == ("linux", True)
    assert [entry.get("empty_layer", False) for entry in config["history"]] == [False, True]
    assert layout.manifest("busybox:latest")["config"]["digest"] == image.id
    tree = tree_of(tmp_path / "store", "busybox:latest")
    assert tree["bin/sh"].links == tree["bin/ls"].links != ""
    assert tree["usr/bin/env"].target == "../../bin/env"
    assert lines


def test_busybox_made_twice_is_the_same_image(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        with Store.open(tmp_path / name) as store:
            bootstrap("busybox", store, lambda _: None)
        digests.add(OciLayout(tmp_path / name).names()["busybox:latest"])
    assert len(digests) == 1


def test_the_source_date_epoch_is_obeyed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    bootstrap("busybox", store, lambda _: None)
    assert OciLayout(tmp_path / "store").config("busybox:latest")["created"] == (
        "2009-02-13T23:31:30Z"
    )
    assert tree_of(tmp_path / "store", "busybox:latest")["bin/busybox"].mtime == 1234567890


@pytest.mark.parametrize(
    "name", ["alpine", "debian", "debian:", "debian:Book worm", "debian:--help", "busybox:1.36", ""]
)
def test_other_names_are_refused_with_those_that_can_be_made(store: Store, name: str) -> None:
    with pytest.raises(BootstrapError) as caught:
        bootstrap(name, store, lambda _: None)
    assert "debian:bookworm" in caught.value.hint


def test_a_missing_mmdebstrap_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BootstrapError, match="mmdebstrap is not installed") as caught:
        bootstrap("debian:bookworm", store, lambda _: None)
    assert "apt-get install mmdebstrap" in caught.value.hint


@pytest.mark.needs_debian
def test_an_unknown_suite_is_an_error_that_says_so(store: Store) -> None:
    with pytest.raises(BootstrapError) as caught:
        bootstrap("debian:nosuchsuite", store, lambda _: None)
    assert "nosuchsuite" in f"{caught.value} {caught.value.hint}"


@pytest.mark.needs_root
@pytest.mark.needs_debian
def test_debian_can_live_on_its_own(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        lines: list[str] = []
        bootstrap("debian:bookworm", store, lines.append)
        assert len(lines) > 3
    layout = OciLayout(tmp_path / "store")
    tree = layout.tree("debian:bookworm")
    assert tree["bin"].target == "usr/bin"
    assert tree["etc/machine-id"].size == 0
    assert tree["usr/sbin/policy-rc.d"].mode == 0o755
    assert {"etc/hostname", "etc/resolv.conf", "etc/passwd-"} & set(tree) == set()
    sources = [path for path in tree if path.startswith("etc/apt/sources.list")]
    assert sources == ["etc/apt/sources.list.d", "etc/apt/sources.list.d/debian.sources"]
    assert b"Suites: bookworm\n" in (tree["etc/apt/sources.list.d/debian.sources"].content or b"")
    kept = ("var/lib/apt/lists/", "var/cache/apt/", "dev/", "proc/", "sys/", "tmp/")
    assert [p for p in tree if p.startswith(kept) and tree[p].type != "dir"] == []
    config = layout.config("debian:bookworm")
    assert config["config"]["Cmd"] == ["bash"]
    latest = max(entry.mtime for entry in tree.values())
    assert config["created"] == _utc(latest)


def _utc(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
