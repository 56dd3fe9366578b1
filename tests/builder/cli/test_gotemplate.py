import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.cli.gotemplate import Template
from builder.cli.govalues import NilList, NilMap, Struct, TemplateError, Value

IMAGE = Struct(
    Id="sha256:abc",
    RepoTags=["a:1", "b:2"],
    Size=1234,
    Config=Struct(
        Env=["PATH=/bin", "A=1"],
        Labels={"org.example/name": "x", "plain": "y"},
        Cmd=NilList(),
        Volumes=NilMap(),
        Healthcheck=None,
        User="",
    ),
    Ratio=0.5,
    Big=True,
)


def render(text: str, value: Value = IMAGE) -> str:
    return Template(text).render(value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text", "plain text"),
        ("", ""),
        ("{{.Id}}", "sha256:abc"),
        ("{{ .Id }}", "sha256:abc"),
        ("{{.Config.User}}", ""),
        ("<{{.Size}}>", "<1234>"),
        ("{{.Big}} {{.Ratio}}", "true 0.5"),
        ("{{.RepoTags}}", "[a:1 b:2]"),
        ("{{.Config.Cmd}} {{.Config.Volumes}}", "[] map[]"),
        ("{{.Config.Labels}}", "map[org.example/name:x plain:y]"),
        ("{{.Config.Labels.plain}} {{.Config.Labels.missing}}", "y <no value>"),
        ("{{.Config.Healthcheck}}", "<no value>"),
        ('{{index .Config.Labels "org.example/name"}}', "x"),
        ('[{{index .Config.Labels "missing"}}]', "[]"),
        ("{{index .RepoTags 1}}", "b:2"),
        ("{{json .Config.Env}}", '["PATH=/bin","A=1"]'),
        ("{{json .Config.Cmd}}", "null"),
        ("{{json .Config.Labels}}", '{"org.example/name":"x","plain":"y"}'),
        ("{{len .RepoTags}} {{len .Id}} {{len .Config.Labels}}", "2 10 2"),
        ('{{join .RepoTags ", "}}', "a:1, b:2"),
        ("{{range .RepoTags}}<{{.}}>{{end}}", "<a:1><b:2>"),
        ("{{range $i, $tag := .RepoTags}}{{$i}}={{$tag}};{{end}}", "0=a:1;1=b:2;"),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "org.example/name=x;plain=y;"),
        ("{{range .Config.Cmd}}x{{else}}none{{end}}", "none"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        ("{{if .Config.Cmd}}yes{{else}}no{{end}}", "no"),
        ("{{if .Config}}yes{{end}}", "yes"),
        ("{{if eq .Size 1}}a{{else if eq .Size 1234}}b{{else}}c{{end}}", "b"),
        ("{{with .Config}}{{.Env}}{{end}}", "[PATH=/bin A=1]"),
        ("{{with .Config.User}}{{.}}{{else}}root{{end}}", "root"),
        ("{{with $x := .Size}}{{$x}} {{.}} {{$.Id}}{{end}}", "1234 1234 sha256:abc"),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{$x := 1}}{{if true}}{{$x := 2}}{{$x}}{{end}}{{$x}}", "21"),
        ("{{/* nothing */}}a{{- /* and */ -}} b", "ab"),
        ("a  {{- .Size -}}  b", "a1234b"),
        ('{{.Id | upper | printf "%s!"}}', "SHA256:ABC!"),
        ("{{(index .RepoTags 0) | upper}}", "A:1"),
        ('{{"a\\tb\\u00e9\\x41\\101"}}{{`\\t`}}', "a\tb\u00e9AA\\t"),
        ("{{'a'}}", "97"),
        ("{{1.5}} {{0x10}} {{-4}}", "1.5 16 -4"),
        ("{{if and .Big (eq .Size 1234)}}both{{end}}", "both"),
        ('{{or .Config.User "root"}}', "root"),
        ("{{and .Config.User .Nope}}", ""),  # the rest is not looked at
        ("{{not .Big}}", "false"),
        ('{{range .RepoTags}}{{if eq . "b:2"}}{{break}}{{end}}{{.}}{{end}}', "a:1"),
        ('{{range .RepoTags}}{{if eq . "a:1"}}{{continue}}{{end}}{{.}}{{end}}', "b:2"),
        ("{{slice .Id 0 6}}", "sha256"),
        ("{ {{.Size}} }", "{ 1234 }"),
        ("}}", "}}"),
    ],
)
def test_what_people_type(text: str, expected: str) -> None:
    assert render(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{.Nope}}", "there is no field 'Nope'"),
        ("{{.Config.Labels.a.b}}", "nil has no field 'b'"),
        ("{{.Id.Length}}", "can't evaluate field 'Length'"),
        ("{{", "unclosed action"),
        ("{{.Id", "unclosed action"),
        ("{{}}", "missing value for command"),
        ("{{if}}x{{end}}", "missing value for command"),
        ("{{if .Id}}x", "{{if}} without {{end}}"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{else}}", "unexpected {{else}}"),
        ('{{"abc}}', "unterminated"),
        ("{{nope .Id}}", "function 'nope' not defined"),
        ("{{$x}}", "undefined variable $x"),
        ("{{$x = 1}}", "undefined variable $x"),
        ("{{range .RepoTags}}{{$y := 1}}{{end}}{{$y}}", "undefined variable $y"),
        ("{{.Id .Size}}", "can't give an argument"),
        ("{{1 | 2}}", "only a function can stand behind |"),
        ("{{.Config.Labels.a-b}}", "unexpected '-'"),
        ('{{eq 1 "a"}}', "incompatible types"),
        ("{{eq 1}}", "wrong number or type"),
        ("{{index .RepoTags 7}}", "index out of range: 7"),
        ("{{index .Size 1}}", "can't index"),
        ("{{range .Id}}{{end}}", "can't range over"),
        ("{{break}}", "outside of {{range}}"),
        ("{{(.Id}}", "unclosed left parenthesis"),
        ("{{.Id)}}", "unexpected ')'"),
        ('{{template "x"}}', "'template' is not supported"),
        ('{{define "x"}}{{end}}', "'define' is not supported"),
        ("{{len .Size}}", "wrong number or type"),
        ("{{and}}", "at least one"),
        ('{{"\\q"}}', "unknown escape"),
        ("{{" + "(" * 200 + "1" + ")" * 200 + "}}", "nested too deeply"),
        ("{{if 1}}" * 200 + "{{end}}" * 200, "nested too deeply"),
        ('{{printf "%99999d" 1}}', "too wide"),
    ],
)
def test_what_does_not_work_is_said(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        render(text)
    assert message in caught.value.message
    assert caught.value.message.startswith("bad template: ")


def test_a_field_with_dashes_comes_with_a_hint() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{.Config.Labels.a-b}}")
    assert "index" in caught.value.hint


def test_a_missing_field_comes_with_those_there_are() -> None:
    with pytest.raises(TemplateError) as caught:
        render("{{.Config.Enf}}")
    assert caught.value.hint == "there are: Env, Labels, Cmd, Volumes, Healthcheck, User"


def test_output_is_bounded() -> None:
    with pytest.raises(TemplateError, match="too large"):
        render('{{range 1000000}}{{printf "%1000d" .}}{{end}}')


def test_functions_of_the_caller_go_first() -> None:
    assert Template("{{upper .Id}}").render(IMAGE, {"upper": lambda text: f"<{text}>"}) == (
        "<sha256:abc>"
    )


def test_a_template_can_be_used_again() -> None:
    template = Template("{{$x := .Size}}{{$x}}")
    assert [template.render(Struct(Size=n)) for n in (1, 2)] == ["1", "2"]


@settings(deadline=None)
@given(st.text(alphabet="{}.$()|\"`' abcIdrangeifendwthlo:=,-/*12", max_size=30))
def test_any_text_renders_or_is_refused(text: str) -> None:
    try:
        render(text)
    except TemplateError:
        pass


@settings(deadline=None)
@given(st.text(max_size=30).filter(lambda text: "{{" not in text))
def test_text_without_actions_stays_as_it_is(text: str) -> None:
    assert render(text) == text


# Constant templates, which podman's `version --format` carries out with Go's own package.
COMPARED = (
    '{{printf "%5s|%-5s|%05d|%x|%q|%v|%t|%.2f|%d%%" "a" "b" 7 255 "q" true false 1.5 3}}',
    '{{println 1 "a"}}{{print 1 2 "a" "b" 3}}',
    '{{printf "%d" "x"}} {{printf "%s" 1 2}} {{printf "%s"}}',
    '{{range $i, $v := split "a,b" ","}}{{$i}}={{$v}} {{end}}',
    '{{"abc" | upper | printf "%s-%s" "x"}} {{title "hello world"}}',
    "a  {{- /* c */ -}}  b",
    "{{1.5}} {{1e3}} {{0x10}} {{-4}} {{'a'}}",
    '{{printf "%08.3f|%+d|% d|%c|%o|%b|%X|%e|%g" 3.14159 5 5 65 8 5 255 5.0 0.1}}',
    '{{if eq "a" "b" "a"}}x{{end}}{{with ""}}x{{else}}y{{end}}{{and 1 0 2}}{{or 0 "" 3}}',
    '{{json (split "a<b>,b" ",")}} {{split "a,b" ","}}',
    '{{pad "x" 2 3}}|{{truncate "abcdef" 3}}|{{slice "abcdef" 1 3}}',
    '{{if not (and true (eq 1 1))}}a{{else}}b{{end}} {{lt "a" "b"}} {{ge 2 2}} {{ne 1 2}}',
)


@pytest.mark.needs_peers("podman")
@pytest.mark.parametrize("text", COMPARED)
def test_constant_templates_print_what_go_prints(text: str) -> None:
    done = subprocess.run(
        ["podman", "version", "--format", text], capture_output=True, text=True, check=True
    )
    assert render(text, {}) + "\n" == done.stdout
