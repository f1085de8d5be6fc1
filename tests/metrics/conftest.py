"""A plane over the fake cloud, with a turned clock, as the control room's tests have it; and how pages are read."""

from __future__ import annotations

from tests.control.conftest import cloud
from tests.control.test_app import served

__all__ = ["cloud", "served"]
