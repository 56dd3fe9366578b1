"""The part of Go's text/template that people type behind `--format` and `-f`.

    text, {{/* comments */}}, trim markers {{- -}}
    .  .A.B  $  $x.A  (pipeline).A  "string" `raw` 'c' 12 1.5 true false nil
    pipelines a | b, variables {{$x := ...}} and {{$x = ...}}
    if / else if / else, range (lists, maps, numbers; else, break, continue), with / else, end
    and or not eq ne lt le gt ge, index slice len, print println printf
    json join split lower upper title pad truncate        (docker's own)
Everything else (define, template, block, call, html, js, urlquery) is refused by name.

Source: Go text/template; docker/cli templates/templates.go.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from builder.cli.gofunctions import FUNCTIONS, Function
from builder.cli.govalues import Struct, TemplateError, Value, inner, is_true, show

_DEPTH_MAX = 100
_BYTES_MAX = 64 << 20


class Template:
    """A parsed template; `render` may be called for any number of values."""

    def __init__(self, text: str) -> None:
        self._body = _Parser(text).parse()

    def render(self, value: Value, functions: "Mapping[str, Function] | None" = None) -> str:
        """Carry the template out on `value`; `functions` go before those of the same name.

        Raises:
            TemplateError: the template asks for something that the value does not have.
        """
        run = _Run({**FUNCTIONS, **(functions or {})}, value)
        run.block(self._body, value)
        return "".join(run.out)


# The tree. `Pipe` is a list of calls, each given the result of the one before as last argument.


class Text(NamedTuple):
    text: str


class Literal(NamedTuple):
    value: Value


class Path(NamedTuple):
    """Fields of something: of `.` (base None), of a variable, or of a pipeline in parentheses."""

    base: "str | Pipe | None"
    fields: tuple[str, ...]


class Word(NamedTuple):
    """A function's name."""

    name: str


class Call(NamedTuple):
    items: "tuple[Literal | Path | Word | Pipe, ...]"


class Pipe(NamedTuple):
    calls: tuple[Call, ...]
    variables: tuple[str, ...] = ()
    declares: bool = False


class Print(NamedTuple):
    pipe: Pipe


class Branch(NamedTuple):
    """if, with and range."""

    kind: str
    pipe: Pipe
    body: "tuple[Node, ...]"
    otherwise: "tuple[Node, ...]"


class Leave(NamedTuple):
    kind: str  # break, continue


Node = Text | Print | Branch | Leave

_ACTION = re.compile(r"\{\{(-(?=\s))?")
_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<raw>`[^`]*`)
      | (?P<char>'(?:[^'\\]|\\.)+')
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?![\w.]))
      | (?P<variable>\$\w*)
      | (?P<field>\.[^\W\d]\w*)
      | (?P<name>[^\W\d]\w*)
      | (?P<sign>:=|[=|(),.])""",
    re.VERBOSE,
)
_UNSUPPORTED = ("define", "template", "block", "call", "html", "js", "urlquery")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


class _Token(NamedTuple):
    kind: str
    text: str
    column: int
    spaced: bool  # white space stands before it


class _Parser:
    """Splits the text into pieces, an action at a time, and nests them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.tokens: list[_Token] = []
        self.depth = 0
        self.loops = 0
        self.scopes: list[set[str]] = [{"$"}]

    def parse(self) -> tuple[Node, ...]:
        nodes, end = self.block()
        if end:
            raise TemplateError(f"unexpected {{{{{end}}}}}")
        return nodes

    def block(self) -> tuple[tuple[Node, ...], str]:
        """Read nodes up to `end` or `else`, whose word is returned; empty at the end of text."""
        self.depth += 1
        if self.depth > _DEPTH_MAX:
            raise TemplateError("nested too deeply")
        self.scopes.append(set())
        nodes: list[Node] = []
        end = ""
        while True:
            text, more = self.next_text()
            if text:
                nodes.append(Text(text))
            if not more:
                break
            if not self.tokens:  # a comment
                continue
            word = self.tokens[0].text if self.tokens[0].kind == "name" else ""
            if word in ("end", "else"):
                end = word
                break
            nodes.append(self.action(word))
        self.scopes.pop()
        self.depth -= 1
        return tuple(nodes), end

    def next_text(self) -> tuple[str, bool]:
        """Read text up to the next action, and that action's tokens; False at the end of text."""
        opening = _ACTION.search(self.text, self.position)
        if opening is None:
            text, self.position = self.text[self.position :], len(self.text)
            return text, False
        text = self.text[self.position : opening.start()]
        if opening[1]:
            text = text.rstrip(" \t\r\n")
        self.position = opening.end()
        self.tokens = self.read_tokens()
        return text, True

    def read_tokens(self) -> list[_Token]:
        comment = re.compile(r"\s*/\*.*?\*/(\s+-)?\}\}", re.DOTALL).match(self.text, self.position)
        if comment:
            self.close(comment.end(), trim=comment[1] is not None)
            return []
        tokens: list[_Token] = []
        spaced = False
        while True:
            if self.text.startswith("}}", self.position):
                self.close(self.position + 2, trim=False)
                break
            if spaced and self.text.startswith("-}}", self.position):
                self.close(self.position + 3, trim=True)
                break
            token = _TOKEN.match(self.text, self.position)
            if token is None:
                raise self.unreadable()
            kind = str(token.lastgroup)
            if kind != "space":
                tokens.append(_Token(kind, token[0], self.position + 1, spaced))
            spaced = kind == "space"
            self.position = token.end()
        if not tokens:
            raise TemplateError("missing value for command: {{}} is empty")
        return tokens

    def close(self, position: int, *, trim: bool) -> None:
        self.position = position
        while trim and self.position < len(self.text) and self.text[self.position] in " \t\r\n":
            self.position += 1

    def unreadable(self) -> TemplateError:
        rest = self.text[self.position :]
        if not rest:
            return TemplateError("unclosed action: }} is missing")
        if rest[0] in "\"`'":
            return TemplateError(f"unterminated {rest[0]} at column {self.position + 1}")
        hint = ""
        if rest[0] == "-":
            hint = 'for a key with dashes: {{index .Labels "a-b"}}'
        return TemplateError(f"unexpected {rest[0]!r} at column {self.position + 1}", hint=hint)

    def action(self, word: str) -> Node:
        if word in ("if", "with", "range"):
            return self.branch(word)
        if word in ("break", "continue"):
            if not self.loops:
                raise TemplateError(f"{{{{{word}}}}} outside of {{{{range}}}}")
            self.take()
            self.nothing_left()
            return Leave(word)
        pipe = self.whole_pipe()
        return Print(pipe)

    def branch(self, kind: str) -> Branch:
        self.take()
        self.scopes.append(set())  # its variables live to its end
        pipe = self.whole_pipe(is_range=kind == "range")
        self.loops += kind == "range"
        body, end = self.block()
        self.loops -= kind == "range"
        otherwise: tuple[Node, ...] = ()
        if end == "else":
            self.take()
            chained = self.tokens[0].text if self.tokens else ""
            if chained in ("if", "with") and chained == kind:
                otherwise = (self.branch(kind),)  # its `end` is ours too
                self.scopes.pop()
                return Branch(kind, pipe, body, otherwise)
            self.nothing_left()
            otherwise, end = self.block()
        if end != "end":
            raise TemplateError(f"{{{{{kind}}}}} without {{{{end}}}}")
        self.take()
        self.nothing_left()
        self.scopes.pop()
        return Branch(kind, pipe, body, otherwise)

    def whole_pipe(self, *, is_range: bool = False) -> Pipe:
        pipe = self.pipe(is_range=is_range)
        self.nothing_left()
        return pipe

    def pipe(self, *, is_range: bool = False) -> Pipe:
        variables, declares = self.assignment(is_range=is_range)
        calls = [self.call()]
        while self.tokens and self.tokens[0].text == "|":
            self.take()
            calls.append(self.call())
        for later in calls[1:]:
            if not isinstance(later.items[0], Word):
                raise TemplateError("only a function can stand behind |")
        for name in variables:
            if declares:
                self.scopes[-1].add(name)
        return Pipe(tuple(calls), variables, declares)

    def assignment(self, *, is_range: bool) -> tuple[tuple[str, ...], bool]:
        """Read `$x :=`, `$x =` or, for range, `$k, $v :=`; nothing if none of them is there."""
        names: list[str] = []
        for index in range(0, 4, 2):
            if len(self.tokens) <= index + 1 or self.tokens[index].kind != "variable":
                break
            names.append(self.tokens[index].text)
            sign = self.tokens[index + 1].text
            if sign in (":=", "="):
                del self.tokens[: index + 2]
                if sign == "=":
                    for name in names:
                        self.check_variable(name)
                return tuple(names), sign == ":="
            if sign != "," or not is_range:
                break
        return (), False

    def call(self) -> Call:
        items: list[Literal | Path | Word | Pipe] = []
        while self.tokens and self.tokens[0].text not in ("|", ")"):
            if items and not self.tokens[0].spaced:
                raise self.unexpected()
            items.append(self.operand())
        if not items:
            raise TemplateError("missing value for command")
        first = items[0]
        if len(items) > 1 and not isinstance(first, Word):
            raise TemplateError("can't give an argument to something that is no function")
        return Call(tuple(items))

    def operand(self) -> "Literal | Path | Word | Pipe":
        token = self.take()
        match token.kind:
            case "string" | "raw" | "char" | "number":
                return Literal(_literal(token))
            case "name" if token.text in ("true", "false", "nil"):
                return Literal({"true": True, "false": False, "nil": None}[token.text])
            case "name":
                if token.text in _UNSUPPORTED:
                    raise TemplateError(f"{token.text!r} is not supported")
                return Word(token.text)
            case "variable":
                self.check_variable(token.text)
                return Path(token.text, self.fields())
            case "field":
                return Path(None, (token.text[1:], *self.fields()))
            case "sign" if token.text == ".":
                return Path(None, ())
            case "sign" if token.text == "(":
                self.depth += 1
                if self.depth > _DEPTH_MAX:
                    raise TemplateError("nested too deeply")
                inner = self.pipe()
                if not self.tokens or self.take().text != ")":
                    raise TemplateError("unclosed left parenthesis")
                self.depth -= 1
                fields = self.fields()
                return Path(inner, fields) if fields else inner
            case _:
                self.tokens.insert(0, token)
                raise self.unexpected()

    def fields(self) -> tuple[str, ...]:
        names: list[str] = []
        while self.tokens and self.tokens[0].kind == "field" and not self.tokens[0].spaced:
            names.append(self.take().text[1:])
        return tuple(names)

    def check_variable(self, name: str) -> None:
        if not any(name in scope for scope in self.scopes):
            raise TemplateError(f"undefined variable {name}")

    def take(self) -> _Token:
        return self.tokens.pop(0)

    def nothing_left(self) -> None:
        if self.tokens:
            raise self.unexpected()

    def unexpected(self) -> TemplateError:
        token = self.tokens[0]
        return TemplateError(f"unexpected {token.text!r} at column {token.column}")


def _literal(token: _Token) -> Value:
    match token.kind:
        case "raw":
            return token.text[1:-1]
        case "string":
            return _unescape(token.text[1:-1])
        case "char":
            char = _unescape(token.text[1:-1])
            if len(char) != 1:
                raise TemplateError(f"malformed character constant {token.text}")
            return ord(char)
        case _:
            text = token.text.lower()
            if "x" in text:
                return int(text, 16)
            return float(text) if set(text) & {".", "e"} else int(text)


def _unescape(text: str) -> str:
    """Go's escapes in an interpreted string."""

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        if code[0] in "01234567":
            return chr(int(code, 8))
        if code in "\\\"'":
            return code
        if code not in _ESCAPES:
            raise TemplateError(f"unknown escape \\{code}")
        return _ESCAPES[code]

    pattern = r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U000[0-9a-fA-F]{5}|[0-7]{3}|.)"
    try:
        return re.sub(pattern, one, text, flags=re.DOTALL)
    except ValueError:
        raise TemplateError(f"bad escape in {text!r}") from None


class _Left(Exception):
    """How break and continue leave the body of a range."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class _Run:
    """One rendering: the output so far, the variables, the functions."""

    def __init__(self, functions: "Mapping[str, Function]", root: Value) -> None:
        self.functions = functions
        self.variables: list[tuple[str, Value]] = [("$", root)]
        self.out: list[str] = []
        self.size = 0

    def block(self, nodes: Sequence[Node], dot: Value) -> None:
        mark = len(self.variables)
        try:
            for node in nodes:
                self.node(node, dot)
        finally:
            del self.variables[mark:]

    def node(self, node: Node, dot: Value) -> None:
        match node:
            case Text(text):
                self.write(text)
            case Print(pipe):
                value = self.pipe(pipe, dot)
                if not pipe.variables:
                    self.write(show(value))
            case Branch():
                mark = len(self.variables)
                self.branch(node, dot)
                del self.variables[mark:]
            case Leave(kind):
                raise _Left(kind)

    def write(self, text: str) -> None:
        self.size += len(text)
        if self.size > _BYTES_MAX:
            raise TemplateError("the output is too large")
        self.out.append(text)

    def branch(self, node: Branch, dot: Value) -> None:
        if node.kind == "range":
            return self.loop(node, dot)
        value = self.pipe(node.pipe, dot)
        if is_true(value):
            self.block(node.body, value if node.kind == "with" else dot)
        else:
            self.block(node.otherwise, dot)
        return None

    def loop(self, node: Branch, dot: Value) -> None:
        names = node.pipe.variables
        values = self.calls(node.pipe, dot)
        empty = True
        for key, item in _pairs(values):
            empty = False
            mark = len(self.variables)
            if names:
                pairs = (item,) if len(names) == 1 else (key, item)
                for name, value in zip(names, pairs, strict=True):
                    self.assign(name, value, declares=node.pipe.declares)
            try:
                self.block(node.body, item)
            except _Left as left:
                if left.kind == "break":
                    break
            finally:
                del self.variables[mark:]
        if empty:
            self.block(node.otherwise, dot)

    def pipe(self, pipe: Pipe, dot: Value) -> Value:
        value = self.calls(pipe, dot)
        for name in pipe.variables:
            self.assign(name, value, declares=pipe.declares)
        return value

    def assign(self, name: str, value: Value, *, declares: bool) -> None:
        if declares:
            self.variables.append((name, value))
            return
        for index in range(len(self.variables) - 1, -1, -1):
            if self.variables[index][0] == name:
                self.variables[index] = (name, value)
                return

    def calls(self, pipe: Pipe, dot: Value) -> Value:
        first, *rest = pipe.calls
        value = self.call(first, dot, ())
        for call in rest:
            value = self.call(call, dot, (value,))
        return value

    def call(self, call: Call, dot: Value, last: tuple[Value, ...]) -> Value:
        first, *rest = call.items
        if not isinstance(first, Word):
            return self.operand(first, dot)
        if first.name in ("and", "or"):
            return self.short_circuit(first.name, rest, dot, last)
        arguments = [self.operand(item, dot) for item in rest]
        return self.apply(first.name, [*arguments, *last])

    def short_circuit(
        self,
        name: str,
        items: "Sequence[Literal | Path | Word | Pipe]",
        dot: Value,
        last: tuple[Value, ...],
    ) -> Value:
        everything = (*items, *(Literal(value) for value in last))
        if not everything:
            raise TemplateError(f"{name}: wrong number of arguments: at least one is needed")
        value: Value = None
        for item in everything:
            value = self.operand(item, dot)
            if is_true(value) == (name == "or"):
                break
        return value

    def apply(self, name: str, arguments: list[Value]) -> Value:
        function = self.functions.get(name)
        if function is None:
            raise TemplateError(
                f"function {name!r} not defined", hint=f"there are: {', '.join(sorted(FUNCTIONS))}"
            )
        try:
            return function(*arguments)
        except TemplateError as error:
            raise TemplateError(f"{name}: {error}") from None
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            shown = " ".join(inner(item) for item in arguments)
            raise TemplateError(f"{name}: wrong number or type of arguments: {shown}") from None

    def operand(self, item: "Literal | Path | Word | Pipe", dot: Value) -> Value:
        match item:
            case Literal(value):
                return value
            case Word(name):
                return self.apply(name, [])
            case Pipe():
                return self.pipe(item, dot)
            case Path(base, fields):
                return _walk(self.base(base, dot), fields)

    def base(self, base: "str | Pipe | None", dot: Value) -> Value:
        match base:
            case None:
                return dot
            case str():
                return next(value for name, value in reversed(self.variables) if name == base)
            case Pipe():
                return self.pipe(base, dot)


def _walk(value: Value, fields: tuple[str, ...]) -> Value:
    for field in fields:
        if isinstance(value, Struct):
            if field not in value:
                raise TemplateError(
                    f"there is no field {field!r}", hint=f"there are: {', '.join(value)}"
                )
            value = value[field]
        elif isinstance(value, dict):
            value = value.get(field)
        elif value is None:
            raise TemplateError(f"nil has no field {field!r}")
        else:
            raise TemplateError(f"can't evaluate field {field!r} in {inner(value)[:40]!r}")
    return value


def _pairs(value: Value) -> Iterator[tuple[Value, Value]]:
    match value:
        case None:
            return iter(())
        case dict() if not isinstance(value, Struct):
            return iter([(key, value[key]) for key in sorted(value)])
        case list() | tuple():
            return iter(enumerate(value))
        case int() if not isinstance(value, bool):
            return ((index, index) for index in range(value))
        case _:
            raise TemplateError(f"can't range over {inner(value)[:40]!r}")
