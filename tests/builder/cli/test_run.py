import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.containers import names_in
from tests.support.networks import UNTIL_SERVED

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_overlay]


def run(box: Commands, *words: str | Path, code: int | None = 0) -> tuple[int, str, str]:
    done = box("run", "--rm", "--network", "none", *words, code=code)
    return done.code, done.out, done.err


def test_the_image_says_what_to_run(box: Commands) -> None:
    assert run(box, "box") == (0, "the image says hello\n", "")


def test_output_and_errors_and_the_exit_code_are_the_program_s(box: Commands) -> None:
    script = "echo out; echo err >&2; exit 5"
    assert run(box, "box", "sh", "-c", script, code=5) == (5, "out\n", "err\n")


def test_a_kept_container_prints_the_same(box: Commands) -> None:
    done = box("run", "--network=none", "box", "sh", "-c", "echo out; echo err >&2; exit 5", code=5)
    assert (done.out, done.err) == ("out\n", "err\n")
    (line,) = box("ps", "-aq").lines
    assert box("logs", line).out == "out\n"
    assert box("logs", line).err == "err\n"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nope",), 125, "no such image: nope"),
        (("box", "nope"), 127, "'nope'"),
        (("box", "/etc/not-a-program"), 126, "'/etc/not-a-program'"),
        (("--gpus", "all", "box"), 125, "--gpus is not supported"),
        (("--sig-proxy=false", "box"), 125, "--sig-proxy=false is not supported"),
        (("--nope", "box"), 125, "unknown flag: --nope"),
        (("-w", "tmp", "box"), 125, "'tmp' is invalid"),
        (("-v", "a:b", "box"), 125, "invalid mount 'a:b'"),
        (("--name", "a b", "box"), 125, "invalid container name"),
        (("-u", "nobody-here", "box"), 125, "nobody-here"),
        (("--stop-signal", "NOPE", "box"), 125, "invalid signal"),
        (("--memory", "much", "box"), 125, "'much' for --memory"),
        (("--label", "=x", "box"), 125, "'=x' for --label"),
        (("-it", "box"), 125, "not a TTY"),
        (("--pull", "often", "box"), 125, "'often' for --pull"),
        (("--pull", "always", "box"), 125, "cannot reach the registry"),
        (("--pull", "never", "nope"), 125, "no such image: nope"),
        (("--runtime", "nonesuch", "box"), 125, "'nonesuch': executable file not found"),
        (("--runtime", "/bin/true", "--init", "box"), 125, "--init is not carried out"),
        (("--runtime", "/bin/true", "--privileged", "box"), 125, "--privileged is not"),
        (("--runtime", "/bin/true", "--pid", "host", "box"), 125, "--pid, --ipc"),
        (("--pull",), 125, "flag needs an argument: --pull"),
        ((), 1, "requires at least 1 argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value)[:20],
)
def test_what_goes_wrong_is_one_line_and_docker_s_exit_code(
    box: Commands, words: tuple[str, ...], code: int, message: str
) -> None:
    done = run(box, *words, code=None)
    assert done[0] == code
    assert done[1] == ""
    assert message in done[2]
    assert done[2].count("\n") == 1
    assert names_in(box.root / "lamina/containers") == []


@pytest.mark.parametrize("words", [("--pull", "never"), ("--pull=missing",), ("-q",)])
def test_what_is_here_is_not_pulled(box: Commands, words: tuple[str, ...]) -> None:
    assert run(box, *words, "box", "echo", "here")[1] == "here\n"


def test_variables_of_image_file_caller_and_line(
    box: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_CALLER", "c")
    file = tmp_path / "env"
    file.write_text("# comment\nFROM_FILE=f\nBOTH=file\n")
    script = "echo $GREETING $FROM_FILE $FROM_CALLER $BOTH ${UNSET-unset}"
    options = ("--env-file", file, "-e", "FROM_CALLER", "-e", "BOTH=line", "-e", "UNSET")
    assert run(box, *options, "box", "sh", "-c", script)[1] == "hello f c line unset\n"


def test_a_missing_env_file_is_named(box: Commands) -> None:
    _, _, err = run(box, "--env-file", "/does/not/exist", "box", code=125)
    assert "/does/not/exist" in err


def test_user_directory_name_and_host_name(box: Commands) -> None:
    script = "id -un; pwd; hostname"
    options = ("-u", "ada", "-w", "/tmp", "-h", "mine")
    assert run(box, *options, "box", "sh", "-c", script)[1] == "ada\n/tmp\nmine\n"


def test_the_entrypoint_can_be_replaced(box: Commands) -> None:
    assert run(box, "--entrypoint", "echo", "box", "a", "b")[1] == "a b\n"
    assert run(box, "--entrypoint=", "box", "echo", "c")[1] == "c\n"
    assert "no command specified" in run(box, "--entrypoint=", "box", code=125)[2]


def test_mounts_of_every_kind(box: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    options = (
        *("-v", f"{tmp_path}:/host:ro", "-v", "vol:/data", "-v", "/anonymous"),
        *("--mount", f"type=bind,source={tmp_path},target=/host2", "--tmpfs", "/t:size=1m"),
    )
    script = "cat /host/file /data/file; touch /host/x 2>/dev/null || echo ro; touch /host2/y /t/z"
    assert run(box, *options, "box", "sh", "-c", script)[1] == (
        "from the host\nfrom the image\nro\n"
    )
    assert (tmp_path / "y").exists()
    assert names_in(box.root / "lamina/volumes") == ["vol"]


def test_no_network_is_no_network(box: Commands) -> None:
    script = "ls /sys/class/net"
    assert box("run", "--rm", "--network", "none", "box", "sh", "-c", script).out == "lo\n"


def test_the_host_s_network_is_the_host_s(box: Commands) -> None:
    script = "readlink /proc/self/ns/net"
    found = box("run", "--rm", "--network", "host", "box", "sh", "-c", script).out
    assert found.strip() == str(Path("/proc/self/ns/net").readlink())


@pytest.mark.needs_networks
@pytest.mark.usefixtures("own_network")
class TestNetworks:
    """In a network of the test's own: nothing of the host's is touched."""

    def test_the_default_is_private(self, box: Commands) -> None:
        script = "ls /sys/class/net; ip route | grep -c default; grep -c $(hostname) /etc/hosts"
        done = box("run", "--rm", "box", "sh", "-c", script)
        assert (done.out.split(), done.err) == (["eth0", "lo", "1", "2"], "")
        options = ("--network", "bridge", "--hostname", "me", "--domainname", "example")
        script = "hostname -f; cat /proc/sys/kernel/domainname"
        assert box("run", "--rm", *options, "box", "sh", "-c", script).out == (
            "me.example\nexample\n"
        )

    def test_a_network_that_is_not_there_is_an_error(self, box: Commands) -> None:
        done = box("run", "--rm", "--network", "nowhere", "box", "true", code=125)
        assert done.err == "lamina: no such network: nowhere (`lamina network ls` lists them)\n"
        both = ("--network", "nowhere", "--network", "host")
        assert "cannot be one of several" in box("run", *both, "box", "true", code=125).err

    def test_names_and_resolvers_are_as_asked_for(self, box: Commands) -> None:
        options = ("--add-host", "store:192.0.2.7", "--dns", "192.0.2.53", "--dns-search", "lan")
        script = "grep store /etc/hosts; cat /etc/resolv.conf"
        assert box("run", "--rm", *options, "box", "sh", "-c", script).out == (
            "192.0.2.7\tstore\nnameserver 192.0.2.53\nsearch lan\n"
        )

    def test_ports_are_published_and_said(self, box: Commands) -> None:
        options = ("-p", "127.0.0.1:8080:80", "-p", "80/udp", "--expose", "81", "--name", "web")
        serve = "nc -ll -p 80 -e /bin/echo hello"
        box("run", "-d", *options, "box", "sh", "-c", serve)
        box("exec", "web", "sh", "-c", UNTIL_SERVED)
        with socket.create_connection(("127.0.0.1", 8080), timeout=10) as connection:
            assert connection.recv(100) == b"hello\n"
        shown = box("ps", "--format", "{{.Ports}}").out
        assert "127.0.0.1:8080->80/tcp" in shown
        assert shown.endswith(", 81/tcp\n")
        assert box("port", "web", "80").out == "127.0.0.1:8080\n"
        lines = box("port", "web").lines
        assert lines[0] == "80/tcp -> 127.0.0.1:8080"
        assert [row.partition(":")[0] for row in lines[1:]] == ["80/udp -> 0.0.0.0", "80/udp -> ["]
        ports = box("inspect", "-f", "{{json .NetworkSettings.Ports}}", "web").out
        assert json.loads(ports)["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8080"}]
        assert json.loads(ports)["81/tcp"] is None
        assert "no public port '81/tcp'" in box("port", "web", "81", code=1).err
        taken = box("run", "--rm", "-p", "127.0.0.1:8080:80", "box", "true", code=125)
        assert "127.0.0.1:8080/tcp cannot be published" in taken.err
        box("rm", "-f", "web")
        socket.create_server(("127.0.0.1", 8080)).close()

    def test_all_exposed_ports_are_published_with_a_flag(self, box: Commands) -> None:
        options = ("-P", "--expose", "80-81", "-p", "81", "--name", "web")
        box("run", "-d", *options, "box", "sleep", "60")
        lines = box("port", "web").lines
        assert [row.partition(" ")[0] for row in lines] == [*("81/tcp",) * 2, *("80/tcp",) * 2]
        box("rm", "-f", "web")
        done = box("run", "--rm", "--network", "none", "-p", "80", "box", "true")
        assert done.err == "lamina: ports are not published: the network is --network none\n"

    def test_another_container_s_network_is_shared(self, box: Commands) -> None:
        serve = "nc -ll -p 80 -e /bin/echo hello"
        box("run", "-d", "--name", "web", "--hostname", "webhost", "box", "sh", "-c", serve)
        script = f"hostname; {UNTIL_SERVED}; nc -w 2 127.0.0.1 80 </dev/null"
        done = box("run", "--rm", "--network", "container:web", "box", "sh", "-c", script)
        assert done.out == "webhost\nhello\n"
        box("rm", "-f", "web")
        gone = box("run", "--rm", "--network", "container:web", "box", "true", code=125)
        assert "no such container: web" in gone.err

    def test_without_rights_there_is_loopback_and_a_warning(
        self, box: Commands, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from builder import network
        from builder.errors import NetworkUnavailableError

        def refuse(*_: object, **__: object) -> None:
            raise NetworkUnavailableError("not on this host")

        monkeypatch.setattr(network, "attach", refuse)
        done = box("run", "--rm", "box", "ls", "/sys/class/net")
        assert done.out == "lo\n"
        assert done.err.startswith("lamina: no network: not on this host")
        assert done.err.count("\n") == 1
        refused = box("run", "--rm", "--network", "bridge", "box", "true", code=125)
        assert refused.err == "lamina: not on this host\n"


def test_detached_prints_the_id_and_runs_on(box: Commands) -> None:
    done = box("run", "-d", "--name", "web", "box", "sleep", "60")
    assert len(done.out.strip()) == 64
    assert done.err == ""
    assert box("ps", "-q", "--no-trunc").lines == [done.out.strip()]


def test_a_detached_failure_is_told_at_once(box: Commands) -> None:
    for program, code in (("nope", 127), ("/etc/not-a-program", 126)):
        done = box("run", "-d", "--rm", "box", program, code=code)
        assert done.out == ""
        assert program in done.err
    assert names_in(box.root / "lamina/containers") == []


def test_a_name_can_be_used_once(box: Commands) -> None:
    box("run", "--name", "web", "box", "true")
    done = box("run", "--rm", "--name", "web", "box", "true", code=125)
    assert "'web' is in use" in done.err
    box("rm", "web")
    box("run", "--rm", "--name", "web", "box", "true")


def test_the_id_can_be_written_to_a_file(box: Commands, tmp_path: Path) -> None:
    file = tmp_path / "cid"
    run(box, "--cidfile", file, "box", "true")
    assert len(file.read_text()) == 64
    assert "exists" in run(box, "--cidfile", file, "box", "true", code=125)[2]
    other = tmp_path / "other"
    run(box, "--cidfile", other, "nope", code=125)
    assert not other.exists()


def test_standard_input_comes_through_when_asked_for(box: Commands) -> None:
    lamina = Lamina(root=box.root)
    assert lamina("run", "--rm", "-i", "box", "cat", stdin=b"typed").stdout == "typed"
    assert lamina("run", "-i", "box", "cat", stdin=b"typed").stdout == "typed"
    assert lamina("run", "--rm", "box", "cat", stdin=b"typed").stdout == ""


def test_a_program_may_be_given_options_of_its_own(box: Commands) -> None:
    assert run(box, "box", "echo", "--rm", "-d", "--help")[1] == "--rm -d --help\n"


def test_limits_hold(box: Commands) -> None:
    _, _, err = run(
        box,
        "--pids-limit",
        "8",
        "box",
        "sh",
        "-c",
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 9 & done",
        code=2,
    )
    assert "fork" in err


def test_images_can_be_named_by_id(box: Commands) -> None:
    (image_id,) = box("images", "-q").lines
    assert run(box, image_id, "echo", "hi")[1] == "hi\n"


def test_create_makes_a_container_that_start_runs(box: Commands) -> None:
    done = box("create", "--name", "later", "box", "sh", "-c", "echo started; exit 3")
    assert len(done.out.strip()) == 64
    assert box("ps", "-a", "--format", "{{.State}}").out == "created\n"
    assert box("start", "-a", "later", code=3).out == "started\n"
    assert box("logs", "later").out == "started\n"


def test_what_makes_networks_is_imported_by_who_has_one(box: Commands) -> None:
    program = (
        "import sys; from builder import cli\n"
        "cli._import_inspect_late()\n"
        "words = ['run', '--rm', '--network', 'none', 'box', 'true']\n"
        f"code = cli.carry_out(['--root', {str(box.root)!r}, *words])\n"
        "print(' '.join(sys.modules)); sys.exit(code)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    makers = {"bridges", "attachments", "nftables", "proxy", "usermode", "leases"}
    assert {f"builder.network.{name}" for name in makers}.isdisjoint(loaded)
    assert "builder.sandbox.netlink" not in loaded


def test_nothing_is_imported_that_a_run_does_not_need(box: Commands) -> None:
    """Start-up is a budget: see docs; the second run takes the image from the memo."""
    run(box, "box", "true")
    program = (
        "import sys; from builder import cli\n"
        "cli._import_inspect_late()\n"
        f"code = cli.carry_out(['--root', {str(box.root)!r}, 'run', '--rm', 'box', 'true'])\n"
        "print(' '.join(sys.modules)); sys.exit(code)"
    )
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    heavy = {"click", "lark", "zstandard", "isal", "rich", "sqlite3", "subprocess", "tarfile"}
    heavy |= {"urllib3", "asyncio", "socket", "threading", "logging", "hashlib", "signal"}
    heavy |= {"grammar", "builder.engine", "builder.bootstrap"}
    # layerstore.seals looks whether the directories are what was unpacked, and needs nothing else
    heavy |= {f"layerstore.{name}" for name in ("store", "layers", "images", "documents", "toc")}
    assert loaded & heavy == set()
