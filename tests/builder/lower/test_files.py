"""COPY, ADD and WORKDIR: sources, destinations, and the errors for what cannot be found."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.context import ContextTree
from builder.errors import (
    BuilderError,
    LoweringError,
    SourceNotFoundError,
    UnsupportedFeatureError,
)
from builder.ignorefile import parse_ignore_file
from builder.lower.files import absolute_path, destination_path
from builder.lower.surroundings import SelectRemote, no_remote
from builder.sources import Selection, SourceLoopError, walk
from builder.steps import FileStep, InlineFile, MakeDirectory, stands_alone
from builder.urls import FileUrl, GitUrl
from grammar import DockerfileError
from layerstore import Digest, TreePath
from tests.support.lowering import Stage, copy_files, exec_step
from tests.support.sources import DictTree, Dir, Items, Link, write_files

CONTEXT: Items = {
    "a.txt": b"a",
    "b.txt": b"b",
    "dir/one.go": b"1",
    "dir/two.go": b"2",
    "link": Link("dir"),
    "loop": Link("loop"),
    "with space": b"",
    "[odd]": b"",
    "etc/passwd": b"the context's",
    "escape": Link("../../../../etc/passwd"),
}


def stage(*, remote: SelectRemote = no_remote) -> Stage:
    stages: dict[str, Items] = {"build": {"out/x": b"x", "a.txt": b"stage"}}
    return Stage(context=CONTEXT, stages=stages, remote=remote)


def selected(text: str) -> list[str]:
    """The paths that the sources of an instruction stand for."""
    return [each.path for each in copy_files(stage().run(text)).selections]


# WORKDIR.


def directory_of(text: str) -> str:
    lowered = Stage().run(text)
    assert isinstance(lowered.step, FileStep)
    assert isinstance(lowered.step.action, MakeDirectory)
    return lowered.step.action.path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("WORKDIR /src", "/src"),
        ("WORKDIR src", "/src"),
        ("WORKDIR /a\nWORKDIR b\nWORKDIR c", "/a/b/c"),
        ("WORKDIR /a/b\nWORKDIR ../c", "/a/c"),
        ("WORKDIR /src/", "/src"),
        ("WORKDIR //a/./b//", "/a/b"),
        ("ENV D=/d\nWORKDIR $D/$UNSET/e", "/d/e"),
        ("WORKDIR /a b", "/a b"),
        ('WORKDIR "/a b"', "/a b"),
    ],
)
def test_workdir_is_relative_to_the_one_before(text: str, expected: str) -> None:
    assert directory_of(text) == expected
    made = Stage()
    made.run(text)
    assert made.state.workdir == expected


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("WORKDIR /tmp/", "/tmp/"),
        ("WORKDIR /a\nWORKDIR b/", "/a/b"),
        ("WORKDIR /a/../b", "/a/../b"),
    ],
)
def test_an_absolute_working_directory_is_kept_as_written(text: str, kept: str) -> None:
    made = Stage()
    assert made.run(text).created_by == f"WORKDIR {kept}"
    assert made.config.working_dir == kept
    assert exec_step(made.run("RUN true")).cwd == made.state.workdir
    assert copy_files(Stage(context=CONTEXT, state=made.state).run("COPY a.txt x")).destination == (
        made.state.workdir + "/x"
    )


def test_a_working_directory_belongs_to_the_user_of_the_stage() -> None:
    lowered = Stage().run("USER me:staff\nWORKDIR /src")
    assert isinstance(lowered.step, FileStep)
    assert lowered.step.action == MakeDirectory(path="/src", user="me:staff")
    assert lowered.created_by == "WORKDIR /src"


@pytest.mark.parametrize("path", ["/", "/..", "/a/.."])
def test_the_root_as_working_directory_needs_no_layer(path: str) -> None:
    made = Stage()
    lowered = made.run(f"WORKDIR {path}")
    assert lowered.step is None
    assert made.state.workdir == "/"
    assert made.history == [f"WORKDIR {path}"]


def test_an_empty_working_directory_is_the_last_one() -> None:
    made = Stage()
    made.run("WORKDIR /src")
    assert made.run("WORKDIR $UNSET").created_by == "WORKDIR /src"
    assert made.state.workdir == "/src"
    assert Stage().run('WORKDIR ""').step is None


# Destinations.


@pytest.mark.parametrize(
    ("path", "workdir", "expected"),
    [
        ("/dst", "/w", "/dst"),
        ("/dst/", "/w", "/dst/"),
        ("dst", "/w", "/w/dst"),
        ("dst/", "/w", "/w/dst/"),
        (".", "/w", "/w/"),
        ("./", "/w", "/w/"),
        ("..", "/w/x", "/w/"),
        ("../y", "/w/x", "/w/y"),
        ("../../../y", "/w", "/y"),
        ("/", "/w", "/"),
        (".", "/", "/"),
        ("//a//b/.", "/w", "/a/b/"),
        ("a/..", "/w", "/w/"),
    ],
)
def test_a_destination_is_absolute_and_keeps_that_it_is_a_directory(
    path: str, workdir: str, expected: str
) -> None:
    assert destination_path(path, workdir) == expected


@given(
    path=st.text(alphabet="a./", max_size=8),
    workdir=st.text(alphabet="a./", max_size=5).map(lambda text: "/" + text),
)
def test_paths_never_leave_the_root(path: str, workdir: str) -> None:
    absolute = absolute_path(path, workdir)
    assert absolute.startswith("/")
    assert not {"..", ".", ""} & set(absolute.split("/")[1:]) or absolute == "/"
    assert destination_path(path, workdir).rstrip("/") == absolute.rstrip("/")


def test_the_destination_follows_workdir_and_variables() -> None:
    lowered = stage().run("WORKDIR /w\nENV D=dst\nCOPY a.txt $D/")
    assert copy_files(lowered).destination == "/w/dst/"


def test_an_empty_destination_is_the_working_directory() -> None:
    lowered = stage().run("WORKDIR /w\nCOPY a.txt $UNSET")
    assert copy_files(lowered).destination == "/w/"


# Sources.


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.txt", ["a.txt"]),
        ("/a.txt", ["a.txt"]),
        ("./a.txt b.txt", ["a.txt", "b.txt"]),
        ("*.txt", ["a.txt", "b.txt"]),
        ("dir/*.go a.txt", ["dir/one.go", "dir/two.go", "a.txt"]),
        ("link", ["dir"]),
        ("dir/", ["dir"]),
        (".", [""]),
        ("/", [""]),
        ("$NAME.txt", ["a.txt"]),
        ("[[]odd]", ["[odd]"]),
        ("\\[odd\\]", ["[odd]"]),
        ("escape", ["etc/passwd"]),
        ("dir/../b.txt", ["b.txt"]),
    ],
)
def test_sources_are_found_in_the_context(words: str, expected: list[str]) -> None:
    if words.startswith("\\["):  # the shell's escapes are removed before the pattern's are seen
        words = "\\\\[odd\\\\]"
    made = stage().with_config(env=("NAME=a",))
    found = copy_files(made.run(f"COPY {words} /dst/")).selections
    assert [each.path for each in found] == expected


def test_names_with_spaces_are_written_in_json() -> None:
    assert selected('COPY ["with space", "/dst/"]') == ["with space"]


def test_copy_from_looks_into_the_stage_and_not_into_the_context() -> None:
    made = stage()
    action = copy_files(made.run("COPY --from=build out a.txt /dst/"))
    assert [(each.path, each.tree.description) for each in action.selections] == [
        ("out", "the stage 'build'"),
        ("a.txt", "the stage 'build'"),
    ]


def test_what_leads_out_is_taken_inside_and_said() -> None:
    lowered = stage().run("COPY ../../etc/passwd /x")
    assert [each.path for each in copy_files(lowered).selections] == ["etc/passwd"]
    assert lowered.notices == (
        "'../../etc/passwd' leads outside of the build context: 'etc/passwd' is taken",
    )


def test_a_wildcard_may_match_nothing_and_that_is_said() -> None:
    lowered = stage().run("COPY a.txt nothing* /dst/")
    assert [each.path for each in copy_files(lowered).selections] == ["a.txt"]
    assert lowered.notices == ("nothing in the build context matches 'nothing*'",)


def test_that_an_ignore_file_may_be_why_nothing_matches_is_said(tmp_path: Path) -> None:
    tree = ContextTree(write_files(tmp_path, {"secret": b""}), parse_ignore_file(b"secret\n"))
    (notice,) = Stage(tree=tree).run("COPY sec* /x/").notices
    assert notice == "nothing in the build context matches 'sec*' (.dockerignore hides files)"
    tree.close()


def test_a_link_to_nothing_is_told_from_a_name_that_is_not_there() -> None:
    with pytest.raises(SourceNotFoundError, match="'link' not found") as caught:
        Stage(context={"link": Link("/no/where"), "ling": b""}).run("COPY link /x")
    assert caught.value.hint == "it is a link to 'no/where', which is not there"


def test_a_link_to_what_is_ignored_says_so(tmp_path: Path) -> None:
    files = write_files(tmp_path, {"dir/secret": b"", "file": Link("dir/secret")})
    tree = ContextTree(files, parse_ignore_file(b"**/secret\n"))
    with pytest.raises(SourceNotFoundError) as caught:
        Stage(tree=tree).run("COPY file /x")
    assert caught.value.hint == "it is there, but .dockerignore excludes it"
    tree.close()


def test_several_files_for_what_may_be_no_directory_are_told() -> None:
    """As in BuildKit no error, whatever the reference says; what happens then: test_perform."""
    lowered = stage().run("COPY a.txt b.txt /dst")
    assert [each.path for each in copy_files(lowered).selections] == ["a.txt", "b.txt"]
    (notice,) = lowered.notices
    assert "2 files for '/dst', which does not end in '/'" in notice
    assert stage().run("COPY a.txt <<EOF /dst\nx\nEOF").notices
    for text in ("COPY a.txt b.txt /dst/", "COPY a.txt b.txt .", "COPY a.txt dir /dst"):
        assert stage().run(text).notices == (), text


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("a.tx", "did you mean 'a.txt'?"),
        ("dir/one.goo", "did you mean 'dir/one.go'?"),
        ("dri", "did you mean 'dir'?"),
        ("link/two.g", "did you mean 'link/two.go'?"),
        ("nothing/like/it", ""),
        ("a.txt/below", ""),
    ],
)
def test_a_missing_source_is_an_error_with_the_nearest_name(word: str, hint: str) -> None:
    with pytest.raises(SourceNotFoundError, match=f"'{word}' not found in the build context") as e:
        stage().run(f"COPY {word} /x")
    assert e.value.hint == hint


def test_a_missing_source_in_a_stage_names_the_stage() -> None:
    with pytest.raises(SourceNotFoundError, match="not found in the stage 'build'"):
        stage().run("COPY --from=build /nope /x")


def test_an_ignored_source_is_an_error_that_says_so(tmp_path: Path) -> None:
    tree = ContextTree(write_files(tmp_path, {"secret": b""}), parse_ignore_file(b"secret\n"))
    with pytest.raises(SourceNotFoundError) as caught:
        Stage(tree=tree).run("COPY secret /x")
    assert caught.value.hint == "it is there, but .dockerignore excludes it"
    tree.close()


def test_a_loop_of_links_in_the_context_is_an_error() -> None:
    with pytest.raises(SourceLoopError, match="too many links"):
        stage().run("COPY loop /x")


def test_a_malformed_pattern_is_an_error() -> None:
    with pytest.raises(LoweringError, match="syntax error in pattern"):
        stage().run("COPY a[b /x")


# Flags.


def test_owner_and_mode_are_expanded_and_kept_as_written() -> None:
    made = stage().with_config(env=("U=me", "M=rwX"))
    action = copy_files(made.run("COPY --chown=$U:staff --chmod=u=$M a.txt /x"))
    assert (action.chown, action.chmod) == ("me:staff", "u=rwX")
    plain = copy_files(stage().run("COPY a.txt /x"))
    assert (plain.chown, plain.chmod) == (None, None)
    empty = copy_files(stage().run("COPY --chown=$UNSET a.txt /x"))
    assert empty.chown is None


@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
def test_link_makes_a_step_that_stands_alone(keyword: str) -> None:
    for text, expected in (
        (f"{keyword} a.txt /x", False),
        (f"{keyword} --link a.txt /x", True),
        (f"{keyword} --link=true a.txt /x", True),
        (f"{keyword} --link=false a.txt /x", False),
        (f"{keyword} --link --chown=1:2 a.txt /x", True),
        (f"{keyword} --link --chown=root:0 a.txt /x", True),
        (f"{keyword} --link --chmod=755 a.txt /x", False),
        (f"{keyword} --link --chmod=755 --chown=me a.txt /x", False),
    ):
        step = stage().run(text).step
        assert step is not None
        assert stands_alone(step) is expected, text


@pytest.mark.parametrize("chown", ["me", "me:1", "1:staff", "-1", "1:+2"])
def test_a_linked_layer_knows_no_names(chown: str) -> None:
    with pytest.raises(LoweringError, match=f"--chown={re.escape(chown)} together with") as caught:
        stage().run(f"COPY --link --chown={chown} a.txt /x")
    assert "numbers" in caught.value.hint


def test_exclude_leaves_out_of_directories_what_it_matches_from_there() -> None:
    (selection,) = copy_files(stage().run("COPY --exclude=one* --exclude=none dir /x/")).selections
    taken = [path for path, _, _ in walk(selection.tree, selection.path, selection.only)]
    assert taken == ["two.go"]
    plain = copy_files(stage().run("COPY dir /x/")).selections[0]
    assert selection.digest != plain.digest


def test_exclude_takes_variables_and_is_the_same_for_add_and_stages() -> None:
    made = stage().with_config(env=("WHAT=tw",))
    for text in ("COPY --exclude=$WHAT* dir /x/", "ADD --exclude=${WHAT}o.go dir /x/"):
        (selection,) = copy_files(made.run(text)).selections
        taken = [path for path, _, _ in walk(selection.tree, selection.path, selection.only)]
        assert taken == ["one.go"], text
    lowered = stage().run("COPY --from=build --exclude=x out /x/")
    assert copy_files(lowered).selections[0].is_empty
    assert lowered.notices == (
        "nothing in the stage 'build', but for what --exclude names, matches 'out'",
    )


def test_exclude_leaves_out_files_by_their_names_and_no_directories() -> None:
    assert selected("COPY --exclude=*.txt *.txt [d]* /x/") == ["dir"]
    assert selected("COPY --exclude=a.txt a.txt b.txt /x/") == ["b.txt"]
    assert selected("COPY --exclude=* dir /x/") == ["dir"]


def test_a_malformed_exclude_is_an_error() -> None:
    with pytest.raises(LoweringError, match="syntax error in pattern"):
        stage().run("COPY --exclude=a[b . /x")


def taken_with_parents(words: str, flags: str = "") -> list[str]:
    """Where the files would go, and the directories; those in brackets only lead somewhere."""
    action = copy_files(stage().run(f"COPY --parents {flags} {words} /x/"))
    return [
        path if taken else f"({path})"
        for each in action.selections
        for path, _, taken in walk(each.tree, each.path, each.only)
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.txt", ["a.txt"]),
        ("./dir/one.go", ["(dir)", "dir/one.go"]),
        ("/dir/one.go b.txt", ["(dir)", "dir/one.go", "b.txt"]),
        ("dir", ["dir", "dir/one.go", "dir/two.go"]),
        ("dir/.", ["dir", "dir/one.go", "dir/two.go"]),
        ("dir/./one.go", ["one.go"]),
        ("./dir/./", ["one.go", "two.go"]),
        ("dir/./*.go", ["one.go", "two.go"]),
        ("d*/./t*", ["two.go"]),
        ("link/./one.go", ["one.go"]),
        ("*/one.go", ["(dir)", "dir/one.go"]),
        ("**/*.go", ["(dir)", "dir/one.go", "dir/two.go"]),
        ("dir/../a.txt", ["a.txt"]),
        ("nothing*", []),
        ("a.tx*/./x", []),
        ("nothing*/./x", []),
    ],
)
def test_parents_keeps_the_path_from_the_pivot_on(words: str, expected: list[str]) -> None:
    assert taken_with_parents(words) == expected


def test_parents_and_exclude_work_together() -> None:
    assert taken_with_parents("dir", "--exclude=**/one.go") == ["dir", "dir/two.go"]
    assert taken_with_parents("dir", "--exclude=dir/t*") == ["dir", "dir/one.go"]
    assert taken_with_parents("dir/./*", "--exclude=t*") == ["one.go"]
    assert taken_with_parents(".", "--exclude=*") == []


def test_parents_of_everything_is_everything() -> None:
    assert set(taken_with_parents(".")) == {"dir", "dir/one.go", "dir/two.go", "etc", *CONTEXT}


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("dir/one.goo", "did you mean 'dir/one.go'?"),
        ("dir/./on.go", "did you mean 'dir/one.go'?"),
        ("dri/./one.go", "did you mean 'dir'?"),
        ("dri/./*.go", "did you mean 'dir'?"),
    ],
)
def test_what_parents_names_without_a_wildcard_must_be_there(word: str, hint: str) -> None:
    with pytest.raises(SourceNotFoundError, match=f"'{re.escape(word)}' not found") as caught:
        stage().run(f"COPY --parents {word} /x/")
    assert caught.value.hint == hint


def test_parents_follows_no_link_behind_the_pivot() -> None:
    with pytest.raises(LoweringError, match=r"'link/one\.go' leads through a link") as caught:
        stage().run("COPY --parents link/one.go /x/")
    assert "dir/one.go" in caught.value.hint
    assert taken_with_parents("link") == ["link"], "a link that is named itself is copied"


def test_a_malformed_pattern_of_parents_is_an_error() -> None:
    for word in ("a[b", "a[b/./x", "x/./a[b"):
        with pytest.raises(LoweringError, match="syntax error in pattern"):
            stage().run(f"COPY --parents {word} /x/")


def test_only_add_unpacks_archives_unless_told_otherwise() -> None:
    assert not copy_files(stage().run("COPY a.txt /x")).unpack
    assert copy_files(stage().run("ADD a.txt /x")).unpack
    assert copy_files(stage().run("ADD --unpack=true a.txt /x")).unpack
    assert not copy_files(stage().run("ADD --unpack=false a.txt /x")).unpack


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("ADD ftp://me:secret@example.org/x /x", "ADD of ftp://xxxxx@example.org/x"),
        ("ADD file:///etc/passwd /x", "ADD of file:///etc/passwd"),
    ],
)
def test_what_is_not_carried_out_is_refused_by_name(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=feature):
        stage().run(text)


def test_no_variable_decides_what_is_copied_from() -> None:
    with pytest.raises((LoweringError, DockerfileError), match="--from"):
        stage().run("ARG S=build\nCOPY --from=$S a.txt /x")


# Here-documents.


def test_here_documents_are_files_with_the_name_of_their_word() -> None:
    made = stage().with_config(env=("A=1",))
    action = copy_files(made.run("COPY <<one <<'two' a.txt /dst/\n$A\none\n$A\ntwo"))
    assert action.inline == (
        InlineFile(name="one", content=b"1\n"),
        InlineFile(name="two", content=b"$A\n"),
    )
    assert [each.path for each in action.selections] == ["a.txt"]


def test_quotes_in_a_here_document_are_text() -> None:
    action = copy_files(stage().run("COPY <<EOF /x\nsay \"hi\" and 'hi' \\\\ \\$HOME\nEOF"))
    assert action.inline[0].content == b"say \"hi\" and 'hi' \\ $HOME\n"


def test_tabs_of_a_here_document_can_be_removed() -> None:
    action = copy_files(stage().run("COPY <<-EOF /x\n\tone\n\t\ttwo\n\tEOF"))
    assert action.inline[0].content == b"one\ntwo\n"


def test_bytes_that_are_no_text_stay_what_they_are() -> None:
    action = copy_files(stage().run("COPY <<'EOF' /x\n\udcff\nEOF"))
    assert action.inline[0].content == b"\xff\n"


# What is said.


@pytest.mark.parametrize(
    ("text", "created_by"),
    [
        ("COPY a.txt b.txt /dst/", "COPY a.txt b.txt /dst/"),
        ("COPY --from=build a.txt x", "COPY a.txt x"),
        ("COPY --chown=1:2 --chmod=755 a.txt x", "COPY --chown=1:2 --chmod=755 a.txt x"),
        ("ADD a.txt /", "ADD a.txt /"),
        ("COPY <<EOF /x\ntext\nEOF", "COPY <<EOF /x"),
        ("ENV N=a\nCOPY $N.txt /x", "COPY a.txt /x"),
    ],
)
def test_the_history_says_what_was_copied(text: str, created_by: str) -> None:
    assert stage().run(text).created_by == created_by


def test_the_title_has_all_flags() -> None:
    step = stage().run("COPY --from=build --chown=1 a.txt x").step
    assert step is not None
    assert step.title == "COPY --from=build --chown=1 a.txt x"


def test_where_the_files_lie_is_no_part_of_the_step() -> None:
    left = Stage(context={"x/f": b"same"}).run("COPY x/f /dst").step
    right = Stage(stages={"s": {"y/f": b"same"}}).run("COPY --from=s y/f /dst").step
    assert left == right


def test_a_directory_and_its_empty_twin_are_different_steps() -> None:
    left = Stage(context={"d": Dir()}).run("COPY d /dst").step
    right = Stage(context={"d": Dir(), "d/f": b""}).run("COPY d /dst").step
    assert left != right


# Remote sources.


class Remote:
    """Takes the place of what fetches, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[GitUrl | FileUrl, str, bool | None, bool]] = []

    def __call__(
        self, url: GitUrl | FileUrl, *, checksum: str, keep_git_dir: bool | None, unpack: bool
    ) -> Selection:
        self.asked.append((url, checksum, keep_git_dir, unpack))
        tree = DictTree({"remote": b"x"})
        return Selection(
            name="remote", kind="file", digest=Digest.of(b"x"), tree=tree, path=TreePath("remote")
        )


def test_add_takes_urls_and_local_files_in_order() -> None:
    remote = Remote()
    action = copy_files(
        stage(remote=remote).run("ARG HOST=example.org\nADD a.txt http://$HOST/f b.txt /x/")
    )
    assert [selection.name for selection in action.selections] == ["a.txt", "remote", "b.txt"]
    assert remote.asked == [(FileUrl(url="http://example.org/f"), "", None, False)]


def test_the_flags_of_add_reach_what_fetches() -> None:
    remote = Remote()
    made = stage(remote=remote)
    checksum = "sha256:" + "0" * 64
    made.run(f"ARG SUM={checksum}\nADD --checksum=$SUM --unpack=true http://h/f /x")
    made.run("ADD --keep-git-dir=true git@h:x.git#main /x")
    assert remote.asked == [
        (FileUrl(url="http://h/f"), checksum, None, True),
        (GitUrl(remote="git@h:x.git", ref="main"), "", True, False),
    ]


def test_add_of_urls_alone_needs_no_context() -> None:
    made = stage(remote=Remote())
    made.tree = no_tree = DictTree({})
    made.run("ADD http://h/f /x")
    assert no_tree.reads == 0


def test_user_names_and_passwords_of_urls_are_not_kept() -> None:
    lowered = stage(remote=Remote()).run("ADD http://me:secret@h/f git@h:x.git /x/")
    assert lowered.created_by == "ADD http://xxxxx@h/f git@h:x.git /x/"
    assert lowered.step is not None
    assert "secret" not in lowered.step.title


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("COPY http://me:secret@h/f /x", "source can't be a URL for COPY: http://xxxxx@h/f"),
        ("COPY https://h/x.git#main /x", "source can't be a git ref for COPY"),
        ("COPY git@h:x.git /x", "source can't be a git ref for COPY"),
        ("ADD --checksum=x http://h/a http://h/b /x/", "for multiple sources"),
        ("ADD --checksum=x a.txt /x", "checksum requires"),
        ("ADD --checksum=x a.txt <<EOF /x\nEOF", "for multiple sources"),
        ("ADD https://h/x.git?nope=1 /x", "unexpected query 'nope'"),
    ],
)
def test_what_makes_no_sense_of_remote_sources_is_an_error(text: str, said: str) -> None:
    with pytest.raises(BuilderError, match=re.escape(said)):
        stage(remote=Remote()).run(text)
