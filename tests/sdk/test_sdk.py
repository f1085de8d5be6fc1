"""The article's example, really run: a plane, a machine, a training, an alert that pauses it, and the way on."""

from __future__ import annotations

import gc
import io
import math
import os
import pickle
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter import CostMonitor, JobPaused, TrainingJob
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import BudgetExceeded, RemoteError, UsageError
from ciuic_jupyter.sdk.monitor import Alert
from ciuic_jupyter.settings import Settings

SOURCE = (Path(__file__).parent / "trainings.py").read_text()
SCRIPT: dict[str, Any] = {"__name__": "__main__"}  # as a script that is run has it
exec(compile(SOURCE, "trainings.py", "exec"), SCRIPT)
ALERT = "0.0004"  # $, some seconds of a gpu.2xlarge


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneClient]:
    """A plane of this module's own."""
    runtime = tempfile.mkdtemp(prefix="ciuic-sdk-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIUIC_STATE_DIR", str(tmp_path_factory.mktemp("state")))
        patch.setenv("CIUIC_RUNTIME_DIR", runtime)
        made = PlaneClient.ensure(Settings())
        yield made
        for view in made.sessions():
            if view["rate_nano_per_hour"]:
                made.release(view["name"], discard=True)
        made.shutdown()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def expected(gate: Path) -> list[float]:
    """What the training comes to that nobody pauses."""
    gate.touch()
    with redirect_stdout(io.StringIO()):
        history: list[float] = SCRIPT["train"](6, str(gate), SCRIPT["Never"]())
    gate.unlink()
    Path(f"{gate}-reached").unlink()
    return history


def arrives(path: Path) -> bool:
    """Wait until a file is there."""
    until = time.monotonic() + 120
    while not path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return path.exists()


def test_the_articles_example_in_a_script(client: PlaneClient, gate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = expected(gate)
    job = TrainingJob(instance_type="gpu.2xlarge", checkpoint_interval=30, cost_alert=ALERT, session="article")
    monitor = CostMonitor(job)
    told: list[Decimal] = []
    paused = threading.Event()

    @monitor.on_alert
    def too_much(cost: Decimal) -> None:
        told.append(cost)
        assert arrives(Path(f"{gate}-reached"))
        job.pause()
        paused.set()

    with pytest.raises(JobPaused, match="nothing is billed"), job:
        assert job.view["instance"] == "gpu.2xlarge"
        job.run(SCRIPT["train"], 6, str(gate), job)
    assert paused.wait(60)
    assert (job.state, len(told)) == ("paused", 1)
    assert told[0] >= Decimal(ALERT)
    assert job.view["rate_nano_per_hour"] == 0

    gate.touch()
    assert job.resume().state == "running"
    assert job.wait() == whole
    job.pause()
    assert job.state == "paused"
    assert len(told) == 1, "an alert is given once"
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert printed == [f"epoch {n} loss {loss:.6f}" for n, loss in enumerate(whole, 1)]
    (row,) = (run for run in client.runs("article"))
    assert row["status"] == "ok"
    job.close()


CELL = """
from ciuic_jupyter import CostMonitor, TrainingJob
job = TrainingJob(instance_type="gpu.2xlarge", checkpoint_interval=30, cost_alert="{alert}")
monitor = CostMonitor(job)
@monitor.on_alert
def too_much():
    print("too much")
    job.pause()
with job:
    model, optimizer = make()
    history = []
    for epoch in range(6):
        history.append(epoch_of(model, optimizer))
        job.checkpoint_callback(epoch + 1)
        while epoch == 2 and not os.path.exists({gate!r}):
            time.sleep(0.02)
            job.checkpoint_callback()
print("done", monitor.alerted)
"""


def test_the_articles_example_inside_a_cell(client: PlaneClient, gate: Path) -> None:
    whole = expected(gate)
    outside = TrainingJob("gpu.2xlarge", session="cell")
    outside.start()
    client.run(
        "cell",
        "r1",
        SOURCE.replace("from __future__ import annotations", "") + CELL.format(alert=ALERT, gate=str(gate)),
    )
    until = threading.Event()
    for _ in range(1200):
        if outside.state == "paused":
            break
        until.wait(0.05)
    assert outside.state == "paused"
    assert client.runs("cell")[0]["status"] == "suspended"
    gate.touch()
    outside.resume()
    printed = io.StringIO()
    with redirect_stdout(printed):
        outside.run(print, "behind the cell")
    ended = next(f.header for f in _past(client, "cell") if f.header.get("kind") == "run_ended")
    assert ended["status"] == "ok", str(ended["traceback"])[-1800:]
    assert printed.getvalue() == "behind the cell\n"
    text = "".join(
        frame.header["content"]["text"]
        for frame in _past(client, "cell")
        if frame.header.get("run") == "r1" and frame.header.get("msg_type") == "stream"
    )
    assert text == "too much\ndone True\n"
    outside.pause()
    from ciuic_jupyter.kernels import variables

    assert variables.load(client.pull("cell", ["history"]))["history"] == whole


def _past(client: PlaneClient, session: str) -> list[Any]:
    last = client.session(session)["last_seq"]
    stream = client.stream(session)
    found = []
    for frame in stream:
        found.append(frame)
        if (frame.header.get("seq") or 0) >= last:
            break
    stream.close()
    return found


def test_functions_travel_with_what_they_use_and_errors_come_back(
    client: PlaneClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = TrainingJob(session="errors")
    factor = 3

    def scaled(values: list[int], *, plus: int) -> list[int]:
        return [factor * value + plus for value in values]

    with job:
        assert job.run(scaled, [1, 2], plus=1) == [4, 7]
        with pytest.raises(RemoteError, match="ValueError: no such layer"):
            job.run(SCRIPT["fails"])
        assert job.run(os.getcwd) == os.getcwd()
    assert job.state == "paused"
    shown = capsys.readouterr()
    assert "about to fail" in shown.out
    assert "no such layer" in shown.err


def test_a_handler_that_raises_keeps_no_other_from_being_called(
    client: PlaneClient, capsys: pytest.CaptureFixture[str]
) -> None:
    job = TrainingJob(session="errors", cost_alert="0.000000001")
    monitor = CostMonitor(job)
    called: list[object] = []
    monitor._handlers += [lambda cost: called.append(1 / (cost - cost)), lambda: called.append("second")]
    assert monitor.look() and monitor.look()
    assert called == ["second"]
    assert "DivisionByZero" in capsys.readouterr().err or "DivisionUndefined" in capsys.readouterr().err


def test_a_budgets_alert_comes_with_what_it_is_about(client: PlaneClient) -> None:
    monitor = CostMonitor(TrainingJob(session="errors"))
    told: list[tuple[Decimal, Alert]] = []
    arrived = threading.Event()

    @monitor.on_alert
    def note(cost: Decimal, alert: Alert) -> None:
        told.append((cost, alert))
        arrived.set()

    assert not monitor.look() and told == [], "no budget, no alert"
    cap = client.session("errors")["spent_nano"] + 1
    with pytest.raises(BudgetExceeded):
        client.create("errors", budget_nano=cap)
    assert arrived.wait(30), "the thread looks on, for budgets have no end"
    ((cost, alert),) = told
    assert (alert.scope, alert.percent, alert.budget) == ("session", 100, Decimal(cap) / 10**9)
    assert cost == alert.spent == client.session("errors")["spent_nano"] / Decimal(10**9)
    client.close_session("errors")


def test_a_monitor_that_nobody_holds_ends_its_thread(client: PlaneClient) -> None:
    job = TrainingJob(session="errors", cost_alert=10**6)
    monitor = CostMonitor(job)
    monitor.on_alert(lambda: None)
    thread = monitor._thread
    assert thread is not None and thread.is_alive()
    del monitor
    gc.collect()
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    "bad",
    [
        {"checkpoint_interval": 0},
        {"checkpoint_interval": -1},
        {"checkpoint_interval": math.nan},
        {"checkpoint_interval": math.inf},
        {"checkpoint_interval": "30"},
        {"checkpoint_interval": True},
        {"cost_alert": 0},
        {"cost_alert": -5},
        {"cost_alert": math.nan},
        {"cost_alert": 1e300},
        {"cost_alert": True},
        {"cost_alert": "much"},
        {"session": "NO NAME"},
    ],
)
def test_what_can_not_be_is_refused_before_anything_starts(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        TrainingJob(**bad)


def test_amounts_and_names_are_read_as_people_write_them() -> None:
    assert TrainingJob(cost_alert=100).alert_nano == 100 * 10**9
    assert TrainingJob(cost_alert=0.1).alert_nano == 10**8
    assert TrainingJob(cost_alert=Decimal("2.50")).alert_nano == 2_500_000_000
    assert TrainingJob(checkpoint_interval=0.5).checkpoint_seconds == 30
    assert TrainingJob().session
    with pytest.raises(UsageError, match="no cost_alert"):
        CostMonitor(TrainingJob()).on_alert(lambda cost: None)
    with pytest.raises(UsageError, match="nothing was begun"):
        TrainingJob().wait()


def test_a_copy_that_travels_leaves_its_watchers_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    job = TrainingJob(cost_alert=1)
    job.watched.append(print)
    assert pickle.loads(pickle.dumps(job)).watched == []
    monkeypatch.setenv("CIUIC_SESSION", "here")
    assert pickle.loads(pickle.dumps(job)).watched == [print]
    assert TrainingJob().session == "here"
