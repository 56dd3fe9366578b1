from typing import TypeVar

import pytest

from grammar import (
    Add,
    Arg,
    Cmd,
    Copy,
    DockerfileError,
    Entrypoint,
    Env,
    ExecForm,
    Expose,
    From,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    ShellForm,
    Span,
    Stopsignal,
    User,
    Volume,
    Word,
    Workdir,
    parse,
    parse_instruction,
)

T = TypeVar("T", bound=Instruction)


def node(kind: type[T], text: str) -> T:
    (one,) = parse(f"FROM scratch\n{text}").stages[0].instructions
    assert isinstance(one, kind)
    return one


def base(text: str) -> From:
    return parse(text).stages[0].base


def refused(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        parse(f"FROM scratch\n{text}")
    assert caught.value.span is not None
    assert caught.value.span.start_line == 2
    return caught.value


def texts(words: tuple[Word, ...]) -> list[str]:
    return [word.text for word in words]


def text(word: Word | None) -> str | None:
    return word.text if word else None


# FROM


def test_from_has_an_image_a_platform_and_an_alias() -> None:
    found = base("FROM --platform=$BUILDPLATFORM img:${v} As BUILD-1.x_y\n")
    assert found.image.text == "img:${v}"
    assert text(found.platform) == "$BUILDPLATFORM"
    assert found.alias == "build-1.x_y"
    assert base("FROM as").image.text == "as"
    assert base("FROM as AS b").alias == "b"
    assert (base("FROM a").alias, base("FROM a").platform) == (None, None)


# RUN


def test_run_is_a_shell_form_or_an_exec_form() -> None:
    assert node(Run, "RUN  a  'b' ").command == ShellForm(text="a  'b'")
    assert node(Run, 'RUN ["a", "b"]').command == ExecForm(argv=("a", "b"))
    assert node(Run, "RUN").command == ShellForm(text="")
    assert node(Run, "RUN []").command == ExecForm(argv=())


def test_run_has_mounts_in_the_order_written() -> None:
    run = node(
        Run,
        "RUN --mount=type=cache,Target=/a,ro --mount=type=bind,'\"source=a,b\"',from=c$ make",
    )
    assert [mount.options for mount in run.mounts] == [
        (("type", "cache"), ("target", "/a"), ("ro", None)),
        (("type", "bind"), ("source", "a,b"), ("from", "c$")),
    ]
    assert run.mounts[0].span == Span(start_line=2, start_column=13, end_line=2, end_column=35)


@pytest.mark.parametrize(
    ("value", "options"),
    [
        ("a", (("a", None),)),
        ("a=", (("a", ""),)),
        ("a=b=c", (("a", "b=c"),)),
        ("a,,b", (("a", None), ("", None), ("b", None))),
        ("a,", (("a", None), ("", None))),
        ('\'"a""b"\'', (('a"b', None),)),
        ("'\"a,b\",c'", (("a,b", None), ("c", None))),
    ],
)
def test_the_options_of_a_mount_are_comma_separated_values(
    value: str, options: tuple[tuple[str, str | None], ...]
) -> None:
    assert node(Run, f"RUN --mount={value} x").mounts[0].options == options


@pytest.mark.parametrize("value", ["", "'a\"b'", "'\"a'", "'\"a\"b'", "'\"a\" ,b'"])
def test_a_mount_that_is_no_list_of_values_is_refused(value: str) -> None:
    refused(f"RUN --mount={value} x")


def test_the_stage_of_a_mount_cannot_be_a_variable() -> None:
    assert "cannot have variables" in refused("RUN --mount=type=bind,from=$a x").message


def test_run_may_choose_network_security_and_devices() -> None:
    run = node(Run, "RUN --network=none --security=insecure --device=a,required --device=b=c x")
    assert (run.network, run.security, run.devices) == ("none", "insecure", ("a,required", "b=c"))
    run = node(Run, "RUN x")
    assert (run.network, run.security, run.devices, run.mounts) == (None, None, (), ())


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--network=bridge", "must be default, none or host, not 'bridge'"),
        ("--network=", "must be default, none or host, not ''"),
        ("--security=none", "must be sandbox or insecure, not 'none'"),
        ("--network=none --network=none", "the flag is given twice"),
        ("--network", "--network needs a value"),
        ("--mount", "--mount needs a value"),
        ("--device=a,name=b", "already has the name a"),
        ("--device=a,required=maybe", "required is true or false"),
        ("--device=a,b", "b is no option of a device"),
    ],
)
def test_a_flag_of_run_must_make_sense(flag: str, problem: str) -> None:
    assert problem in refused(f"RUN {flag} x").message


def test_run_has_its_heredocs() -> None:
    run = node(Run, "RUN <<A cat <<-'B'\na\nA\n\tb\n\tB\n")
    assert run.command == ShellForm(text="<<A cat <<-'B'")
    assert [(one.name, one.content, one.chomp) for one in run.heredocs] == [
        ("A", "a\n", False),
        ("B", "\tb\n", True),
    ]
    assert run.span == Span(start_line=2, start_column=1, end_line=6, end_column=2)


# COPY and ADD


def test_copy_has_sources_and_a_destination() -> None:
    copy = node(Copy, "COPY a $b 'c /d/")
    assert (texts(copy.sources), copy.destination.text) == (["a", "$b", "'c"], "/d/")
    copy = node(Copy, 'COPY ["a b", "c d"]')
    assert (texts(copy.sources), copy.destination.text) == (["a b"], "c d")


def test_copy_has_its_flags() -> None:
    copy = node(
        Copy,
        "COPY --from=x --chown=$u:g --chmod=0755 --link --parents=false --exclude=*.md "
        "--exclude='b c' a /",
    )
    assert (text(copy.from_), text(copy.chown), text(copy.chmod)) == ("x", "$u:g", "0755")
    assert (copy.link, copy.parents, texts(copy.excludes)) == (True, False, ["*.md", "b c"])


def test_copy_without_flags_has_none() -> None:
    copy = node(Copy, "COPY a b")
    assert (copy.from_, copy.chown, copy.chmod, copy.excludes) == (None, None, None, ())
    assert (copy.link, copy.parents) == (False, False)


@pytest.mark.parametrize(
    ("flag", "link"),
    [("--link", True), ("--link=true", True), ("--link=TRUE", True), ("--link=False", False)],
)
def test_a_switch_is_true_when_it_stands_there(flag: str, link: bool) -> None:
    assert node(Copy, f"COPY {flag} a b").link is link


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--link=1", "--link is true or false, not '1'"),
        ("--link=", "--link is true or false, not ''"),
        ("--link --link", "the flag is given twice"),
        ("--chown", "--chown needs a value"),
        ("--from=a --from=b", "the flag is given twice"),
        ("--exclude", "--exclude needs a value"),
    ],
)
def test_a_flag_of_copy_must_make_sense(flag: str, problem: str) -> None:
    assert problem in refused(f"COPY {flag} a b").message


def test_a_flag_may_be_empty() -> None:
    assert text(node(Copy, "COPY --chown= a b").chown) == ""


def test_a_heredoc_among_the_sources_is_a_file() -> None:
    copy = node(Copy, "COPY a <<-'X Y' <<b.txt /d\n\tone\n\tX Y\n$two\nb.txt\n")
    assert texts(copy.sources) == ["a", "<<-'X", "Y'"]  # blanks split here, quotes or not
    assert [(one.name, one.content, one.expand) for one in copy.heredocs] == [
        ("b.txt", "$two\n", True)
    ]


def test_the_last_of_two_heredocs_of_a_name_is_taken() -> None:
    copy = node(Copy, "COPY <<A <<A /d\none\nA\ntwo\nA\n")
    assert [one.content for one in copy.heredocs] == ["two\n", "two\n"]


def test_a_heredoc_in_a_json_form_is_an_empty_file() -> None:
    copy = node(Copy, 'COPY ["<<A", "/d"]')
    assert [(one.name, one.content) for one in copy.heredocs] == [("A", "")]
    assert copy.sources == ()


@pytest.mark.parametrize("keyword", ["COPY", "ADD"])
def test_a_heredoc_is_no_destination(keyword: str) -> None:
    assert "heredoc as its destination" in refused(f"{keyword} a <<B\nb\nB").message


def test_add_has_its_flags() -> None:
    add = node(Add, "ADD --checksum=sha256:a --keep-git-dir --unpack=false --link --chown=b c /d")
    assert (text(add.checksum), add.keep_git_dir, add.unpack) == ("sha256:a", True, False)
    assert (add.link, text(add.chown), texts(add.sources)) == (True, "b", ["c"])
    add = node(Add, "ADD a b")
    assert (add.checksum, add.keep_git_dir, add.unpack, add.link) == (None, None, None, False)


# ENV, LABEL, ARG


@pytest.mark.parametrize("kind", [Env, Label])
def test_pairs_are_raw_words(kind: type[Env] | type[Label]) -> None:
    keyword = kind.__name__.upper()
    found = node(kind, f"{keyword} a='b c' \"$d\"=\\$e").pairs
    assert [(pair.name.text, pair.value.text, pair.legacy) for pair in found] == [
        ("a", "'b c'", False),
        ('"$d"', "\\$e", False),
    ]
    (pair,) = node(kind, f"{keyword} a b=c  d").pairs
    assert (pair.name.text, pair.value.text, pair.legacy) == ("a", "b=c  d", True)


@pytest.mark.parametrize("line", ["ENV =a", "LABEL b=c =a", "ARG =a", "ARG b =a"])
def test_a_name_is_missing(line: str) -> None:
    assert "a name is missing" in refused(line).message


def test_an_argument_may_have_a_default() -> None:
    found = node(Arg, "ARG a b=$c d= e='f g'").declarations
    assert [(one.name.text, text(one.default)) for one in found] == [
        ("a", None),
        ("b", "$c"),
        ("d", ""),
        ("e", "'f g'"),
    ]


def test_every_word_knows_where_it_stands() -> None:
    env = node(Env, "ENV one=1 \\\n  # comment\n  two='2 3'")
    first, second = env.pairs
    assert first.value.span == Span(start_line=2, start_column=9, end_line=2, end_column=9)
    assert second.name.span == Span(start_line=4, start_column=3, end_line=4, end_column=5)
    assert second.value.span == Span(start_line=4, start_column=7, end_line=4, end_column=11)
    assert env.span == Span(start_line=2, start_column=1, end_line=4, end_column=11)
    copy = node(Copy, "COPY --chown=me:us a /b")
    assert copy.chown is not None
    assert (copy.chown.span.start_column, copy.chown.span.end_column) == (14, 18)


# The others


def test_the_simple_ones() -> None:
    assert node(Workdir, "WORKDIR /a b $c").path.text == "/a b $c"
    assert node(User, "USER me:us").user.text == "me:us"
    assert node(Stopsignal, "STOPSIGNAL $sig").signal.text == "$sig"
    assert node(Maintainer, "MAINTAINER A B <a@b>").name == "A B <a@b>"
    assert texts(node(Expose, "EXPOSE 80/tcp $p 1-9").ports) == ["80/tcp", "$p", "1-9"]
    assert texts(node(Volume, "VOLUME /a  /b").paths) == ["/a", "/b"]
    assert texts(node(Volume, 'VOLUME [" /a b "]').paths) == ["/a b"]
    assert node(Shell, 'SHELL ["a", "-c"]').argv == ("a", "-c")
    assert node(Cmd, "CMD a b").command == ShellForm(text="a b")
    assert node(Cmd, "CMD []").command == ExecForm(argv=())
    assert node(Entrypoint, 'ENTRYPOINT ["a"]').command == ExecForm(argv=("a",))


@pytest.mark.parametrize("line", ['VOLUME [""]', 'VOLUME ["/a", " "]'])
def test_a_volume_has_a_path(line: str) -> None:
    assert "empty string" in refused(line).message


# HEALTHCHECK


def test_a_healthcheck_has_a_command_and_times() -> None:
    check = node(
        Healthcheck,
        "HEALTHCHECK --interval=1m30s --timeout=1.5s --start-period=500ms --start-interval=2s "
        "--retries=3 CMD curl -f http://localhost",
    )
    assert check.command == ShellForm(text="curl -f http://localhost")
    assert (check.interval_ns, check.timeout_ns) == (90_000_000_000, 1_500_000_000)
    assert (check.start_period_ns, check.start_interval_ns) == (500_000_000, 2_000_000_000)
    assert check.retries == 3
    assert node(Healthcheck, 'HEALTHCHECK cmd ["a"]').command == ExecForm(argv=("a",))


def test_healthcheck_none_has_nothing() -> None:
    check = node(Healthcheck, "HEALTHCHECK --interval=nonsense NONE")
    assert (check.command, check.interval_ns, check.retries) == (None, 0, 0)


@pytest.mark.parametrize(
    ("duration", "nanoseconds"),
    [
        ("1ms", 10**6),
        ("1h2m3s4ms5us6ns", 3_723_004_005_006),
        ("1.5h", 5400 * 10**9),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("+3s", 3 * 10**9),
        ("1000µs", 10**6),
        ("1000μs", 10**6),
        ("1.0000000000000000000001s", 10**9),
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("", 0),
    ],
)
def test_durations_are_those_of_go(duration: str, nanoseconds: int) -> None:
    check = node(Healthcheck, f"HEALTHCHECK --interval={duration} CMD a")
    assert check.interval_ns == nanoseconds


@pytest.mark.parametrize(
    "duration",
    [
        "1",
        "s",
        ".s",
        "1x",
        "1 s",
        "1s2",
        "-1s",
        "1us",
        "999us",
        "+",
        "-",
        "1e3s",
        "1d",
        "١s",
        "9223372037s",
        "99999999999999999999s",
        "1s" + "0" * 5000 + "x",
    ],
)
def test_other_durations_are_refused(duration: str) -> None:
    error = refused(f"HEALTHCHECK --timeout='{duration}' CMD a")
    assert error.message.startswith("--timeout must be")


@pytest.mark.parametrize(
    ("retries", "number"), [("3", 3), ("+3", 3), ("003", 3), ("-0", 0), ("", 0)]
)
def test_retries_are_a_number(retries: str, number: int) -> None:
    assert node(Healthcheck, f"HEALTHCHECK --retries={retries} CMD a").retries == number


@pytest.mark.parametrize("retries", ["-1", "a", "1.5", "1_0", "2147483648", "9" * 5000, "٣", "+"])
def test_other_retries_are_refused(retries: str) -> None:
    assert "--retries must be" in refused(f"HEALTHCHECK --retries={retries} CMD a").message


# ONBUILD


def test_onbuild_has_its_trigger_and_the_text_of_it() -> None:
    onbuild = node(Onbuild, "onbuild   copy --from=a  b \\\n  c ")
    assert onbuild.text == "copy --from=a  b   c "
    assert isinstance(onbuild.trigger, Copy)
    assert text(onbuild.trigger.from_) == "a"
    assert onbuild.trigger.span.start_column == 11


def test_the_text_of_a_trigger_has_its_heredocs_and_parses_to_the_same() -> None:
    onbuild = node(Onbuild, "ONBUILD RUN <<A <<-B\na\nA\n\tb\n\tB")
    assert onbuild.text == "RUN <<A <<-B\na\nA\n\tb\nB"
    again = parse_instruction(onbuild.text)
    assert isinstance(again, Run)
    assert isinstance(onbuild.trigger, Run)
    assert again.heredocs == onbuild.trigger.heredocs
