"""The main job, end to end and headless: train, pause, nothing runs, resume, train on, receipt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment whose plane, machines and sockets are this test's own; all gone afterwards."""
    runtime = tempfile.mkdtemp(prefix="ciuic-t-")
    environment = {
        **os.environ,
        "CIUIC_STATE_DIR": str(tmp_path / "state"),
        "CIUIC_RUNTIME_DIR": runtime,
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
    }
    yield environment
    subprocess.run(
        [sys.executable, "-m", "ciuic_jupyter.control.cli", "stop"], env=environment, check=False, capture_output=True
    )
    shutil.rmtree(runtime, ignore_errors=True)
    assert not processes_under(tmp_path), "the test left processes running"


def processes_under(directory: Path) -> list[str]:
    """Return the command lines of living processes that name `directory` in their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if str(directory) in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(command)
    return found


def shown(cell: nbformat.NotebookNode) -> str:
    """Return all text a cell shows."""
    parts = []
    for output in cell.outputs:
        parts.append(
            output.text if output.output_type == "stream" else str(output.get("data", {}).get("text/plain", ""))
        )
    return "\n".join(parts)


def accuracies(text: str) -> list[tuple[int, float]]:
    return [(int(n), float(a)) for n, a in re.findall(r"epoch +(\d+) +validation accuracy ([\d.]+)", text)]


def test_digits_notebook_trains_pauses_and_goes_on(home: dict[str, str], tmp_path: Path) -> None:
    done = tmp_path / "digits.ipynb"
    run = subprocess.run(
        [sys.executable, str(ROOT / "scripts/run_notebook.py"), str(ROOT / "examples/digits.ipynb"), str(done)],
        env=home,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    cells = {cell.id: cell for cell in nbformat.read(done, as_version=4).cells}

    first, second = accuracies(shown(cells["train"])), accuracies(shown(cells["on"]))
    assert [n for n, _ in first] == list(range(1, 9))
    assert [n for n, _ in second] == list(range(9, 17)), "the second half does not go on where the first ended"
    assert second[0][1] >= first[-1][1] - 0.03, "the model was not the trained one"
    assert second[-1][1] > 0.93
    for name in ("train", "on"):
        assert any("image/png" in output.get("data", {}) for output in cells[name].outputs), "no curve"

    receipt = shown(cells["pause"])
    assert re.search(r"\$0\.\d+", receipt)
    assert "model" in receipt
    assert "paused" in shown(cells["away"])
    assert "16 epochs" in shown(cells["local"])
    assert re.search(r"not billed", shown(cells["cost"]), re.IGNORECASE)
    assert "1 run here" in shown(cells["quote"]) and "epoch" not in shown(cells["quote"]), "a quote runs nothing"
    assert "█" in shown(cells["days"])
