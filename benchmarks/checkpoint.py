"""Save and restore of a 0.5 GB namespace, beside cloudpickle (whole namespace) and dill in the same run.

`python benchmarks/checkpoint.py [RUNS]` prints a table: best of RUNS (default 3). Restores run in a new process
that has the libraries imported already. Every save is durable (fsync) when its clock stops, for all three.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dill
import numpy as np
import pandas as pd
import torch

from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.store import Store

KEY = b"k" * 32
CELL = """
import numpy as np, pandas as pd, torch, functools
rng = np.random.default_rng(0)
rows = 4_500_000
frame = pd.DataFrame({f"f{i}": rng.normal(size=rows) for i in range(8)})
frame["k"] = rng.integers(0, 1000, rows)
array = rng.normal(size=(10_000, 1_000))
window, turned = array[10:5000, ::2], array.T
records = [{"id": i, "name": f"row {i}", "value": i * 0.5} for i in range(100_000)]
strings = [f"a line of text number {i}" for i in range(500_000)]
net = torch.nn.Sequential(torch.nn.Linear(1500, 1500), torch.nn.ReLU(), torch.nn.Linear(1500, 1500))
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(2, 1500)).sum().backward()
optimizer.step()
scale = 2
def scaled(x):
    return x * scale
class Point:
    def __init__(self, x):
        self.x = x
points = [Point(i) for i in range(50_000)]
"""


def build() -> dict[str, Any]:
    """Run the cell in a `__main__` of its own."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    exec(compile(CELL, "<cell>", "exec"), vars(module))
    return vars(module)


def plain(names: dict[str, Any]) -> dict[str, Any]:
    """Leave out what belongs to the interpreter."""
    return {name: value for name, value in names.items() if not name.startswith("__")}


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds and the result of `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def dump_file(library: Any, names: dict[str, Any], path: Path) -> None:
    """Write one pickle, durable."""
    with path.open("wb") as file:
        library.dump(plain(names), file, protocol=5)
        file.flush()
        os.fsync(file.fileno())


def loaded(kind: str, root: Path) -> dict[str, float]:
    """Load in a new process; return what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "load", kind, str(root)], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def load(kind: str, root: Path) -> None:
    """Do the loading of `loaded`: libraries first, then the clock."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    names = vars(module)
    if kind == "ciuic":
        store = Store(root)
        wall, cpu, _ = timed(lambda: restore(store.read_manifest(None, KEY).body, store, names))
    else:
        library = cloudpickle if kind == "cloudpickle" else dill
        with (root / kind).open("rb") as file:
            wall, cpu, values = timed(lambda: library.load(file))
        names.update(values)
    print(json.dumps({"seconds": wall, "cpu": cpu, "views": bool(np.shares_memory(names["window"], names["array"]))}))


def ours(names: dict[str, Any], root: Path, runs: int) -> list[dict[str, Any]]:
    """Measure a first save, a save of nothing new, a save of 1 % changed rows, and the restore."""
    rows = []
    for number in range(runs):
        folder = root / f"ours{number}"
        store = Store(folder)

        def save(store: Store = store) -> dict[str, Any]:
            body = capture(names, store)
            store.write_manifest(body, KEY)
            return body

        full = timed(save)
        same = timed(save)
        count = len(names["frame"]) // 100
        start = 1000 * (number + 1)
        for column in ("f0", "f1", "f2", "f3"):
            names["frame"].loc[start : start + count - 1, column] = float(number)
        changed = timed(save)
        back = loaded("ciuic", folder)
        rows.append({"full": full, "same": same, "changed": changed, "back": back})
        if number < runs - 1:
            shutil.rmtree(folder)
    return rows


def peers(names: dict[str, Any], root: Path, runs: int) -> dict[str, list[Any]]:
    """Measure cloudpickle and dill on the same objects."""
    found: dict[str, list[Any]] = {}
    for kind, library in (("cloudpickle", cloudpickle), ("dill", dill)):
        for _ in range(runs):
            try:
                wall, cpu, _ = timed(lambda library=library, kind=kind: dump_file(library, names, root / kind))
            except Exception as error:  # noqa: BLE001 - what a peer raises is its result
                found.setdefault(kind, []).append(f"{type(error).__name__}: {error}")
                break
            size = (root / kind).stat().st_size
            try:
                back: Any = loaded(kind, root)
            except subprocess.CalledProcessError as error:
                back = error.stderr.strip().splitlines()[-1]
            found.setdefault(kind, []).append((wall, cpu, size, back))
    return found


def cell(value: float | str, unit: str = "") -> str:
    """Write one number."""
    return value if isinstance(value, str) else f"{value:.2f}{unit}"


def main(runs: int) -> None:
    """Print the table."""
    names = build()
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        root = Path(folder)
        rows = ours(names, root, runs)
        others = peers(names, root, runs)
    total = rows[0]["full"][2]["bytes_total"]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, pandas {pd.__version__}"
    print(f"{total / 1e6:.0f} MB, {versions}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}, best of {runs}")
    print(f"{'':34}{'save s':>8}{'CPU s':>8}{'MB written':>12}{'restore s':>11}{'views':>10}")

    def line(label: str, saved: tuple[float, float], size: float, back: Any) -> None:
        restored = back if isinstance(back, (str, type(None))) else back["seconds"]
        views = "" if not isinstance(back, dict) else ("share" if back["views"] else "detached")
        text = "" if restored is None else cell(restored)[:40]
        print(f"{label:34}{saved[0]:8.2f}{saved[1]:8.2f}{size / 1e6:12.1f}{text:>11}{views:>10}")

    for key, label in (("full", "first save"), ("same", "nothing changed"), ("changed", "1 % of rows, 4 of 9 columns")):
        best = min((row[key] for row in rows), key=lambda item: item[0])
        back = min((row["back"] for row in rows), key=lambda item: item["seconds"]) if key == "changed" else None
        line(f"ciuic_jupyter, {label}", best[:2], best[2]["bytes_written"], back)
    for kind, results in others.items():
        if isinstance(results[0], str):
            print(f"{kind:34}{results[0]}")
            continue
        best = min(results, key=lambda item: item[0])
        back = min((item[3] for item in results), key=lambda item: item["seconds"] if isinstance(item, dict) else 9e9)
        line(f"{kind}, any save", best[:2], best[2], back)


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2], Path(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
