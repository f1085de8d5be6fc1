"""A checkpoint from elsewhere: taken whole and signed anew, or refused by name with nothing left; never unpickled."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic_jupyter.checkpoint.collect import chunks_of
from ciuic_jupyter.checkpoint.foreign import take
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.pack import CHUNK, digest
from ciuic_jupyter.checkpoint.store import Manifest, Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointUntrusted, CiuicError, UsageError

OURS, THEIRS = b"o" * 32, b"t" * 32


def world(seed: int = 1) -> dict[str, Any]:
    return {"big": np.random.default_rng(seed).normal(size=200_000), "n": seed}


def theirs(root: Path, *, key: bytes = THEIRS, **more: Any) -> Manifest:
    """Another user's folder with one checkpoint more; `more` is put into the manifest's body."""
    store = Store(root)
    return store.write_manifest({**capture(world(), store), **more}, key)


def whole(root: Path) -> bool:
    """Tell whether the newest checkpoint there is ours and loads the values that were saved."""
    store, names = Store(root), dict[str, Any]()
    restore(store.read_manifest(None, OURS).body, store, names)
    return bool(np.array_equal(names["big"], world()["big"])) and names["n"] == 1


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if not path.is_dir()]


def refused(there: Path, here: Path, kind: type[CiuicError], match: str, *, trust: bool = True) -> None:
    with pytest.raises(kind, match=match):
        take(there, Store(here), OURS, trust=trust)
    assert files(here) == []


def test_one_of_another_key_is_refused_with_the_reason_and_taken_with_trust(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    body = theirs(there).body
    refused(there, here, CheckpointUntrusted, "code that will run as you .* `--trust` takes it", trust=False)
    assert not here.exists()
    assert take(there, Store(here), OURS, trust=True).body == body
    assert whole(here)
    for path in [here, *here.rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    with pytest.raises(CheckpointUntrusted):
        Store(there).read_manifest(None, OURS)  # the folder it came from is as it was


def test_our_own_needs_no_trust(tmp_path: Path) -> None:
    theirs(tmp_path / "there", key=OURS)
    take(tmp_path / "there", Store(tmp_path / "here"), OURS, trust=False)
    assert whole(tmp_path / "here")


def test_the_newest_is_taken_with_no_chunk_of_older_ones(tmp_path: Path) -> None:
    store = Store(tmp_path / "there")
    store.write_manifest(capture(world(2), store), THEIRS)
    body = theirs(tmp_path / "there").body
    take(tmp_path / "there", Store(tmp_path / "here"), OURS, trust=True)
    assert Store(tmp_path / "here").chunks().keys() == set(chunks_of(body)) < store.chunks().keys()
    assert whole(tmp_path / "here")


def test_every_flipped_bit_and_every_cut_is_refused_or_harmless(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    theirs(there)
    rng, count = random.Random(5), 0
    for path in files(there):
        good = path.read_bytes()
        spots = [0, len(good) // 2, len(good) - 1, *(rng.randrange(len(good)) for _ in range(25))]
        flipped = [good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :] for at in spots]
        for changed in (*flipped, *(good[:size] for size in (0, 1, 100, len(good) // 2, len(good) - 1))):
            path.write_bytes(changed)
            try:
                take(there, Store(here), OURS, trust=True)
            except CheckpointDamaged as error:
                assert path.name in str(error)
                assert files(here) == []
                count += 1
            else:
                assert len(changed) == len(good) or path.suffix == ".json"
                assert whole(here)
            shutil.rmtree(here, ignore_errors=True)
        path.write_bytes(good)
    assert count > 50  # the rest are bytes between chunks, and those of the signature that is not ours anyway


def _link(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _hard_link(path: Path) -> None:
    os.link(path, path.parent.parent / "elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("trick", [_link, _hard_link, _pipe, _folder, Path.unlink])
@pytest.mark.parametrize("what", ["manifests/*.json", "chunks/*.pack"])
def test_no_link_pipe_or_folder_stands_for_a_file(tmp_path: Path, what: str, trick: Callable[[Path], None]) -> None:
    there = tmp_path / "there"
    theirs(there)
    trick(next(there.glob(what)))
    gone = trick == Path.unlink
    kind = UsageError if gone and what.endswith("json") else CheckpointDamaged
    match = r"has no manifest|no pack in .* has it" if gone else r"(00001\.json|\.pack) can't be taken: it is"
    refused(there, tmp_path / "here", kind, match)


@pytest.mark.parametrize("inner", ["chunks", "manifests"])
def test_a_folder_that_is_none_of_checkpoints_is_refused(tmp_path: Path, inner: str) -> None:
    for wrong in (tmp_path / "none", tmp_path, tmp_path / "a\0b"):
        refused(wrong, tmp_path / "here", UsageError, "can't be opened as a folder of checkpoints")
    theirs(tmp_path / "there")
    _link(tmp_path / "there" / inner)
    refused(tmp_path / "there", tmp_path / "here", UsageError, f"{inner} can't be opened as a folder")


def test_a_manifest_with_another_number_is_refused(tmp_path: Path) -> None:
    theirs(tmp_path / "there")
    folder = tmp_path / "there" / "manifests"
    (folder / "00000001.json").rename(folder / "00000007.json")
    refused(tmp_path / "there", tmp_path / "here", CheckpointUntrusted, "belongs to checkpoint 1")


@pytest.mark.parametrize(
    "more",
    [
        {"types": {"a": 1}},
        {"names": "a"},
        {"python": None},
        {"placeholders": [{"path": "a"}]},
        {"bytes_total": -1},
        {"bytes_total": True},
        {"run": {"run": "../x", "code": "1", "seq": 1}},
        {"run": {"run": "x", "code": 1, "seq": 1}},
        {"buffers": [{"size": 5, "chunks": ["../../../../etc/passwd"]}]},
        {"buffers": [{"size": 5, "chunks": []}]},
        {"buffers": [{"size": 10**15, "chunks": ["ab" * 32]}]},
        {"buffers": [{"size": -5, "chunks": []}]},
        {"buffers": [{"size": "5", "chunks": ["ab" * 32]}]},
        {"buffers": [{"size": 5, "chunks": ["ab" * 32]}, {"size": 6, "chunks": ["ab" * 32]}]},
        {"buffers": [{"size": 5, "chunks": ["ab" * 32]}]},
    ],
)
def test_a_body_that_no_save_makes_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    theirs(tmp_path / "there", **more)
    refused(tmp_path / "there", tmp_path / "here", CheckpointDamaged, str(tmp_path / "there"))


@pytest.mark.parametrize("payload", [b"[" * 100_000, b"NaN", b"[]", b'{"body":{"types":NaN}}', b"\xff", b"9" * 9999])
def test_a_payload_that_is_no_manifest_is_refused(tmp_path: Path, payload: bytes) -> None:
    path = Store(tmp_path / "there").manifest_path(1)
    theirs(tmp_path / "there")
    path.write_bytes(b"ciuic-manifest-1 " + digest(payload).hex().encode() + b" " + b"0" * 64 + b"\n" + payload)
    refused(tmp_path / "there", tmp_path / "here", CheckpointDamaged, "00000001.json")


def _repack(there: Path, change: Callable[[bytes, int, int], tuple[int, int]], count: int | None = None) -> None:
    """Write the index of the pack anew, its digest right, with what `change` makes of offsets and lengths."""
    path = next(there.glob("chunks/*.pack"))
    data = path.read_bytes()
    _, start, entries, _ = struct.unpack("<8sQI32s", data[-52:])
    table = b"".join(
        name + struct.pack("<QI", *change(name, *place))
        for name, *place in struct.iter_unpack("<32sQI", data[start : start + 44 * entries])
    )
    trailer = struct.pack("<8sQI32s", b"ciuicpk1", start, count if count is not None else entries, digest(table))
    path.write_bytes(data[:start] + table + trailer)


def test_an_index_that_leads_astray_is_refused(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for change in (lambda n, o, s: (2**64 - 1, s), lambda n, o, s: (o + 4096, s), lambda n, o, s: (o + (1 << 40), s)):
        theirs(there)
        _repack(there, change)
        refused(there, here, CheckpointDamaged, "is not what was saved")
        shutil.rmtree(there)
    theirs(there)
    path = next(there.glob("chunks/*.pack"))
    start = path.stat().st_size
    with path.open("r+b") as file:  # 188 GB of index in a file that takes no room
        file.truncate(start + 44 * (2**32 - 1))
        file.seek(0, os.SEEK_END)
        file.write(struct.pack("<8sQI32s", b"ciuicpk1", start, 2**32 - 1, bytes(32)))
    refused(there, here, CheckpointDamaged, "more than any")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    body: Mapping[str, Any] = theirs(tmp_path / "there").body
    store, mark = Store(tmp_path / "there"), tmp_path / "went off"
    with store.save() as save:
        blob = save.add(pickle.dumps(Bomb(mark)) + bytes(CHUNK))
    store.write_manifest({**json.loads(json.dumps(body)), "blobs": {**body["blobs"], "pickle": blob}}, THEIRS)
    taken = take(tmp_path / "there", Store(tmp_path / "here"), OURS, trust=True)
    assert not mark.exists()
    reader = Store(tmp_path / "here").reader()
    pickle.loads(reader.read(taken.body["blobs"]["pickle"], "the bomb"))
    reader.close()
    assert mark.exists(), "it was no bomb"
