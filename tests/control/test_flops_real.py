"""A real plane, agent and kernel: FLOPs of a cell that is paused in its middle, in its row, on receipts, in dollars."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.core.flops import PFLOP
from ciuic_jupyter.notebook import report, training
from tests.control.test_pause_real import Viewer, a_plane, until

CELL = """
import os, time, torch
a = torch.ones(16, 16)
turn = -1
while not os.path.exists(GATE):
    turn += 1
    b = a @ a
    print("turn", turn)
    time.sleep(0.05)
print("turns", turn + 1)
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneClient]:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-flops-{os.getpid()}")
    yield from a_plane()


def test_a_counted_cell_ends_in_its_row_and_on_receipts_with_its_price(client: PlaneClient, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "r", CELL.replace("GATE", repr(str(gate))), flops=True)
    until(lambda: "turn 3" in viewer.text)
    client.pause("s")
    held = client.receipts("s")[-1]["flops"]
    assert [one["run"] for one in held] == ["r"] and held[0]["figures"]["flops"] > 0
    client.resume("s", wait=True)
    gate.touch()
    until(lambda: client.runs("s")[-1]["status"] == "ok" and "turns" in viewer.text)
    found = client.runs("s")[-1]["flops"]
    turns = int(viewer.text.rpartition("turns ")[2])
    assert (found["flops"], found["why"]) == (turns * 2 * 16**3, None), "as if it had never been paused"
    assert found["utilisation"] is None and "on a GPU" in found["utilisation_why"]
    by_run = client.report("run")
    row = next(row for row in by_run["rows"] if row["key"] == "r")
    spent = row["spent_nano"]
    assert row["flops"] == found["flops"] and "FLOP)" in report.spent(by_run).text()
    assert spent > 0 and found["nano_per_pflop"] == -(-spent * PFLOP // found["flops"])
    client.run("s", "bare", "a @ a")
    until(lambda: client.runs("s")[-1]["status"] == "ok")
    assert client.runs("s")[-1]["flops"] is None, "only on request"
    said = training.counted(client, SimpleNamespace(session="s", run="r"))  # type: ignore[arg-type]
    assert "FLOP counted; $" in said and "/PFLOP; utilisation unknown: nothing was counted on a GPU" in said
    client.pause("s")
    receipt = client.receipts("s")[-1]
    assert receipt["flops"] == [{"run": "r", "figures": found}]
    assert said.removeprefix("FLOPs: ") in report.receipt("s", receipt).text()
    client.close_session("s")
