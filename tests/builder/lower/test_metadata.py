"""Instructions that change the config: its fields, and what the history says of them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.errors import LoweringError
from grammar import DockerfileError
from layerstore import HealthcheckConfig
from tests.support.lowering import Stage, exec_step

SECOND_NS = 10**9


def config_after(text: str, **stage: Any) -> object:
    lowered = Stage(**stage)
    lowered.run(text)
    return lowered.config


# ENV.


def test_env_sets_variables_in_order_and_in_place() -> None:
    stage = Stage()
    stage.run('ENV A=1 B="two words"\nENV A=3\nENV C old form')
    assert stage.config.env == ("A=3", "B=two words", "C=old form")
    assert stage.history == ["ENV A=1 B=two words", "ENV A=3", "ENV C=old form"]


def test_every_value_of_one_env_sees_what_was_before_it() -> None:
    stage = Stage()
    stage.run("ENV abc=hello\nENV abc=bye def=$abc\nENV ghi=$abc")
    assert stage.config.env == ("abc=bye", "def=hello", "ghi=bye")


def test_names_are_expanded_and_may_not_be_blank() -> None:
    stage = Stage()
    stage.run("ENV N=NAME\nENV $N=1 ${N}_2=2")
    assert stage.config.env == ("N=NAME", "NAME=1", "NAME_2=2")
    with pytest.raises(LoweringError, match="ENV names can not be blank"):
        stage.run("ENV $UNSET=1")


def test_the_escape_directive_holds_in_values() -> None:
    stage = Stage()
    stage.run("ENV A=`$B C=\\x", escape="`")
    assert stage.config.env == ("A=$B", "C=\\x")


def test_an_expansion_error_stops_the_build() -> None:
    with pytest.raises(DockerfileError, match="not set"):
        Stage().run('ENV A="${B:?not set}"')


# ARG.


def test_an_arg_is_visible_below_and_never_in_the_config() -> None:
    stage = Stage()
    stage.run("ARG A=1\nENV B=$A")
    assert stage.config.env == ("B=1",)
    assert stage.history == ["ARG A=1", "ENV B=1"]


def test_a_build_arg_wins_over_the_default() -> None:
    stage = Stage(build_args={"A": "given", "OTHER": "not declared"})
    stage.run("ARG A=default\nENV B=$A C=$OTHER")
    assert stage.config.env == ("B=given", "C=")
    assert stage.history[0] == "ARG A=given"


def test_an_arg_without_default_takes_the_value_of_the_global_scope() -> None:
    stage = Stage(global_args={"A": "global", "TARGETARCH": "amd64"})
    stage.run("ARG A\nARG TARGETARCH\nARG NONE\nENV B=$A-$TARGETARCH-$NONE")
    assert stage.config.env == ("B=global-amd64-",)
    assert stage.history[:3] == ["ARG A=global", "ARG TARGETARCH=amd64", "ARG NONE"]


def test_the_default_of_the_stage_wins_over_the_global_scope() -> None:
    stage = Stage(global_args={"A": "global"})
    stage.run("ENV B=$A\nARG A=own\nENV C=$A")
    assert stage.config.env == ("B=", "C=own")


def test_defaults_see_the_args_before_them() -> None:
    stage = Stage()
    stage.run("ARG A=1 B=${A}2\nARG C=${B}3")
    assert dict(stage.state.args) == {"A": "1", "B": "12", "C": "123"}


def test_a_default_that_is_not_used_need_not_make_sense() -> None:
    stage = Stage(build_args={"A": "given"})
    stage.run('ARG A=${B:?"missing"}')
    assert dict(stage.state.args) == {"A": "given"}
    with pytest.raises(DockerfileError, match="missing"):
        Stage().run('ARG A=${B:?"missing"}')


def test_declaring_an_arg_again_without_a_value_keeps_the_one_it_has() -> None:
    stage = Stage()
    stage.run("ARG A=1\nARG A\nENV B=$A")
    assert stage.config.env == ("B=1",)
    assert stage.state.args == (("A", "1"),)


def test_an_empty_build_arg_is_a_value() -> None:
    stage = Stage(build_args={"A": ""}, global_args={"A": "global"})
    stage.run("ARG A=default\nENV B=${A-unset}")
    assert stage.config.env == ("B=",)


def test_of_env_and_arg_the_later_one_counts() -> None:
    """The recorded history of BuildKit for `ENV foo barOverride`, `ARG foo`: `RUN |1 foo=bar`."""
    stage = Stage(build_args={"A": "arg"})
    stage.run("ARG A\nENV A=env\nENV B=$A")
    assert stage.config.env == ("A=env", "B=env")
    assert stage.run("ARG A\nENV C=$A").state.config.env == ("A=env", "B=env", "C=arg")
    assert exec_step(stage.run("RUN x")).env[:3] == ("A=arg", "B=env", "C=arg")
    assert stage.run("ENV A=new\nENV C=$A").state.config.env == ("A=new", "B=env", "C=new")


def test_an_arg_without_a_value_hides_no_env() -> None:
    stage = Stage()
    stage.run("ENV A=env\nARG A\nENV B=$A")
    assert stage.config.env == ("A=env", "B=env")


def test_a_stage_that_stands_on_another_sees_its_env_first() -> None:
    stage = Stage()
    stage.run("ENV A=env\nARG A=arg B=b")
    stage.state = stage.state.inherited()
    stage.run("LABEL a=$A b=$B")
    assert stage.config.labels == (("a", "env"), ("b", "b"))


def test_the_name_of_an_arg_is_never_expanded() -> None:
    stage = Stage()
    stage.run("ARG N=x\nARG $N=1\nLABEL a=${x-unset}")
    assert stage.config.labels == (("a", "unset"),)
    assert stage.history[1] == "ARG $N=1"


def test_args_are_told_in_the_order_of_their_first_declaration() -> None:
    stage = Stage()
    stage.run("ARG A=1\nARG B=2\nARG A")
    assert stage.history[-1] == "ARG A"
    assert stage.run("RUN x").created_by == "RUN |2 A=1 B=2 /bin/sh -c x"


# LABEL.


def test_labels_are_sorted_and_the_last_value_counts() -> None:
    stage = Stage()
    stage.run('LABEL b=1 a="x y"\nLABEL b=2\nLABEL old form\nENV V=v\nLABEL k$V=$V')
    assert stage.config.labels == (("a", "x y"), ("b", "2"), ("kv", "v"), ("old", "form"))
    assert stage.history[:2] == ["LABEL b=1 a=x y", "LABEL b=2"]


def test_a_label_needs_a_name() -> None:
    with pytest.raises(LoweringError, match="LABEL names can not be blank"):
        Stage().run('LABEL ""=x')


# CMD, ENTRYPOINT, SHELL.


def test_the_shell_form_is_given_to_the_shell() -> None:
    stage = Stage()
    stage.run("CMD echo $HOME\nENTRYPOINT exec top -b")
    assert stage.config.cmd == ("/bin/sh", "-c", "echo $HOME")
    assert stage.config.entrypoint == ("/bin/sh", "-c", "exec top -b")
    assert stage.history == [
        'CMD ["/bin/sh" "-c" "echo $HOME"]',
        'ENTRYPOINT ["/bin/sh" "-c" "exec top -b"]',
    ]


def test_the_exec_form_is_taken_as_it_is() -> None:
    stage = Stage()
    stage.run('ENV A=1\nCMD ["a b", "$A", "\\"é\\""]')
    assert stage.config.cmd == ("a b", "$A", '"é"')
    assert stage.history[-1] == 'CMD ["a b" "$A" "\\"é\\""]'


def test_the_shell_of_the_stage_is_used_from_there_on() -> None:
    stage = Stage()
    stage.run('CMD one\nSHELL ["/bin/bash", "-ec"]\nENTRYPOINT two')
    assert stage.config.cmd == ("/bin/sh", "-c", "one")
    assert stage.config.entrypoint == ("/bin/bash", "-ec", "two")
    assert stage.config.shell == ("/bin/bash", "-ec")
    assert stage.history[1] == "SHELL [/bin/bash -ec]"


def test_an_entrypoint_drops_the_command_of_the_base() -> None:
    stage = Stage().with_config(cmd=("sh",), entrypoint=("old",))
    stage.run('ENTRYPOINT ["new"]')
    assert stage.config.entrypoint == ("new",)
    assert stage.config.cmd is None


def test_an_entrypoint_leaves_a_command_of_its_own_stage() -> None:
    stage = Stage().with_config(cmd=("sh",))
    stage.run('CMD ["own"]\nENTRYPOINT ["new"]')
    assert stage.config.cmd == ("own",)


def test_an_empty_command_is_kept_as_one() -> None:
    stage = Stage().with_config(cmd=("sh",), entrypoint=("x",))
    stage.run("CMD []\nENTRYPOINT []")
    assert stage.config.cmd == ()
    assert stage.config.entrypoint == ()


# USER, STOPSIGNAL, VOLUME, MAINTAINER, ONBUILD.


def test_user_is_kept_as_written() -> None:
    stage = Stage()
    stage.run("ARG U=me\nUSER $U:staff")
    assert stage.config.user == "me:staff"
    assert stage.history[-1] == "USER me:staff"


def test_an_empty_user_is_an_error_and_never_root() -> None:
    with pytest.raises(LoweringError, match="USER requires a user"):
        Stage().run("USER $UNSET")


@pytest.mark.parametrize(
    "signal", ["SIGTERM", "term", "9", "64", "KILL", "SIGRTMIN+3", "RTMAX-2", "SIGRTMIN", "rtmax"]
)
def test_signals_are_names_or_numbers(signal: str) -> None:
    stage = Stage()
    stage.run(f"STOPSIGNAL {signal}")
    assert stage.config.stop_signal == signal


@pytest.mark.parametrize(
    "signal", ["SIGNOPE", "0", "65", "-9", "9.5", "RTMIN+16", "RTMAX-15", "$NO"]
)
def test_other_signals_are_errors(signal: str) -> None:
    with pytest.raises(LoweringError, match="invalid signal"):
        Stage().run(f"STOPSIGNAL {signal}")


def test_volumes_add_up() -> None:
    stage = Stage()
    stage.run('VOLUME /b /a\nVOLUME ["/a", "/c d"]\nENV V=v\nVOLUME /$V')
    assert stage.config.volumes == ("/a", "/b", "/c d", "/v")
    assert stage.history[0] == "VOLUME [/b /a]"


def test_an_empty_volume_is_an_error() -> None:
    with pytest.raises(LoweringError, match="VOLUME specified can not be an empty string"):
        Stage().run("VOLUME $UNSET")


def test_maintainer_is_the_author() -> None:
    stage = Stage()
    stage.run("MAINTAINER Ann <ann@example.org>")
    assert stage.state.author == "Ann <ann@example.org>"
    assert stage.history == ["MAINTAINER Ann <ann@example.org>"]


def test_a_trigger_is_no_line_of_the_history() -> None:
    stage = Stage()
    stage.run("ONBUILD RUN a\nLABEL a=b\nONBUILD RUN b")
    assert stage.history == ["LABEL a=b"]
    assert stage.config.on_build == ("RUN a", "RUN b")


def test_triggers_are_kept_as_text_and_not_expanded() -> None:
    stage = Stage()
    stage.run('ENV A=1\nONBUILD RUN echo $A\nONBUILD COPY ["a b", "/"]')
    assert stage.config.on_build == ("RUN echo $A", 'COPY ["a b", "/"]')


# EXPOSE.


@pytest.mark.parametrize(
    ("words", "ports"),
    [
        ("80", ["80/tcp"]),
        ("80/tcp 80/udp", ["80/tcp", "80/udp"]),
        ("53/UDP", ["53/udp"]),
        ("9999/sctp", ["9999/sctp"]),
        ("8000-8002", ["8000/tcp", "8001/tcp", "8002/tcp"]),
        ("8000-8001/udp", ["8000/udp", "8001/udp"]),
        ("8080:80", ["80/tcp"]),
        ("127.0.0.1:8080:80/tcp", ["80/tcp"]),
        ("65535", ["65535/tcp"]),
        ("$PORTS", ["1/tcp", "2/udp"]),
        ("3$ONE", ["31/tcp"]),
    ],
)
def test_ports_are_written_out(words: str, ports: list[str]) -> None:
    stage = Stage()
    stage.run(f"ENV PORTS='1 2/udp' ONE=1\nEXPOSE {words}")
    assert stage.config.exposed_ports == tuple(ports)


def test_ports_add_up_sorted() -> None:
    stage = Stage()
    stage.run("EXPOSE 9000 80\nEXPOSE 80 443")
    assert stage.config.exposed_ports == ("443/tcp", "80/tcp", "9000/tcp")
    assert stage.history[-1] == "EXPOSE [80/tcp 443/tcp]"


def test_a_range_of_ports_that_goes_down_is_told_from_one_that_is_too_high() -> None:
    for word, hint in (("90-80", "a range goes up"), ("65536", "ports go from 1 to 65535")):
        with pytest.raises(LoweringError, match="invalid containerPort") as caught:
            Stage().run(f"EXPOSE {word}")
        assert caught.value.hint == hint


@pytest.mark.parametrize(
    "word", ["http", "80/icmp", "65536", "8002-8000", "80-", "-80", "80/", "1-2-3", "99999-100000"]
)
def test_other_words_are_no_ports(word: str) -> None:
    with pytest.raises(LoweringError, match="invalid containerPort") as caught:
        Stage().run(f"EXPOSE {word}")
    assert caught.value.hint


@settings(max_examples=50, deadline=None)
@given(first=st.integers(1, 65535), count=st.integers(0, 20))
def test_a_range_has_every_port_of_it(first: int, count: int) -> None:
    last = min(first + count, 65535)
    stage = Stage()
    stage.run(f"EXPOSE {first}-{last}")
    assert set(stage.config.exposed_ports) == {f"{port}/tcp" for port in range(first, last + 1)}


# HEALTHCHECK.


def test_a_healthcheck_has_its_command_and_times() -> None:
    stage = Stage()
    stage.run(
        "HEALTHCHECK --interval=5s --timeout=1m --start-period=2s --start-interval=1s --retries=3 "
        "CMD curl -f http://localhost || exit 1"
    )
    assert stage.config.healthcheck == HealthcheckConfig(
        test=("CMD-SHELL", "curl -f http://localhost || exit 1"),
        interval_ns=5 * SECOND_NS,
        timeout_ns=60 * SECOND_NS,
        start_period_ns=2 * SECOND_NS,
        start_interval_ns=SECOND_NS,
        retries=3,
    )
    assert stage.history[-1].startswith("HEALTHCHECK --interval=5s")


def test_a_healthcheck_may_be_a_program_or_none() -> None:
    stage = Stage()
    for written, expected in (
        ('CMD ["check", "it"]', ("CMD", "check", "it")),
        ("NONE", ("NONE",)),
    ):
        stage.run(f"HEALTHCHECK {written}")
        assert stage.config.healthcheck is not None
        assert stage.config.healthcheck.test == expected


# All of them.


@pytest.mark.parametrize(
    "text",
    [
        "ENV A=1",
        "LABEL a=1",
        "ARG A=1",
        "USER me",
        "CMD x",
        "ENTRYPOINT x",
        "EXPOSE 80",
        "VOLUME /v",
        "STOPSIGNAL 9",
        "HEALTHCHECK NONE",
        'SHELL ["x"]',
        "MAINTAINER me",
    ],
)
def test_metadata_makes_one_empty_history_entry_and_no_step(text: str) -> None:
    stage = Stage()
    lowered = stage.run(text)
    assert lowered.step is None
    assert [entry.empty_layer for entry in stage.state.history] == [True]
    assert stage.history == [lowered.created_by]
    assert lowered.created_by.split()[0] == text.split()[0]
