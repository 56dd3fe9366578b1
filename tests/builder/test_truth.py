import pytest

from builder.truth import TRUTH


def test_it_has_the_words_of_parse_bool() -> None:
    yes = {word for word, is_true in TRUTH.items() if is_true}
    assert yes == {"1", "t", "T", "true", "TRUE", "True"}
    assert TRUTH.keys() - yes == {"0", "f", "F", "false", "FALSE", "False"}


@pytest.mark.parametrize("word", ["", "yes", "tRUE", "on", " 1"])
def test_other_words_are_neither(word: str) -> None:
    assert word not in TRUTH
