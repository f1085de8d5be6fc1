"""Saves and restores beside their peers and the machine's limits, all in one run; every save is durable (fsync).

`python benchmarks/checkpoint.py [RUNS] [notebook|training]` prints two tables: an idle notebook of 0.5 GB beside
cloudpickle and dill, and a training state of 1.2 GB beside torch.save and torch.distributed.checkpoint. Each number is
the best of RUNS (default 3) with the median behind it. The limits are what this disk and this memory did in between.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from ciuic_jupyter.checkpoint import process
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.snapshot import How, arena, snapshot
from ciuic_jupyter.checkpoint.store import Store

KEY = b"k" * 32
LIMIT = 512 << 20  # bytes that measure the disk and the memory
STATE: dict[str, Any] = {"inputs": []}  # what a kernel saves beside the variables
NOTEBOOK = """
import numpy as np, pandas as pd, torch, functools
rng = np.random.default_rng(0)
rows = 4_500_000
frame = pd.DataFrame({f"f{i}": rng.normal(size=rows) for i in range(8)})
frame["k"] = rng.integers(0, 1000, rows)
array = rng.normal(size=(10_000, 1_000))
window, turned = array[10:5000, ::2], array.T
net = torch.nn.Sequential(torch.nn.Linear(1500, 1500), torch.nn.ReLU(), torch.nn.Linear(1500, 1500))
optimizer = torch.optim.Adam(net.parameters())
net(torch.ones(2, 1500)).sum().backward()
optimizer.step()
scale = 2
def scaled(x):
    return x * scale
"""
OBJECTS = """
records = [{"id": i, "name": f"row {i}", "value": i * 0.5} for i in range(100_000)]
strings = [f"a line of text number {i}" for i in range(500_000)]
class Point:
    def __init__(self, x):
        self.x = x
points = [Point(i) for i in range(50_000)]
"""
TRAINING = """
import torch
model = torch.nn.Sequential(*[torch.nn.Linear(2048, 2048) for _ in range(24)])
optimizer = torch.optim.Adam(model.parameters())
batch = torch.randn(16, 2048)
def step():
    optimizer.zero_grad()
    model(batch).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
step()
"""


class Figures(dict[str, dict[str, list[float]]]):
    """What was measured: row -> column -> one number a run."""

    def add(self, row: str, **columns: float) -> None:
        """Add one run."""
        for column, value in columns.items():
            self.setdefault(row, {}).setdefault(column, []).append(value)

    def show(self, columns: dict[str, int], head: str) -> None:
        """Print a table; the value says how many digits a column has. Largest is best where it ends in GB/s."""
        print(f"\n| {head} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
        for row, found in self.items():
            cells = [_cell(found.get(column, []), column, digits) for column, digits in columns.items()]
            print(f"| {row} | {' | '.join(cells)} |", flush=True)


def _cell(values: list[float], column: str, digits: int) -> str:
    if not values:
        return ""
    best = max(values) if column.endswith("GB/s") else min(values)
    middle = statistics.median(values)
    return f"{best:.{digits}f} ({middle:.{digits}f})" if len(values) > 1 else f"{best:.{digits}f}"


# the machine


def disk_limit(root: Path) -> float:
    """Return GB/s of two threads that write past the page cache, the last fsync included."""
    path = root / "limit"
    memory = mmap.mmap(-1, 8 << 20)
    memory[:] = os.urandom(8 << 20)
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    except OSError:
        number = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def lane(start: int) -> None:
        view = memoryview(memory)[(start % (8 << 20)) :][: 4 << 20]
        for offset in range(start, LIMIT, 8 << 20):
            os.pwrite(number, view, offset)

    begun = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lane, (0, 4 << 20)))
    os.fsync(number)
    seconds = time.perf_counter() - begun
    os.close(number)
    path.unlink()
    return LIMIT / 1e9 / seconds


def memory_limit() -> float:
    """Return GB/s of two threads that copy within memory that was touched before."""
    source, target = np.ones(LIMIT, np.uint8), np.ones(LIMIT, np.uint8)
    halves = [slice(0, LIMIT // 2), slice(LIMIT // 2, LIMIT)]
    with ThreadPoolExecutor(2) as pool:
        best = min(
            timed(lambda: list(pool.map(lambda half: np.copyto(target[half], source[half]), halves)))[0]
            for _ in range(3)
        )
    return LIMIT / 1e9 / best


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return wall seconds, CPU seconds and the result of `work`."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def build(*cells: str) -> dict[str, Any]:
    """Run cells in a `__main__` of their own."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    process.remember_start()
    for cell in cells:
        execute(cell, vars(module))
    return vars(module)


def execute(cell: str, names: dict[str, Any]) -> None:
    """Run a cell and remember its text, as a kernel does."""
    exec(compile(cell, "<cell>", "exec"), names)
    STATE["inputs"].append(cell)


def forget(paths: Iterable[Path]) -> None:
    """Have the system drop files from its cache."""
    for path in paths:
        if path.is_file():
            number = os.open(path, os.O_RDONLY)
            os.fsync(number)
            os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(number)


# an idle notebook


def loaded(kind: str, root: Path) -> dict[str, float]:
    """Load in a new process that has the libraries already; return what it measured."""
    command = [sys.executable, __file__, "load", kind, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def load(kind: str, root: Path) -> None:
    """Do the loading of `loaded`: first the libraries, then the clock."""
    names = build()
    if kind == "ciuic":
        store = Store(root)
        wall, _, _ = timed(lambda: restore(store.read_manifest(None, KEY).body, store, names))
    else:
        library = importlib.import_module(kind)
        with (root / kind).open("rb") as file:
            wall, _, values = timed(lambda: library.load(file))
        names.update(values)
    cell, _, _ = timed(lambda: exec("answer = array[5, 5] + scaled(2)", names))
    shared = bool(np.shares_memory(names["window"], names["array"]))
    print(json.dumps({"seconds": wall + cell, "shared": shared}))


def both(kind: str, root: Path) -> dict[str, float]:
    """Return the seconds to the end of a first cell, bytes on the disk and bytes in the cache."""
    forget(root.rglob("*"))
    cold = loaded(kind, root)["seconds"]
    warm = loaded(kind, root)
    return {"cold restore + cell s": cold, "warm restore + cell s": warm["seconds"], "views shared": warm["shared"]}


def ours(figures: Figures, names: dict[str, Any], root: Path, label: str) -> None:
    """Measure one run: inline, nothing changed, 1 % changed, forked, restored."""
    store = Store(root / "ours")
    for row in ("first save", "nothing changed", "1 % of rows in 4 of 9 columns"):
        if row.startswith("1"):
            middle = np.random.default_rng().integers(0, len(names["frame"]) * 9 // 10)
            for column in ("f0", "f1", "f2", "f3"):
                names["frame"].loc[middle : middle + len(names["frame"]) // 100 - 1, column] = np.random.normal()
        wall, cpu, body = timed(lambda: capture(names, store, state=STATE))
        store.write_manifest(body, KEY)
        written = body["bytes_written"] / 1e6
        figures.add(f"{label}: {row}", **{"blocked s": wall, "durable s": wall, "CPU s": cpu, "MB": written})
    figures.add(f"{label}: first save", **both("ciuic", root / "ours"))
    shutil.rmtree(root / "ours")
    pending = snapshot(names, store, "fork", state=STATE)
    store.write_manifest(pending.body(), KEY)
    seconds = pending.seconds
    written = pending.body()["bytes_written"] / 1e6
    row = f"{label}: first save, forked" if pending.how == "fork" else f"{label}: {pending.why}"
    figures.add(row, **{"blocked s": seconds["blocked"], "durable s": seconds["durable"], "MB": written})
    shutil.rmtree(root / "ours")


def peer(figures: Figures, kind: str, names: dict[str, Any], root: Path) -> None:
    """Measure one run of a library that pickles the whole namespace."""
    try:
        library = importlib.import_module(kind)
    except ImportError:
        figures.setdefault(f"{kind}: not installed, skipped", {})
        return
    plain = {name: value for name, value in names.items() if not name.startswith("__")}

    def save() -> None:
        with (root / kind).open("wb") as file:
            library.dump(plain, file, protocol=5)
            file.flush()
            os.fsync(file.fileno())

    try:
        wall, cpu, _ = timed(save)
        size = (root / kind).stat().st_size / 1e6
        figures.add(kind, **{"blocked s": wall, "durable s": wall, "CPU s": cpu, "MB": size}, **both(kind, root))
    except Exception as error:  # noqa: BLE001 - what a peer raises is its result
        figures.setdefault(f"{kind} fails: {type(error).__name__}: {str(error)[:60]}", {})
    (root / kind).unlink(missing_ok=True)


def notebook(runs: int, root: Path) -> None:
    """Print the table of the idle notebook."""
    names = build(NOTEBOOK)
    figures, limits = Figures(), Figures()
    for _ in range(runs):
        limit(limits, root)
        ours(figures, names, root, "arrays, a frame, a model")
    execute(OBJECTS, names)
    for _ in range(runs):
        limit(limits, root)
        ours(figures, names, root, "and 650,000 small objects")
        for kind in ("cloudpickle", "dill"):
            peer(figures, kind, names, root)
    columns = {"blocked s": 3, "durable s": 2, "CPU s": 2, "MB": 1}
    figures.show({**columns, "cold restore + cell s": 2, "warm restore + cell s": 2, "views shared": 0}, "notebook")
    limits.show({"disk GB/s": 2, "memcpy GB/s": 1}, "limits")


def limit(limits: Figures, root: Path) -> None:
    """Measure the machine once."""
    limits.add("this run", **{"disk GB/s": disk_limit(root), "memcpy GB/s": memory_limit()})


# a training loop


class Trainer:
    """Runs steps until a save has ended, or waits for it."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names
        self.state = {"model": names["model"].state_dict(), "optimizer": names["optimizer"].state_dict()}
        self.bytes = sum(each.nbytes for each in _tensors(self.state))

    def until(self, done: Callable[[], bool], train: bool) -> list[float]:
        """Return the seconds of each step."""
        steps = []
        while not done():
            if train:
                steps.append(timed(self.names["step"])[0])
            else:
                time.sleep(0.001)
        return steps


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)


def trained(trainer: Trainer, how: How, root: Path, train: bool) -> dict[str, float]:
    """Measure one snapshot of ours."""
    store = Store(root / "ours")
    pending = snapshot(trainer.names, store, how, state=STATE)
    steps = trainer.until(pending.done, train)
    store.write_manifest(pending.body(), KEY)
    shutil.rmtree(root / "ours")
    return figures_of(trainer, pending.seconds["blocked"], pending.seconds["durable"], steps)


def torch_saved(trainer: Trainer, root: Path, train: bool) -> dict[str, float]:
    """Measure torch.save."""

    def save() -> None:
        with (root / "state").open("wb") as file:
            torch.save(trainer.state, file)
            file.flush()
            os.fsync(file.fileno())

    wall = timed(save)[0]
    (root / "state").unlink()
    return figures_of(trainer, wall, wall, trainer.until(lambda: True, train))


def distributed(trainer: Trainer, stager: DefaultStager, root: Path, train: bool) -> dict[str, float]:
    """Measure torch.distributed.checkpoint.async_save with a stager that keeps its buffers."""
    ended = threading.Event()
    begun = time.perf_counter()
    moment: list[float] = []

    def end(_: Any) -> None:
        moment.append(time.perf_counter())
        ended.set()

    writer = dcp.FileSystemWriter(root / "dcp", thread_count=2)
    future = dcp.async_save(trainer.state, storage_writer=writer, async_stager=stager, no_dist=True)
    blocked = time.perf_counter() - begun
    future = getattr(future, "upload_completion", future)
    future.add_done_callback(end)
    steps = trainer.until(ended.is_set, train)
    future.result()
    shutil.rmtree(root / "dcp")
    return figures_of(trainer, blocked, moment[0] - begun, steps)


def figures_of(trainer: Trainer, stall: float, durable: float, steps: list[float]) -> dict[str, float]:
    """Name the figures of one run."""
    found = {"stall s": stall, "durable s": durable, "durable GB/s": trainer.bytes / 1e9 / durable}
    return {**found, "step meanwhile s": statistics.mean(steps)} if steps else found


def training(runs: int, root: Path) -> None:
    """Print the tables of the training loop: waiting for the save, and training meanwhile."""
    trainer = Trainer(build(TRAINING))
    warnings.filterwarnings("ignore", "torch.distributed is disabled")
    stager = DefaultStager(StagingOptions(False, True, False, False))
    columns = {"stall s": 3, "durable s": 2, "durable GB/s": 2, "step meanwhile s": 2}
    ways: dict[str, Callable[[bool], dict[str, float]]] = {
        "ciuic_jupyter, arena": lambda train: trained(trainer, "arena", root, train),
        "ciuic_jupyter, fork": lambda train: trained(trainer, "fork", root, train),
        "ciuic_jupyter, inline": lambda train: trained(trainer, "inline", root, train),
        "torch.save": lambda train: torch_saved(trainer, root, train),
        "torch.distributed.checkpoint.async_save, stager reused": lambda train: distributed(
            trainer, stager, root, train
        ),
    }
    first = Figures()
    for name in ("ciuic_jupyter, arena", "torch.distributed.checkpoint.async_save, stager reused"):
        first.add(f"{name}: the first time", **ways[name](False))
    first.show(columns, f"{trainer.bytes / 1e9:.2f} GB, fresh buffers")
    for train in (False, True):
        figures, limits = Figures(), Figures()
        for _ in range(runs):
            limit(limits, root)
            for name, way in ways.items():
                if not train or name not in ("ciuic_jupyter, inline", "torch.save"):
                    figures.add(name, **way(train))
            if train:
                figures.add("steps alone", **{"step meanwhile s": min(timed(trainer.names["step"])[0] for _ in "123")})
        figures.show(columns, "training meanwhile" if train else "waiting for it")
        limits.show({"disk GB/s": 2, "memcpy GB/s": 1}, "limits")
    stager.close()
    arena.release()


def main(runs: int, only: str) -> None:
    """Print the tables."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, pandas {pd.__version__}"
    print(f"{versions}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; best (median) of {runs}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        for part in (notebook, training):
            if only in ("", part.__name__):
                part(runs, Path(folder))
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        load(sys.argv[2], Path(sys.argv[3]))
    else:
        words = sys.argv[1:]
        main(next((int(word) for word in words if word.isdigit()), 3), next((w for w in words if w.isalpha()), ""))
