import json

import pytest

from builder.cli import output
from builder.cli.govalues import TemplateError
from builder.cli.output import Listing, printable

LISTING = Listing(
    headings={"ID": "CONTAINER ID", "Names": "NAMES", "Size": "SIZE"}, columns=("ID", "Names")
)
ROWS = [
    {"ID": "abc", "Names": "one", "Size": "1kB"},
    {"ID": "0123456789abcdef", "Names": "two", "Size": "2kB"},
]
Capture = pytest.CaptureFixture[str]


def shown(capsys: Capture, template: str | None) -> str:
    output.show_rows(LISTING, ROWS, template)
    return capsys.readouterr().out


def test_the_usual_table(capsys: Capture) -> None:
    expected = "CONTAINER ID       NAMES\nabc                one\n0123456789abcdef   two\n"
    assert shown(capsys, None) == expected
    assert shown(capsys, "table") == expected
    assert shown(capsys, "") == expected


def test_columns_are_ten_wide_at_least(capsys: Capture) -> None:
    output.table([["A", "B", "C"], ["a", "b", "c"]])
    assert capsys.readouterr().out == "A         B         C\na         b         c\n"


def test_columns_flush_right(capsys: Capture) -> None:
    output.table([["NAME", "SIZE"], ["a", "1"], ["bc", "1000"]], right=frozenset((1,)))
    assert capsys.readouterr().out == "NAME   SIZE\na         1\nbc     1000\n"


def test_json_is_an_object_per_line_with_sorted_fields(capsys: Capture) -> None:
    lines = shown(capsys, "json").splitlines()
    assert [json.loads(line)["ID"] for line in lines] == ["abc", "0123456789abcdef"]
    assert lines[0] == '{"ID":"abc","Names":"one","Size":"1kB"}'


def test_json_array_is_one_line(capsys: Capture) -> None:
    assert json.loads(shown(capsys, "json-array")) == ROWS


def test_a_template_prints_a_line_per_row(capsys: Capture) -> None:
    assert shown(capsys, "{{.Names}}:{{.Size}}") == "one:1kB\ntwo:2kB\n"


def test_backslash_t_outside_of_actions_is_a_tab(capsys: Capture) -> None:
    assert shown(capsys, r"{{.ID}}\t{{.Names}}").startswith("abc\tone\n")


def test_a_template_table_has_docker_s_headings(capsys: Capture) -> None:
    assert shown(capsys, r"table {{.Names}}\t{{.Size}}") == (
        "NAMES     SIZE\none       1kB\ntwo       2kB\n"
    )


def test_headings_survive_functions(capsys: Capture) -> None:
    assert shown(capsys, "table {{upper .Names}}").splitlines() == ["NAMES", "ONE", "TWO"]


def test_json_in_a_template(capsys: Capture) -> None:
    assert json.loads(shown(capsys, "{{json .}}").splitlines()[0]) == ROWS[0]


def test_an_unknown_field_is_an_error(capsys: Capture) -> None:
    with pytest.raises(TemplateError, match="no field 'Nope'"):
        shown(capsys, "{{.Nope}}")


def test_no_rows_make_an_empty_table_or_nothing(capsys: Capture) -> None:
    output.show_rows(LISTING, [], None)
    assert capsys.readouterr().out == "CONTAINER ID   NAMES\n"
    output.show_rows(LISTING, [], "{{.ID}}")
    output.show_rows(LISTING, [], "json")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain \u00e9\u4e2d", "plain \u00e9\u4e2d"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\u202eevil", "\\u202eevil"),
        ("\udcff\udc80", "\\xff\\x80"),
        ("\x9b\x00", "\\x9b\\x00"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_nothing_printed_can_steer_a_terminal(text: str, safe: str) -> None:
    assert printable(text) == safe


def test_some_control_characters_may_be_kept() -> None:
    assert printable("a\nb\tc\x1b", keep="\n\t") == "a\nb\tc\\x1b"


def test_cells_of_tables_and_templates_are_escaped(capsys: Capture) -> None:
    row = {"ID": "\x1b[2J", "Names": "a\nb", "Size": ""}
    output.show_rows(LISTING, [row], None)
    output.show_rows(LISTING, [row], "{{.ID}}")
    assert "\x1b" not in capsys.readouterr().out


def test_names_that_are_not_utf8_can_be_written(capsys: Capture) -> None:
    output.line("a\udcffb")
    output.json_line({"name": "\udcff"})
    assert capsys.readouterr().out == 'a\ufffdb\n{"name":"\ufffd"}\n'


def test_warnings_go_to_standard_error(capsys: Capture) -> None:
    output.warn("careful\n")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "lamina: careful\\n\n"


def test_pretty_json_is_indented_by_four(capsys: Capture) -> None:
    output.json_pretty([{"a": 1}])
    assert capsys.readouterr().out == '[\n    {\n        "a": 1\n    }\n]\n'
