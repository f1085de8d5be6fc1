"""`ciuic` in a shell, against a real plane and a real machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.settings import Settings

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ciuic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    runtime = tempfile.mkdtemp(prefix="ciuic-l-")
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", runtime)
    monkeypatch.setenv("CIUIC_WARM_START", "false")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ciuic_jupyter.control.cli", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=90, env={**os.environ, "COLUMNS": "200"})

    yield call
    call("stop")
    shutil.rmtree(runtime, ignore_errors=True)


def test_a_session_from_the_shell(ciuic: Shell) -> None:
    assert ciuic("status").returncode == 3
    assert ciuic("sessions").returncode == 3
    client = PlaneClient.ensure(Settings())
    client.create("night", budget_nano=10**9)
    assert client.resume("night", wait=True)["state"] == "running"
    assert "1 machine(s) billed now" in ciuic("status").stdout
    assert "night" in ciuic("sessions").stdout

    kept = ciuic("keep", "night", "30")
    assert kept.returncode == 0, kept.stderr
    paused = ciuic("pause", "night")
    assert "night: paused" in paused.stdout
    assert "$0.00/h now" in paused.stdout
    assert "nothing is billed for compute now" in ciuic("status").stdout
    assert "night: running" in ciuic("resume", "night").stdout
    assert "night: paused" in ciuic("release", "night", "--discard").stdout
    total = ciuic("cost").stdout.splitlines()
    assert total[0].split()[:2] == ["SESSION", "BILLED"]
    assert total[-1].startswith("all")
    compared = ciuic("compare", "night").stdout
    assert "session night: " in compared and "Azure" in compared and "stopping saved $" in compared
    assert "no session or run" in ciuic("compare", "nobody").stderr
    assert ciuic("advice", "night").stdout == "Nothing that was measured says that this could cost less.\n"
    assert "no session 'nobody'" in ciuic("advice", "nobody").stderr
    assert "night: closed" in ciuic("close", "night").stdout
    assert ciuic("stop").returncode == 0
    assert ciuic("status").returncode == 3


def test_past_the_grace_the_shell_says_what_stopping_now_would_lose(ciuic: Shell) -> None:
    client = PlaneClient.ensure(Settings())
    client.create("night")
    client.run("night", "r", "import threading\nthreading.Event().wait()", grace=0)
    while client.runs("night")[-1]["status"] != "running":
        time.sleep(0.05)
    command = [sys.executable, "-m", "ciuic_jupyter.control.cli", "pause", "night"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        try:
            assert waiting.stderr is not None and waiting.stdout is not None
            said = waiting.stderr.readline()
            assert re.search(
                r"not paused for \d+ s: it has had no loop turn\. Wait on, or `ciuic pause night --now`", said
            )
            assert re.search(r"interrupts the cell and loses \d+ s of work \(\$0\.\d{4}\)\n", said), said
            assert "night: paused" in ciuic("pause", "night", "--now").stdout
            assert "night: paused" in waiting.stdout.read()
        finally:
            waiting.kill()


def test_mistakes_are_one_line(ciuic: Shell) -> None:
    PlaneClient.ensure(Settings())
    for arguments in (("pause", "nobody"), ("resume", "NOT A NAME"), ("keep", "nobody", "5"), ("cost", "nobody")):
        said = ciuic(*arguments)
        assert said.returncode == 1
        assert said.stderr.startswith("ciuic: ")
        assert len(said.stderr.strip().splitlines()) == 1


def test_doctor_looks_at_everything(ciuic: Shell, tmp_path: Path) -> None:
    healthy = ciuic("doctor")
    assert healthy.returncode == 0, healthy.stdout
    for word in ("python", "torch", "ipykernel", "gpu", "disk", "control plane"):
        assert word in healthy.stdout
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    sick = ciuic("doctor")
    assert sick.returncode == 1
    assert "chmod 700" in sick.stdout
