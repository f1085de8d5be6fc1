"""Packs are read ahead in the order of need; what is wrong with them is told by whoever uses them."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic_jupyter.checkpoint import ahead
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.pack import CHUNK
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged


def asked(body: dict[str, Any], root: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Return the pieces that the system is asked for: pack, offset, length."""
    found: list[tuple[str, int, int]] = []

    def advise(number: int, start: int, length: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        found.append((os.path.basename(os.readlink(f"/proc/self/fd/{number}")), start, length))

    monkeypatch.setattr(os, "posix_fadvise", advise)
    gc.collect()  # what earlier tests left
    before = set(os.listdir("/proc/self/fd"))
    ahead.read_ahead(body, root)
    for thread in threading.enumerate():
        if thread.name == "checkpoint read ahead":
            thread.join()
    assert set(os.listdir("/proc/self/fd")) == before
    return found


def test_each_byte_is_asked_for_once_and_neighbours_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    values = {"a": np.random.default_rng(1).bytes(40 * CHUNK), "b": np.arange(3 * CHUNK // 8)}
    capture({"b": values["b"]}, store)
    body = capture(values, store)
    found = asked(body, tmp_path, monkeypatch)
    assert len({pack for pack, _, _ in found}) == 2
    assert sum(length for _, _, length in found) >= body["bytes_total"]
    assert sum(length for _, _, length in found) < body["bytes_total"] + 4 * CHUNK
    assert len(found) <= 6
    assert max(length for _, _, length in found) <= 32 * CHUNK
    assert found[0][0] == next(pack for pack, _, length in found if length == max(each[2] for each in found))


def test_no_more_than_a_share_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "available", lambda: 0)
    body = capture({"a": np.arange(3 * CHUNK)}, Store(tmp_path))
    assert len(asked(body, tmp_path, monkeypatch)) == 1


@pytest.mark.parametrize("damage", ["gone", "index", "chunk"])
def test_a_damaged_pack_is_refused_as_ever(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    body = capture({"a": np.arange(3 * CHUNK), "b": 1}, store)
    pack = next((tmp_path / "chunks").glob("*.pack"))
    data = bytearray(pack.read_bytes())
    if damage == "gone":
        pack.unlink()
    else:
        data[100 if damage == "chunk" else -50] ^= 1
        pack.write_bytes(data)
    names: dict[str, Any] = {"kept": 1}
    with pytest.raises(CheckpointDamaged):
        restore(body, Store(tmp_path), names)
    assert names == {"kept": 1}
