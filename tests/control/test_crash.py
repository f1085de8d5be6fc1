"""The plane killed with SIGKILL at a hundred random moments of a scripted life: the ledger is the cloud's own log."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.control.projections import Books
from ciuic_jupyter.providers.base import MachineState
from tests.control.agent_double import AgentDouble
from tests.control.life import FileCloud

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that forks a life for each line it gets; all it imports is there when a life begins."""
    runtime = Path(tempfile.mkdtemp(prefix="ciuic-k-"))
    (tmp_path / "state").mkdir(mode=0o700)
    command = [sys.executable, "-m", "tests.control.life", str(tmp_path / "state"), str(runtime)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
    shutil.rmtree(runtime, ignore_errors=True)


def play(lives: subprocess.Popen[str], mode: str, kill_after: float | None) -> tuple[int, str]:
    """Run a life; return its exit code and what it said. `kill_after`: seconds from its first sign of life."""
    assert lives.stdin is not None and lives.stdout is not None
    lives.stdin.write(mode + "\n")
    lives.stdin.flush()
    pid, said, timer = int(lives.stdout.readline().removeprefix("pid ")), "", None
    if kill_after is not None:
        timer = threading.Timer(kill_after, os.kill, (pid, signal.SIGKILL))
        timer.start()
    while not (line := lives.stdout.readline()).startswith("ended "):
        assert line, said[-3000:]
        said += line
    if timer is not None:
        timer.cancel()
        timer.join()
    return int(line.split()[1]), said


@pytest.mark.crash
@pytest.mark.timeout(1200)
def test_a_hundred_kills_lose_and_double_no_segment(tmp_path: Path, lives: subprocess.Popen[str]) -> None:
    state = tmp_path / "state"
    chance = random.Random(11)
    said, kills = "", 0
    while kills < 100 or said.count("step") < 100:  # a slow machine's lives do little before their end
        code, out = play(lives, "live", 0.1 + chance.random() * 0.9)
        assert code == -signal.SIGKILL, out[-3000:]
        said += out
        kills += 1
    code, out = play(lives, "end", None)
    assert code == 0, out[-3000:]

    assert compared(tmp_path, state) >= 25


def compared(tmp_path: Path, state: Path) -> int:
    """Hold the ledger against the cloud's own log; return how many machines there were."""
    machines = FileCloud(state, AgentDouble(tmp_path)).rows()
    assert all(machine.state is MachineState.STOPPED for machine in machines.values()), "a machine was left billing"
    ledger = Ledger(state / "ledger.db", Clock())
    books = Books(ledger.replay())
    ledger.close()
    segments = [segment for book in books.lives for segment in book.segments]
    assert sorted(segment.machine for segment in segments) == sorted(machines), "a segment was lost or doubled"
    for segment in segments:
        machine = machines[segment.machine]
        assert machine.stopped_at is not None
        assert segment.opened_ms == round(machine.created_at * 1000)
        assert segment.closed_ms == round(machine.stopped_at * 1000)
        assert not segment.estimated
    return len(machines)


@pytest.mark.crash
def test_a_plane_that_is_suspended_goes_on_where_it_was(tmp_path: Path, lives: subprocess.Popen[str]) -> None:
    """A closed laptop: everything here stands still, and is woken. (Minutes and stepped clocks are in tests/faults.)"""
    assert lives.stdin is not None and lives.stdout is not None
    state = tmp_path / "state"
    lives.stdin.write("live\n")
    lives.stdin.flush()
    pid = int(lives.stdout.readline().removeprefix("pid "))
    for wait in (0.3, 1.1, 7.5):  # the last is longer than a line may be silent
        assert lives.stdout.readline() == "step\n"
        os.kill(pid, signal.SIGSTOP)
        while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
            time.sleep(0.01)
        time.sleep(wait)
        os.kill(pid, signal.SIGCONT)
    assert lives.stdout.readline() == "step\n"
    os.kill(pid, signal.SIGKILL)
    while not (line := lives.stdout.readline()).startswith("ended "):
        assert line == "step\n"
    code, out = play(lives, "end", None)
    assert code == 0, out[-3000:]
    assert compared(tmp_path, state) >= 3
