"""Proxies with a password that a Dockerfile asks for."""

import pytest

from builder.cachekey import key_document
from builder.errors import LoweringError
from tests.support.lowering import Stage, exec_step

PROXY = "http://ada:pa55word@proxy:3128"


def key_of(text: str, **build_args: str) -> bytes:
    step = exec_step(Stage(build_args=build_args).run(text))
    return key_document(step, parent=None, platform="linux/amd64", epoch=None)


@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy", "ALL_PROXY"])
def test_a_declared_proxy_reaches_the_program_and_nothing_else(name: str) -> None:
    stage = Stage(build_args={name: PROXY, "A": "1"})
    lowered = stage.run(f"ARG {name}\nARG A\nRUN true")
    step = exec_step(lowered)
    assert set(step.secret_env) == {f"{name}={PROXY}", f"{name.swapcase()}={PROXY}"}
    assert "A=1" in step.env
    assert "pa55word" not in str(stage.history) + lowered.created_by + str(step.env)
    assert stage.history[0] == f"ARG {name}=***"
    assert lowered.created_by == f"RUN |2 {name}=*** A=1 /bin/sh -c true"


def test_another_password_is_no_other_step() -> None:
    text = "ARG HTTP_PROXY\nRUN true"
    key = key_of(text, HTTP_PROXY=PROXY)
    assert b"pa55word" not in key
    assert key == key_of(text, HTTP_PROXY=PROXY.replace("pa55word", "another"))


def test_a_copy_under_another_name_is_hidden_as_well() -> None:
    stage = Stage(build_args={"HTTP_PROXY": PROXY})
    step = exec_step(stage.run("ARG HTTP_PROXY\nARG NPM=--proxy=$HTTP_PROXY\nRUN true"))
    assert f"NPM=--proxy={PROXY}" in step.secret_env
    assert "pa55word" not in str(step.env) + str(stage.history)


def test_a_proxy_without_a_password_is_an_arg_like_any_other() -> None:
    text = "ARG HTTP_PROXY\nENV P=$HTTP_PROXY\nRUN true"
    stage = Stage(build_args={"HTTP_PROXY": "http://proxy", "MAIL": "ada@example.org"})
    step = exec_step(stage.run(text))
    assert {"HTTP_PROXY=http://proxy", "P=http://proxy"} <= set(step.env)
    assert stage.history[:2] == ["ARG HTTP_PROXY=http://proxy", "ENV P=http://proxy"]


@pytest.mark.parametrize(
    "text",
    [
        "ENV http_proxy=$HTTP_PROXY",
        "LABEL proxy=${HTTP_PROXY}",
        "ENV AUTH=${HTTP_PROXY#http://}",
        "USER $HTTP_PROXY",
    ],
)
def test_the_config_is_no_place_for_it(text: str) -> None:
    stage = Stage(build_args={"HTTP_PROXY": PROXY})
    with pytest.raises(LoweringError) as caught:
        stage.run(f"ARG HTTP_PROXY\n{text}")
    assert "pa55word" not in f"{caught.value} {caught.value.hint}"


def test_what_the_base_says_already_stops_nobody() -> None:
    stage = Stage(build_args={"HTTP_PROXY": PROXY})
    stage.with_config(env=(f"P={PROXY}",))
    stage.run("ENV B=2")
    assert "B=2" in stage.config.env
