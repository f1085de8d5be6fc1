"""Boxes and their user; without what they need the tests here are skipped, with the reason."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssh.boxes import Box, User, boxes, needs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.ssh)


@pytest.fixture(scope="session")
def possible() -> None:
    why = needs()
    if why is not None:
        pytest.skip(f"no machines to ssh to: {why}")


@pytest.fixture
def folder(possible: None) -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="cb-"))  # a short path: sockets lie in it
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def plane_home(folder: Path) -> Path:
    """What is the plane's alone: no box sees it."""
    made = folder / "plane"
    made.mkdir(mode=0o700)
    return made


@pytest.fixture
def pair(folder: Path, plane_home: Path) -> Iterator[list[Box]]:
    with boxes(folder, [plane_home]) as made:
        yield made


@pytest.fixture
def user(pair: list[Box], plane_home: Path, monkeypatch: pytest.MonkeyPatch) -> User:
    """A user whom both boxes let in, and whose home is that of this process."""
    made = User(plane_home / "home")
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for box in pair:
        made.may_use(box)
    made.trusts(*pair)
    return made
