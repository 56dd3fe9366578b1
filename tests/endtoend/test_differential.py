"""Build cases built by lamina and by buildah in the same run: a sample, the same each time.

Three comparisons of file tree and configuration, field by field: ours with the recorded reference
of BuildKit, buildah's with it, ours with buildah's. Where ours is not the reference, the test
fails, unless EXCEPTIONS says why; where buildah alone is not, the table at the end tells it. All
cases on small bases: `conformance_run.py --beside-buildah`.
"""

import os
from collections.abc import Iterator

import pytest

from tests.endtoend.conformance_run import (
    ALL_AGREE,
    EXCEPTIONS,
    REFUSED,
    Buildah,
    Differential,
    is_refused_on_purpose,
    sample,
    small_cases,
)
from tests.support import conformance, host
from tests.support.tally import RecordProperty, note, note_row

pytestmark = [
    pytest.mark.needs_root,  # buildah of an ordinary user gives something else
    pytest.mark.needs_overlay,
    pytest.mark.needs_material,
]


@pytest.fixture(scope="module")
def differential(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Differential]:
    work = tmp_path_factory.mktemp("differential")
    missing = host.no_peer("buildah") or host.no_peer("podman")
    if missing:
        assert not os.environ.get("LAMINA_MUST_CHECK_ALL"), missing
        yield Differential(work, None)
        return
    buildah = Buildah(work)
    try:
        yield Differential(work, buildah)
    finally:
        buildah.close()


@pytest.mark.parametrize("name", sorted({*sample(), *ALL_AGREE} & {*conformance.cases()}))
def test_ours_is_the_reference(
    differential: Differential, name: str, record_property: RecordProperty
) -> None:
    case = conformance.cases()[name]
    note(record_property, f"build_cases {case['suite']}", exception=EXCEPTIONS.get(name, ""))
    found = differential.run(case)
    note_row(record_property, found.row(), answers=found.answers())
    if found.refused:
        assert is_refused_on_purpose(found.refused), f"refused: {found.refused}"
        pytest.skip(f"refused as not supported: {found.refused}")
    if name in EXCEPTIONS:
        assert found.ours, "an exception that is none any more"
        return
    assert not found.ours, "\n".join(found.ours)
    if name in ALL_AGREE:
        assert not found.theirs, "\n".join(found.theirs or ())
        assert not found.apart, "\n".join(found.apart or ())


def test_exceptions_and_agreements_name_cases_that_are_there() -> None:
    assert set(EXCEPTIONS) <= set(conformance.cases())
    assert set(ALL_AGREE) <= set(small_cases())
    assert not set(EXCEPTIONS) & set(ALL_AGREE)


def test_every_exception_and_refusal_has_a_reason() -> None:
    assert all(len(reason.split()) > 3 for reason in (*EXCEPTIONS.values(), *REFUSED.values()))
