import json
from dataclasses import replace
from pathlib import Path

import pytest

from layerstore import History, Image, Reference, Store
from tests.support.commands import Commands
from tests.support.stores import make_image


@pytest.fixture
def stack(bare: Commands) -> Commands:
    """Commands on a store with an image of two layers."""
    with Store.open(bare.root) as store:
        make_image(store, "stack", {"a": b"x" * 1500, "d/b": b""}, {"a": b"y" * 20, "c": b""})
    return bare


def image(commands: Commands, name: str = "stack") -> Image:
    with Store.open(commands.root) as store:
        return store.images.resolve(name)


def test_there_is_a_row_for_every_instruction_and_a_sum(stack: Commands) -> None:
    header, first, second, total = stack("layers", "stack").lines
    assert header.split() == [
        *("#", "INSTRUCTION", "LAYER", "SIZE", "COMPRESSED"),
        *("ADDED", "CHANGED", "REMOVED", "BUILD", "SECONDS"),
    ]
    below, above = (layer.descriptor for layer in image(stack).layers)
    assert first.split() == [
        *("1", "step", "0", below.digest.hex[:12], "1.5kB", f"{below.size_bytes}B"),
        *("3", "0", "0"),
    ]
    assert second.split()[3:] == [
        *(above.digest.hex[:12], "20B", f"{above.size_bytes}B", "1", "1", "0")
    ]
    compressed = f"{below.size_bytes + above.size_bytes}B"
    assert total.split() == ["2", "layers", "1.52kB", compressed, "4", "1", "0", "0.00"]


def test_numbers_are_flush_right_beneath_their_headings(stack: Commands) -> None:
    header, *rows = stack("layers", "stack").lines
    for heading in ("SIZE", "COMPRESSED", "ADDED", "CHANGED", "REMOVED"):
        end = header.index(f" {heading}") + len(heading) + 1
        assert all(row[end - 1].isalnum() and row[end : end + 1] in ("", " ") for row in rows)


def test_json_is_an_object_for_every_row(stack: Commands) -> None:
    rows = [json.loads(line) for line in stack("layers", "--format", "json", "stack").lines]
    (below, above) = image(stack).layers
    assert rows[0] == {
        "position": 1,
        "instruction": "step 0",
        "created": "2024-05-06T07:08:09Z",
        "layer": below.descriptor.digest,
        "diff_id": below.diff_id,
        "size_bytes": 1500,
        "blob_bytes": below.descriptor.size_bytes,
        "added": 3,
        "changed": 0,
        "removed": 0,
        "outcome": "",
        "seconds": None,
    }
    assert rows[1]["diff_id"] == above.diff_id
    assert json.loads(stack("layers", "--format", "json-array", "stack").out) == rows


def test_the_usual_form_can_be_asked_for_and_by_the_longer_name(stack: Commands) -> None:
    expected = stack("layers", "stack").out
    assert stack("layers", "--format", "table", "stack").out == expected
    assert stack("layers", "--format=", "stack").out == expected
    assert stack("image", "layers", "stack").out == expected
    assert stack("layers", image(stack).id[7:15]).out == expected


@pytest.mark.needs_root
@pytest.mark.needs_overlay
class TestBuilt:
    def test_what_ran_and_what_was_cached(self, box: Commands, tmp_path: Path) -> None:
        (tmp_path / "Dockerfile").write_text(
            "FROM box\nENV A=1\nRUN rm -r /data && echo 12345 > /new\n"
        )
        build = ("build", "-q", "--network", "none", "-t", "made", tmp_path)
        box(*build)
        base, env, run, total = box("layers", "made").lines[1:]
        assert base.split()[:3] == ["COPY", "root", "/"]  # the base's have no number
        assert env.split() == ["1", "ENV", "A=1"]
        # /data with inner, file, its twin and its link
        assert run.split()[-5:-1] == ["1", "0", "5", "executed"]
        assert float(run.split()[-1]) > 0
        assert total.split()[-1] == run.split()[-1]
        box(*build)
        assert "   cached   " in box("layers", "made").lines[3]
        box("tag", "made", "other")
        assert "   cached   " in box("layers", "other").lines[3]

    def test_long_instructions_and_digests_are_cut_unless_asked_for(
        self, box: Commands, tmp_path: Path
    ) -> None:
        script = "echo " + "x" * 100
        (tmp_path / "Dockerfile").write_text(f"FROM box\nRUN {script} && \\\n   true\n")
        box("build", "-q", "--network", "none", "-t", "made", tmp_path)
        row = box("layers", "made").lines[2]
        cut = row[2:].strip().split("   ")[0]
        assert len(cut) == 60
        assert cut.endswith("x\u2026")
        whole = box("layers", "--no-trunc", "made").lines[2]
        assert f"{script} && true" in " ".join(whole.split())
        assert image(box, "made").layers[1].descriptor.digest in whole


def test_what_an_image_says_cannot_steer_the_terminal(bare: Commands) -> None:
    with Store.open(bare.root) as store:
        made = make_image(store, "plain", {"a": b""})
        history = (History(created_by="RUN \x1b[2J\u202e\nx"),)
        evil = store.images.seal(replace(made.config, history=history), made.layers)
        store.images.tag(evil, Reference.parse("evil"))
    lines = bare("layers", "--no-trunc", "evil").lines
    assert len(lines) == 3
    assert "RUN \\x1b[2J\\u202e x" in lines[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nope",), 1, "no such image: nope"),
        ((), 1, "'layers' requires exactly 1 argument (usage: lamina layers IMAGE)"),
        (("a", "b"), 1, "'layers' requires exactly 1 argument"),
        (("--format", "{{.Layer}}", "stack"), 125, "for --format (table, json, json-array)"),
        (("--frmat", "json", "stack"), 125, "unknown flag: --frmat (did you mean --format?)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_mistakes_are_one_line(
    stack: Commands, words: tuple[str, ...], code: int, message: str
) -> None:
    done = stack("layers", *words, code=code)
    assert message in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""
