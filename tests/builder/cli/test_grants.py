"""What a build lends and grants: all forms of the options, and what is wrong with others."""

import os
import socket
from pathlib import Path

import pytest

from builder.cli.arguments import Arguments, UsageError, split
from builder.cli.build import BUILD
from builder.cli.grants import grants_of, rights_of, settings_of
from builder.errors import BuilderError
from builder.sandbox import RESOURCES, ResourceLimit


def arguments(*words: str) -> Arguments:
    return split(BUILD, [*words, "."])


def secrets(*values: str) -> dict[str, bytes]:
    words = [word for value in values for word in ("--secret", value)]
    return dict(grants_of(arguments(*words)).secrets)


def problem(*words: str) -> str:
    """The message and hint for a command line that makes no sense."""
    with pytest.raises(UsageError) as caught:
        line = arguments(*words)
        grants_of(line)
        settings_of(line)
        rights_of(line)
    return f"{caught.value.message} ({caught.value.hint})"


class TestSecrets:
    @pytest.fixture(autouse=True)
    def surroundings(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_bytes(b"of a file\n\xff")
        (tmp_path / "a,b").write_bytes(b"comma")
        monkeypatch.setenv("TOKEN", "of a variable")
        monkeypatch.delenv("file", raising=False)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("id=x,src=file", b"of a file\n\xff"),
            ("id=x,source=file", b"of a file\n\xff"),
            ("ID=x,type=file,SRC=./file", b"of a file\n\xff"),
            ("id=x,env=TOKEN", b"of a variable"),
            ("type=env,id=x,src=TOKEN", b"of a variable"),
            ("type=env,id=x,env=TOKEN", b"of a variable"),
            ("id=x,env=ABSENT", b""),
            ('id=x,"src=a,b"', b"comma"),
        ],
    )
    def test_every_form(self, value: str, expected: bytes) -> None:
        assert secrets(value) == {"x": expected}

    def test_an_id_alone_is_a_variable_or_else_a_file(self) -> None:
        assert secrets("id=TOKEN", "id=file") == {
            "TOKEN": b"of a variable",
            "file": b"of a file\n\xff",
        }
        assert secrets("id=TOKEN,type=env") == {"TOKEN": b"of a variable"}

    def test_a_relative_file_is_that_of_the_working_directory(self, tmp_path: Path) -> None:
        absolute = f"id=x,src={tmp_path / 'file'}"
        assert secrets(absolute) == secrets("id=x,src=file")

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("x", "'x' must be a key=value pair"),
            ("src=file", "it has no id"),
            ("id=", "it has no id"),
            ("id=x,path=file", "unexpected key 'path'"),
            ("id=x,type=vault", "unsupported type 'vault'"),
            ('"id=x', "invalid argument"),
        ],
    )
    def test_what_makes_no_sense(self, value: str, message: str) -> None:
        assert message in problem("--secret", value)

    def test_a_file_that_is_not_there(self) -> None:
        with pytest.raises(BuilderError, match="'x' cannot be read: 'absent': No such file"):
            secrets("id=x,src=absent")
        with pytest.raises(BuilderError, match="Is a directory"):
            secrets("id=x,src=.")

    def test_a_file_of_more_than_500_kilobytes(self, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(b"x" * (500 << 10))
        assert len(secrets("id=x,src=big")["x"]) == 500 << 10
        (tmp_path / "big").write_bytes(b"x" * (500 << 10) + b"x")
        with pytest.raises(BuilderError, match="too big"):
            secrets("id=x,src=big")


class TestAgents:
    @pytest.fixture
    def agent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = tmp_path / "agent"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
        monkeypatch.setenv("SSH_AUTH_SOCK", os.fspath(path))
        return path

    def agents(self, *values: str) -> dict[str, Path]:
        words = [word for value in values for word in ("--ssh", value)]
        return dict(grants_of(arguments(*words)).agents)

    @pytest.mark.parametrize("value", ["default", "default=", ""])
    def test_the_agent_of_the_caller(self, agent: Path, value: str) -> None:
        assert self.agents(value) == {"default": agent}

    def test_agents_by_name(
        self, agent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert self.agents("work=agent", "default") == {"work": agent, "default": agent}

    def test_no_agent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        with pytest.raises(BuilderError, match="SSH_AUTH_SOCK is not set"):
            self.agents("default")
        with pytest.raises(BuilderError, match="No such file"):
            self.agents(f"default={tmp_path / 'absent'}")

    def test_a_key_file_is_refused_by_name(self, tmp_path: Path) -> None:
        (tmp_path / "id_rsa").write_text("KEY")
        with pytest.raises(BuilderError, match=r"key file .* is not supported") as caught:
            self.agents(f"default={tmp_path / 'id_rsa'}")
        assert "ssh-add" in caught.value.hint


class TestRights:
    def test_rights_are_given_one_by_one(self) -> None:
        assert rights_of(arguments()) == frozenset()
        both = arguments("--allow", "network.host", "--allow=security.insecure")
        assert rights_of(both) == {"network.host", "security.insecure"}

    def test_the_network_of_the_host_is_granted_by_name(self) -> None:
        assert rights_of(arguments("--network", "host")) == {"network.host"}
        assert rights_of(arguments("--network", "default")) == frozenset()

    def test_others_are_refused(self) -> None:
        told = problem("--allow", "device")
        assert "invalid argument 'device' for --allow" in told
        assert "security.insecure" in told


class TestSettings:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("db:10.0.0.1", ("db", "10.0.0.1")),
            ("db=10.0.0.1", ("db", "10.0.0.1")),
            ("db:::1", ("db", "::1")),
            ("db:[::1]", ("db", "::1")),
            ("db=fe80::2", ("db", "fe80::2")),
            ("db:host-gateway", ("db", "host-gateway")),
        ],
    )
    def test_hosts(self, value: str, expected: tuple[str, str]) -> None:
        assert settings_of(arguments("--add-host", value)).extra_hosts == (expected,)

    @pytest.mark.parametrize(
        "value", ["db", "db:", ":1.2.3.4", "db:nowhere", "a b:1.2.3.4", "a\nb:::1"]
    )
    def test_what_is_no_host(self, value: str) -> None:
        assert "for --add-host" in problem("--add-host", value)

    def test_shared_memory(self) -> None:
        assert settings_of(arguments("--shm-size", "1g")).shm_size_bytes == 1 << 30
        assert settings_of(arguments()).shm_size_bytes is None
        assert "not a size" in problem("--shm-size", "much")

    @pytest.mark.parametrize(
        ("value", "soft", "hard"),
        [("64", 64, 64), ("64:128", 64, 128), ("-1", -1, -1), ("0:-1", 0, -1), ("7:7", 7, 7)],
    )
    def test_limits(self, value: str, soft: int, hard: int) -> None:
        limits = settings_of(arguments("--ulimit", f"nofile={value}")).resource_limits
        assert limits == (ResourceLimit(name="nofile", soft=soft, hard=hard),)

    def test_the_last_limit_of_a_name_counts(self) -> None:
        line = arguments("--ulimit", "nofile=5", "--ulimit", "core=0", "--ulimit", "nofile=7")
        limits = settings_of(line).resource_limits
        assert [(limit.name, limit.soft) for limit in limits] == [("nofile", 7), ("core", 0)]

    def test_every_resource_of_docker_is_known(self) -> None:
        docker = "core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime"
        assert set(RESOURCES) == {*docker.split(), "sigpending", "stack"}

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ("nofile", "it has no value"),
            ("files=1", "invalid ulimit type 'files'"),
            ("nofile=", "'' is no limit"),
            ("nofile=many", "'many' is no limit"),
            ("nofile=-2", "'-2' is no limit"),
            ("nofile=1:2:3", "too many limits"),
            ("nofile=2:1", "the soft limit is above the hard one"),
            ("nofile=-1:5", "the soft limit is above the hard one"),
            (f"nofile={1 << 63}", "is no limit"),
        ],
    )
    def test_what_is_no_limit(self, value: str, message: str) -> None:
        assert message in problem("--ulimit", value)
