"""Names of an enemy, resolved by the kernel and by the walk that stands in for it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.sandbox import resolve
from tests.support.traces import open_descriptors

PATH = os.O_PATH | os.O_CLOEXEC


class Open(Protocol):
    def __call__(self, dir_fd: int, path: str, flags: int, mode: int = 0, /) -> int: ...


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`outside` beside `root` is what must never be reached."""
    top = tmp_path_factory.mktemp("tree")
    (top / "outside").write_text("outside")
    root = top / "root"
    (root / "etc/deep").mkdir(parents=True)
    (root / "etc/passwd").write_text("inside")
    (root / "outside").write_text("inside")
    for name, target in {
        "abs": "/etc",
        "rel": "etc",
        "up": "../../../../outside",
        "absup": "/../../outside",
        "etc/back": "../outside",
        "etc/deep/far": "../../../../../../etc/passwd",
        "loop": "loop",
        "ping": "pong",
        "pong": "ping",
        "dangling": "/nowhere/at/all",
        "magic": "/proc/self/root",
        "chain": "rel/deep/far",
        "trailing": "etc/",
        "empty-middle": "etc//./deep",
    }.items():
        (root / name).symlink_to(target)
    return root


@pytest.fixture
def root_fd(tree: Path) -> Iterator[int]:
    fd = os.open(tree, PATH)
    yield fd
    os.close(fd)


@pytest.fixture(params=["kernel", "walk"])
def open_in_root(request: pytest.FixtureRequest) -> Open:
    opens: dict[str, Open] = {"kernel": resolve.open_in_root, "walk": resolve.walk_in_root}
    return opens[request.param]


@pytest.fixture(params=["kernel", "walk"])
def open_beneath(request: pytest.FixtureRequest) -> Open:
    opens: dict[str, Open] = {"kernel": resolve.open_beneath, "walk": resolve.walk_beneath}
    return opens[request.param]


def target_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    finally:
        os.close(fd)


class TestInRoot:
    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/", ""),
            ("", None),
            (".", ""),
            ("..", ""),
            ("/../..", ""),
            ("etc", "/etc"),
            ("/etc/passwd", "/etc/passwd"),
            ("//etc///passwd", "/etc/passwd"),
            ("/etc/./deep/../passwd", "/etc/passwd"),
            ("abs/passwd", "/etc/passwd"),
            ("rel/passwd", "/etc/passwd"),
            ("up", "/outside"),
            ("absup", "/outside"),
            ("etc/back", "/outside"),
            ("abs/back", "/outside"),
            ("etc/deep/far", "/etc/passwd"),
            ("chain", "/etc/passwd"),
            ("trailing/passwd", "/etc/passwd"),
            ("empty-middle", "/etc/deep"),
            ("../../../outside", "/outside"),
        ],
    )
    def test_names_stay_inside(
        self, tree: Path, root_fd: int, open_in_root: Open, path: str, expected: str | None
    ) -> None:
        if expected is None:
            with pytest.raises(FileNotFoundError):
                open_in_root(root_fd, path, PATH)
            return
        assert target_of(open_in_root(root_fd, path, PATH)) == f"{tree}{expected}"

    @pytest.mark.parametrize(
        ("path", "number"),
        [
            ("loop", errno.ELOOP),
            ("ping/x", errno.ELOOP),
            ("dangling", errno.ENOENT),
            ("nonesuch", errno.ENOENT),
            ("nonesuch/../etc", errno.ENOENT),
            ("etc/passwd/x", errno.ENOTDIR),
            ("etc/passwd/..", errno.ENOTDIR),
            ("a" * 256, errno.ENAMETOOLONG),
        ],
    )
    def test_what_cannot_be_opened(
        self, root_fd: int, open_in_root: Open, path: str, number: int
    ) -> None:
        with pytest.raises(OSError) as caught:
            open_in_root(root_fd, path, PATH)
        assert caught.value.errno == number

    def test_the_content_is_that_of_the_inside(self, root_fd: int, open_in_root: Open) -> None:
        fd = open_in_root(root_fd, "up", os.O_RDONLY)
        assert os.read(fd, 100) == b"inside"
        os.close(fd)

    def test_the_last_link_is_kept_when_asked(self, root_fd: int, open_in_root: Open) -> None:
        fd = open_in_root(root_fd, "up", PATH | os.O_NOFOLLOW)
        assert os.readlink("", dir_fd=fd) == "../../../../outside"
        os.close(fd)

    def test_magic_links_are_refused(self, open_in_root: Open) -> None:
        fd = os.open("/", PATH)
        for path in ("/proc/self/root", "/proc/self/exe", "/proc/self/cwd/etc", "/dev/fd/0"):
            with pytest.raises(OSError) as caught:
                open_in_root(fd, path, PATH)
            assert caught.value.errno in (errno.ELOOP, errno.ENOENT)
        os.close(fd)

    def test_descriptors_are_closed_on_exec_and_none_are_left(
        self, root_fd: int, open_in_root: Open
    ) -> None:
        before = open_descriptors()
        for path in ("etc/deep", "loop", "nonesuch/x", "up", "/"):
            try:
                fd = open_in_root(root_fd, path, PATH)
            except OSError:
                continue
            assert not os.get_inheritable(fd)
            os.close(fd)
        assert open_descriptors() <= before


class TestBeneath:
    @pytest.mark.parametrize("path", ["etc", "etc/passwd", "etc/./deep", "."])
    def test_plain_names_are_opened(
        self, tree: Path, root_fd: int, open_beneath: Open, path: str
    ) -> None:
        assert target_of(open_beneath(root_fd, path, PATH)) == str(
            Path(os.path.normpath(tree / path))
        )

    @pytest.mark.parametrize(
        ("path", "numbers"),
        [
            ("abs", {errno.ELOOP}),
            ("rel/passwd", {errno.ELOOP}),
            ("up", {errno.ELOOP}),
            ("..", {errno.EXDEV}),
            ("/etc", {errno.EXDEV}),
            ("etc/../../outside", {errno.EXDEV}),
            ("nonesuch", {errno.ENOENT}),
        ],
    )
    def test_links_and_ways_out_are_refused(
        self, root_fd: int, open_beneath: Open, path: str, numbers: set[int]
    ) -> None:
        with pytest.raises(OSError) as caught:
            open_beneath(root_fd, path, PATH)
        assert caught.value.errno in numbers

    def test_a_link_is_refused_for_reading_too(self, root_fd: int, open_beneath: Open) -> None:
        with pytest.raises(OSError) as caught:
            open_beneath(root_fd, "up", os.O_RDONLY)
        assert caught.value.errno == errno.ELOOP


class TestLocate:
    @pytest.mark.parametrize(
        ("path", "expected", "existing"),
        [
            ("/", "", 0),
            ("/etc/passwd", "etc/passwd", 2),
            ("/abs/new", "etc/new", 1),
            ("/abs/new/deep", "etc/new/deep", 1),
            ("/new", "new", 0),
            ("/dangling", "nowhere/at/all", 0),
            ("/dangling/more", "nowhere/at/all/more", 0),
            ("/up", "outside", 1),
            ("/../../x", "x", 0),
            ("/etc/deep/../../a//b/.", "a/b", 0),
        ],
    )
    def test_it_says_where_a_name_leads(
        self, root_fd: int, path: str, expected: str, existing: int
    ) -> None:
        place = resolve.locate(root_fd, path)
        assert (place.path, place.existing) == (expected, existing)
        assert place.is_there == (existing == len(place.parts))

    @pytest.mark.parametrize("path", ["/loop", "/etc/passwd/x", "/new/../etc", "/dangling/../x"])
    def test_what_leads_nowhere_is_an_error(self, root_fd: int, path: str) -> None:
        with pytest.raises(OSError):
            resolve.locate(root_fd, path)


class TestMakeDirectories:
    def test_missing_parts_are_made_with_their_mode(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("/real")
        fd = os.open(tmp_path, PATH)
        mask = os.umask(0o077)
        try:
            made = resolve.make_directories(fd, "/link/a/b")
        finally:
            os.umask(mask)
        assert target_of(made) == str(tmp_path / "real/a/b")
        assert (tmp_path / "real/a").stat().st_mode & 0o7777 == 0o755
        os.close(fd)

    def test_what_is_there_is_opened_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir(mode=0o700)
        fd = os.open(tmp_path, PATH)
        assert target_of(resolve.make_directories(fd, "a")) == str(tmp_path / "a")
        assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o700
        os.close(fd)

    def test_a_file_in_the_way_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        fd = os.open(tmp_path, PATH)
        for path in ("file", "file/x"):
            with pytest.raises(NotADirectoryError):
                resolve.make_directories(fd, path)
        os.close(fd)


@settings(max_examples=150, deadline=None)
@given(
    path=st.lists(
        st.sampled_from(
            [
                *("etc", "deep", "passwd", "..", ".", "", "abs", "rel", "up", "absup", "back"),
                *("far", "loop", "dangling", "chain", "trailing", "outside", "new"),
            ]
        ),
        max_size=7,
    ).map("/".join)
)
def test_the_walk_agrees_with_the_kernel(tree: Path, path: str) -> None:
    fd = os.open(tree, PATH)
    answers = []
    for open_it in (resolve.open_in_root, resolve.walk_in_root):
        try:
            answers.append(target_of(open_it(fd, path, PATH)))
        except OSError as error:
            answers.append(errno.errorcode[error.errno or 0])
    os.close(fd)
    assert answers[0] == answers[1]
    assert answers[0].startswith((str(tree), "E"))
