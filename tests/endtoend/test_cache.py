"""What is built twice, and what is not: reproducible digests, untouched contexts, early cut-off."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.cli import REPOSITORY, Lamina, command
from tests.support.imagetree import OciLayout, scan
from tests.support.progress import executed, outcomes

pytestmark = [pytest.mark.needs_overlay]

DOCKERFILE = """\
FROM busybox
WORKDIR /work
COPY tree tree
RUN for i in 5 3 1 4 2; do echo $i > made-$i; done; mkdir -p deep/er; date > deep/date; date > /d
RUN ln made-1 linked; rm made-2; chmod 4755 made-3; mkfifo pipe; chown 7:8 made-4
ADD tree/one.txt /added/
ENV A=b
CMD ["ls", "-lR", "/work"]
"""


def write_context(folder: Path, *, reverse: bool = False) -> None:
    """The same files, made in one order or the other. Times are kept by COPY, so they are set."""
    files = {f"tree/{name}.txt": name * 10 for name in ("one", "two", "three", "four", "five")}
    for name, text in sorted(files.items(), reverse=reverse):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (1, 1_600_000_000))
    (folder / "Dockerfile").write_text(DOCKERFILE)


def test_fresh_stores_and_equal_inputs_give_equal_digests(tmp_path: Path) -> None:
    """Other store, other directory order, other umask, other time zone, later: the same image."""
    digests = []
    for number, zone in enumerate(("UTC", "Asia/Tokyo")):
        context = tmp_path / f"context-{number}"
        write_context(context, reverse=bool(number))
        store = Lamina(root=tmp_path / f"store-{number}", env={"TZ": zone})
        old = os.umask(0o022 if number == 0 else 0o077)
        try:
            store("bootstrap", "busybox")
            env = {"SOURCE_DATE_EPOCH": "1700000000"}
            # `date` is the step's own doing: it is given a clock that stands still.
            text = DOCKERFILE.replace("date > ", "date -u -d @0 > ")
            (context / "Dockerfile").write_text(text)
            store("build", "--no-cache", "-t", "it", context, env=env)
        finally:
            os.umask(old)
        digests.append(OciLayout(store.root).names()["it:latest"])
        time.sleep(1.1 * (number == 0))  # the clock of whole seconds moves on
    assert digests[0] == digests[1]


def test_no_cache_in_one_store_gives_the_same_digest_too(busybox: Lamina, context: Path) -> None:
    write_context(context)
    text = DOCKERFILE.replace("date > ", "echo > ")
    (context / "Dockerfile").write_text(text)
    env = {"SOURCE_DATE_EPOCH": "1700000000"}
    digests = set()
    for _ in range(2):
        plain = busybox("build", "--no-cache", "--progress=plain", "-t", "it", context, env=env)
        assert len(executed(plain.stderr)) == 5
        digests.add(OciLayout(busybox.root).names()["it:latest"])
        time.sleep(1.1)  # as above
    assert len(digests) == 1


def test_a_second_build_executes_nothing(busybox: Lamina, context: Path) -> None:
    write_context(context)
    first = busybox("build", "--progress", "plain", "-t", "it", context).stderr
    assert len(executed(first)) == 5
    before = OciLayout(busybox.root).names()["it:latest"]
    second = busybox("build", "--progress", "plain", "-t", "it", context).stderr
    assert executed(second) == []
    assert set(outcomes(second)) >= {
        title for title in outcomes(first) if "[internal]" not in title
    }
    assert OciLayout(busybox.root).names()["it:latest"] == before


def test_a_second_build_opens_no_file_of_the_context_nor_of_its_copies(
    lamina: Lamina, context: Path
) -> None:
    """On a file system that records every access, in a mount namespace of the commands' own."""
    script = """
        set -e
        mount -t tmpfs -o strictatime tmpfs "$1"
        mkdir "$1/context" && cp -a "$2/." "$1/context"
        export LAMINA_ROOT=$1/store
        shift 2
        stamps() {
          find "${LAMINA_ROOT%/store}" -name '*.txt' -printf '%A@ %T@ %C@ %i %p\\n' | sort
        }
        exec 3>&1 >/dev/null
        "$@" bootstrap busybox
        "$@" build -t it "${LAMINA_ROOT%/store}/context"
        sleep 2.1  # younger than its digest's record, a file is not yet trusted
        "$@" build -t it "${LAMINA_ROOT%/store}/context"
        stamps >&3
        echo == >&3
        sleep 0.02
        "$@" build -t it "${LAMINA_ROOT%/store}/context"
        stamps >&3
    """
    write_context(context)
    mount = lamina.root.with_name("tmpfs")
    mount.mkdir()
    done = subprocess.run(
        [
            "unshare",
            "-m" if os.geteuid() == 0 else "-Urm",
            "sh",
            "-c",
            script,
            "sh",
            str(mount),
            str(context),
            *command(),
        ],
        env=lamina.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, after = (part.strip().splitlines() for part in done.stdout.split("=="))
    assert len(before) >= 2 * 5, "the context and at least one copy were looked at"
    assert after == before


def test_new_times_alone_miss_nothing(busybox: Lamina, context: Path) -> None:
    write_context(context)
    busybox("build", "-t", "it", context)
    for path in (context / "tree").iterdir():
        os.utime(path, (5, 5))
    assert executed(busybox("build", "--progress=plain", "-t", "it", context).stderr) == []


def test_a_changed_file_builds_from_its_copy_on(busybox: Lamina, context: Path) -> None:
    write_context(context)
    busybox("build", "-t", "it", context)
    (context / "tree" / "one.txt").write_text("changed")
    again = executed(busybox("build", "--progress=plain", "-t", "it", context).stderr)
    assert [title.partition("] ")[2].split()[0] for title in again] == ["COPY", "RUN", "RUN", "ADD"]


@pytest.mark.parametrize("change", ["content", "mode", "rename", "link"])
def test_every_change_that_matters_is_seen(busybox: Lamina, context: Path, change: str) -> None:
    (context / "f").write_text("one")
    (context / "Dockerfile").write_text("FROM busybox\nCOPY . /c/\n")
    busybox("build", "-t", "it", context)
    match change:
        case "content":  # same size, same times
            info = (context / "f").stat()
            (context / "f").write_text("two")
            os.utime(context / "f", ns=(info.st_atime_ns, info.st_mtime_ns))
        case "mode":
            (context / "f").chmod(0o755)
        case "rename":
            (context / "f").rename(context / "g")
        case _:
            (context / "f").unlink()
            (context / "f").symlink_to("Dockerfile")
    again = busybox("build", "--progress=plain", "-t", "it", context).stderr
    assert len(executed(again)) == 1
    tree = OciLayout(busybox.root).tree("it:latest")
    made = {path.removeprefix("c/"): tree[path] for path in tree if path.startswith("c/")}
    assert {name: entry.type for name, entry in made.items()} == {
        name: entry.type for name, entry in scan(context).items()
    }


def test_early_cut_off_runs_the_rewritten_step_alone(busybox: Lamina, context: Path) -> None:
    file = context / "Dockerfile"
    file.write_text("FROM busybox\nRUN echo hi > /a\nRUN sleep 5; touch /b\n")
    busybox("build", "-t", "it", context)
    before = OciLayout(busybox.root).names()["it:latest"]
    file.write_text("FROM busybox\nRUN printf 'hi\\n' > /a\nRUN sleep 5; touch /b\n")
    start = time.monotonic()
    again = busybox("build", "--progress", "plain", "-t", "it", context).stderr
    assert time.monotonic() - start < 4
    assert [title.partition("] ")[2] for title in executed(again)] == ["RUN printf 'hi\\n' > /a"]
    assert "CACHED" in [end for title, end in outcomes(again).items() if "sleep" in title]
    assert OciLayout(busybox.root).names()["it:latest"] == before


def test_early_cut_off_reaches_through_stages(busybox: Lamina, context: Path) -> None:
    file = context / "Dockerfile"
    text = "FROM busybox AS one\nRUN echo hi > /a\nFROM busybox\nCOPY --from=one /a /a\n"
    file.write_text(text)
    busybox("build", "-t", "it", context)
    before = OciLayout(busybox.root).names()["it:latest"]
    file.write_text(text.replace("echo hi", "printf 'hi\\n'"))
    again = executed(busybox("build", "--progress", "plain", "-t", "it", context).stderr)
    assert len(again) == 1
    assert OciLayout(busybox.root).names()["it:latest"] == before


def test_a_failed_step_keeps_what_came_before(busybox: Lamina, context: Path) -> None:
    file = context / "Dockerfile"
    file.write_text("FROM busybox\nRUN echo first > /a\nRUN echo out; echo err >&2; exit 7\n")
    failed = busybox("build", "--progress", "plain", "-t", "it", context, check=False)
    assert failed.returncode == 1
    assert "exit code: 7" in failed.stderr
    assert "out" in failed.stderr
    assert "err" in failed.stderr
    assert "Traceback" not in failed.stderr
    file.write_text("FROM busybox\nRUN echo first > /a\nRUN cat /a\n")
    assert len(executed(busybox("build", "--progress", "plain", context).stderr)) == 1


@pytest.mark.needs_root
def test_a_sample_built_by_two_users_of_one_machine_is_one_image(tmp_path: Path) -> None:
    """Contexts in different places with different owners and modes of their folders."""
    digests = set()
    for user in (1000, 2000):
        context = tmp_path / f"home-{user}"
        shutil.copytree(REPOSITORY / "sample-dockerfiles" / "02-basics", context)
        for path in [context, *context.rglob("*")]:
            os.chown(path, user, user)
        store = Lamina(root=tmp_path / f"store-{user}")
        store("bootstrap", "busybox")
        store("build", "-t", "it", context, env={"SOURCE_DATE_EPOCH": "1700000000"})
        digests.add(OciLayout(store.root).names()["it:latest"])
    assert len(digests) == 1
