"""A real plane, agent and kernel: the forecast of a running cell is in the session's view and in the meter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.notebook.meter import Meter
from tests.control.test_pause_real import a_plane, until

CELL = """
import os, time
for turn in range(2000):
    time.sleep(0.05)
    if os.path.exists(STOP): break
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneClient]:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-forecast-{os.getpid()}")
    monkeypatch.setenv("CIUIC_PRICE_PER_HOUR", "36")
    yield from a_plane()


def test_the_forecast_of_a_running_cell_is_in_the_meter(client: PlaneClient, tmp_path: Path) -> None:
    client.create("s")
    client.run("s", "r", CELL.replace("STOP", repr(str(tmp_path / "stop"))))
    until(lambda: bool((client.session("s")["forecast"] or {}).get("ends_at")))
    view = client.session("s")
    told = view["forecast"]
    assert told["total"] == 2000 and told["low_nano"] < told["total_nano"] < told["high_nano"]
    assert told["total_nano"] > 9 * 10**8, "100 s and more at a cent a second"
    meter = Meter("s", lambda _: None)
    meter.update(view)
    assert "forecast $" in meter.text() and " left" in meter.text()
    assert "forecast <span>$</span>" in meter.html()
    (tmp_path / "stop").touch()
    until(lambda: client.runs("s")[-1]["status"] == "ok")
    assert client.session("s")["forecast"] is None
    client.release("s", discard=True)
