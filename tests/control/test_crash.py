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
from pathlib import Path

import pytest

from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.control.projections import Books
from ciuic_jupyter.providers.base import MachineState
from tests.control.agent_double import AgentDouble
from tests.control.life import FileCloud

ROOT = Path(__file__).resolve().parents[2]


def play(state: Path, runtime: Path, mode: str, kill_after: float | None) -> tuple[int, str]:
    """Run a life; return its exit code and what it said. `kill_after`: seconds from its first sign of life."""
    arguments = [sys.executable, "-m", "tests.control.life", str(state), str(runtime), mode]
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    timer = None
    if kill_after is not None:
        timer = threading.Timer(kill_after, os.kill, (process.pid, signal.SIGKILL))
        timer.start()
    out, _ = process.communicate(timeout=60)
    if timer is not None:
        timer.cancel()
    return process.returncode, out


@pytest.mark.crash
@pytest.mark.timeout(600)
def test_a_hundred_kills_lose_and_double_no_segment(tmp_path: Path) -> None:
    state, runtime = tmp_path / "state", Path(tempfile.mkdtemp(prefix="ciuic-k-"))
    state.mkdir(mode=0o700)
    chance = random.Random(11)
    said = ""
    for _ in range(100):
        code, out = play(state, runtime, "live", 0.5 + chance.random() * 0.9)
        assert code == -signal.SIGKILL, out[-3000:]
        said += out
    code, out = play(state, runtime, "end", None)
    assert code == 0, out[-3000:]
    shutil.rmtree(runtime, ignore_errors=True)

    machines = FileCloud(state, AgentDouble(tmp_path)).rows()
    assert said.count("step") >= 100, "the lives were too short to mean anything"
    assert len(machines) >= 50
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
