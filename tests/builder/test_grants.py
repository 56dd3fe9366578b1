"""What is lent stays out of sight."""

from dataclasses import asdict
from pathlib import Path

from builder.grants import NO_GRANTS, Grants


def test_nothing_is_lent_by_default() -> None:
    assert asdict(NO_GRANTS) == {"secrets": {}, "agents": {}}


def test_a_secret_is_in_no_description() -> None:
    grants = Grants(secrets={"id": b"open sesame"}, agents={"default": Path("/run/agent")})
    assert "sesame" not in f"{grants} {grants!r}"
    assert "/run/agent" in repr(grants)
