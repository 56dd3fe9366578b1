"""What differs between two key documents, and how it is told."""

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cachekey import key_document
from builder.explain import (
    DIFFERENCES_MAX,
    HIDDEN,
    Cause,
    Change,
    Difference,
    Explanation,
    Fields,
    Kind,
    Scene,
    changed,
    compare,
    core,
    sentence,
    similarity,
)
from builder.sources import Selection, select
from builder.steps import (
    CopyFiles,
    ExecStep,
    FileStep,
    InlineFile,
    MakeDirectory,
    MemoryMount,
    RunSettings,
    ScriptFile,
    Step,
    selections_of,
)
from layerstore import Digest
from tests.support.sources import DictTree, File, Hard, Items, Link

SHELL = ("/bin/sh", "-c")
RUN = ExecStep(
    argv=(*SHELL, "make"), env=("PATH=/bin", "MODE=fast"), cwd="/", user="", network="host"
)
COPY = CopyFiles(selections=(), inline=(), destination="/d/", chown=None, chmod=None, unpack=False)


def document(step: Step, *, platform: str = "linux/amd64", epoch: int | None = None) -> Fields:
    found: Fields = json.loads(key_document(step, parent=None, platform=platform, epoch=epoch))
    return found


def scene_of(*steps: Step, arguments: frozenset[str] = frozenset()) -> Scene:
    listings = {each.digest: each.listing for step in steps for each in selections_of(step)}
    return Scene(
        listing=lambda digest: listings.get(Digest(digest)),
        paths={(each.digest, each.name): each.path for each in selections_of(steps[-1])},
        arguments=arguments,
        shell=SHELL,
    )


def differences(old: Step, new: Step, **more: frozenset[str]) -> list[Difference]:
    return compare(document(old), document(new), scene_of(old, new, **more))


def only(old: Step, new: Step, **more: frozenset[str]) -> Difference:
    (difference,) = differences(old, new, **more)
    return difference


def copied(items: Items, *paths: str, **more: Any) -> FileStep:
    tree = DictTree(items)
    selections = [select(tree, path) for path in paths]
    assert all(selections)
    action = replace(COPY, selections=tuple(filter(None, selections)), **more)
    return FileStep(action=action)


# The fields of a step.


@pytest.mark.parametrize("step", [RUN, FileStep(action=COPY), copied({"a": b"1"}, "a")])
def test_equal_steps_have_no_difference(step: Step) -> None:
    assert differences(step, step) == []


def test_another_command() -> None:
    difference = only(RUN, replace(RUN, argv=(*SHELL, "make all")))
    assert difference == Difference(kind="command", name="command", old="make", new="make all")
    assert sentence(difference) == "command changed"


def test_an_exec_form_is_told_as_a_whole() -> None:
    difference = only(replace(RUN, argv=("ls", "-l", "/")), replace(RUN, argv=("ls", "-a", "/")))
    assert (difference.kind, difference.old, difference.new) == ("command", "ls -l /", "ls -a /")


def test_another_shell_for_the_same_command() -> None:
    difference = only(replace(RUN, argv=("/bin/bash", "-ec", "make")), RUN)
    assert difference == Difference(
        kind="shell", name="SHELL", old="/bin/bash -ec", new="/bin/sh -c"
    )
    assert sentence(difference) == "SHELL: /bin/bash -ec -> /bin/sh -c"


def test_a_long_command_is_told_around_the_place_where_it_changes() -> None:
    lines = [f"step number {number} of many\n" for number in range(100)]
    old, new = "".join(lines), "".join([*lines[:60], "another step\n", *lines[61:]])
    difference = only(replace(RUN, argv=(*SHELL, old)), replace(RUN, argv=(*SHELL, new)))
    assert "another step" in difference.new
    assert "step number 60 of many" in difference.old
    assert difference.old.startswith("…")
    assert max(len(difference.old), len(difference.new)) < 200


@pytest.mark.parametrize(
    ("old", "new", "change", "values", "text"),
    [
        ("MODE=fast", "MODE=slow", "changed", ("fast", "slow"), "ENV MODE: fast -> slow"),
        (None, "MODE=slow", "added", ("", "slow"), "ENV MODE added"),
        ("MODE=fast", None, "removed", ("fast", ""), "ENV MODE removed"),
        ("MODE=", "MODE=a=b", "changed", ("", "a=b"), "ENV MODE:  -> a=b"),
    ],
)
def test_one_variable(
    old: str | None, new: str | None, change: Change, values: tuple[str, str], text: str
) -> None:
    def env(pair: str | None) -> tuple[str, ...]:
        return ("PATH=/bin", *([pair] if pair else []))

    difference = only(replace(RUN, env=env(old)), replace(RUN, env=env(new)))
    assert difference == Difference(
        kind="environment", name="MODE", change=change, old=values[0], new=values[1]
    )
    assert sentence(difference) == text


def test_a_variable_that_came_from_arg_is_called_so() -> None:
    difference = only(RUN, replace(RUN, env=("PATH=/bin", "MODE=1")), arguments=frozenset({"MODE"}))
    assert difference.kind == "argument"
    assert sentence(difference) == "ARG MODE: fast -> 1"


def test_every_variable_that_differs_is_told() -> None:
    found = differences(RUN, replace(RUN, env=("PATH=/sbin", "NEW=1")))
    assert {(each.name, each.change) for each in found} == {
        ("PATH", "changed"),
        ("MODE", "removed"),
        ("NEW", "added"),
    }


def test_variables_in_another_order_are_told() -> None:
    difference = only(RUN, replace(RUN, env=RUN.env[::-1]))
    assert difference.name == "order of variables"


@pytest.mark.parametrize(
    "name",
    ["PASSWORD", "DB_PASSWORD", "passwd", "NPM_TOKEN", "CLIENT_SECRET", "API_KEY", "APIKEY",
     "AWS_CREDENTIALS", "TOKEN_2", "SSH_PASSPHRASE", "HTTP_AUTH"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_told_without_its_value(name: str) -> None:
    old, new = (replace(RUN, env=(f"{name}={value}",)) for value in ("hunter2", "hunter3"))
    difference = only(old, new, arguments=frozenset({name}))
    assert (difference.old, difference.new) == (HIDDEN, HIDDEN)
    assert sentence(difference) == f"ARG {name} changed"
    assert "hunter" not in repr(difference)


@pytest.mark.parametrize("name", ["MODE", "COMPASS", "AUTHOR", "TOKENIZER", "KEYBOARD"])
def test_other_names_are_no_secrets(name: str) -> None:
    difference = only(replace(RUN, env=(f"{name}=1",)), replace(RUN, env=(f"{name}=2",)))
    assert (difference.old, difference.new) == ("1", "2")


def test_what_is_no_part_of_the_key_makes_no_difference() -> None:
    assert differences(RUN, replace(RUN, secret_env=("http_proxy=x",), title="RUN other")) == []


@pytest.mark.parametrize(
    ("changes", "name", "text"),
    [
        ({"cwd": "/src"}, "cwd", "working directory: / -> /src"),
        ({"user": "ada"}, "user", "user:  -> ada"),
        ({"network": "none"}, "network", "network: host -> none"),
        (
            {"settings": RunSettings(shm_size_bytes=4096)},
            "settings.shm_size_bytes",
            "--shm-size added",
        ),
        (
            {"settings": RunSettings(extra_hosts=(("a", "1.2.3.4"),))},
            "settings.extra_hosts",
            '--add-host:  -> [["a", "1.2.3.4"]]',
        ),
        (
            {"mounts": (MemoryMount(target="/my_dir", size_bytes=None, read_only=False),)},
            "mounts[/my_dir]",
            "mounts[/my_dir] added",
        ),
    ],
)
def test_a_field_of_a_run(changes: dict[str, Any], name: str, text: str) -> None:
    difference = only(RUN, replace(RUN, **changes))
    assert (difference.kind, difference.name) == ("field", name)
    assert sentence(difference) == text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"destination": "/e/"}, "destination: /d/ -> /e/"),
        ({"chown": "ada"}, "--chown added"),
        ({"chmod": "0755"}, "--chmod added"),
        ({"unpack": True}, "unpack: false -> true"),
    ],
)
def test_a_field_of_a_copy(changes: dict[str, Any], text: str) -> None:
    new = FileStep(action=replace(COPY, **changes))
    assert sentence(only(FileStep(action=COPY), new)) == text


def test_platform_epoch_and_schema_are_fields_too() -> None:
    old, new = document(RUN), document(RUN, platform="linux/arm64", epoch=5)
    found = compare(old, {**new, "schema": 99}, scene_of(RUN))
    assert [(each.name, each.new) for each in found] == [
        ("epoch", "5"),
        ("platform", "linux/arm64"),
        ("schema", "99"),
    ]


def test_another_kind_of_step_is_told_as_that() -> None:
    difference = only(RUN, FileStep(action=COPY))
    assert (difference.old, difference.new) == ("ExecStep", "FileStep")
    other = only(FileStep(action=COPY), FileStep(action=MakeDirectory(path="/w")))
    assert (other.old, other.new) == ("CopyFiles", "MakeDirectory")


# Fields that are not known here: later kinds of steps are told by the same rules.


def with_field(step: Step, name: str, value: object) -> Fields:
    found: dict[str, Any] = json.loads(json.dumps(document(step)))
    found["step"][name] = value
    return found


@pytest.mark.parametrize(
    ("old", "new", "name", "values"),
    [
        ("a", "b", "later", ("a", "b")),
        (["a", "b"], ["a", "c"], "later", ("a b", "a c")),
        (None, 5, "later", ("", "5")),
        ({"type": "T", "x": {"type": "U", "y": 1}}, {"type": "T", "x": {"type": "U", "y": 2}},
         "later.x.y", ("1", "2")),
        ([{"type": "M", "target": "/a", "ro": True}], [{"type": "M", "target": "/a", "ro": False}],
         "later[/a].ro", ("true", "false")),
        ([{"type": "M", "size": 1}], [{"type": "M", "size": 2}], "later[0].size", ("1", "2")),
    ],
)  # fmt: skip
def test_unknown_fields_come_out_by_name(
    old: object, new: object, name: str, values: tuple[str, str]
) -> None:
    (difference,) = compare(
        with_field(RUN, "later", old), with_field(RUN, "later", new), scene_of(RUN)
    )
    assert (difference.kind, difference.name) == ("field", name)
    assert (difference.old, difference.new) == values


def test_a_member_more_is_named_by_what_tells_it_apart() -> None:
    one, two = {"type": "M", "target": "/a"}, {"type": "M", "target": "/b"}
    old, new = with_field(RUN, "later", [one]), with_field(RUN, "later", [one, two])
    (difference,) = compare(old, new, scene_of(RUN))
    assert (difference.name, difference.change) == ("later[/b]", "added")
    (difference,) = compare(new, old, scene_of(RUN))
    assert (difference.name, difference.change) == ("later[/b]", "removed")


def test_members_in_another_order_are_a_difference() -> None:
    members = [{"type": "M", "target": "/a"}, {"type": "M", "target": "/b"}]
    old, new = with_field(RUN, "later", members), with_field(RUN, "later", members[::-1])
    (difference,) = compare(old, new, scene_of(RUN))
    assert difference.name == "later"


def test_a_selection_anywhere_in_a_step_is_told_file_by_file() -> None:
    old, new = (copied({"d/a": b"1", "d/b": text}, "d") for text in (b"1", b"2"))

    def mounted(step: FileStep) -> Fields:
        found: dict[str, Any] = document(step)
        selection = found["step"]["action"]["selections"][0]
        return with_field(RUN, "mounts", [{"type": "B", "target": "/m", "source": selection}])

    (difference,) = compare(mounted(old), mounted(new), scene_of(old, new))
    assert (difference.kind, difference.name) == ("file", "d/b")


# Here-documents.


def test_a_here_document_is_told_by_name() -> None:
    def with_script(text: str) -> ExecStep:
        return replace(RUN, scripts=(ScriptFile(target="/dev/pipes/EOF", content=text),))

    difference = only(with_script("#!/bin/a"), with_script("#!/bin/b"))
    assert (difference.kind, difference.name) == ("heredoc", "EOF")
    assert (difference.old, difference.new) == ("#!/bin/a", "#!/bin/b")
    assert sentence(difference) == "here-document EOF changed"
    assert only(RUN, with_script("a")).change == "added"


def test_a_copied_here_document_is_told_by_digest() -> None:
    def with_inline(text: bytes) -> FileStep:
        return FileStep(action=replace(COPY, inline=(InlineFile(name="EOF", content=text),)))

    difference = only(with_inline(b"a"), with_inline(b"b"))
    assert (difference.kind, difference.name) == ("heredoc", "EOF")
    assert difference.new == Digest.of(b"b")


# Files.

TREE: Items = {"src/a": b"1", "src/b": b"2", "src/d/c": b"3", "other": b"4"}


def test_one_file_of_a_thousand_is_named_alone() -> None:
    items: Items = {f"src/f{number}": b"%d" % number for number in range(1000)}
    difference = only(copied(items, "src"), copied({**items, "src/f512": b"x"}, "src"))
    assert difference == Difference(
        kind="file",
        name="src/f512",
        what="content",
        old=Digest.of(b"512"),
        new=Digest.of(b"x"),
    )
    assert sentence(difference) == "src/f512 changed"


def test_of_a_long_path_the_end_is_told() -> None:
    path = "src/main/java/org/example/shop/orders/internal/service/OrderServiceImplementation.java"
    told = sentence(Difference(kind="file", name=path))
    assert told == "src/main/java/o…rnal/service/OrderServiceImplementation.java changed"
    assert sentence(Difference(kind="parent", name=f"RUN {'x' * 99}")).endswith("xx…")


def test_files_are_added_and_removed() -> None:
    old, new = copied(TREE, "src"), copied({**TREE, "src/d/new": b"n"}, "src")
    added, removed = only(old, new), only(new, old)
    assert (added.name, added.change, added.new) == ("src/d/new", "added", Digest.of(b"n"))
    assert (removed.name, removed.change, removed.old) == ("src/d/new", "removed", Digest.of(b"n"))
    assert sentence(removed) == "src/d/new removed"


@pytest.mark.parametrize(
    ("file", "what", "values"),
    [
        (File(content=b"1", mode=0o755), "mode", ("0644", "0755")),
        (File(content=b"1", uid=7, gid=8), "owner", ("0:0", "7:8")),
        (File(content=b"1", xattrs={"user.a": b"b"}), "xattrs", None),
        (Link("b"), "type", ("file", "symlink")),
    ],
)
def test_an_attribute_of_a_file(
    file: File | Link, what: str, values: tuple[str, str] | None
) -> None:
    found = differences(copied(TREE, "src"), copied({**TREE, "src/a": file}, "src"))
    difference = found[0]
    assert (difference.name, difference.what) == ("src/a", what)
    if values is not None:
        assert (difference.old, difference.new) == values
    assert {each.name for each in found} == {"src/a"}


def test_a_mode_is_told_with_its_values() -> None:
    new = copied({**TREE, "src/a": File(content=b"1", mode=0o755)}, "src")
    assert sentence(only(copied(TREE, "src"), new)) == "src/a: mode 0644 -> 0755"


def test_where_a_link_leads() -> None:
    old, new = (copied({**TREE, "src/l": Link(target)}, "src") for target in ("a", "b"))
    difference = only(old, new)
    assert (difference.what, difference.old, difference.new) == ("target", "a", "b")


def test_other_times_make_no_difference() -> None:
    old, new = (copied({"src/a": File(content=b"1", mtime_s=time)}, "src") for time in (1, 2))
    assert document(old) == document(new)


def test_another_pair_of_hard_links_is_not_told_of_those_that_come_after() -> None:
    items: Items = {"s/m": b"m", "s/n": Hard("s/m"), "s/a": b"a"}
    found = differences(copied(items, "s"), copied({**items, "s/b": Hard("s/a")}, "s"))
    assert {each.name for each in found} == {"s/a", "s/b"}


def test_a_single_file_is_named_by_its_path() -> None:
    old, new = (copied({"src/a": text}, "src/a") for text in (b"1", b"2"))
    assert only(old, new).name == "src/a"


def test_files_of_equal_content_keep_their_own_names() -> None:
    old = copied({"x/a": b"1", "y/b": b"1"}, "x/a", "y/b")
    found = differences(old, copied({"x/a": b"2", "y/b": b"2"}, "x/a", "y/b"))
    assert [each.name for each in found] == ["x/a", "y/b"]


def test_one_of_several_sources() -> None:
    difference = only(copied(TREE, "src", "other"), copied({**TREE, "other": b"x"}, "src", "other"))
    assert difference.name == "other"


def test_a_source_more() -> None:
    old, new = copied(TREE, "other"), copied(TREE, "other", "src")
    found = differences(old, new)
    assert [(each.name, each.change) for each in found] == [
        ("src/a", "added"),
        ("src/b", "added"),
        ("src/d/c", "added"),
    ]


def test_sources_in_another_order() -> None:
    difference = only(copied(TREE, "src", "other"), copied(TREE, "other", "src"))
    assert difference.name == "order of sources"


def test_files_that_are_not_known_any_more_are_told_as_a_whole() -> None:
    old, new = copied(TREE, "src"), copied({**TREE, "src/a": b"x"}, "src")
    (difference,) = compare(document(old), document(new), scene_of(new))
    assert (difference.kind, difference.name) == ("files", "src")
    assert sentence(difference) == "src changed"


def test_the_top_of_a_context_is_a_point() -> None:
    difference = only(copied({"a": b"1"}, "."), copied({"a": b"2"}, "."))
    assert difference.name == "a"
    (whole,) = compare(
        document(copied({"a": b"1"}, ".")), document(copied({"a": b"2"}, ".")), scene_of(RUN)
    )
    assert whole.name == "."


def test_names_that_are_not_utf8_survive() -> None:
    old, new = (copied({"s/\udcff": text}, "s") for text in (b"1", b"2"))
    difference = only(old, new)
    assert difference.name == "s/\udcff"
    assert json.loads(json.dumps(difference.name)) == "s/\udcff"


# Explanations.


def test_what_was_not_kept_says_why() -> None:
    assert Explanation(cause="unkept", detail="so").reason == "its result was not kept: so"


def test_the_first_difference_and_how_many_more() -> None:
    one = Difference(kind="file", name="a")
    assert changed("k", [one]).reason == "a changed"
    assert changed("k", [one, one, one]).reason == "a changed, and 2 more"


def test_differences_are_bounded() -> None:
    items: Items = {f"f{number}": b"1" for number in range(DIFFERENCES_MAX + 50)}
    old, new = copied(items, "."), copied(dict.fromkeys(items, b"2"), ".")
    explanation = changed("k", differences(old, new))
    assert len(explanation.differences) == DIFFERENCES_MAX
    assert explanation.more_differences == 50
    assert explanation.reason == f"f0 changed, and {DIFFERENCES_MAX + 49} more"


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        ("new", "never built before"),
        ("pruned", "its layer was pruned"),
        ("expired", "older than --cache-ttl"),
        ("failed", "it failed the last time"),
        ("canceled", "it was canceled the last time"),
        ("damaged", "its layer is gone or damaged"),
    ],
)
def test_other_causes_have_a_sentence_of_their_own(cause: Cause, text: str) -> None:
    assert Explanation(cause=cause).reason == text


def test_what_is_forced_says_by_which_option() -> None:
    differences = (Difference(kind="file", name="a"),)
    explanation = Explanation(cause="forced", detail="--no-cache", differences=differences)
    assert explanation.reason == "--no-cache"


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(kind="parent", name="RUN make", line=3), "follows line 3, RUN make"),
        (Difference(kind="parent", name="RUN make", line=3, change="removed"),
         "follows line 3, RUN make, which was removed"),
        (Difference(kind="parent", name=""), "follows other changes"),
        (Difference(kind="base", name="busybox", old="sha256:1", new="sha256:2"),
         "base image busybox changed"),
    ],
)  # fmt: skip
def test_what_is_below_is_told(difference: Difference, text: str) -> None:
    assert sentence(difference) == text


NAMES = st.text(max_size=300)
DIFFERENCES = st.builds(
    Difference,
    kind=st.sampled_from(get_args(Kind)),
    name=NAMES,
    change=st.sampled_from(get_args(Change)),
    what=st.sampled_from(("", "content", "mode", "owner")),
    old=NAMES,
    new=NAMES,
    line=st.integers(0, 9),
)


@settings(deadline=None)
@given(DIFFERENCES)
def test_a_sentence_is_short_whatever_it_is_about(difference: Difference) -> None:
    assert 0 < len(sentence(difference)) < 160


# Which step to compare with.


def test_a_step_is_recognised_by_its_command_or_destination() -> None:
    assert core(document(RUN)) == core(document(replace(RUN, env=(), user="x")))
    assert core(document(RUN)) != core(document(replace(RUN, argv=("x",))))
    assert core(document(copied(TREE, "src"))) == core(document(copied(TREE, "other")))
    assert core(document(FileStep(action=COPY))) != core(
        document(FileStep(action=replace(COPY, destination="/e/")))
    )


def test_the_more_is_equal_the_more_similar() -> None:
    same = similarity(document(RUN), document(RUN))
    one = similarity(document(RUN), document(replace(RUN, user="ada")))
    two = similarity(document(RUN), document(replace(RUN, user="ada", cwd="/x")))
    assert same > one > two


STEPS = st.builds(
    lambda env, user, text: replace(RUN, env=env, user=user, argv=(*SHELL, text)),
    st.lists(  # no environment has a name twice
        st.sampled_from(["A=1", "A=2", "B=1", "C="]), max_size=3, unique_by=lambda pair: pair[0]
    ).map(tuple),
    st.sampled_from(["", "ada"]),
    st.text(max_size=3),
)


@settings(deadline=None)
@given(STEPS, STEPS)
def test_there_is_a_difference_where_and_only_where_the_keys_differ(old: Step, new: Step) -> None:
    assert bool(differences(old, new)) == (document(old) != document(new))


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/b"]), st.binary(max_size=1)),
    st.dictionaries(st.sampled_from(["a", "b", "d/a", "d/b"]), st.binary(max_size=1)),
)
def test_the_files_named_are_those_that_differ(
    old: dict[str, bytes], new: dict[str, bytes]
) -> None:
    found = differences(copied(dict(old), "."), copied(dict(new), "."))
    wanted = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    assert {each.name for each in found if each.name != "d"} == wanted


def test_selections_are_found_wherever_they_are() -> None:
    step = copied(TREE, "src", "other")
    assert [each.name for each in selections_of(step)] == ["", "other"]
    assert all(isinstance(each, Selection) for each in selections_of(step))
    assert list(selections_of(RUN)) == []
