import pickle
import typing

import pytest

from grammar import Dockerfile, Instruction, nodes, parse
from grammar.split import KEYWORDS

EVERYTHING = """# syntax=docker/dockerfile:1
ARG version=1
FROM --platform=linux/amd64 base:$version AS one
MAINTAINER me
ENV a=b c='d e'
LABEL f g
ARG h i=j
ADD --checksum=sha256:k l /m
COPY --from=base --link --exclude=n <<O p /q
text
O
WORKDIR /r
USER s:t
RUN --mount=type=cache,target=/u --network=none <<-V sh
\tw
\tV
EXPOSE 80/tcp
VOLUME ["/x"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=1s CMD ["y"]
SHELL ["/bin/sh", "-c"]
CMD z
ENTRYPOINT ["z"]
ONBUILD RUN <<A
b
A
FROM one
"""


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return parse(EVERYTHING)


def test_every_instruction_has_a_node() -> None:
    kinds = typing.get_args(Instruction)
    assert {kind.__name__.upper() for kind in kinds} == KEYWORDS
    assert len(kinds) == 18


def test_the_tree_of_everything_has_one_of_each(dockerfile: Dockerfile) -> None:
    first, second = dockerfile.stages
    found = {type(one) for one in (*dockerfile.global_args, first.base, *first.instructions)}
    assert found == set(typing.get_args(Instruction))
    assert second.instructions == ()


def test_a_tree_survives_pickle(dockerfile: Dockerfile) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(dockerfile, protocol)) == dockerfile


def test_a_tree_holds_nothing_but_nodes_and_plain_values(dockerfile: Dockerfile) -> None:
    """So that who keeps trees as pickles can refuse everything else in them."""
    seen: set[type] = set()

    def walk(value: object) -> None:
        seen.add(type(value))
        if isinstance(value, tuple):
            for item in value:
                walk(item)
        for name in getattr(type(value), "__slots__", ()):
            walk(getattr(value, name))

    walk(dockerfile)
    plain = {str, int, bool, tuple, type(None)}
    assert {kind.__module__ for kind in seen - plain} == {"grammar.nodes", "grammar.source"}


def test_equal_texts_give_equal_trees(dockerfile: Dockerfile) -> None:
    again = parse(EVERYTHING)
    assert again == dockerfile
    assert hash(again) == hash(dockerfile)
    assert parse(EVERYTHING.replace("CMD z", "CMD y")) != dockerfile


def test_every_node_says_what_was_written_and_where(dockerfile: Dockerfile) -> None:
    lines = EVERYTHING.splitlines()
    for one in dockerfile.stages[0].instructions:
        line = lines[one.span.start_line - 1]
        assert line[one.span.start_column - 1 :].startswith(one.written.keyword)
        assert (one.written.start_line, one.written.end_line) == (
            one.span.start_line,
            one.span.end_line,
        )
        assert len(lines[one.span.end_line - 1]) == one.span.end_column


def test_nodes_are_values(dockerfile: Dockerfile) -> None:
    run = dockerfile.stages[0].instructions[8]
    assert isinstance(run, nodes.Run)
    with pytest.raises(AttributeError):
        run.network = "host"  # type: ignore[misc]
