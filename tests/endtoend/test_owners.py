"""Whose the files of an image are: the same, whoever builds it."""

import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout

pytestmark = [pytest.mark.needs_overlay]


class Project:
    """A context, and what the builds of it print."""

    def __init__(self, lamina: Lamina, context: Path) -> None:
        self.lamina = lamina
        self.context = context

    def build(self, text: str, *options: str, tag: str = "it") -> str:
        (self.context / "Dockerfile").write_text(text)
        words = ("build", "--progress", "plain", "--network", "none", "-t", tag, *options)
        return self.lamina(*words, self.context).stderr

    def said(self, text: str) -> list[str]:
        """What the programs of a build wrote, without the numbers in front."""
        lines = [line.split(" ", 2) for line in self.build(text).splitlines()]
        return [rest for _, time, rest in (x for x in lines if len(x) == 3) if "." in time]

    def run(self, *words: str) -> str:
        return self.lamina("run", "--rm", *words).stdout

    def headers(self, number: int, tag: str = "it") -> dict[str, tarfile.TarInfo]:
        layout = OciLayout(self.lamina.root)
        with tarfile.open(layout.blob(layout.layers(f"{tag}:latest")[number])) as tar:
            return {member.name.rstrip("/"): member for member in tar}

    def owners(self, tag: str = "it") -> dict[str, str]:
        tree = OciLayout(self.lamina.root).tree(f"{tag}:latest")
        return {path: f"{entry.uid}:{entry.gid}" for path, entry in tree.items()}


@pytest.fixture
def project(busybox: Lamina, context: Path) -> Project:
    return Project(busybox, context)


def test_a_program_sees_whom_it_gave_a_file_to_and_so_does_the_layer(project: Project) -> None:
    said = project.said("FROM busybox\nRUN touch /x && chown 33:34 /x && stat -c %u:%g /x\n")
    assert said == ["33:34"]
    header = project.headers(1)["x"]
    assert (header.uid, header.gid, header.uname, header.gname) == (33, 34, "", "")


def test_later_steps_and_containers_see_it(project: Project) -> None:
    (project.context / "f").write_text("f")
    said = project.said(
        "FROM busybox\nRUN mkdir /d && touch /d/a /d/b && chown -R 33:34 /d && chown 5 /d/b\n"
        "COPY --chown=1000:50 f /c\nRUN stat -c '%n %u:%g' /d /d/a /d/b /c; chown 6 /d/a\n"
    )
    assert said == ["/d 33:34", "/d/a 33:34", "/d/b 5:34", "/c 1000:50"]
    seen = project.run("it", "stat", "-c", "%u:%g", "/d", "/d/a", "/d/b", "/c").split()
    assert seen == ["33:34", "6:34", "5:34", "1000:50"]
    owners = project.owners()
    assert [owners[name] for name in ("d", "d/a", "d/b", "c")] == seen
    assert set(project.headers(3)) == {"d", "d/a"}


def test_what_is_copied_between_stages_keeps_its_owner(project: Project) -> None:
    project.build(
        "FROM busybox AS one\nRUN mkdir /d && touch /d/f && chown -R 33:34 /d\n"
        "FROM busybox\nCOPY --from=one /d /kept\nCOPY --from=one --chown=7 /d /given\n"
    )
    seen = project.run("it", "stat", "-c", "%u:%g", "/kept/f", "/given/f").split()
    assert seen == ["33:34", "7:7"]


def test_a_user_owns_what_it_makes(project: Project) -> None:
    (project.context / "passwd").write_text(
        "root:x:0:0::/:/bin/sh\nweb:x:1234:1234::/home/web:/bin/sh\n"
    )
    said = project.said(
        "FROM busybox\nCOPY passwd /etc/passwd\nUSER web\n"
        "WORKDIR /home/web\nRUN id -un; touch f; mkdir d; echo x > d/g; stat -c %u . f d d/g\n"
    )
    assert said[-5:] == ["web", *["1234"] * 4]
    owners = project.owners()
    assert {owners[f"home/web{name}"] for name in ("", "/f", "/d", "/d/g")} == {"1234:1234"}
    assert project.run("it", "sh", "-c", "touch new; stat -c %U new; id -u") == "web\n1234\n"


@pytest.mark.parametrize(
    ("user", "expected"), [("33", "33 0"), ("33:34", "33 34"), ("ada", "1000 1001")]
)
def test_a_container_runs_as_anybody(project: Project, user: str, expected: str) -> None:
    (project.context / "passwd").write_text("root:x:0:0::/:/bin/sh\nada:x:1000:1001::/:/bin/sh\n")
    project.build("FROM busybox\nCOPY passwd /etc/passwd\n")
    script = "echo $(id -u) $(id -g); touch /tmp/f; stat -c '%u %g' /tmp/f"
    assert project.run("-u", user, "it", "sh", "-c", script).splitlines() == [expected] * 2


def test_a_volume_keeps_owners_from_one_container_to_the_next(project: Project) -> None:
    script = "mkdir -p /v/d && chown 33:34 /v/d && touch /v/d/f"
    project.run("-v", "data:/v", "busybox", "sh", "-c", script)
    project.run("-v", "data:/v", "-u", "33:34", "busybox", "touch", "/v/d/g")
    shown = project.run("-v", "data:/v:ro", "busybox", "stat", "-c", "%u:%g", "/v/d", "/v/d/g")
    assert shown.split() == ["33:34", "33:34"]


def test_what_was_recorded_is_no_attribute_of_any_layer(project: Project) -> None:
    project.build("FROM busybox\nRUN touch /x && chown 33:34 /x\nRUN chmod 600 /x\n")
    for number in (1, 2):
        assert project.headers(number)["x"].pax_headers == {}
        assert project.headers(number)["x"].uid == 33


def test_stores_are_sound_and_can_be_removed(project: Project) -> None:
    project.build(
        "FROM busybox\nRUN mkdir /d && touch /d/f && chown -R 33:34 /d && chmod 0 /d /d/f\n"
        "RUN mkfifo /p && ln -s x /l && chown -h 5 /l /p\n"
    )
    project.run("it", "true")
    project.lamina("fsck")
    project.lamina("rmi", "it")
    project.lamina("builder", "prune", "-a", "-f")
    project.lamina("fsck")
    assert "it" not in project.lamina("images", "--format", "{{.Repository}}").stdout.split()


def test_a_saved_image_is_loaded_with_its_owners(project: Project, tmp_path: Path) -> None:
    project.build("FROM busybox\nRUN touch /x /y && chown 33:34 /x && chown 70000:70001 /y; true\n")
    project.lamina("save", "-o", tmp_path / "it.tar", "it")
    other = Lamina(root=tmp_path / "other")
    other("load", "-i", tmp_path / "it.tar")
    shown = other("run", "--rm", "it", "stat", "-c", "%u:%g", "/x").stdout
    assert shown == "33:34\n"
    other("fsck")


def test_gnu_tar_restores_owners_within_a_step(project: Project) -> None:
    """busybox's own tar, that is: it asks for each owner, then for each mode."""
    folder = project.context / "tree"
    folder.mkdir()
    (folder / "f").write_text("f")
    words = ["tar", "--owner=33", "--group=34", "--mode=4750", "-C", str(folder)]
    subprocess.run([*words, "-cf", str(project.context / "a.tar"), "f"], check=True)
    said = project.said(
        "FROM busybox\nCOPY a.tar /\nRUN cd /tmp && tar xpf /a.tar && stat -c '%u:%g %a' f\n"
    )
    assert said == ["33:34 4750"]
