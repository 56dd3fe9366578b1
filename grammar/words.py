"""One word: quotes, escapes and `$variables`, as BuildKit's shell lexer resolves them.

Forms, `w` being itself expanded, `p` a pattern of `*`, `?` and `\\`-escaped characters:

    $v ${v}                the value, empty when unset
    ${v:-w} ${v-w}         w when v is unset (with the colon: or empty)
    ${v:+w} ${v+w}         w when v is set (with the colon: and not empty)
    ${v:?w} ${v?w}         an error with the message w when v is unset (or empty)
    ${v#p} ${v##p}         v without the shortest (longest) prefix that matches p
    ${v%p} ${v%%p}         v without the shortest (longest) suffix that matches p
    ${v/p/r} ${v//p/r}     v with the first (every) longest match of p replaced by r

Quotes: nothing is special in '...'; in "..." only `$` and the escape character before `"`, `$` and
itself. The escape character outside quotes takes the next character as it is, and vanishes at the
end of the word.

Hand-written, not a lark grammar: what ends a word depends on where it stands (`}` or `/` inside
`${}`), patterns need their escapes kept, and a fully cached build expands words without parsing.

Bounds (tests/grammar/test_words.py): at most 32 nested `${`, 256 KiB of inserted text for each
word, and patterns are matched without backtracking over `*`.

Differs: BuildKit loses the text before `${v:-w}` when it splits `EXPOSE 80${v:-w}` into words,
drops a `$` of the replacement in `${v//p/r}`, and turns bytes that are not UTF-8 into U+FFFD;
here all three are kept.

Source: moby/buildkit frontend/dockerfile/shell/lex.go; POSIX.1-2017 XCU 2.6.2.
"""

import re
from collections.abc import Callable, Mapping

from grammar.errors import ExpansionError
from grammar.nodes import Word
from grammar.source import Span

# What Go's unicode.IsSpace accepts; Python's str.isspace() has U+001C..U+001F besides.
SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)

DEPTH_MAX = 32
INSERTED_LENGTH_MAX = 1 << 18  # Linux takes no argument or variable above 128 KiB
PATTERN_WORK_MAX = 1 << 26  # length of the value times length of the pattern

_SPACE = re.compile(f"[{SPACES}]+")
_BLANKS = re.compile(r"[ \t\r\n\v\f]*")
_PARAMETERS = "@*#?-$!"

Lookup = Callable[[str], str | None]


def expand(word: Word | str, env: Mapping[str, str], *, escape: str = "\\") -> str:
    """Resolve variables and remove quotes; spaces stay what they are.

    Raises:
        ExpansionError: `${v:?}` of an unset variable, an unclosed quote or brace, a form that does
            not exist, or more text than a word may become.
    """
    text, span = _text_of(word)
    if "$" not in text and "'" not in text and '"' not in text and escape not in text:
        return text
    return _Scanner(text, env.get, escape, span=span).run()


def expand_words(word: Word | str, env: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """Resolve as `expand` does, and split at the spaces that no quote protects.

    A value that has spaces becomes several words; an empty word vanishes. Raises as `expand`.
    """
    text, span = _text_of(word)
    scanner = _Scanner(text, env.get, escape, span=span, split=True)
    scanner.run()
    return scanner.words


def expand_content(text: str, env: Mapping[str, str]) -> str:
    """Resolve the variables of a COPY or ADD heredoc, keeping its quotes.

    The escape character is always the backslash here, and it takes the next character as it is:
    `\\$HOME` stays `$HOME`, and `\\n` becomes `n`. Raises as `expand`.
    """
    if "$" not in text and "\\" not in text:
        return text
    return _Scanner(text, env.get, "\\", quotes=False).run()


def variables_used(word: Word | str, *, escape: str = "\\") -> frozenset[str]:
    """The names a word refers to, whether set or not, those in `${a:-$b}` included.

    Raises:
        ExpansionError: the word is malformed.
    """
    text, span = _text_of(word)
    if "$" not in text:
        return frozenset()
    names: set[str] = set()

    def note(name: str) -> str:
        names.add(name)
        return "x"

    _Scanner(text, note, escape, span=span).run()
    return frozenset(names)


def shell_words(text: str, *, keep_quotes: bool, keep_escapes: bool) -> list[str]:
    """Split `text` without an environment: unset variables stay as written.

    Raises:
        ExpansionError: an unclosed quote or brace.
    """
    scanner = _Scanner(
        text,
        lambda _name: None,
        "\\",
        split=True,
        keep_quotes=keep_quotes,
        keep_escapes=keep_escapes,
        keep_unset=True,
    )
    scanner.run()
    return scanner.words


def _text_of(word: Word | str) -> tuple[str, Span | None]:
    return (word, None) if isinstance(word, str) else (word.text, word.span)


class _Scanner:
    """One pass over one word. `run` once; with `split`, `words` is the result as well."""

    def __init__(
        self,
        text: str,
        lookup: Lookup,
        escape: str,
        *,
        span: Span | None = None,
        split: bool = False,
        quotes: bool = True,
        keep_quotes: bool = False,
        keep_escapes: bool = False,
        keep_unset: bool = False,
    ) -> None:
        self.text = text
        self.lookup = lookup
        self.escape = escape
        self.span = span
        self.words: list[str] = []
        self._word: list[str] | None = [] if split else None
        self._quotes = quotes
        self._keep_quotes = keep_quotes
        self._keep_escapes = keep_escapes
        self._keep_unset = keep_unset
        self._pos = 0
        self._depth = 0
        self._inserted = 0

    def run(self) -> str:
        result = self._until("")
        last = "".join(self._word or ())
        if last:
            self.words.append(last)
        return result

    # Every method below reads on from self._pos and leaves it after what it has read.

    def _until(self, stop: str) -> str:
        """Read up to and over the character `stop`; to the end of the text when it is empty."""
        text, escape = self.text, self.escape
        ordinary = _ordinary(escape + stop, self._quotes)
        word = self._word if not stop else None
        out: list[str] = []
        while self._pos < len(text):
            run = ordinary.match(text, self._pos)
            if run:
                self._pos = run.end()
                out.append(run[0])
                if word is not None:
                    self._add_split(run[0])
                continue
            char = text[self._pos]
            if char == stop:
                self._pos += 1
                return "".join(out)
            if char == "$":
                piece = self._dollar()
                if word is not None:
                    self._add_split(piece)
            elif char == escape:
                piece = self._escaped()
                if word is not None:
                    word.append(piece)
            else:
                piece = self._special(char)
                if word is not None:
                    word.append(piece)
            out.append(piece)
        if stop:
            raise self._error(f"no {stop!r} closes the '${{'", hint="close it with '}'")
        return "".join(out)

    def _add_split(self, piece: str) -> None:
        """Add text whose spaces separate words."""
        word = self._word
        assert word is not None
        at = 0
        for space in _SPACE.finditer(piece):
            if space.start() > at:
                word.append(piece[at : space.start()])
            at = space.end()
            whole = "".join(word)
            if whole:
                self.words.append(whole)
            word.clear()
        if at < len(piece):
            word.append(piece[at:] if at else piece)

    def _escaped(self) -> str:
        kept = self.escape if self._keep_escapes else ""
        piece = self.text[self._pos + 1 : self._pos + 2]
        self._pos += 2
        return kept + piece

    def _special(self, char: str) -> str:
        if char == "'":
            return self._single_quoted()
        if char == '"':
            return self._double_quoted()
        # "<<" takes the blanks after it into the word, so that `RUN << EOF` is a heredoc.
        self._pos += 1
        if char != "<" or not self.text.startswith("<", self._pos):
            return char
        blanks = _BLANKS.match(self.text, self._pos + 1)
        assert blanks is not None
        self._pos = blanks.end()
        return "<<" + blanks[0]

    def _single_quoted(self) -> str:
        end = self.text.find("'", self._pos + 1)
        if end < 0:
            raise self._error("no ' closes the quote", hint="close the quote, or escape it")
        inner = self.text[self._pos + 1 : end]
        self._pos = end + 1
        return f"'{inner}'" if self._keep_quotes else inner

    def _double_quoted(self) -> str:
        text, escape = self.text, self.escape
        ordinary = _ordinary_quoted(escape)
        quote = '"' if self._keep_quotes else ""
        out = [quote]
        self._pos += 1
        while self._pos < len(text):
            run = ordinary.match(text, self._pos)
            if run:
                self._pos = run.end()
                out.append(run[0])
                continue
            char = text[self._pos]
            if char == '"':
                self._pos += 1
                out.append(quote)
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
                continue
            self._pos += 1
            if self._keep_escapes:
                out.append(escape)
            following = text[self._pos : self._pos + 1]
            if following and following in ('"', "$", escape):
                self._pos += 1
                out.append(following)
            elif following:
                out.append(escape)
        raise self._error('no " closes the quote', hint="close the quote, or escape it")

    def _dollar(self) -> str:
        self._pos += 1
        if not self.text.startswith("{", self._pos):
            name = self._name()
            if not name:
                return "$"
            value = self.lookup(name)
            if value is None:
                return f"${name}" if self._keep_unset else ""
            return self._insert(value)
        if self._depth == DEPTH_MAX:
            raise self._error(f"more than {DEPTH_MAX} nested '${{'")
        self._depth += 1
        value = self._braces()
        self._depth -= 1
        return self._insert(value)

    def _braces(self) -> str:
        text, start = self.text, self._pos - 1
        self._pos += 1
        if text[self._pos : self._pos + 1] in ("", "{", "}", ":"):
            raise self._bad_form(start)
        name = self._name()
        operator = text[self._pos : self._pos + 1]
        self._pos += 1
        if operator == "}":
            value = self.lookup(name)
            return (f"${{{name}}}" if self._keep_unset else "") if value is None else value
        colon = operator == ":"
        if colon:
            operator = text[self._pos : self._pos + 1]
            self._pos += 1
        if operator and operator in "-+?":
            return self._conditional(name, operator, colon=colon)
        if operator and operator in "#%" and not colon:
            return self._trimmed(name, operator)
        if operator == "/" and not colon:
            return self._replaced(name)
        raise self._bad_form(start)

    def _conditional(self, name: str, operator: str, *, colon: bool) -> str:
        word = self._until_raw("}", keep_escapes=False)
        value = self.lookup(name)
        if value is None and self._keep_unset:
            return f"${{{name}{':' if colon else ''}{operator}{word}}}"
        there = value is not None and not (colon and value == "")
        if operator == "-":
            return value if there and value is not None else word
        if operator == "+":
            return word if there else ""
        if not there:
            why = "is not allowed to be " + ("unset" if value is None else "empty")
            raise self._error(
                f"{name}: {word or why}",
                variable=name,
                hint=f"give {name} a value with ARG, ENV or --build-arg",
            )
        assert value is not None
        return value

    def _trimmed(self, name: str, operator: str) -> str:
        pattern = self._until_raw("}", keep_escapes=True)
        value = self.lookup(name)
        if value is None and self._keep_unset:
            return f"${{{name}{operator}{pattern}}}"
        greedy = pattern.startswith(operator)
        value = value or ""
        tokens = self._tokens(pattern[1:] if greedy else pattern, value)
        if operator == "#":
            found = _find(tokens, value, 0, anchored=True, greedy=greedy)
            return value[found[1] :] if found else value
        found = _find(tokens[::-1], value[::-1], 0, anchored=True, greedy=greedy)
        return value[: len(value) - found[1]] if found else value

    def _replaced(self, name: str) -> str:
        every = self.text.startswith("/", self._pos)
        self._pos += every
        pattern = self._until_raw("/", keep_escapes=True)
        replacement = self._until_raw("}", keep_escapes=True)
        value = self.lookup(name)
        if value is None and self._keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        return self._replace(value or "", pattern, replacement, every=every)

    def _replace(self, value: str, pattern: str, replacement: str, *, every: bool) -> str:
        tokens = self._tokens(pattern, value)
        if tokens and "*" not in tokens and every:
            places = _compiled(tokens)
            count = sum(1 for _ in places.finditer(value))
            if count * len(replacement) > INSERTED_LENGTH_MAX:
                raise self._too_long()
            return places.sub(lambda _found: replacement, value)
        out: list[str] = []
        length = copied = at = 0
        while at <= len(value):
            found = _find(tokens, value, at, anchored=False, greedy=True)
            if found is None:
                break
            start, end = found
            if start == end == copied and at:  # an empty match right after a match is none
                at += 1
                continue
            out += (value[copied:start], replacement)
            length += start - copied + len(replacement)
            if length > INSERTED_LENGTH_MAX:
                raise self._too_long()
            copied = end
            at = end if end > start else end + 1
            if not every:
                break
        return "".join(out) + value[copied:]

    def _until_raw(self, stop: str, *, keep_escapes: bool) -> str:
        outer, self._keep_escapes = self._keep_escapes, keep_escapes
        inner = self._until(stop)
        self._keep_escapes = outer
        return inner

    def _name(self) -> str:
        """A name, a number, or one of the shell's special parameters; empty when none is here."""
        text, start = self.text, self._pos
        first = text[start : start + 1]
        if first and first in _PARAMETERS:
            self._pos += 1
            return first
        end = start
        if first.isdecimal():
            while end < len(text) and text[end].isdecimal():
                end += 1
        else:
            while end < len(text) and (
                text[end].isalpha() or text[end].isdecimal() or text[end] == "_"
            ):
                end += 1
        self._pos = end
        return text[start:end]

    def _insert(self, value: str) -> str:
        self._inserted += len(value)
        if self._inserted > INSERTED_LENGTH_MAX:
            raise self._too_long()
        return value

    def _tokens(self, pattern: str, value: str) -> list[str]:
        """The pattern as a list: "*", "?", and each other character after a "="."""
        if len(pattern) * len(value) > PATTERN_WORK_MAX:
            raise self._error("the pattern is too long for a value of this length")
        tokens: list[str] = []
        at = 0
        while at < len(pattern):
            char = pattern[at]
            at += 1
            if char in "*?":
                if char == "?" or tokens[-1:] != ["*"]:
                    tokens.append(char)
                continue
            if char == "\\":
                char = pattern[at : at + 1]
                at += 1
                if not char or char not in "*?\\}/":
                    raise self._error(
                        f"the pattern {pattern} escapes what needs no escape",
                        hint="only * ? \\ } and / may stand after a backslash in a pattern",
                    )
            tokens.append("=" + char)
        return tokens

    def _bad_form(self, start: int) -> ExpansionError:
        end = self.text.find("}", start)
        form = self.text[start : (end + 1 if end >= 0 else len(self.text))][:80]
        if end < 0:
            return self._error(f"no '}}' closes {form}", hint="close it with '}'")
        return self._error(
            f"{form} is no variable substitution",
            hint="the forms are ${v} ${v:-w} ${v:+w} ${v:?w} ${v#p} ${v%p} ${v/p/r}",
        )

    def _too_long(self) -> ExpansionError:
        return self._error(f"the word becomes longer than {INSERTED_LENGTH_MAX} characters")

    def _error(self, problem: str, *, variable: str = "", hint: str = "") -> ExpansionError:
        shown = self.text if len(self.text) <= 80 else self.text[:77] + "..."
        return ExpansionError(
            f"cannot expand {shown}: {problem}", variable=variable, span=self.span, hint=hint
        )


def _find(
    tokens: list[str], value: str, at: int, *, anchored: bool, greedy: bool
) -> tuple[int, int] | None:
    """Where the pattern matches in `value` from `at` on: the leftmost start, then the end.

    `*` and `?` do not match a newline (as in Go's regexp). Linear in the value for each segment
    between the stars: the first ones are taken at their first place, which leaves most to the
    rest, and the last one at its first or last place.
    """
    head, *rest = _segments(tokens)
    while True:
        start = at if anchored else _search(head, value, at, len(value))
        if start < 0 or (anchored and not _matches(head, value, start)):
            return None
        end = start + len(head)
        line_end = end
        for index, segment in enumerate(rest):
            line_end = _line_end(value, end)
            last = index == len(rest) - 1
            seek = _search_last if last and greedy else _search
            place = seek(segment, value, end, line_end)
            if place < 0:
                break
            end = place + len(segment)
        else:
            return start, end
        if anchored or line_end >= len(value):
            return None
        at = max(start + 1, line_end + 1 - len(head))  # the first start that sees the next line


def _segments(tokens: list[str]) -> list[list[str]]:
    segments: list[list[str]] = [[]]
    for token in tokens:
        if token == "*":
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _search(segment: list[str], value: str, low: int, high: int) -> int:
    """The first start in low..high at which `segment` matches, or -1."""
    if "?" not in segment:
        return value.find("".join(t[1] for t in segment), low, high + len(segment))
    found = _compiled(segment).search(value, low, high + len(segment))
    return found.start() if found else -1


def _search_last(segment: list[str], value: str, low: int, high: int) -> int:
    if "?" not in segment:
        return value.rfind("".join(t[1] for t in segment), low, high + len(segment))
    pattern = _compiled(segment)
    for place in range(min(high, len(value) - len(segment)), low - 1, -1):
        if pattern.match(value, place):
            return place
    return -1


def _matches(segment: list[str], value: str, at: int) -> bool:
    return _compiled(segment).match(value, at) is not None


def _line_end(value: str, at: int) -> int:
    end = value.find("\n", at)
    return len(value) if end < 0 else end


def _compiled(segment: list[str]) -> re.Pattern[str]:
    return re.compile("".join("." if token == "?" else re.escape(token[1]) for token in segment))


def _ordinary(special: str, quotes: bool) -> re.Pattern[str]:
    """A run of characters that mean themselves."""
    also = "'\"" if quotes else ""
    return re.compile(f"[^{re.escape(special + also)}$<]+")


def _ordinary_quoted(escape: str) -> re.Pattern[str]:
    return re.compile(f'[^"${re.escape(escape)}]+')
