import bz2
import gzip
import io
import lzma
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BuilderError, LoweringError
from builder.imports import import_tar
from grammar import DockerfileError
from layerstore import HealthcheckConfig, Image, Store, StoreError, host_platform
from tests.support.layers import bytes_of
from tests.support.rawtar import END, entry, pax
from tests.support.stores import findings

TAR = (
    entry("./", kind=b"5", mode=0o755, mtime=100)
    + entry("./etc/", kind=b"5", mode=0o750, mtime=200)
    + entry("./etc/motd", b"hello\n", mode=0o640, uid=1, gid=2, mtime=1_700_000_000)
    + entry("./etc/issue", kind=b"2", target="motd", mtime=300)
    + entry("./bin/sh", b"#!", mode=0o4755, mtime=400)
    + entry("./bin/ash", kind=b"1", target="./bin/sh", mtime=400)
    + END
)


class Trickle:
    """A stream that gives a few bytes at a time, as a pipe may."""

    def __init__(self, data: bytes, step: int) -> None:
        self._file = io.BytesIO(data)
        self._step = step

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(self._step if size < 0 else min(size, self._step))


def taken_in(store: Store, data: bytes, *changes: str, message: str = "") -> Image:
    return import_tar(store, io.BytesIO(data), changes=changes, message=message)


def tree(store: Store, image: Image) -> dict[str, tuple[str, int, int, int]]:
    """Kind, mode and owners by path."""
    return {
        node.entry.path: (
            node.entry.kind,
            node.entry.meta.mode,
            node.entry.meta.uid,
            node.entry.meta.gid,
        )
        for node in store.layers.tree(image.layers).walk()
    }


def test_the_tar_becomes_one_layer_with_everything_in_it(store: Store) -> None:
    image = taken_in(store, TAR)
    assert len(image.layers) == 1
    assert tree(store, image) == {
        "": ("dir", 0o755, 0, 0),
        "bin": ("dir", 0o755, 0, 0),
        "bin/ash": ("file", 0o4755, 0, 0),
        "bin/sh": ("file", 0o4755, 0, 0),
        "etc": ("dir", 0o750, 0, 0),
        "etc/issue": ("symlink", 0o777, 0, 0),
        "etc/motd": ("file", 0o640, 1, 2),
    }
    node = store.layers.tree(image.layers).get("etc/motd")
    assert node is not None
    assert bytes_of(store.layers.read_file(image.layers, node)) == b"hello\n"


def test_the_image_is_as_old_as_the_newest_file_in_it(store: Store) -> None:
    image = taken_in(store, TAR, message="from a friend")
    assert image.config.created == "2023-11-14T22:13:20Z"
    (entry,) = image.config.history
    assert (entry.created, entry.created_by, entry.comment) == (
        ("2023-11-14T22:13:20Z", "", "from a friend")
    )


def test_the_same_tar_gives_the_same_image(store: Store, tmp_path: Path) -> None:
    first = taken_in(store, TAR, "ENV A=1", message="m")
    with Store.open(tmp_path / "other") as other:
        assert taken_in(other, TAR, "ENV A=1", message="m").descriptor == first.descriptor
    assert taken_in(store, TAR, "ENV A=2", message="m").id != first.id


def test_it_is_for_the_platform_of_this_machine(store: Store) -> None:
    config = taken_in(store, TAR).config
    assert (config.os, config.architecture) == ("linux", host_platform().architecture)


def test_an_empty_tar_is_an_image_of_nothing(store: Store) -> None:
    image = taken_in(store, END)
    assert list(tree(store, image)) == [""]
    assert image.config.created == "1970-01-01T00:00:00Z"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_tars_give_the_same_layer(store: Store, pack: Callable[[bytes], bytes]) -> None:
    assert taken_in(store, pack(TAR)).id == taken_in(store, TAR).id


@settings(
    deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(step=st.integers(512, 3000), packed=st.booleans())
def test_pipes_may_give_as_little_at_a_time_as_they_like(
    store: Store, step: int, packed: bool
) -> None:
    data = gzip.compress(TAR) if packed else TAR
    assert import_tar(store, Trickle(data, step), changes=(), message="").id == (
        taken_in(store, TAR).id
    )


def test_what_stands_twice_counts_as_it_stands_last(store: Store) -> None:
    data = (
        entry("a", b"1")
        + entry("gone/", kind=b"5")
        + entry("gone/x", b"2")
        + entry("h", kind=b"1", target="a")
        + entry("a", b"33", mode=0o600)
        + entry("gone", b"4")
        + END
    )
    image = taken_in(store, data)
    assert {path: kind for path, (kind, *_) in tree(store, image).items()} == {
        "": "dir",
        "a": "file",
        "gone": "file",
        "h": "file",
    }
    nodes = store.layers.tree(image.layers).walk()
    sizes = {node.entry.path: node.entry.size_bytes for node in nodes if node.entry.path}
    assert sizes == {"a": 2, "gone": 1, "h": 1}
    assert findings(store) == []


def test_links_lead_where_they_would_if_it_was_unpacked(store: Store) -> None:
    data = (
        entry("usr/bin/", kind=b"5", mode=0o755)
        + entry("bin", kind=b"2", target="usr/bin")
        + entry("bin/sh", b"#!", mode=0o755)
        + entry("out", kind=b"2", target="/../../..")
        + entry("out/up", b"x")
        + END
    )
    found = tree(store, taken_in(store, data))
    assert {path for path, (kind, *_) in found.items() if kind == "file"} == {"usr/bin/sh", "up"}
    assert found["bin"][0] == "symlink"


def test_devices_and_the_attributes_of_the_root_stay(store: Store) -> None:
    data = (
        entry("./", kind=b"5", mode=0o555, uid=7, gid=8)
        + entry("./dev/null", kind=b"3", mode=0o666, device=(1, 3))
        + entry("./pipe", kind=b"6", mode=0o600)
        + END
    )
    found = tree(store, taken_in(store, data))
    assert found[""] == ("dir", 0o555, 7, 8)
    assert (found["dev/null"], found["pipe"]) == (("char", 0o666, 0, 0), ("fifo", 0o600, 0, 0))


def test_large_files_pass_through(store: Store) -> None:
    content = random.Random(1).randbytes(3_000_000)
    image = taken_in(store, entry("big", content) + entry("small", b"1") + END)
    node = store.layers.tree(image.layers).get("big")
    assert node is not None
    assert bytes_of(store.layers.read_file(image.layers, node)) == content


class TestChanges:
    def test_they_are_applied_in_order(self, store: Store) -> None:
        config = taken_in(
            store,
            TAR,
            "ENV A=1 B=two\\ words",
            "ENV A=3",
            "WORKDIR /srv",
            "WORKDIR app",
            'ENTRYPOINT ["/bin/sh", "-c"]',
            "CMD echo $A",
            "EXPOSE 80 53/udp",
            "LABEL a=b",
            "USER ada:staff",
            "VOLUME /data",
            "STOPSIGNAL INT",
            "ONBUILD RUN true",
        ).config.config
        assert {"A=3", "B=two words"} <= set(config.env)
        assert "A=1" not in config.env
        assert config.working_dir == "/srv/app"
        assert config.entrypoint == ("/bin/sh", "-c")
        assert config.cmd == ("/bin/sh", "-c", "echo $A")
        assert set(config.exposed_ports) == {"80/tcp", "53/udp"}
        assert config.labels == (("a", "b"),)
        assert config.user == "ada:staff"
        assert config.volumes == ("/data",)
        assert config.stop_signal
        assert config.on_build == ("RUN true",)

    def test_a_health_check_is_one_too(self, store: Store) -> None:
        config = taken_in(store, TAR, "HEALTHCHECK --interval=5s CMD true").config.config
        assert config.healthcheck == HealthcheckConfig(
            test=("CMD-SHELL", "true"), interval_ns=5_000_000_000
        )

    def test_they_leave_one_history_entry_and_one_layer(self, store: Store) -> None:
        image = taken_in(store, TAR, "WORKDIR /made", "ENV A=1")
        assert len(image.config.history) == len(image.layers) == 1
        assert "made" not in tree(store, image)

    @pytest.mark.parametrize(
        "change",
        [
            "RUN true",
            "COPY a b",
            "ADD a b",
            "FROM x",
            "ARG A",
            "SHELL []",
            "MAINTAINER me",
            "nope x",
        ],
    )
    def test_what_changes_files_or_the_build_is_refused(self, store: Store, change: str) -> None:
        message = f"^{change.split()[0].upper()} is not a valid change command$"
        with pytest.raises(LoweringError, match=message) as caught:
            taken_in(store, TAR, change)
        assert caught.value.hint.startswith("one of CMD ENTRYPOINT ENV ")

    def test_an_empty_text_is_refused(self, store: Store) -> None:
        with pytest.raises(LoweringError, match="an empty text is not a valid change command"):
            taken_in(store, TAR, " ")

    @pytest.mark.parametrize(
        "change", ["EXPOSE pork", "ENV", "USER", "ONBUILD", "ONBUILD ONBUILD RUN x", "CMD a\nCMD b"]
    )
    def test_what_makes_no_sense_is_a_typed_error(self, store: Store, change: str) -> None:
        with pytest.raises((BuilderError, DockerfileError)):
            taken_in(store, TAR, change)


class TestHostileTars:
    @pytest.mark.parametrize(
        "name", [".wh.gone", "etc/.wh.passwd", "etc/.wh..wh..opq"], ids=["root", "deep", "opaque"]
    )
    def test_a_layer_is_no_root_file_system(self, store: Store, name: str) -> None:
        with pytest.raises(LoweringError, match="whiteout") as caught:
            taken_in(store, entry("etc/", kind=b"5", mode=0o755) + entry(name) + END)
        assert caught.value.hint == "it is a layer, not a root file system"

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"no tar\n",
            b"x" * 2000,
            entry("../outside", b"x") + END,
            entry("a/../../outside", b"x") + END,
            entry("hard", kind=b"1", target="../../etc/passwd") + END,
            entry("hard", kind=b"1", target="nothing") + END,
            TAR[:700],
            gzip.compress(TAR)[:60],
            pax({"path": "\0"}) + entry("x") + END,
        ],
        ids=range(10),
    )
    def test_nothing_is_kept_of_what_is_malformed(self, store: Store, data: bytes) -> None:
        if not data:
            assert list(tree(store, taken_in(store, data))) == [""]
            return
        with pytest.raises((StoreError, BuilderError)):
            taken_in(store, data)
        store.flush()
        assert store.images.list() == []
        assert findings(store) == []

    def test_absolute_names_are_beneath_the_root(self, store: Store) -> None:
        image = taken_in(store, entry("/etc/passwd", b"x") + END)
        assert list(tree(store, image)) == ["", "etc", "etc/passwd"]
