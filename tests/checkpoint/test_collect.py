"""What is kept stays whole: while another process saves, and when the collector is killed at any moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.collect import Collected, collect
from ciuic_jupyter.checkpoint.pack import CHUNK
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, UsageError

KEY = b"k" * 32
KILLS = 100
TICK = 0.02  # seconds; more than the file system's clock needs to move on

COLLECTOR = """
import os, sys
from pathlib import Path
from ciuic_jupyter.checkpoint.collect import collect
from ciuic_jupyter.checkpoint.store import Store
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.write(1, b"%d\\n" % os.getpid())
        try:
            collect(Store(Path(sys.argv[1])), b"k" * 32, keep=3)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.write(1, b"ended\\n")
"""

SAVER = """
import os, sys
from pathlib import Path
from ciuic_jupyter.checkpoint.store import Store
store, values = Store(Path(sys.argv[1])), [bytes([number]) * 5000 for number in range(6)]
for number in range(int(sys.argv[2])):
    with store.save() as save:
        blobs = [save.add(values[number % 6]), save.add(values[(number * 5 + 1) % 6]), save.add(b"%d" % (number // 2))]
    store.write_manifest({"blobs": {"a": blobs[0], "b": blobs[1], "c": blobs[2]}, "buffers": []}, b"k" * 32)
"""


def _save(store: Store, *values: bytes) -> int:
    """Save as a kernel does: chunks, then some time, then the manifest."""
    with store.save() as save:
        blobs = [save.add(value) for value in values]
    time.sleep(TICK)
    return store.write_manifest({"blobs": {}, "buffers": blobs}, KEY).seq


def _load(store: Store, seq: int) -> list[bytes]:
    body = store.read_manifest(seq, KEY).body
    reader = store.reader()
    try:
        return [bytes(reader.read(blob, "a value")) for blob in [*body["blobs"].values(), *body["buffers"]]]
    finally:
        reader.close()


def _packs(store: Store) -> set[str]:
    return {path.name for path in (store.root / "chunks").iterdir()}


def test_the_newest_and_the_named_stay(tmp_path: Path) -> None:
    store = Store(tmp_path)
    values = [[os.urandom(3 * CHUNK), bytes([number])] for number in range(6)]
    values[5][0] = values[1][0]  # the newest leans on a pack of an old one
    for value in values:
        _save(store, *value)
    done = collect(store, KEY, keep=2, named=[3])
    assert done.manifests == (1, 2, 4) and len(done.packs) == 2 and done.waits == ""
    assert done.freed >= 6 * CHUNK
    assert store.manifests() == [3, 5, 6] and len(_packs(store)) == 4
    for seq in store.manifests():
        assert _load(store, seq) == values[seq - 1]
    assert collect(store, KEY, keep=3) == Collected((), (), 0, "")
    assert _save(store, b"new") == 7


def test_what_can_not_be_kept_is_told_before_anything_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="no checkpoints in"):
        collect(store, KEY, keep=1)
    for number in range(3):
        _save(store, bytes([number]) * 100)
    before = _packs(store)
    with pytest.raises(UsageError, match="keep 1 or more"):
        collect(store, KEY, keep=0)
    with pytest.raises(UsageError, match="no checkpoint 9"):
        collect(store, KEY, keep=1, named=[9])
    with pytest.raises(CheckpointError, match="not signed with this key"):
        collect(store, b"x" * 32, keep=1)
    newest = tmp_path / "manifests" / "00000003.json"
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.raises(CheckpointDamaged, match=newest.name):
        collect(store, KEY, keep=1)
    assert store.manifests() == [1, 2, 3] and _packs(store) == before


def test_one_collector_at_a_time(tmp_path: Path) -> None:
    import fcntl

    store = Store(tmp_path)
    _save(store, b"a")
    number = os.open(tmp_path / "chunks", os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process"):
            collect(store, KEY, keep=1)
    finally:
        os.close(number)
    assert collect(store, KEY, keep=1).waits == ""


def test_a_save_at_work_keeps_what_it_leans_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _save(store, b"old" * 99)
    _save(store, b"new" * 99)
    with store.save() as save:
        blobs = [save.add(b"old" * 99), save.add(b"mine")]
        done = collect(Store(tmp_path), KEY, keep=1, lease=0)
        assert done.manifests == (1,) and done.packs == () and "at work" in done.waits
    done = collect(Store(tmp_path), KEY, keep=1)
    assert done.packs == () and "manifest" in done.waits
    time.sleep(TICK)
    seq = store.write_manifest({"blobs": {}, "buffers": blobs}, KEY).seq
    assert len(collect(store, KEY, keep=1, lease=0).packs) == 1
    assert _load(store, seq) == [b"old" * 99, b"mine"]


def test_a_save_without_a_new_chunk_keeps_what_it_leans_on(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _save(store, b"old" * 99)
    _save(store, b"new" * 99)
    with store.save() as save:
        blob = save.add(b"old" * 99)
    assert collect(store, KEY, keep=1).packs == ()
    time.sleep(TICK)
    seq = store.write_manifest({"blobs": {}, "buffers": [blob]}, KEY).seq
    assert _load(store, seq) == [b"old" * 99]


def test_a_new_pack_waits_for_its_manifest_and_a_forgotten_one_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _save(store, b"first")
    with store.save() as save:
        save.add(b"of a save that has no manifest yet")
    time.sleep(TICK)
    store.write_manifest(store.read_manifest(1, KEY).body, KEY)  # somebody else's comes first
    done = collect(store, KEY, keep=1)
    assert done.packs == () and "new pack" in done.waits and len(_packs(store)) == 2
    time.sleep(TICK)
    assert len(collect(store, KEY, keep=1, lease=0).packs) == 1


def test_a_save_that_starts_in_the_middle_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    _save(store, b"old" * 99)
    _save(store, b"new" * 99)
    rename = os.rename
    blobs: list[dict[str, Any]] = []

    def slow(source: Path, target: Path) -> None:
        if not blobs and str(target).endswith(".unused"):  # all of a save, after the look and before the new name
            with Store(tmp_path).save() as save:
                blobs.append(save.add(b"old" * 99))
        rename(source, target)

    monkeypatch.setattr(os, "rename", slow)
    done = collect(store, KEY, keep=1)
    assert done.packs == () and "meanwhile" in done.waits
    seq = store.write_manifest({"blobs": {}, "buffers": blobs}, KEY).seq
    assert _load(store, seq) == [b"old" * 99]


def test_a_saver_in_another_process_never_loses_a_chunk(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _save(store, b"first")
    removed = 0
    with subprocess.Popen([sys.executable, "-c", SAVER, str(tmp_path), "150"]) as saver:
        while saver.poll() is None:
            removed += len(collect(store, KEY, keep=2).packs)
            for seq in store.manifests()[-1:]:
                _load(store, seq)
    assert saver.returncode == 0
    removed += len(collect(store, KEY, keep=2, lease=0).packs)
    assert store.manifests() == [150, 151] and removed
    for seq in (150, 151):
        number = seq - 2
        last = [bytes([number % 6]) * 5000, bytes([(number * 5 + 1) % 6]) * 5000, b"%d" % (number // 2)]
        assert _load(store, seq) == last


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that collects once for each line; it ends with the test, however that ends."""
    command = [sys.executable, "-c", COLLECTOR, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _packs_of_any_name(store: Store) -> set[str]:
    """Return the packs with the names that they have, or that they get back."""
    return {name.removesuffix(".unused") for name in _packs(store)}


def test_what_a_killed_collector_put_aside_comes_back_with_the_next(tmp_path: Path) -> None:
    store = Store(tmp_path)
    _save(store, b"a" * 99)
    (pack,) = (tmp_path / "chunks").glob("*.pack")
    pack.rename(pack.with_name(pack.name + ".unused"))  # as one does that is killed before it removes
    assert collect(store, KEY, keep=1) == Collected((), (), 0, "")
    assert _packs(store) == {pack.name} and _load(store, 1) == [b"a" * 99]


@pytest.mark.crash
def test_killed_at_any_moment_what_is_kept_is_whole(tmp_path: Path, collector: subprocess.Popen[str]) -> None:
    rng = random.Random(7)
    store, values = Store(tmp_path), {}
    shared = [os.urandom(9000) for _ in range(5)]
    assert collector.stdin is not None and collector.stdout is not None
    midway, kills, longest = 0, 0, 0.004
    for _ in range(KILLS):
        for _ in range(2):
            value = [rng.choice(shared), os.urandom(5000)]
            values[_save(store, *value)] = value
        before = store.manifests()
        packs = _packs(store)
        known = _packs_of_any_name(store)
        collector.stdin.write("go\n")
        collector.stdin.flush()
        pid = int(collector.stdout.readline())
        early = any(name.endswith(".unused") for name in packs) and rng.random() < 0.5  # killed twice in a row
        moment = time.monotonic() + (0 if early else rng.uniform(0, longest))
        while time.monotonic() < moment:  # the moment itself is what is random
            pass
        try:
            os.kill(pid, signal.SIGKILL)
            kills += 1
        except ProcessLookupError:  # it was done
            longest *= 0.9
        assert collector.stdout.readline() == "ended\n"
        after = store.manifests()
        assert after[-3:] == before[-3:]
        midway += after != before or _packs(store) != packs
        longest *= 1.0 if after != before else 1.1
        assert _packs_of_any_name(store) <= known  # one killed before may have left some aside, this one makes none
        for seq in after:  # the old ones too: a manifest goes before its packs
            assert _load(store, seq) == values[seq]
    collector.stdin.close()
    assert collector.wait() == 0
    assert midway > 10 and kills > 50
    _save(store, b"last")
    done = collect(store, KEY, keep=3, lease=0)
    assert done.waits == "" and len(store.manifests()) == 3 and len(_packs(store)) <= 3 + len(shared)


def test_threads_may_read_what_is_kept_meanwhile(tmp_path: Path) -> None:
    store = Store(tmp_path)
    values = [[os.urandom(2000)] for _ in range(12)]
    for value in values:
        _save(store, *value)
    wrong: list[int] = []

    def read() -> None:
        wrong.extend(seq for _ in range(30) for seq in (11, 12) if _load(Store(tmp_path), seq) != values[seq - 1])

    thread = threading.Thread(target=read)
    thread.start()
    for keep in range(10, 1, -1):
        collect(store, KEY, keep=keep)
    thread.join()
    assert not wrong and store.manifests() == [11, 12]
