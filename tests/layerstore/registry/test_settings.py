"""What a client is told."""

import os

from layerstore.registry import Bounds, Credentials, Settings


def test_everything_has_a_bound() -> None:
    bounds = Bounds()
    for name in bounds.__dataclass_fields__:
        assert 0 < getattr(bounds, name) < 1 << 40, name


def test_a_setting_shows_neither_secrets_nor_the_environment() -> None:
    shown = repr(Settings(credentials=Credentials(user="me", password="hunter22")))
    assert "hunter22" not in shown
    assert os.environ["PATH"] not in shown
