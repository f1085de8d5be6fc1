"""Each world is saved, verified and checked once, in three processes of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint import process
from tests.checkpoint.kernel import save_and_check


@pytest.fixture(autouse=True)
def own_start() -> None:
    """What pytest added to this process is not the notebook's."""
    process.remember_start()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    """Return what the three processes said about a world."""
    done: dict[str, dict[str, Any]] = {}

    def get(name: str) -> dict[str, Any]:
        if name not in done:
            folder: Path = tmp_path_factory.mktemp(name)
            done[name] = save_and_check(name, folder)
        return done[name]

    return get
