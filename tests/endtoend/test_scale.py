"""Whole builds of large Dockerfiles, and of files that are only just allowed."""

from pathlib import Path

import pytest

from tests.support.cli import Lamina
from tests.support.imagetree import OciLayout


def test_of_a_thousand_stages_only_those_are_built_that_the_target_needs(
    lamina: Lamina, context: Path
) -> None:
    (context / "file").write_text("x")
    text = "".join(f"FROM scratch AS s{i}\nCOPY file /f{i}\n" for i in range(1000))
    text += "FROM scratch AS last\nCOPY --from=s500 / /\nCOPY --from=7 / /\n"
    (context / "Dockerfile").write_text(text)
    done = lamina("build", "--progress", "plain", "-t", "many", context)
    started = [line for line in done.stderr.splitlines() if "COPY file" in line]
    assert [line.split("] ")[1] for line in started] == ["COPY file /f7", "COPY file /f500"]
    assert sorted(OciLayout(lamina.root).tree("many")) == ["f500", "f7"]
    done = lamina("build", "--progress", "plain", "--target", "s999", "-t", "many", context)
    assert sorted(OciLayout(lamina.root).tree("many")) == ["f999"]
    assert done.stderr.count("COPY file") == 1


def test_a_thousand_stages_may_stand_on_one_another(lamina: Lamina, context: Path) -> None:
    text = "FROM scratch AS s0\n"
    text += "".join(f"FROM s{i - 1} AS s{i}\nLABEL l{i}={i}\n" for i in range(1, 1000))
    (context / "Dockerfile").write_text(text)
    lamina("build", "-t", "many", context)
    assert len(OciLayout(lamina.root).config("many")["config"]["Labels"]) == 999


def test_ten_thousand_variables_fit_into_one_instruction(lamina: Lamina, context: Path) -> None:
    pairs = " \\\n".join(f"A{i}=$B" for i in range(10_000))
    (context / "Dockerfile").write_text(f"FROM scratch\nENV B=b A7=old\nENV {pairs}\n")
    lamina("build", "-t", "many", context)
    env = OciLayout(lamina.root).config("many")["config"]["Env"]
    assert len(env) == 10_002  # and PATH
    assert env[1:4] == ["B=b", "A7=b", "A0=b"]


def test_a_heredoc_of_ten_mebibytes_becomes_a_file(lamina: Lamina, context: Path) -> None:
    body = "a line of thirty-two characters.\n" * (10 << 15)
    (context / "Dockerfile").write_text(f"FROM scratch\nCOPY <<'E' /file\n{body}E\n")
    lamina("build", "-t", "big", context)
    assert OciLayout(lamina.root).tree("big")["file"].size == len(body)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("FROM scratch\nENV a=" + "${a:-" * 500 + "x" + "}" * 500, "more than 32 nested '${'"),
        ("FROM scratch\nLABEL a=" + "x" * 5_000_000, "the line is longer than 65535 bytes"),
        ("FROM scratch\n" + "ONBUILD " * 1000 + "RUN x", "ONBUILD is nested too deep"),
        ("FROM scratch\n" + "#\n" * (8 << 20), "the Dockerfile is larger than 16 MiB"),
    ],
    ids=lambda value: value if len(value) < 60 else value[:24],
)
def test_what_is_too_large_is_refused_in_a_sentence(
    lamina: Lamina, context: Path, text: str, message: str
) -> None:
    (context / "Dockerfile").write_text(text)
    done = lamina("build", context, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) <= 1002
