import json
from pathlib import Path
from typing import Any

import pytest

from builder.cli.govalues import to_json
from builder.cli.inspect import image_document
from layerstore import (
    ContainerConfig,
    HealthcheckConfig,
    History,
    ImageConfig,
    Reference,
    Store,
)
from tests.support.commands import Commands
from tests.support.stores import flip_blob, make_image, make_layer

CREATED = "2024-05-06T07:08:09.123456789Z"
FULL = ContainerConfig(
    user="ada:staff",
    exposed_ports=("80/tcp", "53/udp"),
    env=("PATH=/bin", "A=b=c"),
    entrypoint=("/bin/sh", "-c"),
    cmd=("echo", "<a & b>"),
    volumes=("/data",),
    working_dir="/srv",
    labels=(("z", "1"), ("a", 'x"y')),
    stop_signal="SIGINT",
    healthcheck=HealthcheckConfig(test=("CMD", "true"), interval_ns=5_000_000_000),
    shell=("/bin/ash", "-c"),
    on_build=("RUN true",),
)


@pytest.fixture
def pair(bare: Commands) -> Commands:
    """Commands on a store with `full`, which says everything, and `bare`, which says nothing."""
    with Store.open(bare.root) as store:
        for name, config in (("full", FULL), ("bare", ContainerConfig())):
            image = store.images.seal(
                ImageConfig(
                    architecture="amd64",
                    os="linux",
                    variant="v2" if name == "full" else "",
                    author="Ada" if name == "full" else "",
                    created=CREATED if name == "full" else "",
                    config=config,
                    history=(History(comment="of the last"),) if name == "full" else (),
                ),
                [make_layer(store, {"file": b"12345"})],
            )
            store.images.tag(image, Reference.parse(name))
    return bare


def only(commands: Commands, *words: str) -> dict[str, Any]:
    (found,) = json.loads(commands("inspect", *words).out)
    assert isinstance(found, dict)
    return found


def shown(commands: Commands, template: str, name: str = "full") -> str:
    return commands("inspect", "-f", template, name).out.removesuffix("\n")


class TestImage:
    def test_the_config_has_docker_s_fields(self, pair: Commands) -> None:
        assert only(pair, "full")["Config"] == {
            "Hostname": "",
            "Domainname": "",
            "User": "ada:staff",
            "ExposedPorts": {"53/udp": {}, "80/tcp": {}},
            "Env": ["PATH=/bin", "A=b=c"],
            "Cmd": ["echo", "<a & b>"],
            "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000},
            "Image": "",
            "Volumes": {"/data": {}},
            "WorkingDir": "/srv",
            "Entrypoint": ["/bin/sh", "-c"],
            "OnBuild": ["RUN true"],
            "Labels": {"a": 'x"y', "z": "1"},
            "StopSignal": "SIGINT",
            "Shell": ["/bin/ash", "-c"],
        }

    def test_what_an_image_does_not_say_is_null_or_left_out(self, pair: Commands) -> None:
        found = only(pair, "bare")
        assert found["Config"] == {
            "Hostname": "",
            "Domainname": "",
            "User": "",
            "Env": None,
            "Cmd": None,
            "Image": "",
            "Volumes": None,
            "WorkingDir": "",
            "Entrypoint": None,
            "OnBuild": None,
            "Labels": None,
        }
        assert "Variant" not in found
        assert "Author" not in found

    def test_around_the_config(self, pair: Commands) -> None:
        with Store.open(pair.root) as store:
            image = store.images.resolve("full")
        found = only(pair, "full")
        assert (found["Variant"], found["Author"]) == ("v2", "Ada")
        assert found["Id"] == image.id
        assert found["RepoTags"] == ["full:latest"]
        assert found["RepoDigests"] == [f"full@{image.descriptor.digest}"]
        assert found["Created"] == CREATED
        assert found["Comment"] == "of the last"
        assert (found["Os"], found["Architecture"]) == ("linux", "amd64")
        assert found["Size"] == 5
        assert found["RootFS"] == {"Type": "layers", "Layers": [image.layers[0].diff_id]}
        assert found["Descriptor"] == {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.descriptor.digest,
            "size": image.descriptor.size_bytes,
        }

    def test_every_name_is_listed_and_every_repository_once(self, pair: Commands) -> None:
        for name in ("full:2", "localhost:5000/team/full", "localhost:5000/team/full:2"):
            pair("tag", "full", name)
        found = only(pair, "full")
        assert found["RepoTags"] == [
            "full:2",
            "full:latest",
            "localhost:5000/team/full:2",
            "localhost:5000/team/full:latest",
        ]
        assert [name.partition("@")[0] for name in found["RepoDigests"]] == [
            "full",
            "localhost:5000/team/full",
        ]

    def test_a_nameless_image_has_empty_lists(self, pair: Commands) -> None:
        image_id = only(pair, "full")["Id"]
        pair("untag", "full")
        assert only(pair, image_id)["RepoTags"] == []
        assert only(pair, image_id[7:14])["RepoDigests"] == []

    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("{{.Config.Cmd}}", "[echo <a & b>]"),
            ("{{json .Config.Cmd}}", '["echo","<a & b>"]'),
            ("{{index .Config.Entrypoint 1}}", "-c"),
            ('{{index .Config.Labels "a"}}', 'x"y'),
            ('{{.Config.Labels.z}}|{{index .Config.Labels "none"}}', "1|"),
            ("{{.Config.Labels}}", 'map[a:x"y z:1]'),
            ("{{range .Config.Env}}{{println .}}{{end}}", "PATH=/bin\nA=b=c\n"),
            ('{{join .Config.Env ";"}}', "PATH=/bin;A=b=c"),
            ("{{range $port, $_ := .Config.ExposedPorts}}{{$port}} {{end}}", "53/udp 80/tcp "),
            ("{{json .Config.ExposedPorts}}", '{"53/udp":{},"80/tcp":{}}'),
            ("{{len .RootFS.Layers}} {{.Os}}/{{.Architecture}}", "1 linux/amd64"),
            ("{{with .Config.Healthcheck}}{{.Test}} {{.Retries}}{{end}}", "[CMD true] 0"),
            ("{{json .Config.Healthcheck}}", '{"Test":["CMD","true"],"Interval":5000000000}'),
            ('{{if eq .Config.User "root"}}root{{else}}{{.Config.User}}{{end}}', "ada:staff"),
            ('{{printf "%s-%d" .Os .Size}}', "linux-5"),
        ],
    )
    def test_templates_of_docker_s_users_work(
        self, pair: Commands, template: str, expected: str
    ) -> None:
        assert shown(pair, template) == expected

    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("{{.Config.Cmd}} {{json .Config.Cmd}}", "[] null"),
            ("{{.Config.Labels}} {{json .Config.Labels}}", "map[] null"),
            ("{{.Config.Labels.none}}", "<no value>"),
            ('{{index .Config.Labels "none"}}', ""),
            ("{{if .Config.Healthcheck}}yes{{else}}no{{end}}", "no"),
            ("{{range .Config.Env}}x{{else}}none{{end}}", "none"),
            ("[{{.Config.StopSignal}}{{.Author}}]", "[]"),
        ],
    )
    def test_what_is_absent_prints_as_in_go(
        self, pair: Commands, template: str, expected: str
    ) -> None:
        assert shown(pair, template, "bare") == expected

    def test_json_of_a_part_leaves_out_what_json_of_all_does(self, pair: Commands) -> None:
        for name in ("full", "bare"):
            found = only(pair, name)
            assert json.loads(shown(pair, "{{json .Config}}", name)) == found["Config"]
            assert json.loads(shown(pair, "{{json .}}", name)) == found

    def test_control_characters_do_not_reach_the_terminal(self, bare: Commands) -> None:
        with Store.open(bare.root) as store:
            image = make_image(store, "evil", {"a": b""})
            config = ContainerConfig(labels=(("x", "\x1b[2J"),), cmd=("a\tb\nc",))
            sealed = ImageConfig(architecture="amd64", os="linux", config=config)
            evil = store.images.seal(sealed, image.layers)
            store.images.tag(evil, Reference.parse("evil"))
        assert shown(bare, "{{.Config.Labels.x}}", "evil") == "\\x1b[2J"
        assert shown(bare, "{{index .Config.Cmd 0}}", "evil") == "a\tb\nc"
        out = bare("inspect", "evil").out
        assert "\x1b" not in out
        assert json.loads(out)[0]["Config"]["Labels"] == {"x": "\x1b[2J"}


class TestForms:
    def test_it_is_always_an_array_indented_by_four(self, pair: Commands) -> None:
        lines = pair("inspect", "full", "bare").lines
        assert lines[:2] == ["[", "    {"]
        assert lines[2].startswith('        "Id": "sha256:')
        assert [each["RepoTags"] for each in json.loads("\n".join(lines))] == [
            ["full:latest"],
            ["bare:latest"],
        ]

    def test_as_json_it_is_one_line(self, pair: Commands) -> None:
        (line,) = pair("inspect", "--format", "json", "full", "bare").lines
        assert json.loads(line) == json.loads(pair("inspect", "full", "bare").out)
        assert '"Os":"linux"' in line

    def test_an_empty_format_is_none(self, pair: Commands) -> None:
        assert pair("inspect", "-f", "", "full").out == pair("inspect", "full").out

    def test_a_template_prints_a_line_for_each(self, pair: Commands) -> None:
        done = pair("inspect", "--format={{index .RepoTags 0}}", "full", "bare")
        assert done.out == "full:latest\nbare:latest\n"

    def test_the_spellings_are_one_command(self, pair: Commands) -> None:
        expected = pair("inspect", "full").out
        assert pair("image", "inspect", "full").out == expected
        assert pair("inspect", "--type", "image", "full").out == expected
        assert pair("inspect", "--size", "full").out == expected

    def test_the_document_is_the_same_by_id_digest_and_prefix(self, pair: Commands) -> None:
        found = only(pair, "full")
        digest = found["Descriptor"]["digest"]
        for name in (found["Id"], found["Id"][7:15], digest, f"full@{digest}"):
            assert only(pair, name) == found

    @pytest.mark.parametrize("template", [None, "{{.Os}}"])
    def test_what_is_found_is_shown_and_what_is_not_is_told(
        self, pair: Commands, template: str | None
    ) -> None:
        words = [] if template is None else ["-f", template]
        done = pair("inspect", *words, "nope", "full", code=1)
        assert done.err == (
            "lamina: no such object: nope (`lamina images` and `lamina ps -a` list what there is)\n"
        )
        assert done.out == "linux\n" if template else len(json.loads(done.out)) == 1

    def test_nothing_found_is_an_empty_array(self, pair: Commands) -> None:
        assert pair("inspect", "nope", code=1).out == "[]\n"

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("inspect",), 1, "'inspect' requires at least 1 argument"),
            (("inspect", "--type", "volume", "full"), 125, "'volume' for --type (image or cont"),
            (("inspect", "--type", "container", "full"), 1, "no such container: full"),
            (("inspect", "--type", "image", "nope"), 1, "no such image: nope"),
            (("container", "inspect", "full"), 1, "no such container: full"),
            (("image", "inspect", "--platform", "linux/s390x", "full"), 1, "the image is for"),
            (("image", "inspect", "-s", "full"), 125, "unknown shorthand flag: 's'"),
            (("inspect", "-f", "{{", "full"), 1, "bad template: unclosed action"),
            (("inspect", "-f", "{{.Nope}}", "full"), 1, "there is no field 'Nope'"),
            (("inspect", "-f", "{{.State.Status}}", "full"), 1, "there is no field 'State'"),
            (("inspect", "-f", "{{.Os.Nope}}", "full"), 1, "bad template"),
            (("inspect", "-f", "{{index .RepoTags 7}}", "full"), 1, "bad template"),
            (("inspect", "-f", "{{nope .Os}}", "full"), 1, "bad template"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_mistakes_are_one_line(
        self, pair: Commands, words: tuple[str, ...], code: int, message: str
    ) -> None:
        done = pair(*words, code=code)
        assert message in done.err
        assert done.err.count("\n") == 1

    def test_a_damaged_image_is_named(self, pair: Commands) -> None:
        image_id = only(pair, "full")["Id"]
        with Store.open(pair.root) as store:
            flip_blob(store, store.images.resolve("full").id)
        done = pair("inspect", "full", "bare", code=1)
        assert image_id in done.err
        assert len(json.loads(done.out)) == 1


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestContainer:
    def test_a_container_that_has_ended(self, box: Commands) -> None:
        script = "echo x > /written; exit 3"
        box(
            *("run", "--network", "none", "--name", "old", "-e", "A=1", "-l", "tier=front"),
            *("-w", "/data", "-h", "ship", "box", "sh", "-c", script),
            code=3,
        )
        found = only(box, "old")
        assert found["Name"] == "/old"
        assert (found["Path"], found["Args"]) == ("sh", ["-c", script])
        state = found["State"]
        assert (state["Status"], state["Running"], state["Pid"]) == ("exited", False, 0)
        assert (state["ExitCode"], state["Error"]) == (3, "")
        assert found["Created"] <= state["StartedAt"] < state["FinishedAt"]
        config = found["Config"]
        assert config["Image"] == "box"
        assert {"PATH=/bin", "GREETING=hello", "A=1"} <= set(config["Env"])
        assert (config["WorkingDir"], config["Hostname"]) == ("/data", "ship")
        assert config["Labels"] == {"maker": "test", "tier": "front"}
        assert config["Cmd"] == ["sh", "-c", script]
        assert config["Entrypoint"] is None
        assert found["Image"] == only(box, "box")["Id"]
        assert found["HostConfig"]["NetworkMode"] == "none"
        assert list(found["NetworkSettings"]["Networks"]) == ["none"]
        assert Path(found["LogPath"]).is_file()

    def test_a_container_that_runs(self, box: Commands) -> None:
        run = ("run", "-d", "--network", "none", "--name", "busy")
        container_id = box(*run, "box", "sleep", "60").out.strip()
        found = only(box, "busy")
        assert found["Id"] == container_id
        state = found["State"]
        assert (state["Status"], state["Running"]) == ("running", True)
        assert Path(f"/proc/{state['Pid']}").is_dir()
        assert state["FinishedAt"] == "0001-01-01T00:00:00Z"
        template = "{{.State.Running}} {{.State.Status}} {{.Config.Image}} {{.Name}}"
        assert box("inspect", "-f", template, container_id[:7]).out == "true running box /busy\n"

    def test_mounts_are_listed_and_in_the_host_config(self, box: Commands, tmp_path: Path) -> None:
        box(
            *("run", "--network", "none", "--name", "old", "-v", "named:/n"),
            *("-v", f"{tmp_path}:/b:ro", "--tmpfs", "/t", "--memory", "64m"),
            *("--pids-limit", "50", "--read-only", "box", "true"),
        )
        found = only(box, "old")
        mounts = {mount["Destination"]: mount for mount in found["Mounts"]}
        assert mounts["/b"] == {
            "Type": "bind",
            "Name": "",
            "Source": str(tmp_path),
            "Destination": "/b",
            "Driver": "",
            "Mode": "ro",
            "RW": False,
            "Propagation": "rprivate",
        }
        assert mounts["/n"]["Type"] == "volume"
        assert mounts["/n"]["Name"] == "named"
        assert Path(mounts["/n"]["Source"]).is_dir()
        host = found["HostConfig"]
        assert sorted(host["Binds"]) == [f"{tmp_path}:/b:ro", "named:/n"]
        assert list(host["Tmpfs"]) == ["/t"]
        assert (host["Memory"], host["PidsLimit"]) == (64 << 20, 50)
        assert host["ReadonlyRootfs"] is True

    def test_with_size_it_says_how_much_was_written(self, box: Commands) -> None:
        script = "head -c 500000 /dev/urandom > /file"
        box("run", "--network", "none", "--name", "big", "box", "sh", "-c", script)
        box("create", "--name", "empty", "box", "true")
        assert "SizeRw" not in only(box, "big")
        assert only(box, "-s", "big")["SizeRw"] >= 500_000
        assert 0 <= only(box, "--size", "empty")["SizeRw"] < 100_000

    def test_a_name_of_both_is_the_container_unless_a_type_is_given(self, box: Commands) -> None:
        box("run", "--network", "none", "--name", "box", "box", "true")
        assert "State" in only(box, "box")
        assert "State" in only(box, "--type", "container", "box")
        assert "RootFS" in only(box, "--type=image", "box")
        assert "RootFS" in json.loads(box("image", "inspect", "box").out)[0]


def test_documents_of_images_are_pure(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store") as store:
        image = make_image(store, "a", {"f": b"1"})
        document = image_document(image, ("b:1", "a:1"))
    assert document["RepoTags"] == ["b:1", "a:1"]
    assert json.loads(to_json(document))["RepoDigests"] == [
        f"a@{image.descriptor.digest}",
        f"b@{image.descriptor.digest}",
    ]
