"""The store: nothing half written is ever seen, nothing altered is ever loaded."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.pack import CHUNK, PackWriter, digest
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.checkpoint.verify import main
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CheckpointUntrusted, SaveFailed

KEY = b"k" * 32


def _world() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "big": rng.normal(size=400_000),
        "small": list(range(1000)),
        "mid": rng.normal(size=5_000),
        "text": "x" * 9000,
    }


def _saved(root: Path) -> Store:
    store = Store(root)
    store.write_manifest(capture(_world(), store), KEY)
    return store


def _load(root: Path, key: bytes = KEY) -> dict[str, Any]:
    store = Store(root)
    names: dict[str, Any] = {}
    restore(store.read_manifest(None, key).body, store, names)
    return names


def _same(names: dict[str, Any]) -> bool:
    world = _world()
    arrays = all(np.array_equal(names[name], world[name]) for name in ("big", "mid"))
    return arrays and all(names[name] == world[name] for name in ("small", "text"))


def test_round_trip_and_modes(tmp_path: Path) -> None:
    _saved(tmp_path / "s")
    assert _same(_load(tmp_path / "s"))
    for path in (tmp_path / "s").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_every_flipped_bit_is_refused_or_harmless(tmp_path: Path) -> None:
    _saved(tmp_path / "s")
    rng = random.Random(5)
    refused = 0
    files = sorted(path for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert len(files) == 2
    for path in files:
        whole = path.read_bytes()
        spots = {0, len(whole) - 1, len(whole) // 2, *(rng.randrange(len(whole)) for _ in range(60))}
        for spot in sorted(spots):
            changed = bytearray(whole)
            changed[spot] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            try:
                assert _same(_load(tmp_path / "s")), f"byte {spot} of {path.name} loaded altered values"
            except (CheckpointDamaged, CheckpointUntrusted) as error:
                assert path.name in str(error) or "chunk" in str(error)
                refused += 1
        path.write_bytes(whole)
    assert refused > 100  # what is left are bytes between chunks, which nothing reads
    assert _same(_load(tmp_path / "s"))


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    _saved(tmp_path / "s")
    for path in [path for path in (tmp_path / "s").rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:size])
            with pytest.raises((CheckpointDamaged, CheckpointUntrusted), match=path.name):
                _load(tmp_path / "s")
        path.write_bytes(whole)


def test_a_missing_pack_is_named(tmp_path: Path) -> None:
    _saved(tmp_path / "s")
    next((tmp_path / "s").rglob("*.pack")).unlink()
    with pytest.raises(CheckpointDamaged, match=r"chunk \w+ of the variables is missing"):
        _load(tmp_path / "s")


def test_wrong_key_and_moved_manifests_are_refused(tmp_path: Path) -> None:
    store = _saved(tmp_path / "s")
    with pytest.raises(CheckpointUntrusted, match="not signed with this key"):
        _load(tmp_path / "s", b"x" * 32)
    folder = tmp_path / "s" / "manifests"
    shutil.copy(folder / "00000001.json", folder / "00000002.json")
    with pytest.raises(CheckpointUntrusted, match="belongs to checkpoint 1"):
        store.read_manifest(None, KEY)
    (folder / "00000002.json").unlink()
    with pytest.raises(CheckpointError, match="there is no checkpoint 7"):
        store.read_manifest(7, KEY)


def test_a_manifest_that_is_a_link_is_refused(tmp_path: Path) -> None:
    store = _saved(tmp_path / "s")
    path = tmp_path / "s" / "manifests" / "00000001.json"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError):
        store.read_manifest(1, KEY)


def test_unchanged_chunks_are_not_written_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    world = {"a": np.random.default_rng(2).normal(size=4_000_000), "n": 1}
    first = capture(world, store)
    assert first["bytes_written"] >= 32_000_000
    assert capture(world, store)["bytes_written"] == 0
    world["a"][1_000_000] = 0
    changed = capture(world, Store(tmp_path))
    assert 0 < changed["bytes_written"] <= 2 * CHUNK
    assert changed["bytes_total"] == first["bytes_total"]
    names: dict[str, Any] = {}
    restore(changed, store, names)
    assert np.array_equal(names["a"], world["a"])
    restore(first, store, names)
    assert names["a"][1_000_000] != 0


def test_a_thousand_small_variables_make_one_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    world = {f"v{number}": np.full(300, number) for number in range(1000)}
    store.write_manifest(capture(world, store), KEY)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
    assert (_load(tmp_path)["v77"] == 77).all()


def test_sequence_numbers_only_grow(tmp_path: Path) -> None:
    store = Store(tmp_path)
    body = capture({"a": 1}, store)
    assert [store.write_manifest(body, KEY).seq for _ in range(3)] == [1, 2, 3]
    assert store.manifests() == [1, 2, 3]
    (tmp_path / "manifests" / "00000001.json").unlink()
    assert Store(tmp_path).write_manifest(body, KEY).seq == 4
    assert store.read_manifest(2, KEY).body == store.read_manifest(None, KEY).body


def test_a_damaged_pack_is_put_aside_and_written_anew(tmp_path: Path) -> None:
    from tests.checkpoint.kernel import run

    world = tmp_path / "w.py"
    world.write_text("import numpy as np\na = np.random.default_rng(0).normal(size=500_000)\n")
    run("save", str(world), str(tmp_path))
    pack = next(tmp_path.rglob("*.pack"))
    data = bytearray(pack.read_bytes())
    data[100_000] ^= 1
    pack.write_bytes(data)
    store = Store(tmp_path / "store")
    store.distrust(pack.name)
    with pytest.raises(CheckpointDamaged):
        restore(store.read_manifest(None, KEY).body, store, {})
    assert run("save", str(world), str(tmp_path))["bytes_written"] > 4_000_000
    assert run("verify", str(tmp_path))["ok"]


def test_a_save_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="mine"), store.save() as save:
        save.add(os.urandom(3 * CHUNK))
        raise RuntimeError("mine")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_killed_saver_left_is_cleared_but_not_one_at_work(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write_manifest(capture({"a": 1}, store), KEY)
    chunks = tmp_path / "chunks"
    (chunks / ".partial-dead").write_bytes(b"x" * 100)
    at_work = PackWriter(chunks)
    with store.save() as save:
        save.add(b"y")
    assert not (chunks / ".partial-dead").exists()
    data = memoryview(b"z" * 10)
    at_work.add(digest(data), data)
    assert at_work.close() is not None


def test_a_disk_that_refuses_is_a_failed_save(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    with pytest.raises(SaveFailed, match="can't be written"):
        capture({"a": 1}, Store(blocked))


def test_a_full_disk_is_a_failed_save(tmp_path: Path) -> None:
    import resource
    import signal

    store = Store(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, before[1]))
    try:
        with pytest.raises(SaveFailed):
            capture({"a": np.random.default_rng(0).normal(size=3_000_000)}, store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_verify_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    _saved(tmp_path / "s")
    key = tmp_path / "key"
    key.write_text(KEY.hex())
    command = [sys.executable, "-m", "ciuic_jupyter.checkpoint.verify", str(tmp_path / "s"), "latest", str(key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and '"ok": true' in done.stdout
    key.write_text((b"y" * 32).hex())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "CheckpointUntrusted" in done.stderr
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
