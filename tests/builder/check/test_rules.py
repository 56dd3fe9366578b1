"""The table of checks; that the texts are BuildKit's is tested in test_conformance."""

import re

import pytest

from builder.check.rules import FROM_AS_CASING, LEGACY_KEY_VALUE_FORMAT, RULES, Rule


def test_no_two_checks_have_one_name_or_one_page() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    pages = [rule.url for rule in RULES if rule.url]
    assert len(set(pages)) == len(pages) == len(RULES) - 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_page_is_the_name_in_other_letters(rule: Rule) -> None:
    if not rule.url:
        assert rule.name == "InvalidBaseImagePlatform"
        return
    words = re.findall(r"JSON|[A-Z][a-z]+", rule.name)
    assert rule.url.endswith("/rule/" + "-".join(words).lower() + "/")


def test_a_message_takes_its_words() -> None:
    assert FROM_AS_CASING.message.format("as", "FROM") == (
        "'as' and 'FROM' keywords' casing do not match"
    )
    assert LEGACY_KEY_VALUE_FORMAT.message.format("env") == (
        '"env key=value" should be used instead of legacy "env key value" format'
    )


def test_one_check_has_to_be_asked_for() -> None:
    assert [rule.name for rule in RULES if rule.experimental] == ["InvalidDefinitionDescription"]
