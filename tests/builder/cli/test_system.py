import json
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from builder.cli.commands import VERSION
from layerstore import Store
from tests.support.cli import Lamina
from tests.support.commands import Commands
from tests.support.containers import names_in
from tests.support.stores import flip_blob, make_image, problems

OLD, NEW = "2021-05-06T07:08:09Z", "2023-05-06T07:08:09Z"
BIG = 300_000


@pytest.fixture
def two(bare: Commands) -> Commands:
    """Commands on a store with two images that share a layer."""
    noise = os.urandom(BIG)
    with Store.open(bare.root) as store:
        make_image(store, "old", {"a": noise}, {"b": b"1"}, created=OLD)
        make_image(store, "new", {"a": noise}, {"c": os.urandom(BIG)}, created=NEW)
    return bare


def build(box: Commands, folder: Path, *lines: str, name: str = "made") -> str:
    """Build `FROM box` and these lines; returns the image's id."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text("\n".join(("FROM box", *lines, "")))
    return box("build", "-q", "-t", name, "--network", "none", folder).out.strip()


def rows(commands: Commands, *words: str) -> dict[str, Any]:
    lines = commands("system", "df", "--format", "json", *words).lines
    return {row["Type"]: row for row in map(json.loads, lines)}


class TestDf:
    def test_an_empty_store_takes_nothing(self, bare: Commands) -> None:
        assert bare("system", "df").lines == [
            "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE",
            "Images          0         0         0B        0B",
            "Containers      0         0         0B        0B",
            "Local Volumes   0         0         0B        0B",
            "Build Cache     0         0         0B        0B",
        ]

    def test_a_shared_layer_counts_once(self, two: Commands) -> None:
        images = rows(two)["Images"]
        assert (images["TotalCount"], images["Active"]) == ("2", "0")
        assert 2 * BIG <= size_of(images["Size"]) < 3 * BIG
        assert images["Reclaimable"] == f"{images['Size']} (100%)"

    def test_fields_are_docker_s(self, two: Commands) -> None:
        found = rows(two)
        assert list(found) == ["Images", "Containers", "Local Volumes", "Build Cache"]
        for row in found.values():
            assert list(row) == ["Active", "Reclaimable", "Size", "TotalCount", "Type"]
        array = json.loads(two("system", "df", "--format", "json-array").out)
        assert array == list(found.values())
        line = ("system", "df", "--format", "{{.Type}}={{.TotalCount}}")
        assert two(*line).lines[0] == "Images=2"
        assert two("system", "df", "--format", r"table {{.Type}}\t{{.Size}}").lines[0] == (
            "TYPE            SIZE"
        )

    def test_one_by_one_shared_and_unique_make_the_size(self, two: Commands) -> None:
        lines = two("system", "df", "-v").lines
        at = lines.index("Images space usage:")
        assert lines[at + 2].split("   ")[0] == "REPOSITORY"
        cells = [line.split() for line in lines[at + 3 : at + 5]]
        assert [row[0] for row in cells] == ["new", "old"]
        for row in cells:
            size, shared, unique, containers = row[-4:]
            assert size_of(shared) + size_of(unique) == pytest.approx(size_of(size), rel=0.01)
            assert size_of(shared) > BIG
            assert containers == "0"
        assert size_of(cells[0][-2]) > BIG > size_of(cells[1][-2])
        headings = [line for line in lines if line.endswith("space usage:")]
        assert headings == [
            "Images space usage:",
            "Containers space usage:",
            "Local Volumes space usage:",
        ]
        assert "Build cache usage: 0B" in lines
        assert lines[-1].startswith("Total: ")

    def test_one_by_one_as_json_is_one_document(self, two: Commands) -> None:
        (line,) = two("system", "df", "-v", "--format", "json").lines
        found = json.loads(line)
        assert list(found) == ["Images", "Containers", "Volumes", "BuildCache"]
        image = found["Images"][0]
        assert (image["Repository"], image["Tag"], len(image["ID"])) == ("new", "latest", 71)
        assert size_of(image["SharedSize"]) + size_of(image["UniqueSize"]) == pytest.approx(
            size_of(image["Size"]), rel=0.01
        )
        assert list(image) == sorted(image)
        assert two("system", "df", "-v", "--format", "{{json .}}").lines == [line]

    def test_one_by_one_a_template_is_for_the_whole(self, two: Commands) -> None:
        template = "{{range .Images}}{{.Repository}} {{end}}{{len .BuildCache}}"
        assert two("system", "df", "-v", "--format", template).lines == ["new old 0"]
        done = two("system", "df", "-v", "--format", "{{.Type}}", code=1)
        assert "Type" in done.err

    @pytest.mark.needs_root
    @pytest.mark.needs_overlay
    def test_one_by_one_the_build_cache_is_in_it(self, box: Commands, tmp_path: Path) -> None:
        build(box, tmp_path / "made", f"RUN head -c {BIG} /dev/urandom > /noise")
        box("rmi", "made")
        (piece,) = json.loads(box("system", "df", "-v", "--format", "json").out)["BuildCache"]
        assert (piece["CacheType"], piece["Shared"], piece["InUse"]) == (
            "regular",
            "false",
            "false",
        )
        assert piece["Description"].startswith("RUN /bin/sh -c head -c")
        assert size_of(piece["Size"]) > BIG
        lines = box("system", "df", "-v").lines
        at = lines.index(f"Build cache usage: {piece['Size']}")
        assert lines[at + 2].split("   ")[0] == "CACHE ID"
        assert lines[at + 3].split()[:3] == [piece["ID"][:12], "regular", piece["Size"]]

    @pytest.mark.needs_root
    @pytest.mark.needs_overlay
    def test_containers_and_volumes_count(self, box: Commands, tmp_path: Path) -> None:
        script = "head -c 500000 /dev/urandom > /file; head -c 700000 /dev/urandom > /v/file"
        run = ("run", "--network", "none", "-v", "vol:/v")
        box(*run, "--name", "done", "box", "sh", "-c", script)
        box(*run, "-d", "--name", "busy", "box", "sleep", "60")
        found = rows(box)
        assert found["Images"]["Active"] == "1"
        assert found["Images"]["Reclaimable"] == "0B (0%)"
        assert (found["Containers"]["TotalCount"], found["Containers"]["Active"]) == ("2", "1")
        assert size_of(found["Containers"]["Reclaimable"].split()[0]) >= 500_000
        assert (found["Local Volumes"]["TotalCount"], found["Local Volumes"]["Active"]) == (
            "1",
            "1",
        )
        assert size_of(found["Local Volumes"]["Size"]) >= 700_000
        assert found["Local Volumes"]["Reclaimable"] == "0B (0%)"
        lines = box("system", "df", "--verbose").lines
        at = lines.index("Local Volumes space usage:")
        assert lines[at + 3].split()[:2] == ["vol", "2"]
        (line,) = (line for line in lines if line.endswith(" done"))
        assert '"sh -c head -c 5000' in line
        (container,) = (
            each
            for each in json.loads(box("system", "df", "-v", "--format", "json").out)["Containers"]
            if each["Names"] == "done"
        )
        assert (len(container["ID"]), container["LocalVolumes"]) == (64, "1")
        assert container["Command"] == f'"sh -c {script}"'
        box("rm", "-f", "busy", "done")
        assert rows(box)["Local Volumes"]["Reclaimable"].endswith(" (100%)")


def size_of(text: str) -> float:
    """`1.5MB` in bytes."""
    number = text.rstrip("kMGB")
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[text[len(number) :]]


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestPrune:
    RUN = ("run", "--network", "none")

    def test_what_is_in_use_or_has_a_name_stays(self, box: Commands, tmp_path: Path) -> None:
        build(box, tmp_path / "context", "RUN echo 1 > /file")
        lost = build(box, tmp_path / "context", "RUN echo 2 > /file", name="made")
        box("untag", "made")
        box(*self.RUN, "--name", "old", "box", "true")
        box(*self.RUN, "-d", "--name", "busy", "box", "sleep", "60")
        done = box("system", "prune", "-f")
        assert done.lines[0] == "Deleted Containers:"
        assert "Deleted Images:" in done.lines
        assert f"deleted: {lost}" in done.lines
        assert "Deleted build cache: 2 steps" in done.lines
        assert done.lines[-1].startswith("Total reclaimed space: ")
        assert box("ps", "-a", "--format", "{{.Names}}").lines == ["busy"]
        assert box("images", "--format", "{{.Repository}}").lines == ["box"]
        assert box("system", "prune", "-f").lines == ["Total reclaimed space: 0B"]
        assert problems(box.root) == []

    def test_all_takes_names_and_the_whole_cache(self, box: Commands, tmp_path: Path) -> None:
        build(box, tmp_path / "context", "RUN echo 1 > /file")
        box(*self.RUN, "-d", "--name", "busy", "box", "sleep", "60")
        done = box("system", "prune", "-a", "-f")
        assert "untagged: made:latest" in done.lines
        assert box("images", "--format", "{{.Repository}}").lines == ["box"]
        assert rows(box)["Build Cache"]["TotalCount"] == "0"

    def test_volumes_go_only_when_asked_for_and_anonymous(self, box: Commands) -> None:
        box(*self.RUN, "-v", "/v", "-v", "named:/n", "box", "touch", "/v/x")
        box("system", "prune", "-f")
        assert len(names_in(box.root / "lamina/volumes")) == 2
        done = box("system", "prune", "-f", "--volumes")
        assert done.lines[0] == "Deleted Volumes:"
        assert len(done.lines[1]) == 64
        assert names_in(box.root / "lamina/volumes") == ["named"]

    def test_a_volume_that_a_container_mounts_stays(self, box: Commands) -> None:
        box(*self.RUN, "-d", "-v", "/v", "box", "sleep", "60")
        assert "Volumes" not in box("system", "prune", "-f", "--volumes").out
        assert len(names_in(box.root / "lamina/volumes")) == 1

    def test_a_dry_run_says_what_would_go_and_nothing_goes(
        self, box: Commands, tmp_path: Path
    ) -> None:
        lost = build(box, tmp_path / "context", "RUN echo 1 > /file")
        box("untag", "made")
        box(*self.RUN, "--name", "old", "box", "true")
        (old,) = box("ps", "-aq", "--no-trunc").lines
        done = box("system", "prune", "--dry-run")
        assert done.lines[:2] == ["Containers that would be deleted:", old]
        assert done.lines[3:5] == ["Images that would be deleted:", f"deleted: {lost}"]
        assert "Build cache that would be deleted: 1 steps" in done.lines
        assert done.lines[-1].startswith("Would reclaim: ")
        assert "Deleted" not in done.out
        assert box("image", "exists", lost).code == 0
        assert box("ps", "-aq").lines != []

    def test_a_dry_run_says_what_is_then_done(self, box: Commands, tmp_path: Path) -> None:
        """Images and volumes included that only the containers need which would go."""
        build(box, tmp_path / "context", "RUN echo 1 > /file", name="used")
        build(box, tmp_path / "context", "RUN echo 2 > /file", name="running")
        box(
            "run",
            "--network",
            "none",
            "-v",
            "/v",
            "used",
            "sh",
            "-c",
            "head -c 90000 /dev/zero > /v/a",
        )
        box("run", "--network", "none", "-d", "-v", "/v", "running", "sleep", "60")
        box("network", "create", "nobody")
        words = ("system", "prune", "--all", "--volumes")
        said = box(*words, "--dry-run")
        assert said.out.count("untagged: used:latest\n") == 1
        assert "running" not in said.out
        done = box(*words, "--force")
        text = said.out.replace("Build cache that would be deleted", "Deleted build cache")
        for kind in ("Containers", "Networks", "Volumes", "Images"):
            assert f"{kind} that would be deleted:\n" in said.out
            text = text.replace(f"{kind} that would be deleted", f"Deleted {kind}")
        assert text.splitlines()[:-1] == done.lines[:-1]
        would, freed = (size_of(lines[-1].split()[-1]) for lines in (said.lines, done.lines))
        assert 90_000 < would == pytest.approx(freed, rel=0.05)

    def test_filters_choose_containers_and_images_and_no_cache(
        self, box: Commands, tmp_path: Path
    ) -> None:
        for number in ("1", "2"):
            build(box, tmp_path / "context", f"LABEL n={number}", "RUN true", name=f"n{number}")
            box("untag", f"n{number}")
            box(*self.RUN, "--label", f"n={number}", "--name", f"c{number}", "box", "true")
        steps = rows(box)["Build Cache"]["TotalCount"]
        assert steps != "0"
        done = box("system", "prune", "-f", "--filter", "label=n=1")
        assert done.out.count("deleted: ") == 1
        assert box("ps", "-a", "--format", "{{.Names}}").lines == ["c2"]
        assert box("images", "-q", "-f", "label=n=1").lines == []
        assert len(box("images", "-q", "-f", "label=n=2").lines) == 1
        assert rows(box)["Build Cache"]["TotalCount"] == steps
        box("system", "prune", "-f", "--filter", "until=1h")
        assert box("ps", "-a", "--format", "{{.Names}}").lines == ["c2"]
        box("system", "prune", "-f", "--filter", "label!=n")
        assert box("ps", "-a", "--format", "{{.Names}}").lines == ["c2"]

    def test_containers_alone_are_chosen_by_the_same_filters(self, box: Commands) -> None:
        for name in ("one", "two"):
            box(*self.RUN, "--label", f"name={name}", "--name", name, "box", "true")
        box("container", "prune", "-f", "--filter", "label=name=one")
        assert box("ps", "-a", "--format", "{{.Names}}").lines == ["two"]
        box("container", "prune", "-f", "--filter", "until=10m")
        assert box("ps", "-a", "--format", "{{.Names}}").lines == ["two"]

    def test_the_question_says_all_that_would_go(self, box: Commands) -> None:
        lamina = Lamina(root=box.root)
        box(*self.RUN, "box", "true")
        done = lamina("system", "prune", "--volumes", stdin=b"n\n")
        assert done.stdout == ""
        assert done.stderr == (
            "WARNING! This will remove:\n  - all stopped containers\n"
            "  - all networks not used by a container\n"
            "  - all anonymous volumes not used by a container\n"
            "  - all images without a name\n  - unused build cache\n"
            "Are you sure you want to continue? [y/N] "
        )
        asked = lamina("system", "prune", "-a", "--filter", "label=x").stderr
        assert "all images no container uses" in asked
        assert "cache" not in asked
        assert "of these, what fits label=x" in asked
        assert len(box("ps", "-aq").lines) == 1
        lamina("system", "prune", stdin=b"yes\n")
        assert box("ps", "-aq").lines == []

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--filter", "size=1"), "invalid filter 'size=1' (there are until= and label=)"),
            (("--filter", "until=never"), "invalid filter 'until=never' (until=24h, or a time)"),
            (("--volumes", "--filter", "label=a"), "--filter and --volumes do not go together"),
        ],
    )
    def test_mistakes_are_told_before_the_question(
        self, box: Commands, words: tuple[str, ...], message: str
    ) -> None:
        done = box("system", "prune", *words, code=125)
        assert message in done.err
        assert done.err.count("\n") == 1


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestBuilderPrune:
    def test_steps_whose_image_is_there_stay(self, box: Commands, tmp_path: Path) -> None:
        build(box, tmp_path / "context", "RUN echo 1 > /file", name="kept")
        build(box, tmp_path / "context", "RUN echo 2 > /file", name="gone")
        box("rmi", "gone")
        done = box("builder", "prune", "-f")
        assert done.lines[0] == "Deleted build cache: 1 steps"
        assert done.lines[1].startswith("Total: ")
        assert box("buildx", "prune", "-f").lines[0] == "Deleted build cache: 0 steps"

    def test_all_makes_the_next_build_start_over(self, box: Commands, tmp_path: Path) -> None:
        before = build(box, tmp_path / "context", "RUN cat /proc/sys/kernel/random/uuid > /id")
        assert build(box, tmp_path / "context", "RUN cat /proc/sys/kernel/random/uuid > /id") == (
            before
        )
        box("builder", "prune", "-af")
        assert box("image", "exists", before).code == 0
        assert build(box, tmp_path / "context", "RUN cat /proc/sys/kernel/random/uuid > /id") != (
            before
        )
        assert problems(box.root) == []

    def test_it_asks_first(self, box: Commands) -> None:
        lamina = Lamina(root=box.root)
        assert "remove all unused build cache." in lamina("builder", "prune").stderr
        assert "remove all build cache." in lamina("builder", "prune", "-a").stderr
        assert lamina("builder", "prune").stdout == ""


class TestFsck:
    def test_a_sound_store_has_no_problems(self, two: Commands) -> None:
        assert two("fsck").out == "0 problems\n"
        assert two("fsck", "--quick").out == "0 problems\n"
        assert two("fsck", "-q").out == ""
        assert two("fsck", "--format", "json").out == ""

    def test_damage_is_named_and_is_the_exit_code(self, two: Commands) -> None:
        with Store.open(two.root) as store:
            layer = store.images.resolve("new").layers[1]
            flip_blob(store, layer.descriptor.digest)
        done = two("fsck", code=1)
        assert done.lines[-1] == "1 problem"
        assert layer.descriptor.digest in done.lines[0]
        assert two("fsck", "-q", code=1).lines == done.lines[:-1]
        (found,) = map(json.loads, two("fsck", "--format", "json", code=1).lines)
        assert sorted(found) == ["hint", "key", "kind", "problem"]
        assert found["key"] == layer.descriptor.digest
        assert two("fsck", "--quick").out == "0 problems\n"  # sizes are right: bytes are not read

    def test_what_is_missing_is_seen_quickly(self, two: Commands) -> None:
        with Store.open(two.root) as store:
            layer = store.images.resolve("new").layers[1]
            store.blob_path(layer.descriptor.digest).unlink()
        assert layer.descriptor.digest in two("fsck", "--quick", code=1).out

    def test_the_damaged_record_of_a_build_is_named_and_can_be_removed(self, two: Commands) -> None:
        record = two.root / "lamina/builds/0000000000001-1.json"
        record.parent.mkdir(exist_ok=True)
        record.write_text('{"id"')
        found = two("fsck", "--quick", code=1).lines[0]
        assert found.startswith(f"build {record.stem}: the record cannot be read")
        two("builds", "rm", record.stem)
        assert two("fsck").out == "0 problems\n"

    def test_another_form_is_refused(self, two: Commands) -> None:
        assert "'xml' for --format (text or json)" in two("fsck", "--format=xml", code=125).err


class TestVersion:
    def test_it_says_what_it_stands_on(self, bare: Commands) -> None:
        assert bare("version").lines == [
            f"lamina version {VERSION}",
            f" Python: {platform.python_version()}",
            f" OS/Arch: linux/{bare('version', '-f', '{{.Client.Arch}}').out.strip()}",
            f" Kernel: {os.uname().release}",
        ]
        assert bare("--version").out == f"lamina version {VERSION}\n"
        assert not bare.root.exists()

    def test_the_architecture_is_go_s_word(self, bare: Commands) -> None:
        words = {"x86_64": "amd64", "aarch64": "arm64"}
        assert bare("version", "--format", "{{.Arch}}").out.strip() == words[os.uname().machine]

    @pytest.mark.parametrize("path", [".Version", ".Client.Version", ".Server.Version"])
    def test_docker_s_templates_work(self, bare: Commands, path: str) -> None:
        assert bare("version", "--format", f"{{{{{path}}}}}").out == f"{VERSION}\n"

    def test_json_is_one_object(self, bare: Commands) -> None:
        found = json.loads(bare("version", "-f", "json").out)
        assert found["Client"]["Version"] == found["Version"] == VERSION
        assert json.loads(bare("version", "-f", "{{json .}}").out) == found

    def test_an_empty_format_is_none(self, bare: Commands) -> None:
        assert bare("version", "-f", "").out == bare("version").out


class TestInfo:
    def test_every_feature_of_the_host_has_an_answer(self, bare: Commands) -> None:
        lines = bare("info").lines
        assert lines[0] == f"Lamina {VERSION}"
        assert f" Store: {bare.root}" in lines
        assert f" Kernel: {os.uname().release}" in lines
        features = lines[lines.index(" Sandbox:") + 1 :]
        assert {line.split(":")[0].strip() for line in features} >= {"namespaces", "overlayfs"}
        assert all(line.split(": ")[1].startswith(("yes", "no")) for line in features)
        other = bare("system", "info").lines
        assert [line.split(":")[0] for line in other] == [line.split(":")[0] for line in lines]

    def test_templates_and_json_tell_the_same(self, bare: Commands) -> None:
        found = json.loads(bare("info", "--format", "json").out)
        assert found["ServerVersion"] == VERSION
        assert found["OSType"] == "linux"
        assert found["NCPU"] == os.cpu_count()
        template = "{{.ServerVersion}} {{.NCPU}} {{range .Features}}{{.Name}},{{end}}"
        shown = bare("info", "-f", template).out
        names = "".join(f"{each['Name']}," for each in found["Features"])
        assert shown == f"{VERSION} {os.cpu_count()} {names}\n"

    def test_a_feature_that_is_missing_says_why(self, bare: Commands) -> None:
        for feature in json.loads(bare("info", "--format", "json").out)["Features"]:
            assert feature["Available"] or feature["Reason"]

    def test_what_it_does_not_know_is_an_error(self, bare: Commands) -> None:
        assert "there is no field 'Swarm'" in bare("info", "-f", "{{.Swarm}}", code=1).err
