import pytest

from builder.cli.gofunctions import FUNCTIONS
from builder.cli.gotemplate import Template
from builder.cli.govalues import NilMap, Struct, TemplateError, Value


def call(name: str, *arguments: Value) -> Value:
    return FUNCTIONS[name](*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("not", ("",), True),
        ("not", (Struct(),), False),
        ("eq", (1, 1), True),
        ("eq", ("a", "b", "c", "a"), True),
        ("eq", (None, None), True),
        ("eq", (None, "a"), False),
        ("ne", ("a", "b"), True),
        ("lt", (1, 2), True),
        ("le", (2, 2), True),
        ("gt", (3, 2), True),
        ("ge", (1, 2), False),
        ("index", ({"a": {"b": 1}}, "a", "b"), 1),
        ("index", (["x", "y"], 0), "x"),
        ("index", ({"a": "x"}, "b"), ""),
        ("index", ({"a": 1}, "b"), None),
        ("slice", ("abc", 1), "bc"),
        ("slice", (["a", "b", "c"], 0, 2), ["a", "b"]),
        ("len", ("\u00e9",), 2),  # bytes, as in Go
        ("len", ([],), 0),
        ("len", (NilMap(),), 0),
        ("print", ("a", 1, 2, "b"), "a1 2b"),
        ("println", ("a", 1), "a 1\n"),
        ("json", ({"b": 1, "a": "<&>"},), '{"a":"<&>","b":1}'),
        ("join", (["a", "b"], "-"), "a-b"),
        ("split", ("a,b", ","), ["a", "b"]),
        ("split", ("ab", ""), ["a", "b"]),
        ("lower", ("ABC",), "abc"),
        ("upper", ("abc",), "ABC"),
        ("title", ("hello big world",), "Hello Big World"),
        ("title", ("hELLO",), "HELLO"),
        ("pad", ("x", 1, 2), " x  "),
        ("pad", ("", 1, 2), ""),
        ("truncate", ("abcdef", 2), "ab"),
        ("truncate", ("a", 2), "a"),
    ],
)
def test_functions(name: str, arguments: tuple[Value, ...], expected: Value) -> None:
    assert call(name, *arguments) == expected


@pytest.mark.parametrize(
    ("template", "arguments", "expected"),
    [
        ("%s", ("a",), "a"),
        ("%v %v", (["a"], {"k": 1}), "[a] map[k:1]"),
        ("%5s|%-5s|", ("ab", "cd"), "   ab|cd   |"),
        ("%.2s", ("abc",), "ab"),
        ("%d %5d %05d %+d", (1, 2, 3, 4), "1     2 00003 +4"),
        ("%x %X %x", (255, 255, "az"), "ff FF 617a"),
        ("%o %b %c", (8, 5, 65), "10 101 A"),
        ("%.1f %6.2f", (1.25, 3.14159), "1.2   3.14"),
        ("%q", ('a"b',), '"a\\"b"'),
        ("%t", (True,), "true"),
        ("100%%", (), "100%"),
        ("%s", (), "%!s(MISSING)"),
        ("a", ("b", 1), "a%!(EXTRA string=b, int=1)"),
        ("%d", ("x",), "%!d(string=x)"),
        ("%s", (1.5,), "%!s(float64=1.5)"),
    ],
)
def test_printf(template: str, arguments: tuple[Value, ...], expected: str) -> None:
    assert call("printf", template, *arguments) == expected


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("index", (None, "a")),
        ("index", (["a"], "0")),
        ("index", (["a"], -1)),
        ("index", (1, 1)),
        ("slice", ("abc", 2, 1)),
        ("slice", ("abc", 0, 9)),
        ("eq", (1, "1")),
        ("eq", (["a"], ["a"])),
        ("lt", (True, False)),
        ("printf", ("%2000d", 1)),
    ],
)
def test_what_does_not_fit_is_refused(name: str, arguments: tuple[Value, ...]) -> None:
    with pytest.raises(TemplateError):
        call(name, *arguments)


@pytest.mark.parametrize(
    "text", ["{{upper 1}}", "{{join 1 2}}", "{{len 1}}", "{{not}}", "{{truncate}}", "{{slice 1 2}}"]
)
def test_wrong_arguments_never_end_in_a_traceback(text: str) -> None:
    with pytest.raises(TemplateError, match="wrong number or type"):
        Template(text).render({})
