"""Command lines made at random, each carried out in a process of its own by a copy of this one.

    python -m tests.support.commandfuzz SEED SECONDS

In the current directory, which should be empty, with a store in `./store`. Prints what went wrong;
the last line is how many lines there were. Programs of the host are not found, and no network is.

What is wrong: a traceback, an exit code that is not documented, a line on stderr that a terminal
would act upon or that has no end, a command that does not end when it is asked to.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from builder import cli
from builder.cli.arguments import Option
from builder.cli.commands import COMMANDS, GROUPS, load

WORDS = [
    *("box", "box:latest", "nonesuch", "app", "app@1", "app@0", "a:b:c", "A", "@", ":", "::", "-"),
    *("--", "", " ", "\n", "\t", "\x1b[2J", "\udcff", "é", "a" * 300, "a/" * 200, "0", "1", "-1"),
    *("999999999999999999999", "1e3", "NaN", "0x10", "1.5", "true", "false", "maybe", "none"),
    *("host", "sha256:" + "a" * 64, "sha256:zz", "127.0.0.1:1/x", "http://127.0.0.1:1/x"),
    *("git://127.0.0.1:1/x", "https://", "ftp://x/", "file", "directory", "missing", "archive.tar"),
    *(
        "Dockerfile",
        ".",
        "directory/..",
        "/nonexistent/x",
        "/dev/null",
        "/dev/full",
        "link",
        "fifo",
    ),
    *("a=b", "a=", "=b", "=", "a=b=c", "type=local,dest=out", "type=tar", "type=", "type=x,y=z"),
    *("id=a,src=file", "id=,src=", "id=a", "src=missing", "dest=", "[", '["a"]', "{", "{{.ID}}"),
    *(
        "{{",
        "{{json .}}",
        "{{range",
        "table {{.ID}}",
        "json",
        "%s%n",
        "1:2",
        "0:0",
        "root",
        "1:2:3",
    ),
    *(
        "64m",
        "64q",
        "10s",
        "1h30m",
        "-5m",
        "2024-01-01",
        "TERM",
        "SIGKILL",
        "9",
        "99",
        "linux/amd64",
    ),
    *("plan9/vax", "linux", "a:/b", "./file:/f:ro", "file:/f:zz", "x:y:z:w", "/x:rw", "until=1h"),
    *("label=a", "reference=*", "dangling=true", "status=exited", "name=[", "nofile=1:2", "ALL"),
    *("true", "echo", "sh", "nonesuch-program", "/etc", "mine", "one", "oci:out", "dir:out"),
]
SENSIBLE = [
    *("box", "app", "app@1", "app@2", "mine", "box", "app", "mine", "nonesuch", ".", "file", "new"),
    *(
        "archive.tar",
        "directory",
        "Dockerfile",
        "1",
        "2",
        "64m",
        "10",
        "a=b",
        "true",
        "echo",
        "TERM",
    ),
    *(
        "json",
        "{{.ID}}",
        "{{json .}}",
        "table {{.ID}}\t{{.Names}}",
        "status=exited",
        "label=a",
        "1s",
    ),
    *("new:1", "file:/f:ro", "type=tmpfs,target=/t", "/t", "root", "1:1", "id=a,src=file", "none"),
    *(
        "type=local,dest=out",
        "linux/amd64",
        "until=1h",
        "2024-01-01",
        "host",
        "-",
        "",
        "\udcff",
        "é",
    ),
]
NO_OPTIONS = ("--nonesuch", "-Z", "--=", "-", "--help", "---", "-=", "-\x1b")
# Where files are written, nothing but these: the fuzzer runs as root.
OUTPUTS = ["out", "out/x", "", "-", "/dev/null", "/dev/full", "/nonexistent/x", "directory", "link"]
# They wait, by themselves or for what is typed: asked to end, they have to.
TIMEOUT_S = 10
MESSAGE_BYTES_MAX = 20_000


def line_of(dice: random.Random) -> list[str]:
    """A command, options of it and of none, and words; more often than not it makes some sense."""
    name = dice.choice([*COMMANDS, *COMMANDS, *GROUPS])
    if name not in COMMANDS:
        return [*name.split(" "), *_any_words(dice)]
    command = load(name.split(" "), [])
    line = name.split(" ")
    if dice.random() < 0.7:
        for _ in range(dice.choice((0, 1, 1, 2, 3))):
            if command.options:
                line += _option(dice.choice(command.options), dice, SENSIBLE)
        least, most = command.words
        count = dice.randint(least, least + 2 if most is None else most)
        return [*line, *(dice.choice(SENSIBLE) for _ in range(count))]
    for _ in range(dice.choice((0, 1, 1, 2, 3, 5))):
        if command.options and dice.random() < 0.85:
            line += _option(dice.choice(command.options), dice, WORDS)
        else:
            line.append(dice.choice(NO_OPTIONS))
    line += _any_words(dice)
    if dice.random() < 0.1:
        line[:0] = dice.choice((["--root", "/dev/null/x"], ["--root", "file"], ["-D"], ["--bad"]))
    if dice.random() < 0.1:
        dice.shuffle(line)
    return line


def _any_words(dice: random.Random) -> list[str]:
    return [dice.choice(WORDS) for _ in range(dice.choice((0, 1, 1, 1, 2, 2, 3, 6)))]


def _option(option: Option, dice: random.Random, words: list[str]) -> list[str]:
    name = dice.choice(option.names)
    if writes(option):
        words = OUTPUTS
    elif option.choices and dice.random() < 0.7:
        words = list(option.choices)
    value = dice.choice(words)
    if option.kind == "flag":
        return [name] if dice.random() < 0.8 else [f"{name}={value}"]
    if option.kind == "maybe":
        return [name] if dice.random() < 0.5 else [f"{name}={value}"]
    return dice.choice(([name, value], [f"{name}={value}"]))


def writes(option: Option) -> bool:
    """Whether its value says where to write to."""
    return option.key in ("output", "cache-to") or "Write" in option.about


def prepare() -> None:
    """Files that the words mean, and a store with an image, a build and a container."""
    Path("file").write_text("content\n")
    Path("directory").mkdir()
    Path("directory/Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    Path("link").symlink_to("missing")
    os.mkfifo("fifo")
    Path("Dockerfile").write_text("FROM box\nLABEL a=b\nCOPY file /file\nCMD true\n")
    for line in (
        ["bootstrap", "busybox"],
        ["tag", "busybox", "box"],
        ["build", "-t", "app", "."],
        ["save", "-o", "archive.tar", "app"],
        ["create", "--name", "mine", "box", "true"],
    ):
        code, said = carried_out(line)
        assert code == 0, (line, said)


def carried_out(line: list[str]) -> tuple[int | None, bytes]:
    """The exit code, and what was written to stderr; no code where it had to be killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number, fd in enumerate((null, null, writer)):
            os.dup2(fd, number)
        os.closerange(3, 100)
        sys.argv = ["lamina", *line]
        cli.main()
    os.close(writer)
    end = time.monotonic() + TIMEOUT_S
    os.set_blocking(reader, False)
    said = b""
    status = None
    is_asked = False
    while status is None:
        found, status_now = os.waitpid(pid, os.WNOHANG)
        if found:
            status = status_now
        elif time.monotonic() > end:
            os.kill(pid, signal.SIGKILL if is_asked else signal.SIGTERM)
            if is_asked:
                os.waitpid(pid, 0)
                break
            is_asked, end = True, time.monotonic() + TIMEOUT_S
        said += _read(reader)
        time.sleep(0.001)
    said += _read(reader)
    os.close(reader)
    return None if status is None else os.waitstatus_to_exitcode(status), said


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 20)
    except BlockingIOError:
        return b""


def complaint(line: list[str], code: int | None, said: bytes) -> str:
    """What is wrong; empty when nothing is."""
    is_runner = {"run", "exec", "start"} & set(line[:2])
    documented = {0, 1, 125, 126, 127, 130, 141, 143} | ({137} if is_runner else set())
    if {"--ci", "plan", "check", "bisect", "fsck", "exists"} & set(line):
        documented |= {2, 3}
    if code is None:
        return "it does not end"
    if code not in documented and not is_runner:
        return f"exit code {code}"
    if b"Traceback (most recent call last)" in said and "-D" not in line and "--debug" not in line:
        return "a traceback"
    if len(said) > MESSAGE_BYTES_MAX:
        return f"{len(said)} bytes of messages"
    if code and not said and not {"exists", "check", "run", "exec", "start"} & set(line):
        return f"exit code {code} without a word"
    ours = [each for each in said.split(b"\n") if each.startswith(b"lamina:")]
    for each in ours:
        text = each.decode("utf-8", "backslashreplace")
        if not text.isprintable():
            return f"a message for terminals to act upon: {text!r}"
    return ""


def main() -> None:
    seed, seconds = sys.argv[1], float(sys.argv[2])
    os.environ.clear()
    here = str(Path.cwd())
    os.environ |= {"HOME": here, "PATH": "/nonexistent", "LAMINA_ROOT": f"{here}/store"}
    os.environ |= dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:1")
    prepare()
    dice = random.Random(seed)
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        line = line_of(dice)
        code, said = carried_out(line)
        wrong = complaint(line, code, said)
        if wrong:
            text = said[-2000:].decode(errors="backslashreplace")
            sys.stdout.write(json.dumps({"line": line, "wrong": wrong, "said": text}) + "\n")
        count += 1
    code, said = carried_out(["fsck"])
    if code:
        text = said.decode(errors="backslashreplace")
        sys.stdout.write(json.dumps({"line": ["fsck"], "wrong": "the store", "said": text}) + "\n")
    sys.stdout.write(f"{count}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
