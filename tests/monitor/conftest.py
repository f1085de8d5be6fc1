"""What the tests of this room share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ciuic_jupyter.monitor import tree
from tests.monitor.puppet import Puppet


@pytest.fixture(autouse=True)
def a_walk_each_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a host where the walk over /proc is slow it comes less often; these tests say when it comes."""
    monkeypatch.setattr(tree, "_CENSUS_SHARE", float("inf"))


@pytest.fixture
def puppet() -> Iterator[Puppet]:
    made = Puppet()
    yield made
    made.end()
