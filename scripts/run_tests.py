"""Run the tests room by room, each room in a pytest process of its own, two at a time; print each as it ends.

A room that runs alone meets none of the modules, threads and objects that the tests of other rooms leave in a process,
as a user's kernel does not either. Arguments go to each pytest. What a room printed is kept in artifacts/tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

LANES = 2
# OpenMP threads of each lane's processes. Lanes that all take every core wait for each other at each barrier: on two
# busy cores the second training cell of examples/digits.ipynb took 24 to 36 s with two threads and 5 to 9 s with one.
THREADS = str(max(1, (os.cpu_count() or 1) // LANES))
LOGS = Path("artifacts/tests")
FIRST = ("checkpoint", "control", "kernels", "notebook", "resume", "ui")  # the long ones; the others follow
NO_TESTS = 5  # pytest's exit status when a room has none that was asked for
SECONDS = 2400  # a room that is not done by then is ended, and has failed


@dataclass(frozen=True)
class Ran:
    """What came of one room."""

    room: str
    status: int
    seconds: float
    text: str
    passed: int
    failed: int
    skipped: int


def rooms() -> list[tuple[str, list[str]]]:
    """Return the rooms and what each runs: its folder, and for the last one the files beside the folders."""
    folders = sorted({path.parent.relative_to("tests").parts[0] for path in Path("tests").glob("*/**/test_*.py")})
    ordered = [name for name in FIRST if name in folders] + [name for name in folders if name not in FIRST]
    beside = sorted(str(path) for path in Path("tests").glob("test_*.py"))
    return [*((name, [f"tests/{name}"]) for name in ordered), ("top", beside)]


def run(room: str, paths: list[str], arguments: list[str]) -> Ran:
    """Run one room in a process of its own."""
    report, began = LOGS / f"{room}.xml", time.monotonic()
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", *paths, *arguments, f"--junit-xml={report}", "--durations=10"]
    log = LOGS / f"{room}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-o", f"cache_dir=.pytest_cache/{room}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": THREADS, **os.environ},
        )
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
            output.write(f"\nthe room {room} was not done after {SECONDS} s and was ended\n".encode())
    found = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0}
    if report.exists():
        for suite in ElementTree.parse(report).iter("testsuite"):
            found = {key: count + int(suite.get(key, 0)) for key, count in found.items()}
    failed = found["failures"] + found["errors"]
    passed = max(found["tests"] - failed - found["skipped"], 0)
    status = 0 if status == NO_TESTS else status
    text = log.read_text(errors="replace")
    return Ran(room, status, time.monotonic() - began, text, passed, failed, found["skipped"])


def main(arguments: list[str]) -> int:
    """Run all rooms; the exit status says whether all passed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    began, ended = time.monotonic(), []
    with ThreadPoolExecutor(LANES) as lanes:
        for future in as_completed([lanes.submit(run, room, paths, arguments) for room, paths in rooms()]):
            ran = future.result()
            ended.append(ran)
            print(f"\n######## {ran.room}: {ran.seconds:.0f} s\n{ran.text}", flush=True)
    print("\n######## all rooms")
    for ran in ended:
        print(f"{ran.room:12} {ran.passed:5} passed {ran.failed:3} failed {ran.skipped:3} skipped {ran.seconds:6.0f} s")
    counts = [sum(getattr(ran, name) for ran in ended) for name in ("passed", "failed", "skipped")]
    print(f"{time.monotonic() - began:.0f} s in all")
    print("{} passed, {} failed, {} skipped".format(*counts))
    return 1 if any(ran.status for ran in ended) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
