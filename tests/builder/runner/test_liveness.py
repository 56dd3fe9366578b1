import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from builder.runner import liveness
from tests.support.cli import REPOSITORY
from tests.support.waiting import wait_until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ID"


def holder(path: Path, then: str = "sys.stdin.read()") -> "subprocess.Popen[bytes]":
    """Another process that holds the lock; returns once it does."""
    program = (
        "import sys; from pathlib import Path; from builder.runner import liveness\n"
        f"hold = liveness.take(Path({str(path)!r}))\n"
        f"print('held', flush=True); {then}"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def is_open(path: Path) -> bool:
    """Whether this process has the file open."""
    links = list(Path("/proc/self/fd").iterdir())  # one of them is gone when they are looked at
    return any(link.exists() and link.samefile(path) for link in links)


def end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def test_nobody_holds_what_is_not_there(path: Path) -> None:
    assert not liveness.is_held(path)
    assert liveness.seize(path) is None
    assert liveness.wait(path) == ""


def test_a_held_lock_is_seen_by_others_and_released(path: Path) -> None:
    hold = liveness.take(path)
    assert hold is not None
    assert liveness.is_held(path)
    assert liveness.take(path) is None
    assert liveness.seize(path) is None
    hold.release()
    assert not path.exists()
    assert not liveness.is_held(path)


def test_the_lock_of_a_killed_process_is_free_and_its_file_is_a_leftover(path: Path) -> None:
    process = holder(path)
    assert liveness.is_held(path)
    assert liveness.seize(path) is None
    end(process)
    assert not liveness.is_held(path)
    hold = liveness.seize(path)
    assert hold is not None
    hold.release()
    assert not path.exists()


def test_taking_takes_a_leftover_over(path: Path) -> None:
    end(holder(path))
    hold = liveness.take(path)
    assert hold is not None
    assert liveness.is_held(path)
    hold.release()


def test_waiting_ends_with_the_holder_s_last_words(path: Path) -> None:
    process = holder(path, "sys.stdin.readline(); hold.release('42')")
    found: list[str | None] = []
    waiter = threading.Thread(target=lambda: found.append(liveness.wait(path)))
    waiter.start()
    wait_until(lambda: is_open(path))
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    waiter.join(timeout=10)
    assert found == ["42"]
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_waiting_ends_when_the_holder_is_killed(path: Path) -> None:
    process = holder(path)
    end(process)
    assert liveness.wait(path) == ""


def test_waiting_gives_up_after_a_while(path: Path) -> None:
    hold = liveness.take(path)
    assert hold is not None
    began = time.monotonic()
    assert liveness.wait(path, 0.1) is None
    assert 0.1 <= time.monotonic() - began < 5
    assert liveness.wait(path, 0) is None
    hold.release()


def test_a_lock_can_be_handed_to_another_process(path: Path) -> None:
    hold = liveness.take(path)
    assert hold is not None
    os.set_inheritable(hold.fd, True)
    program = (
        "import sys; from pathlib import Path; from builder.runner.liveness import Hold\n"
        f"hold = Hold.inherited(Path({str(path)!r}), {hold.fd})\n"
        "print('mine', flush=True); sys.stdin.readline(); hold.release('0')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(hold.fd,),
    )
    hold.hand_over()
    assert process.stdout is not None
    assert process.stdout.readline() == b"mine\n"
    assert liveness.is_held(path)
    process.communicate(b"go\n")
    assert not path.exists()


def test_a_link_in_place_of_the_file_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        liveness.take(path)
    assert not (tmp_path / "elsewhere").exists()


def test_many_who_want_it_get_it_one_after_the_other(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from builder.runner import liveness\n"
        f"path = Path({str(path)!r}); count = 0\n"
        "while count < 20:\n"
        "    hold = liveness.take(path)\n"
        "    if hold is None: continue\n"
        "    inside = path.with_name('inside')\n"
        "    inside.mkdir(); inside.rmdir(); count += 1\n"
        "    hold.release()\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY) for _ in range(3)
    ]
    assert [process.wait(timeout=60) for process in processes] == [0, 0, 0]
