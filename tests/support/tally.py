"""Counting of conformance cases by category, for the tables at the end of a test run.

A test that tries one case of foreign material notes its category:

    def test_a_case(case, record_property): note(record_property, "parser")

The summary (tests/conftest.py) counts the outcomes. A case that is deliberately answered otherwise
says so with `exception`, the reason; it still has to be tried.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

RecordProperty = Callable[[str, object], None]
_KEY = "conformance"
_ROW = "beside buildah"
COLUMNS = ("passed", "failed", "refused", "exception", "not applicable")


def note(record: RecordProperty, category: str, *, exception: str = "") -> None:
    """Count the test that runs under `category`."""
    record(_KEY, [category, exception])


def _noted(report: Any) -> Any:
    """What its test noted; of a file that was skipped while it was collected, nothing."""
    return getattr(report, "user_properties", ())


def table(reports: Iterable[Any]) -> Iterator[str]:
    """The lines of the table: a category each, and every exception and skip with its reason."""
    counts: dict[str, Counter[str]] = {}
    reasons: set[str] = set()
    for report in reports:
        for key, value in _noted(report):
            if key == _KEY:
                category, exception = value
                column = _column(report, exception)
                counts.setdefault(category, Counter())[column] += 1
                if exception and column == "exception":
                    reasons.add(f"{report.nodeid.rpartition('[')[2].rstrip(']')}: {exception}")
    if not counts:
        return
    width = max(map(len, counts))
    yield f"{'':{width}}" + "".join(f"{column:>16}" for column in COLUMNS)
    for category, found in sorted(counts.items()):
        yield f"{category:{width}}" + "".join(f"{found[column]:16}" for column in COLUMNS)
    for reason in sorted(reasons):
        yield f"exception: {reason}"


HEAD = f"{'ours=ref':9}{'bah=ref':9}{'ours=bah':9}"


def note_row(record: RecordProperty, row: str, *, answers: str) -> None:
    """Keep a row of the comparison with buildah; `answers` is what it says, to be counted."""
    record(_ROW, [row, answers])


def comparison(reports: Iterable[Any]) -> Iterator[str]:
    """The rows in which something differs or was refused, and how many rows say what."""
    rows = [value for report in reports for key, value in _noted(report) if key == _ROW]
    counts = Counter(answers for _, answers in rows)
    alike = {"ours=ref same, buildah=ref same, ours=buildah same"}
    if rows:
        yield HEAD
    yield from sorted(row for row, answers in rows if answers not in alike)
    for answers, count in counts.most_common():
        yield f"{count:5} cases  {answers}"


def _column(report: Any, exception: str) -> str:
    if report.outcome == "failed":
        return "failed"
    if report.outcome == "skipped":
        return "refused" if "refused as not supported" in str(report.longrepr) else COLUMNS[-1]
    return "exception" if exception else "passed"
