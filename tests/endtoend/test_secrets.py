"""Secrets of a build, looked for byte by byte in all that a build leaves and says."""

import gzip
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import Lamina

pytestmark = [pytest.mark.needs_overlay]

SECRET = "tr0ub4dor-and-3-horses"
PROXY = f"http://ada:{SECRET}@127.0.0.1:1/"
MOUNT = "--mount=type=secret,id=key"


@pytest.fixture
def project(busybox: Lamina, context: Path, tmp_path: Path) -> Path:
    """A context, and beside it the secret in a file."""
    (tmp_path / "key").write_text(f"{SECRET}\n")
    return context


def build(
    lamina: Lamina, project: Path, text: str, *flags: str | Path, check: bool = True
) -> subprocess.CompletedProcess[str]:
    (project / "Dockerfile").write_text(text)
    lent = ("--secret", f"id=key,src={project.parent / 'key'}", "--secret", "id=var,env=A_KEY")
    return lamina(
        "build", "-t", "app", *lent, *flags, project, env={"A_KEY": f"env-{SECRET}"}, check=check
    )


def traces_in(root: Path) -> Iterator[Path]:
    """The files of a store that hold the secret, and those whose name or target does."""
    for path in root.rglob("*"):
        if SECRET in path.name or (path.is_symlink() and SECRET in str(path.readlink())):
            yield path
        elif path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if SECRET.encode() in data or SECRET.encode() in _inflated(data):
                yield path


def _inflated(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else b""


def test_a_secret_that_is_used_leaves_no_trace(
    busybox: Lamina, project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    done = build(
        busybox,
        project,
        "FROM busybox\n"
        f"RUN {MOUNT} sha256sum /run/secrets/key > /sum\n"
        f"RUN {MOUNT},target=/etc/key,mode=444 --mount=type=secret,id=var,env=VAR "
        'test "$VAR" = "env-$(cat /etc/key)"\n'
        "RUN test -n $http_proxy && echo 1 > /a\n"
        f"RUN {MOUNT} cat /run/secrets/key\n",
        *("--build-arg", f"http_proxy={PROXY}"),
        *("--metadata-file", tmp_path / "metadata"),
        *("--cache-to", f"type=local,dest={out}"),
    )
    assert list(traces_in(busybox.root)) == []
    assert list(traces_in(out)) == []
    assert SECRET not in (tmp_path / "metadata").read_text()
    assert done.stderr.count(SECRET) == 1, "what a program prints itself is shown as it comes"
    for words in (
        *(("history", "--no-trunc", "app"), ("inspect", "app"), ("builds", "logs")),
        *(("builds", "inspect"), ("why",)),
    ):
        said = busybox(*words, check=False)
        assert SECRET not in said.stdout + said.stderr, words


def test_mount_targets_that_were_missing_are_in_no_layer(busybox: Lamina, project: Path) -> None:
    text = (
        "FROM busybox\n"
        f"RUN {MOUNT} {MOUNT},target=/deep/er/key {MOUNT},target=/bin/key true\n"
        "RUN test ! -e /run && test ! -e /deep && test ! -e /bin/key\n"
    )
    build(busybox, project, text)
    sizes = busybox("history", "--format", "{{.Size}}", "app").stdout.split("\n")
    assert sizes[:2] == ["0B", "0B"]
    assert busybox("run", "--rm", "app", "ls", "/").stdout == (
        busybox("run", "--rm", "busybox", "ls", "/").stdout
    )


def test_a_file_that_is_hidden_by_a_secret_stays_what_it_was(
    busybox: Lamina, project: Path
) -> None:
    text = (
        "FROM busybox\n"
        "RUN echo of the image > /key && chmod 604 /key\n"
        f"RUN {MOUNT},target=/key grep -q horses /key && touch /new\n"
    )
    build(busybox, project, text)
    seen = busybox("run", "--rm", "app", "sh", "-c", "cat /key; stat -c %a /key")
    assert seen.stdout == "of the image\n604\n"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (f"RUN {MOUNT} cp /run/secrets/key /copy", "/copy"),
        (f"RUN {MOUNT} base64 /run/secrets/key > /encoded", "/encoded"),
        (f"RUN {MOUNT} (echo -n ab; cat /run/secrets/key) | base64 > /encoded", "/encoded"),
        (f"RUN {MOUNT} tar -cf /tar /run/secrets", "/tar"),
        (f"RUN {MOUNT} head -c 3000000 /dev/zero > /big; cat /run/secrets/key >> /big", "/big"),
        (f"RUN {MOUNT} ln -s $(cat /run/secrets/key) /link", "/link"),
        (f"RUN {MOUNT} mkdir /d-$(cat /run/secrets/key)", "/d-***"),
        ("RUN --mount=type=secret,id=var,env=VAR env > /environment", "/environment"),
        ("RUN env > /environment", "/environment"),
        ("COPY kept /to", "/to"),
        (
            f"RUN {MOUNT} --mount=type=cache,target=/c cp /run/secrets/key /c\n"
            "RUN --mount=type=cache,target=/c cp /c/key /from-cache",
            "/from-cache",
        ),
    ],
)
def test_a_step_that_writes_a_secret_into_its_layer_fails(
    busybox: Lamina, project: Path, text: str, where: str
) -> None:
    (project / "kept").write_text(f"KEY={SECRET}")
    flags = ("--build-arg", f"HTTPS_PROXY={PROXY}")
    done = build(busybox, project, f"FROM busybox\n{text}\n", *flags, check=False)
    assert done.returncode == 1
    assert "was written into the image" in done.stderr
    assert f"at '{where}'" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    mounts = busybox.root / "lamina" / "cachemounts"
    assert [path for path in traces_in(busybox.root) if mounts not in path.parents] == []
    busybox("fsck")
    assert busybox("images", "-q", "app").stdout == ""
