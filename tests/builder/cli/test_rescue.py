"""A shell where a RUN has failed: it sees what the program saw, and changes nothing."""

from pathlib import Path

import pytest

from builder.cli.arguments import UsageError
from builder.cli.rescue import open_shell, rescuer
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.terminals import Typist

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]

DOCKERFILE = """\
FROM box
ENV COLOUR=green
ARG SHADE=dark
RUN mkdir /place && chown ada /place
WORKDIR /place
USER ada
RUN --mount=type=tmpfs,target=/scratch --mount=type=secret,id=key,mode=444 \\
    echo half > done; echo x > /scratch/x; exit 7
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "secret").write_text("open sesame")
    return folder


def failed_build(box: Commands, context: Path, typed: str) -> tuple[str, str]:
    """Standard output and error of a build that fails, with what is typed into the shell."""
    done = Lamina(root=box.root)(
        *("build", "--progress", "plain", "--secret", f"id=key,src={context / 'secret'}"),
        *("--on-error=shell", "-t", "it", context),
        stdin=typed.encode(),
        check=False,
    )
    assert done.returncode == 1
    assert "exit code: 7" in done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


def test_the_shell_is_where_the_program_was(box: Commands, context: Path) -> None:
    typed = (
        "cat done; id -un; pwd; echo $COLOUR $SHADE $HOME; cat /run/secrets/key; echo\n"
        "ls -d /scratch; hostname\n"
    )
    out, err = failed_build(box, context, typed)
    lines = [
        "half",
        "ada",
        "/place",
        "green dark /home/ada",
        "open sesame",
        "/scratch",
        "lamina",
    ]
    assert out.splitlines() == lines
    assert "the step failed: /bin/sh" in err


def test_what_the_shell_changes_is_thrown_away(box: Commands, context: Path) -> None:
    """The failed step is not cached, and no image is made."""
    failed_build(box, context, "echo more >> done; exit 0\n")
    out, _ = failed_build(box, context, "cat done\n")
    assert out == "half\n"
    assert box("images", "-q", "it").out == ""
    box("fsck")


@pytest.mark.parametrize(
    ("lines", "opened"),
    [
        ('RUN ["grep", "-q", "x"]', "/bin/sh"),
        ('RUN ["test", "-d", "/nowhere"]', "/bin/sh"),
        ('SHELL ["/bin/busybox", "ash", "-e", "-c"]\nRUN false', "/bin/busybox ash"),
        ('SHELL ["/bin/busybox", "ash", "-c"]\nRUN ["false"]', "/bin/busybox ash"),
    ],
)
def test_the_shell_is_that_of_the_stage(
    box: Commands, context: Path, lines: str, opened: str
) -> None:
    (context / "Dockerfile").write_text(f"FROM box\n{lines}\n")
    asked = ("build", "--on-error=shell", context)
    done = Lamina(root=box.root)(*asked, stdin=b"false\necho here\n", check=False)
    assert (done.returncode, done.stdout) == (1, "here\n")
    assert f"the step failed: {opened} in what it left behind" in done.stderr


def test_steps_that_succeed_open_no_shell(box: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM box\nRUN true\n")
    done = Lamina(root=box.root)("build", "--on-error=shell", "-t", "it", context, stdin=b"ls\n")
    assert done.stdout == ""


def test_an_image_without_a_shell_just_fails(box: Commands, context: Path) -> None:
    (context / "Dockerfile").write_text(
        "FROM box AS box\nFROM scratch\nCOPY --from=box /bin/busybox /busybox\n"
        'RUN ["/busybox", "false"]\n'
    )
    done = Lamina(root=box.root)("build", "--on-error=shell", context, check=False)
    assert done.returncode == 1
    assert "no shell could be started" in done.stderr
    assert "exit code: 1" in done.stderr


def test_at_a_terminal_it_is_a_terminal(box: Commands, context: Path) -> None:
    words = ["build", "--on-error=shell", "--secret", f"id=key,src={context / 'secret'}"]
    with Typist(Lamina(root=box.root), *words, str(context)) as typist:
        typist.wait_for(b"the step failed")
        typist.enter(b"tty; cat do*\n")
        typist.wait_for(b"/dev/pts/0")
        typist.wait_for(b"half")
        typist.enter(b"exit\n")
        typist.wait_for(b"exit code: 7")
        assert typist.end() == 1


def test_other_ways_are_refused() -> None:
    assert rescuer(None) is None
    assert rescuer("exit") is None
    assert rescuer("shell") is open_shell
    with pytest.raises(UsageError, match="'keep' for --on-error"):
        rescuer("keep")
