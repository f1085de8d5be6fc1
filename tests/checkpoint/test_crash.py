"""A saver killed at any moment leaves the previous checkpoint or the new one, whole."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ciuic_jupyter.checkpoint.namespace import restore
from ciuic_jupyter.checkpoint.store import Store

KEY = b"k" * 32
KILLS = 40

SAVER = """
import sys
from pathlib import Path
import numpy as np
from ciuic_jupyter.checkpoint.namespace import capture
from ciuic_jupyter.checkpoint.store import Store
store, first = Store(Path(sys.argv[1])), int(sys.argv[2])
print("ready", flush=True)
for version in range(first, first + 10_000):
    rng = np.random.default_rng(version)
    world = {"version": version, "data": rng.normal(size=1_500_000), "same": np.zeros(500_000)}
    world["words"] = [str(version)] * 9
    manifest = store.write_manifest(capture(world, store), b"k" * 32)
    print(manifest.seq, flush=True)
"""


@pytest.mark.crash
@pytest.mark.timeout(280)
def test_kill_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(11)
    import numpy as np

    root = tmp_path / "store"
    told, longest = 0, 0.15
    hits = set()
    for _ in range(KILLS):
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, str(root), str(told + 1)], stdout=subprocess.PIPE, text=True
        )
        assert saver.stdout is not None
        assert saver.stdout.readline() == "ready\n"
        pause = time.monotonic() + rng.uniform(0.0, longest)
        while time.monotonic() < pause:  # the moment itself is what is random
            pass
        os.kill(saver.pid, signal.SIGKILL)
        heard = [int(line) for line in saver.stdout.read().split()]
        saver.wait()
        saver.stdout.close()
        store = Store(root)
        newest = (store.manifests() or [0])[-1]
        hits.add(newest - max([told, *heard]))
        assert newest >= max([told, *heard]), "a checkpoint that was reported is gone"
        longest *= 1.3 if newest == told else 1.0  # a slow machine is given the time for a save
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
