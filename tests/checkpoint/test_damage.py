"""A store damaged anywhere says where and why; the checkpoint before still reads; nothing wrong is ever loaded."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CheckpointUntrusted

KEY = b"k" * 32
FLIPS = 900
CUTS = 200
SIZES = (1, 700, 4096, 5000, 40_000, (1 << 20) + 17)  # bytes; below, at and above a sector and a chunk

Saved = tuple[Store, list[dict[str, bytes]], list[Path], list[Path]]


def _load(store: Store, seq: int) -> dict[str, bytes]:
    body = store.read_manifest(seq, KEY).body
    reader = store.reader()
    try:
        return {name: bytes(reader.read(blob, f"the variable {name}")) for name, blob in body["blobs"].items()}
    finally:
        reader.close()


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    """Return a store of two checkpoints that share nothing, their values, their manifests and their packs."""
    store = Store(tmp_path / "store")
    values: list[dict[str, bytes]] = []
    packs: list[Path] = []
    for _ in range(2):
        values.append({f"v{size}": os.urandom(size) for size in SIZES})
        with store.save() as save:
            blobs = {name: save.add(value) for name, value in values[-1].items()}
        packs += sorted(set((store.root / "chunks").glob("*.pack")) - set(packs))
        store.write_manifest({"blobs": blobs, "notes": ["text"] * 50}, KEY)
    manifests = sorted((store.root / "manifests").iterdir())
    assert len(manifests) == len(packs) == 2
    return store, values, manifests, packs


@contextmanager
def _changed(path: Path, change: Callable[[int], None], size: int) -> Iterator[None]:
    """Apply `change` to the open file; afterwards it is as it was."""
    whole = path.read_bytes()
    number = os.open(path, os.O_RDWR)
    try:
        change(number)
        yield
    finally:
        os.pwrite(number, whole[size:], size)
        os.close(number)
        assert path.read_bytes() == whole


def _flip(spot: int, bit: int) -> Callable[[int], None]:
    def change(number: int) -> None:
        os.pwrite(number, bytes([os.pread(number, 1, spot)[0] ^ 1 << bit]), spot)

    return change


def _cut(size: int) -> Callable[[int], None]:
    return lambda number: os.ftruncate(number, size)


def _refused(saved: Saved, path: Path) -> str:
    """Load the newest checkpoint with fresh eyes; return the refusal, or nothing if it came back right."""
    store, values, _, _ = saved
    fresh = Store(store.root)
    try:
        assert _load(fresh, 2) == values[1], f"{path.name} is damaged, and other values were loaded"
        why = ""
    except (CheckpointDamaged, CheckpointUntrusted) as error:
        why = str(error)
    assert _load(fresh, 1) == values[0], f"{path.name} is damaged, and the checkpoint before is lost too"
    return why


def _check_told(saved: Saved, path: Path, why: str) -> None:
    _, _, manifests, _ = saved
    assert path.name in why, why
    if path in manifests and "not signed with this key" in why:  # the signature itself is what changed
        assert "nothing of it was loaded" in why, why
        return
    altered = path not in manifests and "is not what was saved" in why and "the variable v" in why
    assert altered or "damaged or cut off" in why, why
    assert "use an older checkpoint" in why, why


def _used(store: Store, pack: Path) -> list[tuple[int, int]]:
    """Return the ranges of a pack that mean something: its chunks, its index and its trailer."""
    from ciuic_jupyter.checkpoint.pack import read_index

    places = sorted(read_index(pack).values())
    end = max(-(-(offset + length) // 4096) * 4096 for offset, length in places)
    return [*((offset, offset + length) for offset, length in places), (end, pack.stat().st_size)]


@pytest.mark.parametrize("seed", range(3))
def test_no_flipped_bit_is_ever_loaded(saved: Saved, seed: int) -> None:
    store, _, manifests, packs = saved
    rng = random.Random(seed)
    used = _used(store, packs[1])
    refused = 0
    for number in range(FLIPS // 3):
        path = manifests[1] if number % 3 == 0 else packs[1]
        size = path.stat().st_size
        anywhere = path in manifests or number % 3 == 1  # or in one part, for the small ones are seldom hit
        spot = rng.randrange(size) if anywhere else rng.randrange(*rng.choice(used))
        with _changed(path, _flip(spot, rng.randrange(8)), spot):
            why = _refused(saved, path)
        means = path in manifests or any(start <= spot < end for start, end in used)
        assert bool(why) == means, f"byte {spot} of {path.name}: {why or 'not refused'}"
        if why:
            _check_told(saved, path, why)
            refused += 1
    assert refused >= FLIPS // 3 * 0.9  # the rest are bytes between chunks, which nothing reads


def test_every_cut_is_refused(saved: Saved) -> None:
    _, _, manifests, packs = saved
    rng = random.Random(3)
    for number in range(CUTS):
        path = (manifests, packs)[number % 2][1]
        size = path.stat().st_size
        at = (0, 1, size - 1, size - 52)[number // 2] if number < 8 else rng.randrange(size)
        with _changed(path, _cut(at), at):
            why = _refused(saved, path)
        assert why, f"{path.name} was cut at {at} of {size} bytes and loaded"
        _check_told(saved, path, why)


def test_a_damaged_newest_is_never_replaced_by_an_older_one(saved: Saved) -> None:
    store, values, manifests, packs = saved
    for path in (manifests[1], packs[1]):
        with _changed(path, _cut(0), 0), pytest.raises(CheckpointError, match=path.name):
            seq = store.read_manifest(None, KEY).seq
            _load(Store(store.root), seq)
    manifests[1].unlink()
    assert store.read_manifest(None, KEY).seq == 1 and _load(store, 1) == values[0]
