"""Where histories keep their files: in memory if the machine has such a place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.history import disk

_SHM = Path("/dev/shm")


@pytest.fixture
def place() -> Iterator[Path]:
    with disk():
        made = Path(tempfile.mkdtemp(prefix="ciuic-h-", dir=_SHM if _SHM.is_dir() else None))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
