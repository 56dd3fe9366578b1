"""COPY, ADD and WORKDIR -> FileStep.

Source: Dockerfile reference, "COPY", "ADD", "WORKDIR"; BuildKit dockerfile2llb/convert.go,
dispatchCopy.
"""

import json
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from builder import patterns
from builder.context import ContextTree
from builder.errors import (
    ContextError,
    LoweringError,
    OutsideContextError,
    SourceNotFoundError,
    UnsupportedFeatureError,
)
from builder.filters import Filter, exclusion, inclusion
from builder.ignorefile import IgnoreRules
from builder.lower.heredocs import chomped
from builder.lower.surroundings import Lowered, Surroundings, expanded
from builder.nearest import nearest
from builder.sources import Selection, SourceTree, matches, resolve, select
from builder.state import StageState
from builder.steps import CopyFiles, FileStep, InlineFile, MakeDirectory
from builder.urls import GitUrl, other_scheme, parse_url, redacted
from grammar import Add, Copy, Heredoc, Word, Workdir, expand_content
from layerstore import Digest


def workdir(node: Workdir, state: StageState, around: Surroundings) -> Lowered:
    """WORKDIR: relative to the last one; the directory is made, and belongs to USER.

    A word that expands to nothing stays where the last one is.
    """
    path = expanded(node.path, state, around)
    absolute = absolute_path(path, state.workdir)
    kept = path if path.startswith("/") else absolute  # as in BuildKit: `/tmp/` keeps its slash
    title = f"WORKDIR {kept}"
    state = replace(state, config=replace(state.config, working_dir=kept))
    if absolute == "/":
        return Lowered(state=state.with_history(title), created_by=title)
    action = MakeDirectory(path=absolute, user=state.config.user)
    return Lowered(state=state, created_by=title, step=FileStep(action=action, title=title))


def copy(node: Copy, state: StageState, around: Surroundings) -> Lowered:
    """COPY: from the context, or from what --from names."""
    if node.from_ is not None and "$" in node.from_.text:
        raise LoweringError(
            "variable expansion is not supported for --from",
            hint="define a stage with FROM $VARIABLE AS name, and use --from=name",
        )
    source = node.from_.text if node.from_ is not None else None
    words = [expanded(word, state, around) for word in node.sources]
    for word in words:
        url = parse_url(word)
        if url is not None:
            what = "a git ref" if isinstance(url, GitUrl) else "a URL"
            raise LoweringError(
                f"source can't be {what} for COPY: {redacted(word)}", hint="ADD fetches it"
            )
    return _files_step("COPY", node, words, source, state, around, unpack=False)


def add(node: Add, state: StageState, around: Surroundings) -> Lowered:
    """ADD: like COPY from the context; local archives are unpacked, and URLs are fetched."""
    words = [expanded(word, state, around) for word in node.sources]
    if node.checksum is not None:
        if len(words) + len(node.heredocs) != 1:
            raise LoweringError("checksum can't be specified for multiple sources")
        if not words or parse_url(words[0]) is None:
            raise LoweringError(
                "checksum requires HTTP(S) or Git sources",
                hint="local files are keyed by their content anyway",
            )
    return _files_step("ADD", node, words, None, state, around, unpack=node.unpack is not False)


def _remote(
    word: str, node: Copy | Add, state: StageState, around: Surroundings
) -> Selection | None:
    """What ADD fetches; None where `word` is a local path."""
    if not isinstance(node, Add):
        return None
    url = parse_url(word)
    if other_scheme(word):
        raise UnsupportedFeatureError(
            feature=f"ADD of {redacted(word)}", hint="http, https, ssh and git URLs are fetched"
        )
    if url is None:
        return None
    return around.select_remote(
        url,
        checksum=_optional(node.checksum, state, around) or "",
        keep_git_dir=node.keep_git_dir,
        unpack=node.unpack is True,
    )


def _without(remote: Selection, exclude: IgnoreRules, written: list[str]) -> list[Selection]:
    """What --exclude leaves of something remote, which nobody looks into: patterns are keyed."""
    if not exclude.rules:
        return [remote]
    if remote.kind != "dir":
        return [] if exclude.ignores(remote.name) else [remote]
    digest = Digest.of(json.dumps([remote.digest, written]).encode())
    return [replace(remote, only=Filter(exclude=exclude), digest=digest)]


def _files_step(
    keyword: str,
    node: Copy | Add,
    words: list[str],
    source: str | None,
    state: StageState,
    around: Surroundings,
    *,
    unpack: bool,
) -> Lowered:
    destination = expanded(node.destination, state, around)
    target = destination_path(destination or ".", state.workdir)
    parents = isinstance(node, Copy) and node.parents
    excludes = [expanded(word, state, around) for word in node.excludes]
    with _bad_patterns():
        exclude = exclusion(excludes)
    selections: list[Selection] = []
    notices: list[str] = []
    tree: SourceTree | None = None  # here-documents and URLs need none
    for word in words:
        remote = _remote(word, node, state, around)
        if remote is not None:
            selections.extend(_without(remote, exclude, excludes))
            continue
        tree = tree or around.find_source(source)
        if _climbs_out(word):
            taken = inside(word) or "."
            notices.append(f"{word!r} leads outside of {tree.description}: {taken!r} is taken")
        selected = _selected(tree, word, exclude, parents=parents)
        if not selected or ((parents or exclude.rules) and all(each.is_empty for each in selected)):
            notices.append(_nothing_matches(tree, word, exclude))
        selections.extend(selected)
    inline = tuple(_inline(heredoc, state, around) for heredoc in node.heredocs)
    count = len(inline) + sum(each.kind != "dir" for each in selections)
    if count > 1 and not target.endswith("/"):
        notices.append(
            f"{count} files for {target!r}, which does not end in '/': unless the image has a"
            " directory there, the last one replaces the others"
        )
    chown, chmod = _optional(node.chown, state, around), _optional(node.chmod, state, around)
    link = node.link and not chmod  # as in BuildKit, --chmod turns --link off
    if link and chown:
        _refuse_names(chown)
    action = CopyFiles(
        selections=tuple(selections),
        inline=inline,
        destination=target,
        chown=chown or None,
        chmod=chmod or None,
        unpack=unpack,
        link=link,
    )
    names = [*map(redacted, words), *(f"<<{heredoc.name}" for heredoc in node.heredocs)]
    flags = [
        *(["--parents"] if parents else []),
        *([f"--chown={chown}"] if chown else []),
        *([f"--chmod={chmod}"] if chmod else []),
    ]
    described = " ".join([keyword, *flags, *names, destination])
    title = " ".join([keyword, *node.written.flags, *names, destination])
    return Lowered(
        state=state,
        created_by=described,
        step=FileStep(action=action, title=title),
        notices=tuple(notices),
    )


def _selected(
    tree: SourceTree, word: str, exclude: IgnoreRules, *, parents: bool
) -> list[Selection]:
    """What one source word stands for, in byte order; as in Docker, wildcards may match nothing."""
    if parents:
        return _selected_with_parents(tree, word, exclude)
    only = Filter(exclude=exclude) if exclude.rules else None
    found = [_one(tree, path, word, only) for path in _paths(tree, word)]
    # Differs: BuildKit looks for --exclude in directories only, and copies a file that it names.
    return [each for each in found if each.kind == "dir" or not exclude.ignores(each.name)]


def _selected_with_parents(tree: SourceTree, word: str, exclude: IgnoreRules) -> list[Selection]:
    """`top/./pattern`: from the directories `top` what matches the pattern, with its own path."""
    top, pivot, pattern = word.partition("/./")
    if not pivot:
        top, pattern = "", word
    pattern = inside(pattern)
    with _bad_patterns():
        # Differs: BuildKit copies nothing where the pattern is the directory itself.
        include = inclusion(pattern) if pattern else None
    only = Filter(include=include, exclude=exclude) if include or exclude.rules else None
    found = [_one(tree, path, word, only) for path in _paths(tree, top)]
    if patterns.has_wildcard(top) or patterns.has_wildcard(pattern):
        return [each for each in found if each.kind == "dir"]
    path = patterns.unescape(f"{inside(top)}/{pattern}".strip("/"))
    if tree.get(resolve(tree, path)) is None:
        raise not_found(tree, word, path)
    if not exclude.rules and only and all(each.is_empty for each in found):
        raise LoweringError(
            f"{word!r} leads through a link, and --parents follows none",
            hint=f"name what the link leads to: {resolve(tree, path)}",
        )
    return found


def _paths(tree: SourceTree, word: str) -> list[str]:
    path = inside(word)
    if not patterns.has_wildcard(path):
        return [patterns.unescape(path)]
    with _bad_patterns():
        patterns.check(path)
    return matches(tree, path)


@contextmanager
def _bad_patterns() -> Iterator[None]:
    try:
        yield
    except patterns.BadPatternError as error:
        raise LoweringError(str(error)) from error


def _one(tree: SourceTree, path: str, word: str, only: Filter | None) -> Selection:
    selection = select(tree, path, only=only)
    if selection is None:
        raise not_found(tree, word, path)
    return selection


def _nothing_matches(tree: SourceTree, word: str, exclude: IgnoreRules) -> str:
    left = ", but for what --exclude names," if exclude.rules else ""
    hides = isinstance(tree, ContextTree) and tree.ignored_by_rules.rules
    perhaps = " (.dockerignore hides files)" if hides else ""
    return f"nothing in {tree.description}{left} matches {word!r}{perhaps}"


def _refuse_names(chown: str) -> None:
    """Names are looked up in the image below, which a linked layer must not depend on."""
    for name in chown.split(":", 1):
        if name not in ("", "root") and not (name.isascii() and name.isdigit()):
            raise LoweringError(
                f"--chown={chown} together with --link: names are those of the image below",
                hint="give numbers (--chown=1000:1000), or leave out --link",
            )


def inside(word: str) -> str:
    """A source word as a relative path: as in Docker, `..` stops at the top of the source."""
    return posixpath.normpath("/" + word).lstrip("/")


def _climbs_out(word: str) -> bool:
    return posixpath.normpath(word.lstrip("/")).startswith("..")


def not_found(tree: SourceTree, word: str, path: str) -> ContextError:
    """The error for a source word, `path` in `tree`, that stands for nothing."""
    if _climbs_out(word):
        return OutsideContextError(path=word, where=tree.description, taken=path)
    hint = ""
    parent, _, name = path.rpartition("/")
    names = tree.children(resolve(tree, parent))
    if isinstance(tree, ContextTree) and tree.exists_ignored(resolve(tree, path)):
        hint = "it is there, but .dockerignore excludes it"
    elif name in names:
        hint = f"it is a link to {resolve(tree, path)!r}, which is not there"
    if hint:
        return SourceNotFoundError(pattern=word, where=tree.description, nearest=None, hint=hint)
    close = nearest(name, names)
    if close is not None and parent:
        close = f"{parent}/{close}"
    return SourceNotFoundError(pattern=word, where=tree.description, nearest=close)


def _inline(heredoc: Heredoc, state: StageState, around: Surroundings) -> InlineFile:
    content = chomped(heredoc)
    if heredoc.expand:
        content = expand_content(content, state.environment())
    return InlineFile(name=heredoc.name, content=content.encode("utf-8", "surrogateescape"))


def _optional(word: Word | None, state: StageState, around: Surroundings) -> str | None:
    return None if word is None else expanded(word, state, around)


def absolute_path(path: str, workdir: str) -> str:
    """`path` in normal form, relative ones beneath `workdir`."""
    joined = posixpath.normpath(posixpath.join("/", workdir, path))
    return "/" + joined.lstrip("/")


def destination_path(path: str, workdir: str) -> str:
    """A destination of COPY: absolute, with a slash at the end when it must be a directory."""
    absolute = absolute_path(path, workdir)
    is_directory = path.endswith("/") or path.split("/")[-1] in (".", "..")
    return absolute.rstrip("/") + "/" if is_directory or absolute == "/" else absolute
