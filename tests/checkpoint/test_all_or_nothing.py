"""A restore that fails midway leaves the namespace and the process as they were."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic_jupyter.checkpoint import process
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged
from tests.checkpoint.kernel import execute, namespace

SETUP = """
import logging, os, sys, types
first = [1]
made_by_hand = sys.modules["made_by_hand"] = types.ModuleType("made_by_hand")
log = logging.getLogger("test_all_or_nothing")
log.addHandler(logging.NullHandler())
def see(): return first
os.environ["ALL_OR_NOTHING"] = "set"
sys.path.append("/all/or/nothing")
os.chdir("there")
"""
MARK = b"the bytes that go bad "


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Store, Path]:
    """Return the body of a save whose last variable is large, its store, and the folder of before it."""
    here = tmp_path / "here"
    (here / "there").mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("ALL_OR_NOTHING", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    process.remember_start()
    names = namespace()
    execute(SETUP, names)
    names["last"] = np.frombuffer(MARK * 200_000, "u1").copy()
    store = Store(tmp_path / "store")
    body = capture(names, store)
    monkeypatch.chdir(here)
    os.environ["ALL_OR_NOTHING"] = ""
    sys.path.remove("/all/or/nothing")
    logging.getLogger("test_all_or_nothing").handlers.clear()
    monkeypatch.delitem(sys.modules, "made_by_hand")
    return body, store, here


def _check_untouched(names: dict[str, Any], here: Path) -> None:
    assert names == {"first": "mine", "other": [2]}
    assert Path.cwd() == here and os.environ["ALL_OR_NOTHING"] == "" and "/all/or/nothing" not in sys.path
    assert logging.getLogger("test_all_or_nothing").handlers == [] and "made_by_hand" not in sys.modules


def test_a_whole_one_is_applied(saved: tuple[dict[str, Any], Store, Path]) -> None:
    body, store, here = saved
    names: dict[str, Any] = {"first": "mine", "other": [2]}
    restore(body, store, names)
    assert names["first"] == [1] and names["see"]() is names["first"] and names["other"] == [2]
    assert Path.cwd() == here / "there" and os.environ["ALL_OR_NOTHING"] == "set"
    assert len(logging.getLogger("test_all_or_nothing").handlers) == 1
    assert sys.modules["made_by_hand"] is names["made_by_hand"]


@pytest.mark.parametrize("end", [True, False])
def test_a_damaged_pack_changes_nothing(saved: tuple[dict[str, Any], Store, Path], end: bool) -> None:
    body, store, here = saved
    (pack,) = (here.parent / "store").rglob("*.pack")
    data = bytearray(pack.read_bytes())
    place = data.rindex(MARK) if end else data.index(MARK)
    data[place] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(data)
    names: dict[str, Any] = {"first": "mine", "other": [2]}
    with pytest.raises(CheckpointDamaged):
        restore(body, store, names)
    _check_untouched(names, here)


def test_an_interrupt_changes_nothing(saved: tuple[dict[str, Any], Store, Path]) -> None:
    body, store, here = saved

    class Stops(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            if key == "last":
                raise KeyboardInterrupt
            super().__setitem__(key, value)

    names = Stops({"first": "mine", "other": [2]})
    with pytest.raises(KeyboardInterrupt):
        restore(body, store, names)
    _check_untouched(names, here)
