"""Generated rooms, made once."""

from __future__ import annotations

import pytest

from .made_sets import Made, make_rooms


@pytest.fixture(scope="session")
def made() -> Made:
    """Two rooms of eight views."""
    return make_rooms()
