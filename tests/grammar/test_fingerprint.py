import shutil
import subprocess
import sys
from pathlib import Path

import grammar
from grammar import fingerprint

ROOM = Path(grammar.__file__).parent


def fingerprint_of(room: Path) -> str:
    code = "import grammar; print(grammar.fingerprint())"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=room.parent, capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def test_the_fingerprint_is_a_digest_that_stays_the_same() -> None:
    assert fingerprint() == fingerprint()
    assert len(bytes.fromhex(fingerprint())) == 32


def test_it_follows_the_content_of_the_room_not_its_place(tmp_path: Path) -> None:
    room = tmp_path / "grammar"
    shutil.copytree(ROOM, room, ignore=shutil.ignore_patterns("__pycache__"))
    assert fingerprint_of(room) == fingerprint()
    (room / "README.md").write_text("says nothing\n")
    assert fingerprint_of(room) == fingerprint()
    with (room / "dockerfile.lark").open("a") as file:
        file.write("// changed\n")
    assert fingerprint_of(room) != fingerprint()
