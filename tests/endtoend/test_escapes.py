"""Ways out of a container and up in it: blocked here wherever docker and podman block them."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import escapes, rootfs
from tests.support.cli import Lamina
from tests.support.escapes import Answer, Answers, Ground

pytestmark = [pytest.mark.needs_overlay, pytest.mark.needs_userns, pytest.mark.needs_peers("gcc")]

# What is open by design: docker and podman have it, too.
BY_DESIGN = {
    "socket_packet",  # CAP_NET_RAW, in a network of its own
    "socket_raw",
    "socket_mark",
}
# Not there as long as there are walls, however the machine is made.
_SAMPLE = ("mount_tmpfs", "unshare_mnt", "setns_mnt", "set_hostname", "perf_event", "key_add")

PAGE = (Path(__file__).parents[2] / "docs/escapes.md").read_text()


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    rootfs.need_busybox()
    with escapes.prepared() as prepared:
        yield prepared


@pytest.fixture(scope="module")
def answers(ground: Ground) -> Callable[[str], Answers]:
    """What the probe finds in a place, asked once."""
    found: dict[str, Answers] = {}
    places = escapes.OURS | escapes.ROOTLESS | escapes.RUNTIMES

    def ask(name: str) -> Answers:
        if name not in found:
            theirs = escapes.THEIRS.get(name)
            place = places[name] if theirs is None else theirs[1]
            found[name] = place(ground)
        return found[name]

    return ask


OURS = [
    *(pytest.param(name) for name in escapes.OURS),
    *(
        pytest.param(name, marks=[pytest.mark.needs_root, pytest.mark.needs_same_python])
        for name in escapes.ROOTLESS
    ),
]
THEIRS = [
    pytest.param(name, marks=[pytest.mark.needs_root, pytest.mark.needs_peers(program)])
    for name, (program, _) in escapes.THEIRS.items()
]


def opened(found: Answers) -> set[str]:
    return {name for name, answer in found.items() if answer.is_open}


@pytest.mark.parametrize("place", OURS)
def test_every_way_out_is_blocked(place: str, answers: Callable[[str], Answers]) -> None:
    assert opened(answers(place)) <= BY_DESIGN


@pytest.mark.needs_root
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.needs_peers(name)) for name in escapes.RUNTIMES]
)
def test_other_runtimes_put_up_the_same_walls(name: str, answers: Callable[[str], Answers]) -> None:
    """But for what runc lets every container open, whatever config.json says."""
    assert opened(answers(name)) <= BY_DESIGN | {"node_tun"}


@pytest.mark.parametrize("theirs", THEIRS)
@pytest.mark.parametrize("place", list(escapes.OURS))
def test_what_others_block_is_blocked(
    place: str, theirs: str, answers: Callable[[str], Answers]
) -> None:
    ours, others = answers(place), answers(theirs)
    assert list(ours) == list(others), "the same probe"
    assert opened(ours) <= opened(others)


@pytest.mark.needs_root
def test_the_probe_finds_what_is_open(ground: Ground) -> None:
    """With the walls of a RUN down; namespaces it has all the same."""
    found = escapes.in_insecure_build(ground)
    assert opened(found) >= set(_SAMPLE)
    assert len(opened(found)) > 50
    assert not found["namespace_pid"].is_open
    assert not found["host_file"].is_open


def test_the_page_shows_every_way(answers: Callable[[str], Answers]) -> None:
    rows = [line.split(" | ") for line in PAGE.splitlines() if line.startswith("| ")]
    named = [row[0].removeprefix("| ") for row in rows[2:-1]]
    assert [name for name in named if name in answers("run")] == list(answers("run"))
    heads = [name.strip(" |") for name in rows[0]]
    places = (*escapes.OURS, *escapes.ROOTLESS, *escapes.RUNTIMES, *escapes.THEIRS)
    assert heads == ["way", *places]
    columns = range(1, 1 + len(escapes.OURS) + len(escapes.ROOTLESS))
    shown = {row[0].removeprefix("| ") for row in rows[2:-1] for at in columns if row[at] == "open"}
    assert shown == BY_DESIGN


def test_answers_are_read_as_they_are_written() -> None:
    text = "".join(f"way_{number}\topen\t\n" for number in range(40)) + "noise\nx\tblocked\tEPERM\n"
    found = escapes.parse(text)
    assert found["x"] == Answer(answer="blocked", why="EPERM")
    assert str(found["x"]) == "blocked (EPERM)"
    assert len(found) == 41
    with pytest.raises(AssertionError):
        escapes.parse("x\topen\t\n")


# ---- what an image can do before anything of it runs


@pytest.fixture
def hostile(tmp_path: Path, lamina: Lamina) -> Callable[..., str]:
    """Import a root file system with links in it, and run something in it; what it says."""

    def run(links: dict[str, str], *words: str) -> str:
        root = rootfs.make_root(tmp_path / "root")
        for name, target in links.items():
            path = root / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(target)
        archive = shutil.make_archive(str(tmp_path / "hostile"), "tar", root)
        lamina("import", archive, "hostile")
        done = lamina("run", "--rm", "--network=none", *words, check=False)
        return f"{done.returncode}\n{done.stdout}{done.stderr}"

    return run


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("target", ["/tmp", "/", "../../..", "/proc/1/root", "dev", "nowhere"])
def test_a_link_in_place_of_a_kernel_view_is_refused(
    hostile: Callable[..., str], name: str, target: str
) -> None:
    said = hostile({name: target}, "hostile", "true")
    assert said.startswith("125\n")
    assert f"/{name}" in said and "symbolic link" in said


@pytest.mark.parametrize("name", ["etc/resolv.conf", "etc/hosts", "etc/hostname"])
def test_a_link_in_place_of_a_generated_file_stays_inside(
    hostile: Callable[..., str], tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("canary")
    up = "../" * 30
    script = f"cat /{name} | grep canary; echo x > /{name}; echo $?"
    said = hostile({name: f"{up}{canary}"}, "hostile", "sh", "-c", script)
    assert "canary" not in said
    assert canary.read_text() == "canary"


@pytest.mark.parametrize("to", ["/proc/self/cwd", "/proc/1/root/tmp", "/proc/self/fd/7", "/dev"])
def test_links_at_mount_targets_lead_into_no_kernel_view(
    hostile: Callable[..., str], tmp_path: Path, to: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    said = hostile({"data": to}, "-v", f"{source}:/data/x", "hostile", "true")
    code = int(said.split("\n")[0])
    assert code in (0, 125)
    if to.startswith("/proc"):
        assert code == 125
    assert list(source.iterdir()) == []


@pytest.mark.parametrize("to", ["/proc/self/fd/7/../..", "/proc/1/cwd", "../../../../../.."])
def test_a_working_directory_is_inside(
    hostile: Callable[..., str], tmp_path: Path, to: str
) -> None:
    (tmp_path / "canary").touch()
    script = f"pwd; ls -a . ..; cat {tmp_path}/canary ../../../../../../..{tmp_path}/canary"
    said = hostile({"work": to}, "-w", "/work", "hostile", "sh", "-c", script)
    code, *lines = said.split("\n")
    assert code == "125" or (lines[0].startswith("/") and lines.count("canary") == 0)


@pytest.mark.parametrize("how", ["argv", "script", "link"])
def test_the_interpreter_of_ours_cannot_be_executed(hostile: Callable[..., str], how: str) -> None:
    """/proc/self/exe is what sets the stage, until the program is executed (CVE-2019-5736)."""
    if how == "script":
        write = "printf '#!/proc/self/exe\\n' > /s; chmod 755 /s; exec /s"
        said = hostile({}, "hostile", "sh", "-c", write)
    elif how == "link":
        said = hostile({"bin/true": "/proc/self/exe"}, "hostile", "/bin/true", "-c", "print(6*7)")
    else:
        said = hostile({}, "hostile", "/proc/self/exe", "-c", "print(6*7)")
    assert "42" not in said
    assert "Python" not in said and "usage:" not in said
