import io
import sys

import pytest

from builder.cli.confirm import confirmed


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("y\n", True), ("YES\n", True), ("n\n", False), ("\n", False), ("", False), ("yo\n", False)],
)
def test_only_yes_is_yes(
    answer: str,
    expected: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert confirmed("This will remove it.") is expected
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("WARNING! This will remove it.\n")
