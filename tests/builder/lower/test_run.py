"""RUN: command lines, here-documents, the environment a program gets, and what is refused."""

from dataclasses import replace

import pytest

from builder.cachekey import key_document
from builder.errors import LoweringError, UnsupportedFeatureError
from builder.sandbox import ResourceLimit
from builder.steps import RunSettings, ScriptFile
from tests.support.lowering import Stage, exec_step

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def argv_of(text: str, **config: object) -> tuple[str, ...]:
    return exec_step(Stage().with_config(**config).run(text)).argv


# The command.


def test_the_shell_form_is_given_to_the_shell_as_one_word() -> None:
    assert argv_of("RUN make  &&   echo $HOME") == ("/bin/sh", "-c", "make  &&   echo $HOME")
    assert argv_of("RUN make", shell=("/bin/bash", "-e")) == ("/bin/bash", "-e", "make")


def test_the_exec_form_needs_no_shell_and_expands_nothing() -> None:
    stage = Stage().with_config(env=("A=1",))
    step = exec_step(stage.run('RUN ["/bin/tool", "$A", "b c"]'))
    assert step.argv == ("/bin/tool", "$A", "b c")


def test_what_is_no_json_after_all_is_a_shell_command() -> None:
    assert argv_of("RUN ['a', 'b']") == ("/bin/sh", "-c", "['a', 'b']")


def test_continuation_lines_become_one_line_without_comments() -> None:
    assert argv_of("RUN a && \\\n# comment\n\n  b") == ("/bin/sh", "-c", "a &&   b")


# Here-documents.


def test_a_here_document_alone_is_a_script_for_the_shell() -> None:
    step = exec_step(Stage().run("RUN <<EOF\necho one\necho $two\nEOF"))
    assert step.argv == ("/bin/sh", "-c", "echo one\necho $two\n")
    assert step.scripts == ()


@pytest.mark.parametrize("word", ["<<EOF", "<<'EOF'", '<<"EOF"', "<<-EOF", "3<<EOF"])
def test_quotes_and_descriptors_make_no_difference_to_a_script(word: str) -> None:
    assert argv_of(f"RUN {word}\necho $A\nEOF")[2] == "echo $A\n"


def test_tabs_are_removed_where_they_are_asked_to_be() -> None:
    assert argv_of("RUN <<-EOF\n\tone\n\t\ttwo\n\tEOF")[2] == "one\ntwo\n"
    assert argv_of("RUN <<EOF\n\tone\nEOF")[2] == "\tone\n"


def test_a_here_document_with_a_shebang_is_a_program_of_its_own() -> None:
    step = exec_step(Stage().run("RUN <<TOOL\n#!/usr/bin/env python3\nprint(1)\nTOOL"))
    assert step.argv == ("/bin/sh", "-c", "/dev/pipes/TOOL")
    assert step.scripts == (
        ScriptFile(target="/dev/pipes/TOOL", content="#!/usr/bin/env python3\nprint(1)\n"),
    )


def test_a_shebang_after_removed_tabs_counts() -> None:
    step = exec_step(Stage().run("RUN <<-TOOL\n\t#!/bin/sh\n\techo\n\tTOOL"))
    assert step.scripts[0].content == "#!/bin/sh\necho\n"


def test_here_documents_beside_other_words_are_given_back_to_the_shell() -> None:
    text = "RUN cat <<A > /a && cat <<-B > /b\none\nA\n\ttwo\n\tB"
    assert argv_of(text)[2] == "cat <<A > /a && cat <<-B > /b\none\nA\n\ttwo\nB"


def test_two_here_documents_are_no_script() -> None:
    assert argv_of("RUN <<A <<B\n1\nA\n2\nB")[2] == "<<A <<B\n1\nA\n2\nB"


# What a program gets.


def test_a_program_sees_env_and_args_and_a_path() -> None:
    stage = Stage(build_args={"B": "arg"}).with_config(env=("A=1",))
    step = exec_step(stage.run("ARG B\nARG UNSET\nENV C=3\nRUN true"))
    assert set(step.env) == {"A=1", "B=arg", "C=3", PATH}


def test_a_path_of_the_image_is_left_alone() -> None:
    step = exec_step(Stage().with_config(env=("PATH=/own",)).run("RUN true"))
    assert step.env == ("PATH=/own",)


def test_directory_and_user_are_those_of_the_stage() -> None:
    step = exec_step(Stage().run("WORKDIR /src\nUSER me:staff\nRUN true"))
    assert (step.cwd, step.user) == ("/src", "me:staff")
    assert exec_step(Stage().run("RUN true")).cwd == "/"


def test_proxies_reach_the_program_and_nothing_else() -> None:
    secret = "http://user:password@proxy:3128"
    stage = Stage(build_args={"HTTPS_PROXY": secret, "no_proxy": "local", "OTHER": "x"})
    lowered = stage.run("ENV X=$HTTPS_PROXY\nRUN true")
    step = exec_step(lowered)
    assert set(step.secret_env) == {
        f"HTTPS_PROXY={secret}",
        f"https_proxy={secret}",
        "NO_PROXY=local",
        "no_proxy=local",
    }
    key = key_document(step, parent=None, platform="linux/amd64", epoch=None)
    for told in (key.decode(), lowered.created_by, step.title, str(step.env), str(stage.config)):
        assert "password" not in told


def test_a_proxy_that_the_dockerfile_asks_for_is_an_arg_like_any_other() -> None:
    stage = Stage(build_args={"HTTP_PROXY": "http://proxy"})
    step = exec_step(stage.run("ARG HTTP_PROXY\nRUN true"))
    assert step.secret_env == ("http_proxy=http://proxy",)
    assert "HTTP_PROXY=http://proxy" in step.env


def test_each_spelling_of_a_proxy_keeps_its_own_value() -> None:
    stage = Stage(build_args={"http_proxy": "http://lower", "HTTP_PROXY": "http://upper"})
    step = exec_step(stage.run("RUN true"))
    assert set(step.secret_env) == {"http_proxy=http://lower", "HTTP_PROXY=http://upper"}


# Networks.


@pytest.mark.parametrize(
    ("build", "flag", "expected"),
    [
        ("host", "", "host"),
        ("none", "", "none"),
        ("host", "--network=none ", "none"),
        ("none", "--network=none ", "none"),
        ("host", "--network=default ", "host"),
        ("none", "--network=default ", "none"),
    ],
)
def test_a_run_has_the_network_of_the_build_or_none(build: str, flag: str, expected: str) -> None:
    stage = Stage(network="host" if build == "host" else "none")
    assert exec_step(stage.run(f"RUN {flag}true")).network == expected


@pytest.mark.parametrize(
    ("flag", "right"),
    [("--network=host", "network.host"), ("--security=insecure", "security.insecure")],
)
def test_a_dockerfile_may_ask_for_rights_and_gets_those_that_the_caller_allows(
    flag: str, right: str
) -> None:
    for allowed in (frozenset[str](), frozenset({"network.host", "security.insecure"} - {right})):
        with pytest.raises(LoweringError, match=f"{flag}: {right} is not allowed") as caught:
            Stage(network="none", allowed=allowed).run(f"RUN {flag} true")
        assert f"--allow {right}" in caught.value.hint
    step = exec_step(Stage(network="none", allowed=frozenset({right})).run(f"RUN {flag} true"))
    assert step.network == ("host" if right == "network.host" else "none")
    assert step.security == ("insecure" if right == "security.insecure" else "sandbox")


def test_settings_of_the_build_are_those_of_every_run() -> None:
    settings = RunSettings(
        extra_hosts=(("db", "10.0.0.1"),),
        shm_size_bytes=1 << 20,
        resource_limits=(ResourceLimit(name="nofile", soft=64, hard=128),),
    )
    step = exec_step(Stage(settings=settings).run("RUN true"))
    assert step.settings == settings
    assert step != exec_step(Stage().run("RUN true"))


def test_an_agent_is_named_to_the_program_unless_the_dockerfile_does() -> None:
    text = "RUN --mount=type=ssh,id=a --mount=type=ssh,id=b,target=/b true"
    assert "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0" in exec_step(Stage().run(text)).env
    own = exec_step(Stage().run(f"ENV SSH_AUTH_SOCK=/b\n{text}"))
    assert "SSH_AUTH_SOCK=/b" in own.env
    assert len([pair for pair in own.env if pair.startswith("SSH_AUTH_SOCK")]) == 1


def test_flags_are_in_the_title_and_not_in_the_history() -> None:
    lowered = Stage().run("RUN --mount=type=tmpfs,target=/x make")
    assert lowered.created_by == "RUN /bin/sh -c make"
    assert exec_step(lowered).title == "RUN --mount=type=tmpfs,target=/x make"


# What is said, and what is refused.


def test_the_history_shows_the_args_that_a_run_saw() -> None:
    stage = Stage(build_args={"B": "2"})
    assert stage.run("RUN make it").created_by == "RUN /bin/sh -c make it"
    lowered = stage.run("ARG A=1\nARG B\nARG C\nRUN make")
    assert lowered.created_by == "RUN |3 A=1 B=2 C= /bin/sh -c make"
    assert stage.run('RUN ["make", "it"]').created_by == "RUN |3 A=1 B=2 C= make it"


def test_the_title_is_what_was_written() -> None:
    step = exec_step(Stage().run("RUN --network=none make $TARGET"))
    assert step.title == "RUN --network=none make $TARGET"


def test_a_step_leaves_its_history_entry_to_the_engine() -> None:
    stage = Stage()
    stage.run("RUN true")
    assert stage.history == []


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("RUN --device=vendor.com/gpu true", "RUN --device"),
    ],
)
def test_what_is_not_carried_out_is_refused_by_name(text: str, feature: str) -> None:
    with pytest.raises(UnsupportedFeatureError, match=feature) as caught:
        Stage().run(text)
    assert caught.value.feature == feature


def test_the_default_security_is_not_refused() -> None:
    assert exec_step(Stage().run("RUN --security=sandbox true")).argv[-1] == "true"


def test_equal_instructions_in_equal_states_are_equal_steps() -> None:
    left, right = (exec_step(Stage().run("ENV A=1\nRUN make")) for _ in range(2))
    assert left == right
    assert left != replace(right, env=("A=2", PATH))
    assert left == exec_step(Stage().run("ENV A=1\nRUN    make"))
