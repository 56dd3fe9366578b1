"""COPY, ADD and WORKDIR -> FileStep.

Source: Dockerfile reference, "COPY", "ADD", "WORKDIR"; BuildKit dockerfile2llb/convert.go,
dispatchCopy.
"""

import posixpath
from dataclasses import replace

from builder import patterns
from builder.context import ContextTree
from builder.errors import LoweringError, SourceNotFoundError, UnsupportedFeatureError
from builder.lower.run import chomped
from builder.lower.surroundings import Lowered, Surroundings, expanded
from builder.nearest import nearest
from builder.sources import Selection, SourceTree, matches, resolve, select
from builder.state import StageState
from builder.steps import CopyFiles, FileStep, InlineFile, MakeDirectory
from builder.urls import GitUrl, other_scheme, parse_url, redacted
from grammar import Add, Copy, Heredoc, Word, Workdir, expand_content


def workdir(node: Workdir, state: StageState, around: Surroundings) -> Lowered:
    """WORKDIR: relative to the last one; the directory is made, and belongs to USER."""
    path = expanded(node.path, state, around)
    if not path:
        raise LoweringError("WORKDIR requires a path", hint="the variable in it is empty")
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
    if node.parents:
        raise UnsupportedFeatureError(feature="COPY --parents")
    if node.link:
        raise UnsupportedFeatureError(feature="COPY --link")
    if node.excludes:
        raise UnsupportedFeatureError(feature="COPY --exclude")
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
    for feature, given in (("ADD --link", node.link), ("ADD --exclude", bool(node.excludes))):
        if given:
            raise UnsupportedFeatureError(feature=feature)
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
    selections: list[Selection] = []
    notices: list[str] = []
    tree: SourceTree | None = None  # here-documents and URLs need none
    for word in words:
        remote = _remote(word, node, state, around)
        if remote is not None:
            selections.append(remote)
            continue
        tree = tree or around.find_source(source)
        if _climbs_out(word):
            taken = _inside(word) or "."
            notices.append(f"{word!r} leads outside of {tree.description}: {taken!r} is taken")
        selected = _selected(tree, word)
        if not selected:
            notices.append(f"nothing in {tree.description} matches {word!r}")
        selections.extend(selected)
    inline = tuple(_inline(heredoc, state, around) for heredoc in node.heredocs)
    chown, chmod = _optional(node.chown, state, around), _optional(node.chmod, state, around)
    action = CopyFiles(
        selections=tuple(selections),
        inline=inline,
        destination=target,
        chown=chown or None,
        chmod=chmod or None,
        unpack=unpack,
    )
    names = [*map(redacted, words), *(f"<<{heredoc.name}" for heredoc in node.heredocs)]
    owners = [*([f"--chown={chown}"] if chown else []), *([f"--chmod={chmod}"] if chmod else [])]
    described = " ".join([keyword, *owners, *names, destination])
    flags = " ".join([keyword, *node.written.flags, *names, destination])
    return Lowered(
        state=state,
        created_by=described,
        step=FileStep(action=action, title=flags),
        notices=tuple(notices),
    )


def _selected(tree: SourceTree, word: str) -> list[Selection]:
    """What one source word stands for, in byte order; as in Docker, wildcards may match nothing."""
    path = _inside(word)
    if not patterns.has_wildcard(path):
        return [_one(tree, patterns.unescape(path), word)]
    try:
        patterns.check(path)
    except patterns.BadPatternError as error:
        raise LoweringError(str(error)) from error
    return [_one(tree, each, word) for each in matches(tree, path)]


def _one(tree: SourceTree, path: str, word: str) -> Selection:
    selection = select(tree, path)
    if selection is None:
        raise _not_found(tree, word, path)
    return selection


def _inside(word: str) -> str:
    """A source word as a relative path: as in Docker, `..` stops at the top of the source."""
    return posixpath.normpath("/" + word).lstrip("/")


def _climbs_out(word: str) -> bool:
    return posixpath.normpath(word.lstrip("/")).startswith("..")


def _not_found(tree: SourceTree, word: str, path: str) -> SourceNotFoundError:
    if isinstance(tree, ContextTree) and tree.exists_ignored(path):
        return SourceNotFoundError(
            pattern=word,
            where=tree.description,
            nearest=None,
            hint="it is there, but .dockerignore excludes it",
        )
    parent, _, name = path.rpartition("/")
    names = tree.children(resolve(tree, parent))
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
