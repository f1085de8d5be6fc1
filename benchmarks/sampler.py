"""What watching costs: CPU of one core for sampling a tree of processes, beside a plain psutil walk in the same run.

Run: python benchmarks/sampler.py [SECONDS]. The ways take turns, so that load hits them alike; CPU time is that of the
sampling thread. The processes sleep; each has one thread.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from ciuic_jupyter.monitor.sample import Sampler

SIZES = (1, 20)
RATES = (10, 100)
ROUNDS = 3


def tree_of(processes: int) -> subprocess.Popen[bytes]:
    """Start a process with so many below and with it, and wait until all are there."""
    code = (
        "import subprocess, sys\n"
        f"for _ in range({processes - 1}): subprocess.Popen(['sleep', '3600'], stdin=subprocess.DEVNULL)\n"
        "print(flush=True)\nsys.stdin.read()\n"
    )
    made = subprocess.Popen([sys.executable, "-ISc", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert made.stdout is not None
    made.stdout.readline()
    return made


def psutil_walk(root: int) -> Callable[[], int]:
    """Return the plain way: all children, their CPU times and memory, each time anew."""

    def once() -> int:
        process = psutil.Process(root)
        everyone = [process, *process.children(recursive=True)]
        for one in everyone:
            one.cpu_times()
            one.memory_info()
        return len(everyone)

    return once


def ours(root: int, rate: int) -> Callable[[], int]:
    sampler = Sampler(root, rate)
    return lambda: sampler.sample(time.clock_gettime(time.CLOCK_BOOTTIME)).processes or 0


def share(once: Callable[[], int], rate: int, seconds: float, expected: int) -> float:
    """Return the CPU percent of a core that calling `once` at `rate` takes."""
    assert once() == expected
    begun, used = time.perf_counter(), time.thread_time()
    due = begun
    while due - begun < seconds:
        due += 1 / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        once()
    return 100 * (time.thread_time() - used) / (time.perf_counter() - begun)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    trees = {size: tree_of(size) for size in SIZES}
    found: dict[tuple[str, int, int], list[float]] = {}
    try:
        for _ in range(ROUNDS):
            for size, tree in trees.items():
                for rate in RATES:
                    ways = {"Sampler": ours(tree.pid, rate), "psutil walk": psutil_walk(tree.pid)}
                    for name, once in ways.items():
                        found.setdefault((name, size, rate), []).append(share(once, rate, seconds, size))
    finally:
        for tree in trees.values():
            for child in psutil.Process(tree.pid).children():
                child.kill()
            tree.kill()
            tree.wait()
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {len(psutil.pids())} processes on the host, "
        f"load {os.getloadavg()[0]:.1f}; {ROUNDS} rounds of {seconds:.0f} s"
    )
    print("| CPU of one core: median (min-max) | 10 Hz | 100 Hz |")
    print("|---|---|---|")
    for size in SIZES:
        for name in ("Sampler", "psutil walk"):
            columns = []
            for rate in RATES:
                values = sorted(found[name, size, rate])
                columns.append(f"{statistics.median(values):.2f} % ({values[0]:.2f}-{values[-1]:.2f})")
            print(f"| {name}, tree of {size} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
