"""`build --verify`: what differs is named, what does not passes, and nothing of a trial is kept."""

from pathlib import Path

import pytest

from layerstore import Store
from tests.support.commands import Commands, Result

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


def verify(box: Commands, folder: Path, run: str, *options: str, code: int | None = 0) -> Result:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(f"FROM box\nRUN {run}\nCMD x\n")
    words = ("build", "--progress", "plain", "--verify", "-t", "it", *options)
    return box(*words, folder, code=code)


def test_a_clock_in_a_file_is_named(box: Commands, tmp_path: Path) -> None:
    done = verify(box, tmp_path / "c", "date > /t; echo same > /s", code=1)
    assert "not reproducible: /t (content: timestamp)" in done.err
    assert "(line 2)" in done.err
    assert "two runs gave different results: /t (" in done.err
    assert "/s" not in done.err.replace("echo same > /s", "")
    assert box("images", "-q", "it").out == ""


def test_a_clock_that_is_read_at_the_end_of_a_long_run_is_named(
    box: Commands, tmp_path: Path
) -> None:
    """The first run ends just after a second began; the second one reads the clock at once."""
    aligned = "sleep 1.2; s=$(date +%s); while [ $(date +%s) = $s ]; do :; done"
    run = f"if [ ! -e /c/ran ]; then touch /c/ran; {aligned}; fi; date +%s > /t"
    done = verify(box, tmp_path / "c", f"--mount=type=cache,target=/c {run}", code=1)
    assert "not reproducible: /t (content: timestamp" in done.err


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("hostname > /h", "/h (content: host name)"),
        ("sh -c 'sleep 0 & echo $!' > /p", "/p (content: a number"),
        ("nproc > /n", "/n (content: a number"),
        ("head -c 40 /dev/urandom > /r", "/r (content: random bytes"),
        ("mkdir -p /var/log; date +%s > /var/log/a", "/var/log/a (content: log)"),
        ("touch /x$(date +%s)", "a name made of random characters"),
        ("touch /m; chmod 60$(( $(date +%s) % 7 )) /m", "/m (mode "),
    ],
)
def test_every_perturbation_shows(box: Commands, tmp_path: Path, run: str, expected: str) -> None:
    assert expected in verify(box, tmp_path / "c", run, code=1).err


def test_what_is_reproducible_passes_and_is_cached(box: Commands, tmp_path: Path) -> None:
    run = "mkdir -p /d/e; echo 1 > /d/f; ln /d/f /d/g; ln -s f /d/h; rm /data/file"
    assert "DONE" in verify(box, tmp_path / "c", run).err
    assert "CACHED" in verify(box, tmp_path / "c", run).err.partition("RUN")[2]
    box("fsck")


def test_what_is_not_is_not_cached(box: Commands, tmp_path: Path) -> None:
    """Else a second look would find nothing wrong."""
    verify(box, tmp_path / "c", "date > /t", code=1)
    again = verify(box, tmp_path / "c", "date > /t", code=1).err
    assert "/t (content" in again
    assert "(its result was not kept: two runs gave different results)" in again
    assert "(command changed)" in verify(box, tmp_path / "c", "date -u > /t", code=1).err


def test_cached_steps_are_not_run(box: Commands, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/Dockerfile").write_text("FROM box\nRUN date > /t\n")
    box("build", "-t", "it", tmp_path / "c")
    assert "CACHED" in verify(box, tmp_path / "c", "date > /t").err


def test_the_trial_leaves_nothing(box: Commands, tmp_path: Path) -> None:
    verify(box, tmp_path / "c", "date > /t", code=1)
    box("builder", "prune", "-a", "-f")
    with Store.open(box.root) as store:
        layers = {layer.diff_id for layer in store.layers.all()}
        assert layers == {layer.diff_id for layer in store.images.resolve("box").layers}
    box("fsck")


def test_times_count_with_source_date_epoch(box: Commands, tmp_path: Path) -> None:
    """Later times are clamped; one before the epoch that is not the same each time is not."""
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=4000000000")
    done = verify(box, tmp_path / "c", "echo > /f", *epoch, code=1)
    assert "/f (modification time" in done.err
    verify(box, tmp_path / "c", "echo > /g", "--build-arg", "SOURCE_DATE_EPOCH=1000000000")


def test_a_step_that_fails_fails_once(box: Commands, tmp_path: Path) -> None:
    assert "exit code: 3" in verify(box, tmp_path / "c", "exit 3", code=1).err


NAMES = "a b c d e f g h i j k l m n o p q r s t u v w x y z"
ORDER = "(content: directory order"


def test_the_order_of_new_directories_shows(box: Commands, tmp_path: Path) -> None:
    run = f"mkdir /d; for i in {NAMES}; do touch /d/$i; done; find /d > /order"
    done = verify(box, tmp_path / "c", run, code=1)
    assert f"/order {ORDER}" in done.err
    assert "try: sort what lists a directory (sort, tar --sort=name)" in done.err
    sorted_run = run.replace("find /d >", "find /d | sort >")
    verify(box, tmp_path / "c", sorted_run)


def test_the_order_of_what_lower_layers_hold_shows(box: Commands, tmp_path: Path) -> None:
    verify(box, tmp_path / "c", "find /data > /order", code=1)
    verify(box, tmp_path / "c", "find /data | sort > /order")


def test_an_order_that_is_hidden_in_a_digest_is_found_by_another_run(
    box: Commands, tmp_path: Path
) -> None:
    made = f"mkdir /d && for i in {NAMES}; do touch /d/$i; done"
    run = f"{made}\nRUN tar c /d | sha256sum > /x; date | sha256sum > /y"
    done = verify(box, tmp_path / "c", run, code=1)
    assert f"/x {ORDER})" in done.err
    assert "/y (content: a digest of something that differs)" in done.err


def test_a_step_that_fails_the_second_time_alone_is_told_as_that(
    box: Commands, tmp_path: Path
) -> None:
    mounted = "--mount=type=cache,target=/c test ! -e /c/begun && touch /c/begun"
    done = verify(box, tmp_path / "c", mounted, code=1)
    assert "not reproducible: the first run succeeded, the second one fails (line 2)" in done.err
    failing = verify(box, tmp_path / "c", "exit 3", code=1)
    assert "not reproducible" not in failing.err


def test_a_step_that_memory_has_no_room_for_runs_on_the_disk(
    box: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.disorder.free_bytes", lambda: 1 << 22)
    monkeypatch.setattr("builder.rehearse.free_bytes", lambda: 1 << 40)
    done = verify(box, tmp_path / "c", "head -c 8000000 /dev/zero > /big; nproc > /n", code=1)
    assert "order of directories is not varied: the step fails in memory" in done.err
    assert "/n (content: a number" in done.err
    monkeypatch.setattr("builder.rehearse.free_bytes", lambda: 1 << 20)
    done = verify(box, tmp_path / "c", "head -c 8000000 /dev/zero > /other")
    assert "not varied: 7 MB do not fit into memory (1 MB are free)" in done.err


def test_what_programs_do_to_layers_below_is_the_same_in_memory(
    box: Commands, tmp_path: Path
) -> None:
    """Copied up, removed, replaced, linked, renamed, with every kind of mark."""
    run = (
        "mkdir -p /d/e/f && touch /d/e/f/g /d/e/h /d/i && ln -s i /d/j && ln /d/i /d/k && "
        "chmod 4750 /d/i && mkfifo /d/p && chown 3:4 /d/e"
        "\nRUN rm -r /d/e && mkdir /d/e && touch /d/e/h && mv /d/i /d/z && echo x >> /data/file &&"
        " rm /data/twin && ln /data/file /data/other && rm /d/j && mkdir /d/j && rm /etc/passwd"
        "\nRUN test ! -e /d/e/f && test -e /d/e/h && mv /data/inner /moved || true"
    )
    verify(box, tmp_path / "c", run)
    box("fsck")


def test_memory_is_given_back(box: Commands, tmp_path: Path) -> None:
    verify(box, tmp_path / "c", "echo 1 > /f")
    assert str(box.root) not in Path("/proc/self/mountinfo").read_text()
    assert list((box.root / "lamina/tmp").iterdir()) == []


def test_a_result_that_another_stage_has_too_stays(box: Commands, tmp_path: Path) -> None:
    """What a second run gives may be what the first run of another step gave."""
    (tmp_path / "c").mkdir()
    once = "if [ $(nproc) = 1 ]; then echo one > /f; else echo {0} > /f; fi"
    (tmp_path / "c/Dockerfile").write_text(
        f"FROM box AS a\nRUN {once.format('one')}\nFROM box\nRUN {once.format('two')}\n"
        "COPY --from=a /f /g\n"
    )
    done = box("build", "--progress", "plain", "--verify", tmp_path / "c", code=1)
    assert "/f (content)" in done.err
    assert "CACHED" in box("build", "--progress", "plain", "--target", "a", tmp_path / "c").err
    box("fsck")
