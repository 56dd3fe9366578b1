import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.nearest import nearest


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("biuld", ["build", "test", "final"], "build"),
        ("buld", ("builder", "build"), "build"),
        ("package.jsn", ["package.json", "package-lock.json"], "package.json"),
        ("build", ["build"], "build"),
        ("xyz", ["build", "test"], None),
        ("build", [], None),
        ("", ["build"], None),
        ("Dockerfle", ["Dockerfile", "README.md"], "Dockerfile"),
    ],
)
def test_a_misspelling_leads_to_the_word_that_was_meant(
    word: str, known: list[str], expected: str | None
) -> None:
    assert nearest(word, known) == expected


def test_any_iterable_of_known_words_will_do() -> None:
    assert nearest("tset", (name for name in ("test", "prod"))) == "test"
    assert nearest("tset", {"test": 1}) == "test"


@given(word=st.text(), known=st.lists(st.text(), max_size=5))
def test_the_answer_is_always_a_known_word(word: str, known: list[str]) -> None:
    found = nearest(word, known)
    assert found is None or found in known
