"""RUN as a user meets it: every mount, secrets, agents, rights, and nothing left of any of it."""

import base64
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout
from tests.support.networks import devices
from tests.support.progress import executed
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.needs_overlay]

SECRET = "correct-horse-battery"


class Project:
    """A context and the builds of it."""

    def __init__(self, lamina: Lamina, context: Path) -> None:
        self.lamina = lamina
        self.context = context

    def build(
        self, text: str, *options: str, ok: bool = True, env: dict[str, str] | None = None
    ) -> str:
        """Build a Dockerfile; gives what was said."""
        (self.context / "Dockerfile").write_text(text)
        done = self.lamina(
            *("build", "--progress", "plain", "-t", "it", *options),
            self.context,
            check=False,
            env=env,
        )
        assert (done.returncode == 0) is ok, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr

    def start(self, text: str, *, until: str) -> "subprocess.Popen[bytes]":
        """Begin to build; returns once the file `until` is in a cache mount."""
        (self.context / "Dockerfile").write_text(text)
        build = self.lamina.start("build", "--progress=plain", self.context)
        found = partial(self.caches.glob, f"*/data/{until}")
        wait_until(lambda: any(found()) or build.poll() is not None, seconds=60)
        assert any(found()), "the build has ended"
        return build

    def start_two(self, folder: Path, run: str) -> list["subprocess.Popen[bytes]"]:
        """Begin two builds at once; {} in the RUN is the number of each."""
        builds = []
        for number in range(2):
            context = folder / f"build-{number}"
            context.mkdir()
            (context / "Dockerfile").write_text(f"FROM busybox\nRUN {run.format(number)}\n")
            builds.append(self.lamina.start("build", "--progress=plain", context))
        return builds

    def ran(self, text: str, *options: str, env: dict[str, str] | None = None) -> int:
        """Build; gives how many steps had to be executed."""
        return len(executed(self.build(text, *options, env=env)))

    def added(self) -> set[str]:
        """The paths of the topmost layer of the last image."""
        tree = self.layout.tree("it:latest")
        base = self.layout.tree("busybox:latest")
        return {path for path in tree if tree[path] != base.get(path)} | (base.keys() - tree.keys())

    @property
    def caches(self) -> Path:
        return self.lamina.root / "lamina/cachemounts"

    @property
    def layout(self) -> OciLayout:
        return OciLayout(self.lamina.root)


def ended(process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    """Wait for a build to end; nothing of it stays open."""
    process.communicate(timeout=60)
    return process


@pytest.fixture
def project(busybox: Lamina, context: Path) -> Iterator[Project]:
    """Afterwards the store is in order, and nothing of a build is left."""
    yield Project(busybox, context)
    assert "0 problems" in busybox("fsck").stdout
    assert list((busybox.root / "lamina/tmp").iterdir()) == []
    assert str(busybox.root) not in Path("/proc/self/mounts").read_text()


class TestBind:
    def test_the_context_is_there_and_cannot_be_changed(self, project: Project) -> None:
        (project.context / "a.txt").write_text("context")
        said = project.build(
            "FROM busybox\nRUN --mount=target=/src cat /src/a.txt && ! touch /src/new\n"
        )
        assert "context" in said
        assert project.added() == set()
        assert not (project.context / "new").exists()

    def test_what_is_written_is_thrown_away(self, project: Project) -> None:
        (project.context / "a.txt").write_text("context")
        for source in ("", "from=busybox,"):
            project.build(
                f"FROM busybox\nRUN --mount={source}target=/src,rw touch /src/new && ls /src/new\n"
            )
            assert project.added() == set()
        assert sorted(path.name for path in project.context.iterdir()) == ["Dockerfile", "a.txt"]

    def test_ignored_files_are_not_shown(self, project: Project) -> None:
        for name in ("seen", "hidden"):
            (project.context / name).write_text(name)
        (project.context / ".dockerignore").write_text("hidden\n")
        text = "FROM busybox\nRUN --mount=target=/src ls -A /src && test ! -e /src/hidden\n"
        assert "seen" in project.build(text)

    def test_stages_and_images_are_sources(self, project: Project) -> None:
        text = """\
FROM busybox AS made
RUN mkdir /out && echo from-stage > /out/file && ln -s out/file /link && rm -r /home
FROM busybox
RUN --mount=from=made,source=/out,target=/a --mount=from=made,source=link,target=/f \
    --mount=from=made,target=/all --mount=from=busybox,source=/etc/passwd,target=/p \
    cat /a/file /f && test ! -e /all/home && grep -q root /p
"""
        assert project.build(text).count("from-stage\n") >= 2
        assert project.added() == set()
        assert project.ran(text) == 0

    def test_what_is_shown_decides_and_nothing_else(self, project: Project) -> None:
        (project.context / "d").mkdir()
        (project.context / "d/f").write_text("one")
        text = "FROM busybox\nRUN --mount=source=d,target=/src cat /src/f\n"
        assert project.ran(text) == 1
        (project.context / "other").write_text("x")
        os.utime(project.context / "d/f", (5, 5))
        assert project.ran(text) == 0
        (project.context / "d/f").write_text("two")
        assert "two" in project.build(text)
        (project.context / "d/f").chmod(0o755)
        assert project.ran(text) == 1

    def test_what_changes_while_it_is_shown_is_not_kept(self, project: Project) -> None:
        """Other than a changed file of a COPY: a program may look at it for as long as it likes."""
        (project.context / "d").mkdir()
        (project.context / "d/f").write_text("one")
        text = (
            "FROM busybox\n"
            "RUN --mount=source=d,target=/src --mount=type=cache,target=/c "
            "touch /c/began; while grep -q one /src/f; do sleep 0.1; done; cat /src/f > /f\n"
        )
        build = project.start(text, until="began")
        (project.context / "d/f").write_text("two")
        said = build.communicate(timeout=60)[1].decode()
        assert build.returncode == 0, said
        assert "the build context changed meanwhile" in said
        (project.context / "d/f").write_text("one")
        (began,) = project.caches.glob("*/data/began")
        began.unlink()
        again = project.start(text, until="began")
        assert again.poll() is None, "it is executed again, not taken from the cache"
        (project.context / "d/f").write_text("three")
        said = again.communicate(timeout=60)[1].decode()
        assert again.returncode == 0, said
        assert "(its result was not kept: the build context changed meanwhile)" in said

    def test_a_change_in_a_stage_is_seen_where_it_is_shown(self, project: Project) -> None:
        text = """\
FROM busybox AS made
RUN mkdir /out && echo 1 > /out/f; echo 1 > /elsewhere
FROM busybox
RUN --mount=from=made,source=out,target=/src cat /src/f > /f
"""
        assert project.ran(text) == 2
        assert project.ran(text.replace("1 > /else", "2 > /else")) == 1
        assert project.ran(text.replace("1 > /out", "2 > /out")) == 2

    def test_links_of_the_image_do_not_lead_a_mount_outside(self, project: Project) -> None:
        outside = project.lamina.root.with_name("outside")
        outside.mkdir()
        (project.context / "f").write_text("mounted")
        text = f"""\
FROM busybox
RUN ln -s {outside} /abs && ln -s ../../../../../../{outside} /rel && ln -s /proc /p
RUN --mount=target=/abs/x --mount=target=/rel/y cat /abs/x/f /rel/y/f
"""
        assert "mounted" in project.build(text)
        assert list(outside.iterdir()) == []
        told = project.build(text + "RUN --mount=target=/p/sys cat /p/sys/f\n", ok=False)
        assert "mounts inside /proc and /sys are not allowed" in told

    def test_links_of_the_context_do_not_lead_a_source_outside(self, project: Project) -> None:
        (project.context / "out").symlink_to("/etc")
        told = project.build(
            "FROM busybox\nRUN --mount=source=out/passwd,target=/x cat /x\n", ok=False
        )
        assert "not found in the build context" in told

    def test_a_failure_leaves_nothing(self, project: Project) -> None:
        text = "FROM busybox\nRUN --mount=target=/deep/er/x --mount=type=cache,target=/c exit 3\n"
        assert "exit code: 3" in project.build(text, ok=False)
        project.build("FROM busybox\nRUN --mount=target=/x/y test ! -e /deep && test ! -e /c\n")
        assert project.added() == set()

    def test_a_mount_in_one_that_is_read_only(self, project: Project) -> None:
        text = "FROM busybox\nRUN --mount=target=/x --mount=type=tmpfs,target=/x/y true\n"
        told = project.build(text, ok=False)
        assert "/x/y is not there, and what is mounted above is read-only" in told


class TestCache:
    def test_it_keeps_its_content_over_builds_and_is_in_no_layer(self, project: Project) -> None:
        text = (
            "FROM busybox\nARG N\nRUN --mount=type=cache,target=/c echo $N >> /c/log; cat /c/log\n"
        )
        project.build(text, "--build-arg", "N=one")
        said = project.build(text, "--build-arg", "N=two")
        words = said.split()
        assert words.index("one") < len(words) - 1 - words[::-1].index("two")
        assert project.added() == set()
        assert project.ran(text, "--build-arg", "N=two") == 0

    def test_a_failed_step_keeps_what_it_cached(self, project: Project) -> None:
        project.build(
            "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x; exit 1\n", ok=False
        )
        project.build("FROM busybox\nRUN --mount=type=cache,target=/c ls /c/x\n")

    def test_locked_makes_builds_wait_for_each_other(
        self, project: Project, tmp_path: Path
    ) -> None:
        builds = project.start_two(
            tmp_path,
            "--mount=type=cache,target=/c,sharing=locked "
            "echo begin-{0} >> /c/log; sleep 1; echo end-{0} >> /c/log",
        )
        said = [build.communicate(timeout=60)[1].decode() for build in builds]
        assert [build.returncode for build in builds] == [0, 0]
        assert "waiting for the cache /c, which another step or build uses" in "".join(said)
        log = project.build("FROM busybox\nRUN --mount=type=cache,target=/c cat /c/log\n")
        order = [word for word in log.split() if word.startswith(("begin-", "end-"))]
        assert len(order) == 4
        assert order[0][-1] == order[1][-1]
        assert order[2][-1] == order[3][-1]

    def test_private_builds_have_directories_of_their_own(
        self, project: Project, tmp_path: Path
    ) -> None:
        builds = project.start_two(
            tmp_path,
            "--mount=type=cache,target=/c,sharing=private "
            "touch /c/{0}; sleep 1; test $(ls /c | wc -l) = 1",
        )
        assert [ended(build).returncode for build in builds] == [0, 0]
        assert len(list(project.caches.iterdir())) == 2

    def test_prune_removes_it_but_never_while_it_is_in_use(self, project: Project) -> None:
        text = "FROM busybox\nRUN --mount=type=cache,target=/c touch /c/x; sleep 2; ls /c/x\n"
        running = project.start(text, until="x")
        project.lamina("builder", "prune", "-a", "-f")
        assert ended(running).returncode == 0
        assert "1 cache mounts" in project.lamina("builder", "prune", "-f").stdout
        assert list(project.caches.iterdir()) == []

    def test_it_is_counted_as_build_cache(self, project: Project) -> None:
        def size() -> int:
            rows = project.lamina("system", "df", "--format", "json").stdout.splitlines()
            return next(
                int(row["TotalCount"]) for row in map(json.loads, rows) if "Cache" in row["Type"]
            )

        before = size()
        project.build("FROM busybox\nRUN --mount=type=cache,target=/c true\n")
        assert size() == before + 2  # the step, and the directory


class TestMemory:
    def test_it_is_empty_and_has_a_size_and_goes(self, project: Project) -> None:
        text = """\
FROM busybox
RUN echo below > /tmp/below
RUN --mount=type=tmpfs,target=/tmp,size=1m test ! -e /tmp/below && touch /tmp/x && \
    ! dd if=/dev/zero of=/tmp/big bs=1k count=2000
RUN test -e /tmp/below && test ! -e /tmp/x
"""
        project.build(text)
        assert project.added() == {"tmp/below"}


class TestSecrets:
    TEXT = """\
FROM busybox
RUN --mount=type=secret,id=token test "$(cat /run/secrets/token)" = "$EXPECT" || \
    test $(wc -c < /run/secrets/token) -gt 5
RUN --mount=type=secret,id=token,env=TOKEN test ${#TOKEN} -gt 5
RUN test ! -e /run/secrets && test -z "$TOKEN"
"""

    def everything_kept(self, project: Project) -> bytes:
        """All bytes of the store, databases and records included, uncompressed where they are."""
        root = project.lamina.root
        found = [path.read_bytes() for path in root.rglob("*") if path.is_file()]
        for layer in project.layout.tree("it:latest").values():
            found.append(repr(layer).encode())
        return b"".join(found)

    def test_a_secret_is_used_and_is_nowhere(self, project: Project) -> None:
        (project.lamina.root.parent / "token").write_text(SECRET)
        source = f"id=token,src={project.lamina.root.parent / 'token'}"
        said = project.build(self.TEXT, "--secret", source)
        kept = self.everything_kept(project) + said.encode()
        assert SECRET.encode() not in kept
        assert base64.b64encode(SECRET.encode())[:20] not in kept
        assert project.added() == set()

    def test_another_value_is_no_miss(self, project: Project) -> None:
        first = {"TOKEN": SECRET}
        assert project.ran(self.TEXT, "--secret", "id=token,env=TOKEN", env=first) == 3
        assert (
            project.ran(self.TEXT, "--secret", "id=token,env=TOKEN", env={"TOKEN": "another"}) == 0
        )
        assert project.ran(self.TEXT) == 0  # nobody asks for it where all is cached

    def test_one_that_is_not_given(self, project: Project) -> None:
        text = "FROM busybox\nRUN --mount=type=secret,id=token{} test ! -e /run/secrets/token\n"
        project.build(text.format(""))
        told = project.build(text.format(",required"), ok=False)
        assert "the secret 'token' is required, and was not given" in told

    @pytest.mark.parametrize("how", ["cat", "base64"])
    def test_one_that_ends_up_in_a_layer_fails_the_step(self, project: Project, how: str) -> None:
        text = (
            "FROM busybox\n"
            f"RUN --mount=type=secret,id=token {how} /run/secrets/token > /etc/config\n"
        )
        env = {"TOKEN": SECRET}
        told = project.build(text, "--secret", "id=token,env=TOKEN", ok=False, env=env)
        assert "the secret 'token' was written into the image, at '/etc/config'" in told
        assert SECRET not in told
        (project.context / "Dockerfile").write_text("FROM busybox\n")
        project.build("FROM busybox\nRUN true\n")
        assert SECRET.encode() not in self.everything_kept(project)

    def test_proxies_are_used_and_are_nowhere(self, project: Project) -> None:
        text = 'FROM busybox\nRUN test "$HTTP_PROXY" = "$http_proxy" && test -n "$http_proxy"\n'
        option = ("--build-arg", f"HTTP_PROXY=http://user:{SECRET}@proxy")
        project.build(text, *option)
        assert SECRET.encode() not in self.everything_kept(project)
        assert project.ran(text, "--build-arg", "HTTP_PROXY=http://other") == 0


class TestAgent:
    @pytest.fixture
    def agent(self, tmp_path: Path) -> Iterator[Path]:
        path = tmp_path / "agent.sock"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen()
            yield path

    @pytest.mark.needs_ids  # a socket's owner cannot be recorded
    def test_the_socket_is_there_for_the_one_who_may_use_it(
        self, project: Project, agent: Path
    ) -> None:
        text = """\
FROM busybox
RUN --mount=type=ssh,uid=1000,mode=0640 test -S $SSH_AUTH_SOCK && \
    test "$(stat -c '%u %a' $SSH_AUTH_SOCK)" = "1000 640"
RUN test ! -e /run/buildkit && test -z "$SSH_AUTH_SOCK"
"""
        assert project.ran(text, "--ssh", f"default={agent}") == 2
        assert project.added() == set()
        assert stat.S_IMODE(agent.stat().st_mode) != 0o640
        assert project.ran(text) == 0


class TestRights:
    @pytest.mark.parametrize(
        ("flag", "right"),
        [("--network=host", "network.host"), ("--security=insecure", "security.insecure")],
    )
    def test_a_dockerfile_gets_what_the_caller_allows(
        self, project: Project, flag: str, right: str
    ) -> None:
        text = f"FROM busybox\nRUN {flag} true\n"
        told = project.build(text, ok=False)
        assert f"{right} is not allowed" in told
        assert f"--allow {right}" in told
        project.build(text, "--allow", right)

    def test_insecure_is_what_it_says(self, project: Project) -> None:
        text = (
            "FROM busybox\n"
            "RUN --security=insecure mkdir /m && mount -t tmpfs t /m && touch /m/x && umount /m && "
            "head -c 1 /proc/keys >/dev/null; rmdir /m\n"
            "RUN ! mount -t tmpfs t /tmp\n"
        )
        project.build(text, "--allow", "security.insecure")
        assert project.added() == set()

    def test_devices_are_refused_by_name(self, project: Project) -> None:
        told = project.build("FROM busybox\nRUN --device=vendor.com/gpu true\n", ok=False)
        assert "RUN --device is not supported" in told

    def test_no_network_is_no_network(self, project: Project) -> None:
        text = "FROM busybox\nRUN --network=none test $(grep -c : /proc/net/dev) = 1\n"
        project.build(text)

    @pytest.mark.needs_networks
    def test_nothing_of_the_host_s_network_is_reached_by_default(
        self, project: Project, own_network: Path
    ) -> None:
        """Neither its loopback, nor its abstract sockets; with --network=host both are."""
        name = f"lamina-test-{os.getpid()}"
        with socket.socket() as server, socket.socket(socket.AF_UNIX) as abstract:
            server.bind(("127.0.0.1", 7070))
            server.listen()
            abstract.bind(f"\0{name}")
            abstract.listen()
            look = "nc -w 1 127.0.0.1 7070 -e /bin/true && echo reached > /o; "
            look += f"grep -q {name} /proc/net/unix && echo seen >> /o"
            project.build(f"FROM busybox\nRUN {look}; test ! -e /o\n")
            text = f"FROM busybox\nRUN {look}; test $(wc -l < /o) = 2\n"
            project.build(text, "--network", "host")

    @pytest.mark.needs_networks
    def test_one_network_serves_all_runs_and_goes_with_the_build(
        self, project: Project, own_network: Path
    ) -> None:
        show = "ip -o addr show eth0 | grep -o 'inet [^ ]*'"
        text = f"FROM busybox\nRUN {show} > /a\nRUN {show} > /b\nRUN cmp /a /b && test -s /a\n"
        project.build(text)
        wait_until(lambda: devices() == {"lo", "lamina0"})


class TestSettings:
    TEXT = "FROM busybox\nRUN cat /etc/hosts; df -k /dev/shm; ulimit -n; ulimit -Hn\n"

    def test_every_run_has_them(self, project: Project) -> None:
        options = ("--add-host", "db:10.1.2.3", "--shm-size", "3m", "--ulimit", "nofile=77:99")
        said = project.build(self.TEXT, *options)
        assert "10.1.2.3\tdb" in said
        for number in (" 3072 ", " 77\n", " 99\n"):
            assert number in said
        assert project.added() == set()

    @pytest.mark.parametrize(
        "option", [("--add-host", "db:10.1.2.3"), ("--shm-size", "3m"), ("--ulimit", "nofile=77")]
    )
    def test_another_value_is_another_step(self, project: Project, option: tuple[str, str]) -> None:
        assert project.ran(self.TEXT) == 1
        assert project.ran(self.TEXT, *option) == 1
        assert project.ran(self.TEXT, *option) == 0

    def test_a_hard_limit_is_never_raised(self, project: Project) -> None:
        told = project.build(self.TEXT, "--ulimit", "nofile=999999999", ok=False)
        assert "limit nofile: the hard limit is " in told


class TestProgram:
    def test_here_documents_in_all_forms(self, project: Project) -> None:
        text = """\
FROM busybox
RUN <<EOF
echo plain > /plain
EOF
RUN <<-"EOF"
\t\techo $((1 + 1)) > /chomped
\tEOF
RUN <<EOF
#!/bin/sh -e
echo "script $0" > /script
EOF
RUN cat <<ONE > /one && cat <<TWO > /two
first
ONE
second $HOME
TWO
RUN --mount=type=tmpfs,target=/t <<EOF cat > /words
words
EOF
SHELL ["/bin/busybox", "sh", "-c"]
RUN <<EOF
readlink /proc/$$/exe > /shell
EOF
"""
        project.build(text)
        tree = project.layout.tree("it:latest")
        made = {path: tree[path] for path in project.added()}
        assert made.keys() >= {"plain", "chomped", "script", "one", "two", "words", "shell"}
        check = (
            "grep -qx plain /plain && grep -qx 2 /chomped && grep -qx 'script /dev/pipes/EOF' "
            "/script "
            "&& grep -qx first /one && grep -qx 'second /root' /two && grep -qx words /words"
        )
        project.build(f'{text}SHELL ["/bin/sh", "-c"]\nRUN {check}\n')
        assert "dev/pipes" not in project.added()

    def test_users_and_groups_and_homes(self, project: Project) -> None:
        text = """\
FROM busybox
RUN echo 'ada:x:1000:1000::/home/ada:/bin/sh' >> /etc/passwd && echo 'staff:x:50:' >> /etc/group
USER ada:staff
RUN test "$(id -u):$(id -g)" = 1000:50 && test "$HOME" = /home/ada
ENV HOME=/elsewhere
RUN test "$HOME" = /elsewhere
USER 7
RUN test "$(id -u):$(id -g)" = 7:0
"""
        project.build(text)

    def test_files_of_the_network_are_there_and_in_no_layer(self, project: Project) -> None:
        text = (
            "FROM busybox\nRUN test -s /etc/hosts && test -s /etc/hostname && "
            'test -e /etc/resolv.conf && echo x >> /etc/hosts && read x; test -z "$x"\n'
        )
        project.build(text)
        assert project.added() == set()


def interrupted(project: Project, number: signal.Signals) -> int:
    """Send a signal to a build whose RUN uses mounts; gives the exit code."""
    build = project.start(
        "FROM busybox\n"
        "RUN --mount=target=/src,rw --mount=type=cache,target=/c,sharing=locked "
        "--mount=from=busybox,target=/b touch /c/began; sleep 60\n",
        until="began",
    )
    build.send_signal(number)
    return ended(build).returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_nothing(project: Project, number: signal.Signals) -> None:
    assert interrupted(project, number) == 128 + number
    assert list((project.lamina.root / "lamina/tmp").iterdir()) == []
    project.build("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked ls /c/began\n")


def test_killing_a_build_leaves_no_mount_and_the_next_one_cleans_up(project: Project) -> None:
    assert interrupted(project, signal.SIGKILL) == -signal.SIGKILL
    project.build("FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked ls /c/began\n")
