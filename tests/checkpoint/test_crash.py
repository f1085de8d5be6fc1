"""A saver killed at any moment leaves the previous checkpoint or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.checkpoint.namespace import restore
from ciuic_jupyter.checkpoint.store import Store

KEY = b"k" * 32
KILLS = 100

SAVERS = """
import os, sys
from pathlib import Path
import numpy as np
from ciuic_jupyter.checkpoint.namespace import capture
from ciuic_jupyter.checkpoint.store import Store

def save(first):
    store = Store(Path(sys.argv[1]))
    for version in range(first, first + 10_000):
        rng = np.random.default_rng(version)
        world = {"version": version, "data": rng.normal(size=1_500_000), "same": np.zeros(500_000)}
        world["words"] = [str(version)] * 9
        manifest = store.write_manifest(capture(world, store), b"k" * 32)
        print(manifest.seq, flush=True)

for line in sys.stdin:
    saver = os.fork()
    if not saver:
        print("pid", os.getpid(), flush=True)
        save(int(line))
    os.waitpid(saver, 0)
    print("ended", flush=True)
"""


@pytest.fixture
def savers(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that forks a saver for each line it gets; all it imports is there when a saver begins."""
    command, pipe = [sys.executable, "-c", SAVERS, str(tmp_path / "store")], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        process.kill()


def killed(savers: subprocess.Popen[str], first: int, after: float) -> list[int]:
    """Have versions saved from `first` on and kill that after some seconds; return those of which it told."""
    assert savers.stdin is not None and savers.stdout is not None
    savers.stdin.write(f"{first}\n")
    savers.stdin.flush()
    pid = int(savers.stdout.readline().removeprefix("pid "))
    moment = time.monotonic() + after
    while time.monotonic() < moment:  # the moment itself is what is random
        pass
    os.kill(pid, signal.SIGKILL)
    told: list[int] = []
    while (line := savers.stdout.readline()) != "ended\n":
        told += [int(word) for word in line.split() if line.endswith("\n")]
    return told


@pytest.mark.crash
@pytest.mark.timeout(280)
def test_kill_at_random_moments(tmp_path: Path, savers: subprocess.Popen[str]) -> None:
    rng = random.Random(11)
    import numpy as np

    root = tmp_path / "store"
    told, longest, barren = 0, 0.15, 0
    hits = set()
    for _ in range(KILLS):
        heard = killed(savers, told + 1, rng.uniform(0.0, longest))
        store = Store(root)
        newest = (store.manifests() or [0])[-1]
        hits.add(newest - max([told, *heard]))
        assert newest >= max([told, *heard]), "a checkpoint that was reported is gone"
        barren = barren + 1 if newest == told else 0
        if barren == 3:  # a slow machine is given the time for a save
            longest, barren = longest * 1.5, 0
        told = newest
        if newest:
            names: dict[str, object] = {}
            restore(store.read_manifest(None, KEY).body, store, names)
            version = names["version"]
            assert isinstance(version, int)
            assert np.array_equal(names["data"], np.random.default_rng(version).normal(size=1_500_000))  # type: ignore[arg-type]
            assert names["words"] == [str(version)] * 9
    assert told > 3
    assert len(list((root / "chunks").glob(".partial-*"))) <= 1
    older = store.manifests()[0]
    restore(store.read_manifest(older, KEY).body, store, {})
