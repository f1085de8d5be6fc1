"""A disk full during a save: a clear refusal, no manifest, the space given back, the checkpoint before is whole."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.checkpoint.collect import collect
from ciuic_jupyter.checkpoint.pack import CHUNK
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import SaveFailed

KEY = b"k" * 32
ROOM = 16 * CHUNK


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM},mode=700", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _free(place: Path) -> int:
    told = os.statvfs(place)
    return told.f_bavail * told.f_frsize


def _save(store: Store, *values: bytes) -> int:
    with store.save() as save:
        blobs = [save.add(value) for value in values]
    return store.write_manifest({"blobs": {}, "buffers": blobs}, KEY).seq


def _load(store: Store, seq: int) -> list[bytes]:
    reader = store.reader()
    try:
        return [bytes(reader.read(blob, "a value")) for blob in store.read_manifest(seq, KEY).body["buffers"]]
    finally:
        reader.close()


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [12 * CHUNK, 100 * CHUNK])
def test_a_save_that_does_not_fit_changes_nothing(disk: Path, size: int) -> None:
    store, first = Store(disk), os.urandom(5 * CHUNK + 7)
    _save(store, first)
    before, files = _free(disk), _files(disk)
    with pytest.raises(SaveFailed, match=rf"can't be written to {disk}: No space left on device; make room"):
        _save(store, first, os.urandom(size))
    assert store.manifests() == [1] and _files(disk) == files and _free(disk) == before
    assert _load(Store(disk), 1) == [first]
    second = os.urandom(4 * CHUNK)
    assert _save(store, first, second) == 2  # what fits is saved afterwards
    assert _load(Store(disk), 2) == [first, second]


def test_no_room_for_the_index_alone(disk: Path) -> None:
    store, first = Store(disk), os.urandom(CHUNK)
    _save(store, first)
    (disk / "filler").write_bytes(bytes(_free(disk) - 2 * CHUNK))
    before, files = _free(disk), _files(disk)
    with pytest.raises(SaveFailed, match="No space left on device"):
        _save(store, os.urandom(before))
    assert _files(disk) == files and _free(disk) == before and _load(Store(disk), 1) == [first]


def test_no_room_for_the_manifest_alone(disk: Path) -> None:
    store, first = Store(disk), os.urandom(CHUNK)
    _save(store, first)
    with store.save() as save:
        blob = save.add(os.urandom(CHUNK))
    (disk / "filler").write_bytes(bytes(_free(disk)))
    files = _files(disk)
    with pytest.raises(SaveFailed, match="No space left on device"):
        store.write_manifest({"blobs": {}, "buffers": [blob], "notes": "x" * CHUNK}, KEY)
    assert store.manifests() == [1] and _files(disk) == files and _load(Store(disk), 1) == [first]
    (disk / "filler").unlink()
    before = _free(disk)
    done = collect(Store(disk), KEY, keep=1, lease=0)  # the pack without a manifest is given back
    assert len(done.packs) == 1 and _free(disk) - before >= CHUNK
    assert _load(Store(disk), 1) == [first]


def test_a_full_disk_is_made_room_on_by_collecting(disk: Path) -> None:
    store = Store(disk)
    for _ in range(3):
        _save(store, os.urandom(4 * CHUNK))
    value = os.urandom(6 * CHUNK)
    with pytest.raises(SaveFailed, match="No space left on device"):
        _save(store, value)
    done = collect(store, KEY, keep=1, lease=0)
    assert done.manifests == (1, 2) and len(done.packs) == 2 and done.freed >= 8 * CHUNK
    assert _load(store, _save(store, value)) == [value]
