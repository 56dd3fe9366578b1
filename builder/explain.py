"""Why a step was not in the cache: its key document, compared with that of an earlier step.

    two documents (cachekey.py), listings of what they copied  ->  Differences  ->  one line

A document is compared field by field, by rules that know no list of fields: whatever a later kind
of step holds comes out under its own name. Some fields are told better than that:
    argv                    the command, or the SHELL in front of it
    env                     one difference per variable, ARG or ENV
    here-documents          by name
    selections of files     file by file, from their listings; their digests wherever they stand

Pure: nothing is read here. What looks like a secret by its name is told to differ, and no more.
"""

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, cast

from builder.steps import Document

Fields = dict[str, Document]
Change = Literal["added", "removed", "changed"]
Kind = Literal[
    "file", "files", "argument", "environment", "command", "shell", "heredoc", "field", "parent",
    "base",
]  # fmt: skip
Cause = Literal[
    "changed", "new", "forced", "expired", "pruned", "damaged", "failed", "canceled",
    "unkept",
]  # fmt: skip

DIFFERENCES_MAX = 200
HIDDEN = "(hidden)"
_TEXT_MAX = 160
_NAME_MAX = 60
_EXCERPT = 40
_SECRET = re.compile(
    r"(?i)((passw(or)?d|passphrase|pword|token|secret|credential|api_?key)|(^|_)(pass|key|auth))"
    r"s?(_|$|[0-9])"
)
_IDENTITIES = ("target", "name", "path", "id")  # what tells the members of a list apart
_ABOUT_FILES = ("type", "mode", "owner", "owner", "xattrs", "content", "device", "device", "links")

_CAUSES: Mapping[Cause, str] = {
    "new": "never built before",
    "expired": "older than --cache-ttl",
    "pruned": "its layer was pruned",
    "damaged": "its layer is gone or damaged",
    "failed": "it failed the last time",
    "canceled": "it was canceled the last time",
}
_FIELDS = {
    "chown": "--chown",
    "chmod": "--chmod",
    "cwd": "working directory",
    "settings.extra_hosts": "--add-host",
    "settings.resource_limits": "--ulimit",
    "settings.shm_size_bytes": "--shm-size",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One ingredient that differs. `old` is empty where it was added, `new` where removed.

    kind    file (name: its path; what: content, mode, owner, target, type, xattrs, device, links),
            files (a selection whose files are not known any more), argument (ARG), environment
            (ENV), command, shell, heredoc, field (name: the field of the step), parent (name: the
            instruction above that it comes from, line: where), base (name: the image)
    """

    kind: Kind
    name: str
    change: Change = "changed"
    what: str = ""
    old: str = ""
    new: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why one step was carried out. `nearest` is the key that it was compared with, if any.

    cause   changed, new (nothing to compare with), forced (detail: the option), expired, pruned,
            damaged (the layer cannot be used), failed or canceled (the last time), unkept
            (detail: why)
    """

    cause: Cause
    detail: str = ""
    nearest: str = ""
    differences: tuple[Difference, ...] = ()
    more_differences: int = 0  # that are not in `differences`

    @property
    def reason(self) -> str:
        """The explanation in one line."""
        if self.cause == "forced":
            return self.detail
        if self.cause == "unkept":
            return f"its result was not kept: {self.detail}"
        if self.cause != "changed":
            return _CAUSES[self.cause]
        text = sentence(self.differences[0])
        more = len(self.differences) - 1 + self.more_differences
        return f"{text}, and {more} more" if more else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is known of the newer step besides its document.

    `listing` gives the listing of a selection by its digest, None where it is not known; `paths`
    where the newer selections lie in their sources, by digest and name (empty: by the digest
    alone); `arguments` the variables that came from ARG; `shell` what the shell form is given to.
    """

    listing: Callable[[str], bytes | None]
    paths: Mapping[tuple[str, str], str]
    arguments: frozenset[str]
    shell: tuple[str, ...]


def changed(nearest: str, differences: list[Difference]) -> Explanation:
    """Explain a miss by what differs from the step with the key `nearest`."""
    kept = tuple(differences[:DIFFERENCES_MAX])
    return Explanation(
        cause="changed",
        nearest=nearest,
        differences=kept,
        more_differences=len(differences) - len(kept),
    )


def sentence(difference: Difference) -> str:
    """A difference in a few words."""
    it, name = difference, _short_name(difference)
    if it.kind == "parent":
        where = f"line {it.line}, " if it.line else ""
        how = "" if it.change == "changed" else f", which was {it.change}"
        return f"follows {where}{name}{how}" if name else "follows other changes"
    subject = {
        "base": f"base image {name}",
        "argument": f"ARG {name}",
        "environment": f"ENV {name}",
        "heredoc": f"here-document {name}",
        "field": _field_in_words(name),
        "command": "command",
        "shell": "SHELL",
    }.get(it.kind, name)
    if it.kind == "file" and it.what not in ("", "content"):
        subject += f": {it.what}"
    tells = it.kind in ("argument", "environment", "field", "shell") or it.what == "mode"
    both = f"{it.old} -> {it.new}"
    if tells and it.change == "changed" and len(both) <= _NAME_MAX and it.old != HIDDEN:
        joint = " " if ":" in subject else ": "
        return f"{subject}{joint}{both}"
    return f"{subject} {it.change}"


def _field_in_words(name: str) -> str:
    """A member of a list stands in brackets: a path, say, which stays as it is."""
    field, bracket, member = name.partition("[")
    words = _FIELDS.get(field, field.replace("_", " "))
    identity, closing, below = member.rpartition("]")
    return f"{words}{bracket}{identity}{closing}{below.replace('_', ' ')}"


def compare(old: Fields, new: Fields, scene: Scene) -> list[Difference]:
    """What differs between two key documents, the parent left out."""
    found: list[Difference] = []
    for name in sorted({*old, *new} - {"parent", "step"}):
        found += _field(name, old.get(name), new.get(name))
    before, after = cast(Fields, old.get("step", {})), cast(Fields, new.get("step", {}))
    return [*_walk("", before, after, scene), *found]


def core(document: Fields) -> Document:
    """What makes a step recognisable wherever it stands: its command, or where it writes to."""
    step = cast(Fields, document.get("step", {}))
    action = cast(Fields, step.get("action", {}))
    return [
        step.get("type"),
        action.get("type"),
        step.get("argv"),
        action.get("destination"),
        action.get("path"),
    ]


def similarity(old: Fields, new: Fields) -> int:
    """How many ingredients of two documents are equal."""
    return len(_leaves(old) & _leaves(new))


def _leaves(value: Document, path: str = "") -> set[str]:
    if isinstance(value, dict):
        return {leaf for name in value for leaf in _leaves(value[name], f"{path}.{name}")}
    if isinstance(value, list):
        return {leaf for item in value for leaf in _leaves(item, path)}
    return {f"{path}={value}"}


def _walk(path: str, old: Document, new: Document, scene: Scene) -> list[Difference]:
    if old == new:
        return []
    kinds = {_type(value) for value in _members(old) + _members(new)}
    if "Selection" in kinds:
        return _selections(_selections_in(old), _selections_in(new), scene)
    if isinstance(old, dict) and isinstance(new, dict):
        return _dictionaries(path, old, new, scene)
    if isinstance(old, list) and isinstance(new, list) and kinds - {""}:
        return _lists(path, old, new, scene)
    if isinstance(old, str) and isinstance(new, str) and _is_listed(new, scene):
        return _files({"digest": old}, {"digest": new}, scene)
    if path.startswith("mounts[") and path.endswith("].digest"):  # all of a stage: not listed
        target = path.removeprefix("mounts[").removesuffix("].digest")
        return [Difference(kind="files", name=target, old=str(old), new=str(new))]
    return _field(path, old, new)


def _is_listed(digest: str, scene: Scene) -> bool:
    return digest.startswith("sha256:") and scene.listing(digest) is not None


def _dictionaries(path: str, old: Fields, new: Fields, scene: Scene) -> list[Difference]:
    if old.get("type") != new.get("type"):
        return _field(path or "instruction", old.get("type"), new.get("type"))
    found: list[Difference] = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if before == after:
            continue
        if not path and name == "argv":
            found += _commands(_texts(before), _texts(after), scene)
        elif not path and name == "env":
            found += _variables(_texts(before), _texts(after), scene)
        elif new.get("type") in ("ScriptFile", "InlineFile") and name == "content":
            heredoc = str(new.get("name") or posixpath.basename(str(new.get("target"))))
            found.append(_difference("heredoc", heredoc, before, after))
        else:
            found += _walk(_below(path, name), before, after, scene)
    return found


def _below(path: str, name: str) -> str:
    if name == "action":  # of a FileStep: its fields are the step's
        return path
    return f"{path}.{name}" if path else name


def _lists(path: str, old: list[Document], new: list[Document], scene: Scene) -> list[Difference]:
    before, after = _by_identity(old), _by_identity(new)
    found: list[Difference] = []
    for identity in dict.fromkeys((*before, *after)):
        name = f"{path}[{identity}]"
        if identity in before and identity in after:
            found += _walk(name, before[identity], after[identity], scene)
        else:
            member = before.get(identity) or after.get(identity)
            if _type(member) in ("ScriptFile", "InlineFile"):
                change: Change = "removed" if identity in before else "added"
                heredoc = posixpath.basename(identity)
                found.append(Difference(kind="heredoc", name=heredoc, change=change))
            else:
                found += _field(name, before.get(identity), after.get(identity))
    return found or _field(path, old, new)  # the order alone


def _by_identity(members: list[Document]) -> dict[str, Document]:
    found: dict[str, Document] = {}
    for number, member in enumerate(members):
        names = [member.get(key) for key in _IDENTITIES] if isinstance(member, dict) else []
        identity = next((str(name) for name in names if name), str(number))
        found[identity if identity not in found else f"{identity}#{number}"] = member
    return found


def _commands(old: list[str], new: list[str], scene: Scene) -> list[Difference]:
    shell = list(scene.shell)
    if new[:-1] == shell and old[-1:] == new[-1:]:
        return [_difference("shell", "SHELL", " ".join(old[:-1]), " ".join(shell))]
    if new[:-1] == old[:-1]:
        old, new = old[-1:], new[-1:]
    return [_difference("command", "command", " ".join(old), " ".join(new))]


def _variables(old: list[str], new: list[str], scene: Scene) -> list[Difference]:
    before = {name: value for name, _, value in (pair.partition("=") for pair in old)}
    after = {name: value for name, _, value in (pair.partition("=") for pair in new)}
    found = [
        _hidden(
            _difference(
                "argument" if name in scene.arguments else "environment",
                name,
                before.get(name),
                after.get(name),
            )
        )
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
    return found or _field("order of variables", " ".join(before), " ".join(after))


def _hidden(difference: Difference) -> Difference:
    if not _SECRET.search(difference.name):
        return difference
    return replace(difference, old=difference.old and HIDDEN, new=difference.new and HIDDEN)


# Files.


def _selections(old: list[Fields], new: list[Fields], scene: Scene) -> list[Difference]:
    left = [each for each in old if each not in new]
    found: list[Difference] = []
    for after in (each for each in new if each not in old):
        before = next((each for each in left if _is_same_word(each, after)), None)
        if before is None:
            found += _all_files(after, "added", scene)
            continue
        left.remove(before)
        for name in sorted({*before, *after} - {"digest"}):
            found += _field(f"source {name}", before.get(name), after.get(name))
        if before.get("digest") != after.get("digest"):
            found += _files(before, after, scene)
    for before in left:
        found += _all_files(before, "removed", scene)
    return found or _field("order of sources", _names_of(old), _names_of(new))


def _is_same_word(old: Fields, new: Fields) -> bool:
    return (old.get("name"), old.get("kind")) == (new.get("name"), new.get("kind"))


def _names_of(selections: list[Fields]) -> str:
    return " ".join(str(each.get("name") or each.get("kind")) for each in selections)


def _all_files(selection: Fields, change: Change, scene: Scene) -> list[Difference]:
    digest = str(selection.get("digest"))
    top = _top(selection, scene)
    lines = _parsed(scene.listing(digest) or b"", set())
    names = [path for path, fields in lines.items() if fields[0] != "dir"] or [""]
    return [_file(_join(top, path), change, "", lines.get(path), change) for path in names]


def _files(old: Fields, new: Fields, scene: Scene) -> list[Difference]:
    """The files that differ between two selections."""
    digests = str(old.get("digest")), str(new.get("digest"))
    top = _top(new, scene)
    before, after = (scene.listing(digest) for digest in digests)
    if before is None or after is None:
        return [Difference(kind="files", name=top or ".", old=digests[0], new=digests[1])]
    old_lines, new_lines = before.split(b"\n"), after.split(b"\n")
    gone, come = _parsed(before, set(new_lines)), _parsed(after, set(old_lines))
    found: list[Difference] = []
    renumbered: list[Difference] = []
    for path in dict.fromkeys((*gone, *come)):
        name = _join(top, path)
        if path not in come:
            found.append(_file(name, "removed", "", gone[path], "removed"))
        elif path not in gone:
            found.append(_file(name, "added", "", come[path], "added"))
        else:
            for what, old_text, new_text in _attributes(gone[path], come[path]):
                one = Difference(kind="file", name=name, what=what, old=old_text, new=new_text)
                (renumbered if what == "links" and old_text and new_text else found).append(one)
    return found or renumbered


def _parsed(listing: bytes, without: set[bytes]) -> dict[str, list[Document]]:
    """Path -> the other fields of its line (see sources.py), but for the lines in `without`."""
    found: dict[str, list[Document]] = {}
    for line in listing.split(b"\n"):
        if line and line not in without:
            path, *fields = json.loads(line)
            found[path] = fields
    return found


def _attributes(old: list[Document], new: list[Document]) -> Iterator[tuple[str, str, str]]:
    """Which of a file's attributes differ, and their values; each once."""
    told = set()
    for number, (what, before, after) in enumerate(zip(_ABOUT_FILES, old, new, strict=False)):
        if before == after or what in told:
            continue
        told.add(what)
        is_link = what == "content" and "symlink" in (old[0], new[0])
        texts = _attribute(what, old, number), _attribute(what, new, number)
        yield "target" if is_link else what, *texts


def _attribute(what: str, fields: list[Document], number: int) -> str:
    value = fields[number]
    if what == "mode" and isinstance(value, int):
        return f"{value:04o}"
    if what == "owner":
        return f"{fields[2]}:{fields[3]}"
    if what == "device":
        return f"{fields[6]}:{fields[7]}"
    return _text(value)


def _file(
    name: str, change: Change, what: str, fields: list[Document] | None, side: Change
) -> Difference:
    content = "" if fields is None else _text(fields[5])
    return Difference(
        kind="file",
        name=name,
        change=change,
        what=what,
        old=content if side == "removed" else "",
        new=content if side == "added" else "",
    )


def _top(selection: Fields, scene: Scene) -> str:
    name = str(selection.get("name") or "")
    return scene.paths.get((str(selection.get("digest")), name), name)


def _join(top: str, path: str) -> str:
    return f"{top.rstrip('/')}/{path}" if top and path else top or path or "."


# Values.


def _field(name: str, old: Document, new: Document) -> list[Difference]:
    if old == new:
        return []
    return [_hidden(_difference("field", name, old, new))]


def _difference(kind: Kind, name: str, old: Document, new: Document) -> Difference:
    change: Change = "changed"
    if old is None:
        change = "added"
    elif new is None:
        change = "removed"
    before, after = _excerpts(_text(old), _text(new))
    return Difference(kind=kind, name=name, change=change, old=before, new=after)


def _excerpts(old: str, new: str) -> tuple[str, str]:
    """Both texts; of long ones, the part around the place where they begin to differ."""
    if max(len(old), len(new)) <= _TEXT_MAX:
        return old, new
    pairs = enumerate(zip(old, new, strict=False))
    first = next((at for at, (a, b) in pairs if a != b), min(len(old), len(new)))
    start = max(0, first - _EXCERPT)
    return _excerpt(old, start), _excerpt(new, start)


def _excerpt(text: str, start: int) -> str:
    if len(text) <= _TEXT_MAX:
        return text
    rest = text[start : start + _TEXT_MAX]
    return f"{'…' if start else ''}{rest}{'…' if start + _TEXT_MAX < len(text) else ''}"


def _text(value: Document) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " ".join(cast(list[str], value))
    return json.dumps(value, sort_keys=True)


def _texts(value: Document) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _type(value: Document) -> str:
    return str(value.get("type", "")) if isinstance(value, dict) else ""


def _members(value: Document) -> list[Document]:
    return value if isinstance(value, list) else [value]


def _selections_in(value: Document) -> list[Fields]:
    return [each for each in _members(value) if isinstance(each, dict)]


def _short_name(difference: Difference) -> str:
    flat = " ".join(difference.name.split())
    if len(flat) <= _NAME_MAX:
        return flat
    # the end of a path says more than its middle
    head = _NAME_MAX // 4 if difference.kind in ("file", "files") else _NAME_MAX - 1
    return f"{flat[:head]}…{flat[len(flat) - (_NAME_MAX - 1 - head) :]}"
