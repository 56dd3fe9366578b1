import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli.arguments import UsageError
from builder.cli.images import chooser
from builder.cli.units import rfc3339
from layerstore import History, Image, ImageConfig, Reference, Store
from tests.support.cli import Lamina
from tests.support.commands import Commands, copy_store
from tests.support.stores import flip_blob, make_image, make_layer, problems

OLD, MIDDLE, NEW = (f"202{year}-05-06T07:08:09Z" for year in (1, 2, 3))


@pytest.fixture(scope="module")
def shelf_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with images of three ages and four names."""
    root = tmp_path_factory.mktemp("shelf") / "store"
    with Store.open(root) as store:
        old = make_image(store, "app:1", {"a": b"1"}, {"b": b"22"}, created=OLD)
        store.images.tag(old, Reference.parse("app:one"))
        make_image(store, "team/app:2", {"a": b"1"}, {"b": b"333"}, created=MIDDLE)
        make_image(store, "localhost:5000/team/app", {"c": bytes(4_560_000)}, created=NEW)
    return root


@pytest.fixture
def shelf(shelf_template: Path, bare: Commands) -> Commands:
    """Commands on a copy of it."""
    copy_store(shelf_template, bare.root)
    return bare


def image(commands: Commands, name: str) -> Image:
    with Store.open(commands.root) as store:
        return store.images.resolve(name)


def names(commands: Commands, *words: str) -> list[str]:
    return commands("images", *words, "--format", "{{.Repository}}:{{.Tag}}").lines


def make_nameless(commands: Commands, content: bytes = b"lost") -> str:
    """An image without a name; returns its id."""
    with Store.open(commands.root) as store:
        made = make_image(store, "lost", {"lost": content}, created=OLD)
    commands("untag", "lost")
    return made.id


class TestImages:
    def test_a_new_store_has_none(self, bare: Commands) -> None:
        assert bare("images").lines == ["REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"]
        assert bare("images", "-q").out == ""
        assert bare("images", "--format", "json").out == ""
        assert bare("images", "--format", "json-array").out == "[]\n"

    def test_there_is_a_row_for_every_name_newest_first(self, shelf: Commands) -> None:
        header, *rows = shelf("images").lines
        assert header.split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
        assert [row.split()[:2] for row in rows] == [
            ["localhost:5000/team/app", "latest"],
            ["team/app", "2"],
            ["app", "1"],
            ["app", "one"],
        ]
        assert rows[0].endswith(" 4.56MB")
        assert rows[3].endswith(" years ago   3B")
        assert rows[2].split()[2] == image(shelf, "app:1").id.removeprefix("sha256:")[:12]

    def test_order_is_of_time_not_of_spelling(self, bare: Commands) -> None:
        """As text `...09.5Z` is before `...09Z`, and every hour of another zone is wrong."""
        spelled = {
            "third": "2024-05-06T07:08:09Z",
            "second": "2024-05-06T07:08:09.500000001Z",
            "first": "2024-05-06T04:08:10-03:00",
            "never": "",
        }
        with Store.open(bare.root) as store:
            for name, created in spelled.items():
                make_image(store, name, {"name": name.encode()}, created=created)
        assert bare("images", "--format", "{{.Repository}}").lines == [
            "first",
            "second",
            "third",
            "never",
        ]
        assert names(bare, "-f", "before=second") == ["third:latest", "never:latest"]
        assert names(bare, "-f", "since=third") == ["first:latest", "second:latest"]
        assert names(bare, "-f", "since=third", "-f", "before=first") == ["second:latest"]
        row = json.loads(bare("images", "--format", "json", "never").out)
        assert (row["CreatedSince"], row["CreatedAt"]) == ("N/A", "N/A")

    def test_quiet_prints_every_id_once(self, shelf: Commands) -> None:
        ids = [image(shelf, name).id for name in ("localhost:5000/team/app", "team/app:2", "app:1")]
        assert shelf("images", "-q", "--no-trunc").lines == ids
        assert shelf("images", "-aq").lines == [each[7:19] for each in ids]

    def test_digests_are_those_of_the_manifests(self, shelf: Commands) -> None:
        header, row = shelf("images", "--digests", "team/app").lines
        assert header.split()[:3] == ["REPOSITORY", "TAG", "DIGEST"]
        assert row.split()[2] == image(shelf, "team/app:2").descriptor.digest

    def test_json_has_docker_s_fields(self, shelf: Commands) -> None:
        found = image(shelf, "team/app:2")
        row = json.loads(shelf("images", "--format", "json", "--no-trunc", "team/app").out)
        assert row.pop("CreatedAt").startswith("2022-05-0")
        assert row.pop("CreatedSince").endswith(" years ago")
        assert row == {
            "Containers": "N/A",
            "Digest": found.descriptor.digest,
            "ID": found.id,
            "Repository": "team/app",
            "SharedSize": "N/A",
            "Size": "4B",
            "Tag": "2",
            "UniqueSize": "N/A",
            "VirtualSize": "4B",
        }
        assert len(json.loads(shelf("images", "--format", "json-array").out)) == 4

    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("{{.Repository}}:{{.Tag}} {{.Size}}", "team/app:2 4B\n"),
            (r"{{.Tag}}\t{{.Size}}", "2\t4B\n"),
            ("{{json .Repository}}", '"team/app"\n'),
            ('{{if eq .Tag "2"}}two{{else}}other{{end}}', "two\n"),
            (r"table {{.Repository}}\t{{.Tag}}", "REPOSITORY   TAG\nteam/app     2\n"),
            ("table {{upper .Repository}}", "REPOSITORY\nTEAM/APP\n"),
            ("text", "text\n"),
        ],
    )
    def test_templates_are_go_s(self, shelf: Commands, template: str, expected: str) -> None:
        assert shelf("images", "team/app", "--format", template).out == expected

    def test_an_empty_format_is_the_usual_table(self, shelf: Commands) -> None:
        assert shelf("images", "--format", "").out == shelf("images").out
        assert shelf("images", "--format", "table").out == shelf("images").out

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("app", ["app:1", "app:one"]),
            ("app:1", ["app:1"]),
            ("app:*", ["app:1", "app:one"]),
            ("a?p:o[a-n]e", ["app:one"]),
            ("*", ["app:1", "app:one"]),
            ("*/*", ["team/app:2"]),
            ("*/*/app", ["localhost:5000/team/app:latest"]),
            ("team/app:1", []),
            ("APP", []),
        ],
    )
    def test_a_pattern_is_of_names_and_its_star_stops_at_a_slash(
        self, shelf: Commands, pattern: str, expected: list[str]
    ) -> None:
        assert names(shelf, pattern) == expected
        assert names(shelf, "-f", f"reference={pattern}") == expected

    def test_an_empty_word_asks_for_all(self, shelf: Commands) -> None:
        assert names(shelf, "") == names(shelf)

    def test_of_several_patterns_one_is_enough(self, shelf: Commands) -> None:
        words = ("-f", "reference=*:one", "--filter=reference=team/*")
        assert names(shelf, *words) == ["team/app:2", "app:one"]
        assert names(shelf, "app:1", "-f", "reference=team/*") == ["team/app:2", "app:1"]

    def test_filters_by_label_must_all_fit(self, shelf: Commands) -> None:
        assert len(names(shelf, "-f", "label=a")) == 4
        assert len(names(shelf, "-f", "label=a=b")) == 4
        assert names(shelf, "-f", "label=a=c") == []
        assert names(shelf, "-f", "label=a", "-f", "label=z") == []

    def test_images_without_a_name_are_shown_and_chosen(self, shelf: Commands) -> None:
        lost = make_nameless(shelf)
        assert shelf("images", "--no-trunc", "-q", "-f", "dangling=true").lines == [lost]
        assert names(shelf, "-f", "dangling=1") == ["<none>:<none>"]
        assert names(shelf, "-f", "dangling=false") == names(shelf)[:4]
        assert names(shelf, "-f", "dangling=true", "*") == []

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("-f", "colour=red"), 125, "invalid filter 'colour=red' (KEY=VALUE; there are dang"),
            (("-f", "dangling"), 125, "invalid filter 'dangling'"),
            (("-f", "dangling=maybe"), 125, "invalid filter 'dangling=maybe' (true or false)"),
            (("-f", "before=nope"), 1, "no such image: nope"),
            (("-f", "reference=[a"), 125, "invalid reference filter: syntax error in pattern '[a'"),
            (("[a",), 125, "invalid reference filter"),
            (("a", "b"), 1, "'images' requires at most 1 argument"),
            (("--tree",), 125, "--tree is not supported by this version"),
            (("--format", "{{.Nope}}"), 1, "there is no field 'Nope' (there are: Repository, Tag"),
            (("--format", "{{"), 1, "bad template: unclosed action"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_mistakes_are_one_line(
        self, shelf: Commands, words: tuple[str, ...], code: int, message: str
    ) -> None:
        done = shelf("images", *words, code=code)
        assert message in done.err
        assert done.err.count("\n") == 1
        assert done.out == ""

    def test_a_damaged_image_is_told_and_hides_no_other(self, shelf: Commands) -> None:
        with Store.open(shelf.root) as store:
            flip_blob(store, store.images.resolve("team/app:2").id)
        done = shelf("images")
        assert done.err.startswith("lamina: image team/app:2: ")
        assert done.err.count("\n") == 1
        assert len(done.lines) == 5
        assert [line.split()[0] for line in done.lines[1:4]] == [
            "localhost:5000/team/app",
            "app",
            "app",
        ]

    def test_the_longer_names_are_the_same_command(self, shelf: Commands) -> None:
        expected = shelf("images", "--no-trunc").out
        assert shelf("image", "ls", "--no-trunc").out == expected
        assert shelf("image", "list", "--no-trunc=true").out == expected


class TestTag:
    def test_it_moves_a_name_and_leaves_the_old_image(self, shelf: Commands) -> None:
        old = image(shelf, "app:1").id
        done = shelf("tag", "team/app:2", "app:1")
        assert (done.out, done.err) == ("", "")
        assert image(shelf, "app:1").id == image(shelf, "team/app:2").id
        assert image(shelf, "app:one").id == old

    @pytest.mark.parametrize("name", ["copy", "docker.io/library/copy:latest", "copy:latest"])
    def test_names_are_filled_in_as_docker_does(self, shelf: Commands, name: str) -> None:
        shelf("tag", image(shelf, "app:1").id[7:15], name)
        assert "copy:latest" in names(shelf)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("nope", "x"), "no such image: nope"),
            (("app:1", "UPPER"), "invalid image name 'UPPER': the repository must be lower case"),
            (("app:1", "a b"), "invalid image name 'a b'"),
            (("app:1", "x:" + "y" * 129), "is no tag"),
            (("app:1", f"x@sha256:{'0' * 64}"), "a name cannot have a digest"),
            (("app:1",), "'tag' requires exactly 2 arguments (usage: lamina tag IMAGE NAME[:TAG])"),
        ],
        ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else None,
    )
    def test_mistakes_change_nothing(
        self, shelf: Commands, words: tuple[str, ...], message: str
    ) -> None:
        before = (shelf.root / "index.json").read_bytes()
        done = shelf("tag", *words, code=1)
        assert message in done.err
        assert done.err.count("\n") == 1
        assert (shelf.root / "index.json").read_bytes() == before


class TestUntag:
    def test_it_takes_the_names_that_are_given(self, shelf: Commands) -> None:
        shelf("tag", "app:1", "more")
        shelf("untag", "app:1", "app:one", "more")
        assert names(shelf)[2:] == ["app:1"]

    def test_without_names_it_takes_all_and_the_image_stays(self, shelf: Commands) -> None:
        image_id = image(shelf, "app:1").id
        assert shelf("untag", "app:1").out == ""
        assert names(shelf)[2:] == ["<none>:<none>"]
        assert image(shelf, image_id).id == image_id

    def test_a_name_of_another_image_is_not_taken(self, shelf: Commands) -> None:
        before = names(shelf)
        done = shelf("untag", "app:1", "app:one", "team/app:2", code=1)
        assert "no such name of this image: team/app:2 (it has app:1, app:one)" in done.err
        assert names(shelf) == before

    def test_an_unknown_image_is_an_error(self, shelf: Commands) -> None:
        assert "no such image: nope" in shelf("untag", "nope", code=1).err


class TestRmi:
    def test_one_of_several_names_is_untagged(self, shelf: Commands) -> None:
        assert shelf("rmi", "app:one").out == "Untagged: app:one\n"
        assert "app:1" in names(shelf)

    def test_the_last_name_takes_the_image_with_it(self, shelf: Commands) -> None:
        image_id = image(shelf, "team/app:2").id
        assert shelf("rmi", "team/app:2").lines == [
            "Untagged: team/app:2",
            f"Deleted: {image_id}",
        ]
        assert "no such image" in shelf("inspect", "--type", "image", image_id, code=1).err
        assert problems(shelf.root) == []

    def test_its_bytes_go_and_those_that_others_need_stay(self, shelf: Commands) -> None:
        shared, own = image(shelf, "team/app:2").layers
        shelf("rmi", "team/app:2")
        with Store.open(shelf.root) as store:
            assert store.blob_path(shared.descriptor.digest).exists()
            assert not store.blob_path(own.descriptor.digest).exists()
        assert problems(shelf.root) == []

    def test_an_id_with_several_names_needs_force(self, shelf: Commands) -> None:
        image_id = image(shelf, "app:1").id
        done = shelf("rmi", image_id[7:19], code=1)
        assert "has several names: app:1, app:one (remove them one by one, or all by -f)" in (
            done.err
        )
        assert shelf("rmi", "-f", image_id[7:19]).lines == [
            "Untagged: app:1",
            "Untagged: app:one",
            f"Deleted: {image_id}",
        ]

    def test_both_names_on_one_line_are_removed_in_turn(self, shelf: Commands) -> None:
        image_id = image(shelf, "app:1").id
        assert shelf("image", "rm", "app:1", "app:one").lines == [
            "Untagged: app:1",
            "Untagged: app:one",
            f"Deleted: {image_id}",
        ]

    def test_one_bad_word_does_not_keep_the_others_from_going(self, shelf: Commands) -> None:
        done = shelf("rmi", "nope", "team/app:2", code=1)
        assert done.lines[0] == "Untagged: team/app:2"
        assert "no such image: nope" in done.err
        assert done.err.count("\n") == 1

    def test_force_forgives_what_is_not_there(self, shelf: Commands) -> None:
        done = shelf("rmi", "-f", "nope")
        assert (done.out, done.err) == ("", "")

    def test_an_unknown_prefix_removes_nothing(self, shelf: Commands) -> None:
        before = names(shelf)
        shelf("rmi", "f00dfeed", code=1)
        assert names(shelf) == before

    def test_a_nameless_image_goes_by_its_id(self, shelf: Commands) -> None:
        lost = make_nameless(shelf)
        assert shelf("rmi", lost).lines == [f"Deleted: {lost}"]


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestRmiOfWhatContainersUse:
    RUN = ("run", "--network", "none", "--name", "user")

    def test_a_stopped_container_holds_its_image_unless_forced(self, box: Commands) -> None:
        box(*self.RUN, "box", "true")
        done = box("rmi", "box", code=1)
        assert "is in use by the stopped container user (remove it first, or use -f)" in done.err
        assert names(box) == ["box:latest"]
        assert box("rmi", "-f", "box").lines[0] == "Untagged: box:latest"
        assert box("start", "-a", "user").code == 0  # its layers are still there
        assert problems(box.root) == []

    def test_a_running_container_holds_it_in_any_case(self, box: Commands) -> None:
        box(*self.RUN, "-d", "box", "sleep", "60")
        image_id = image(box, "box").id
        for words in (("rmi", "box"), ("rmi", image_id), ("rmi", "-f", image_id)):
            assert "is in use by the running container user (stop it first)" in (
                box(*words, code=1).err
            )
        assert names(box) == ["box:latest"]

    def test_by_force_it_loses_its_name_and_stays_while_it_runs(self, box: Commands) -> None:
        box(*self.RUN, "-d", "box", "sleep", "60")
        image_id = image(box, "box").id
        assert box("rmi", "-f", "box").out == "Untagged: box:latest\n"
        assert box("exec", "user", "cat", "/data/file").out == "from the image\n"
        assert box("images", "-q", "--no-trunc").lines == [image_id]
        box("image", "prune", "-af")
        assert box("images", "-q", "--no-trunc").lines == [image_id]
        box("rm", "-f", "user")
        assert f"deleted: {image_id}" in box("image", "prune", "-f").lines
        assert problems(box.root) == []

    def test_another_name_of_it_can_go(self, box: Commands) -> None:
        box("tag", "box", "other")
        box(*self.RUN, "-d", "box", "sleep", "60")
        assert box("rmi", "other").out == "Untagged: other:latest\n"


class TestHistory:
    def test_the_last_comes_first_and_earlier_ones_have_addresses(self, shelf: Commands) -> None:
        header, *rows = shelf("history", "app:1").lines
        assert header == "IMAGE          CREATED       CREATED BY   SIZE      COMMENT"
        assert [row.split()[0] for row in rows] == [image(shelf, "app:1").id[7:19], "@1"]
        assert [row.split("ago")[1].split() for row in rows] == [
            ["step", "1", "2B"],
            ["step", "0", "1B"],
        ]
        for style in ("", "table"):
            assert shelf("history", "--format", style, "app:1").lines == [header, *rows]

    def test_scripts_find_parents_missing_as_with_docker(self, shelf: Commands) -> None:
        line = ("history", "--format", "{{.ID}}", "app:1")
        assert shelf(*line).lines[1:] == ["<missing>"]
        assert json.loads(shelf("history", "--format", "json", "app:1").lines[1])["ID"] == (
            "<missing>"
        )

    def test_quiet_prints_ids_alone(self, shelf: Commands) -> None:
        found = image(shelf, "app:1")
        assert shelf("history", "-q", "app:1").lines == [found.id[7:19], "<missing>"]
        assert shelf("history", "-q", "--no-trunc", "app:1").lines == [found.id, "<missing>"]

    def test_for_programs_there_are_bytes_and_moments(self, shelf: Commands) -> None:
        line = ("history", "localhost:5000/team/app", "--format", "{{.Size}} {{.CreatedSince}}")
        assert shelf(*line).out.startswith("4.56MB ")
        for words in (("--human=false",), ("-H=false",)):
            size, moment = shelf(*line, *words).out.split()
            assert size == "4560000"
            assert moment.startswith("2023-05-0")

    def test_json_has_docker_s_fields(self, shelf: Commands) -> None:
        first = json.loads(shelf("history", "--format", "json", "app:1").lines[0])
        assert first.pop("CreatedSince").endswith(" years ago")
        assert first.pop("CreatedAt").startswith("2021-05-0")
        assert first == {
            "ID": image(shelf, "app:1").id[7:19],
            "CreatedBy": "step 1",
            "Size": "2B",
            "Comment": "",
        }

    def test_long_instructions_are_cut_unless_asked_for(
        self, box: Commands, tmp_path: Path
    ) -> None:
        (tmp_path / "Dockerfile").write_text(f"FROM box\nLABEL text={'x' * 100}\n")
        box("build", "-q", "-t", "long", str(tmp_path))
        short, _ = box("history", "--format", "{{.CreatedBy}}", "long").lines
        assert len(short) == 45
        assert short.endswith("x\u2026")
        whole, _ = box("history", "--no-trunc", "--format", "{{.CreatedBy}}", "long").lines
        assert "x" * 100 in whole

    def test_what_an_image_says_cannot_steer_the_terminal(self, bare: Commands) -> None:
        evil = "\x1b[2J\u202eRUN\nevil"
        with Store.open(bare.root) as store:
            config = ImageConfig(
                architecture="amd64",
                os="linux",
                history=(History(created_by=evil, comment=evil),),
            )
            made = store.images.seal(config, [make_layer(store, {"a": b""})])
            store.images.tag(made, Reference.parse("evil"))
        lines = bare("history", "--no-trunc", "evil").lines
        assert len(lines) == 2
        assert "\\x1b[2J\\u202eRUN\\nevil" in lines[1]
        assert lines[1].split()[1] == "N/A"

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            (("nope",), 1, "no such image: nope"),
            ((), 1, "'history' requires exactly 1 argument"),
            (("a", "b"), 1, "'history' requires exactly 1 argument"),
            (("--platform", "linux/s390x", "app:1"), 1, "no such image for linux/s390x: the image"),
            (("--human=perhaps", "app:1"), 125, "invalid argument 'perhaps' for --human"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
    )
    def test_mistakes_are_one_line(
        self, shelf: Commands, words: tuple[str, ...], code: int, message: str
    ) -> None:
        done = shelf("history", *words, code=code)
        assert message in done.err
        assert done.err.count("\n") == 1


class TestPrune:
    def test_only_images_without_a_name_go(self, shelf: Commands) -> None:
        lost = make_nameless(shelf, bytes(100_000))
        before = names(shelf)
        done = shelf("image", "prune", "-f")
        assert done.lines[:3] == ["Deleted Images:", f"deleted: {lost}", ""]
        assert done.lines[3].startswith("Total reclaimed space: ")
        assert done.lines[3] != "Total reclaimed space: 0B"
        assert names(shelf) == before[:4]
        assert shelf("image", "prune", "-f").out == "Total reclaimed space: 0B\n"
        assert problems(shelf.root) == []

    def test_with_all_everything_without_a_container_goes(self, shelf: Commands) -> None:
        done = shelf("image", "prune", "-af")
        assert "untagged: app:1" in done.lines
        assert "untagged: app:one" in done.lines
        assert names(shelf) == []
        assert problems(shelf.root) == []

    def test_filters_choose(self, shelf: Commands) -> None:
        shelf("image", "prune", "-af", "--filter", "until=2022-01-01T00:00:00Z")
        assert names(shelf) == ["localhost:5000/team/app:latest", "team/app:2"]
        shelf("image", "prune", "-af", "--filter", "label!=a")
        assert len(names(shelf)) == 2
        shelf("image", "prune", "-af", "--filter", "label=a=b", "--filter", "until=1660000000")
        assert names(shelf) == ["localhost:5000/team/app:latest"]

    @pytest.mark.parametrize("answer", [b"", b"n\n", b"nope\n"])
    def test_whoever_does_not_say_yes_loses_nothing(self, shelf: Commands, answer: bytes) -> None:
        lost = make_nameless(shelf)
        done = Lamina(root=shelf.root)("image", "prune", stdin=answer)
        assert done.stdout == ""
        assert done.stderr == (
            "WARNING! This will remove all images without a name.\n"
            "Are you sure you want to continue? [y/N] "
        )
        assert image(shelf, lost).id == lost

    def test_yes_is_enough(self, shelf: Commands) -> None:
        lost = make_nameless(shelf)
        done = Lamina(root=shelf.root)("image", "prune", stdin=b"Y\n")
        assert f"deleted: {lost}\n" in done.stdout

    def test_a_bad_filter_is_told_before_the_question(self, shelf: Commands) -> None:
        done = shelf("image", "prune", "--filter", "size=1", code=125)
        assert done.err == "lamina: invalid filter 'size=1' (there are until= and label=)\n"


def test_whether_an_image_exists_is_the_exit_code_alone(shelf: Commands) -> None:
    for name, code in (("app:1", 0), ("docker.io/library/app:1", 0), ("app", 1), ("nope", 1)):
        done = shelf("image", "exists", name, code=code)
        assert (done.out, done.err) == ("", "")


class TestChooser:
    @given(
        labels=st.dictionaries(st.sampled_from("abc"), st.sampled_from(["", "1", "x=y"])),
        key=st.sampled_from("abc"),
        content=st.sampled_from([None, "", "1", "x=y"]),
    )
    def test_label_and_its_negation_are_complements(
        self, labels: dict[str, str], key: str, content: str | None
    ) -> None:
        text = key if content is None else f"{key}={content}"
        fits = labels.get(key) == content if content is not None else key in labels
        found = tuple(labels.items())
        assert chooser([f"label={text}"])(found, 0.0) == fits
        assert chooser([f"label!={text}"])(found, 0.0) == (not fits)

    def test_no_filter_chooses_everything(self) -> None:
        assert chooser([])((), time.time())

    @pytest.mark.parametrize("form", ["10m", "600s", "seconds", "rfc3339"])
    def test_until_is_an_age_or_a_moment(self, form: str) -> None:
        now = time.time()
        spelled = {"seconds": str(int(now - 600)), "rfc3339": rfc3339(now - 600)}
        choose = chooser([f"until={spelled.get(form, form)}"])
        assert choose((), now - 700)
        assert not choose((), now - 500)

    @pytest.mark.parametrize("text", ["until=", "until=soon", "until", "age=1h", "", "label"])
    def test_what_is_no_filter_is_refused(self, text: str) -> None:
        if text == "label":  # an empty name, which nothing has
            assert not chooser([text])((("a", "b"),), 0.0)
            return
        with pytest.raises(UsageError, match="invalid filter"):
            chooser([text])
