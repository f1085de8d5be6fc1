"""A real plane, agent and kernel: a cell is paused in its middle, or its kernel is killed, and goes on elsewhere."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.monitor import proof
from ciuic_jupyter.settings import Settings

LOOPS = """
import os, random, time
random.seed(3)
print("pid", os.getpid())
seen = []
def step(i):
    for j in range(3):
        time.sleep(0.05)
        seen.append(random.random())
    return seen[-1]
epoch = -1
while not os.path.exists(STOP):  # no count ends it, however slow the machine is
    epoch += 1
    print(epoch, step(epoch))
print("end")
"""


def until_there(stop: Path) -> str:
    """Return the code of a cell that goes on until `stop` exists."""
    return LOOPS.replace("STOP", repr(str(stop)))


class Viewer:
    """Everything a session's stream brought."""

    def __init__(self, client: PlaneClient, session: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._stream = client.stream(session)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(CiuicError):  # the plane ends first
            for frame in self._stream:
                if frame.header.get("type") == "event":
                    self.events.append(dict(frame.header))

    @property
    def text(self) -> str:
        return "".join(event["content"]["text"] for event in list(self.events) if event.get("msg_type") == "stream")

    def kinds(self) -> list[str]:
        return [str(event["kind"]) for event in list(self.events) if str(event["kind"]).startswith("run_")]


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def expected(epochs: int) -> list[str]:
    numbers = random.Random(3)
    return [f"{epoch} {[numbers.random() for _ in range(3)][-1]}" for epoch in range(epochs)] + ["end"]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlaneClient]:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-pause-{os.getpid()}")
    yield from a_plane()


def a_plane() -> Iterator[PlaneClient]:
    """Start the plane that the environment names; end it behind what is done with it."""
    client = PlaneClient.ensure(Settings())
    pid = int(client.health()["pid"])
    yield client
    leave(client, pid)


def leave(client: PlaneClient, pid: int) -> None:
    """Shut a plane down and wait for its end."""
    client.shutdown()
    until(lambda: ended(pid))


def ended(pid: int) -> bool:
    """Tell whether a process is gone, but for who is to hear of it."""
    return not Path(f"/proc/{pid}").exists() or _zombie(pid)


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_pause_in_the_middle_of_a_function_loses_nothing_and_prints_nothing_twice(
    client: PlaneClient, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "r", until_there(stop))
    for at in ("2 0.", "6 0."):
        until(lambda at=at: at in viewer.text)  # type: ignore[misc]
        view = client.pause("s")
        assert view["state"] == "paused"
        assert view["rate_nano_per_hour"] == 0
        assert view["suspended"]["run"] == "r"
        assert "in step()" in view["suspended"]["where"] or "line 12" in view["suspended"]["where"]
        client.resume("s", wait=True)
    stop.touch()
    until(lambda: client.runs("s")[-1]["status"] == "ok")
    until(lambda: "end\n" in viewer.text)
    assert viewer.text.splitlines()[1:] == expected(viewer.text.count("\n") - 2)
    assert viewer.kinds().count("run_resumed") == 2
    client.close_session("s")


def test_what_a_cell_printed_while_its_plane_was_dead_is_shown_though_the_machine_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-pause-{os.getpid()}")
    monkeypatch.setenv("CIUIC_LEASE_SECONDS", "10")  # while a cell runs, the machine waits for its end
    client = PlaneClient.ensure(Settings())
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "r", until_there(tmp_path / "stop"))
    until(lambda: "2 0." in viewer.text)
    [lock] = (tmp_path / "state").rglob("lock")
    os.kill(int(client.health()["pid"]), signal.SIGKILL)
    until(lambda: "the plane is not heard any more" in lock.with_name("agent.log").read_text())
    (tmp_path / "stop").touch()
    until(lambda: not proof.is_held(lock))

    with contextmanager(a_plane)() as again:
        until(lambda: again.session("s")["state"] == "paused")
        late = Viewer(again, "s")
        until(lambda: "end\n" in late.text)
        epochs = late.text.count("\n") - 2
        assert late.text.splitlines()[1:] == expected(epochs)
        assert late.text.count("\n") > viewer.text.count("\n")
        assert [run["status"] for run in again.runs("s")] == ["ok"]
        assert [receipt["reason"] for receipt in again.receipts("s")] == ["lease"]
        again.create("s")
        again.run("s", "more", "print('epochs', epoch + 1)")
        until(lambda: f"epochs {epochs}\n" in late.text)
        again.close_session("s")


def test_a_killed_kernel_goes_on_from_its_last_checkpoint_and_prints_nothing_twice(
    client: PlaneClient, tmp_path: Path
) -> None:
    stop = tmp_path / "stop"
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "r", until_there(stop), checkpoint_every=1.0)
    until(lambda: (client.session("s")["checkpoint"] or {}).get("run") == "r")
    printed = viewer.text.count("\n")
    until(lambda: viewer.text.count("\n") > printed + 1)
    os.kill(int(viewer.text.split()[1]), signal.SIGKILL)
    until(lambda: client.session("s")["state"] == "paused")
    assert client.runs("s")[-1]["status"] == "suspended"
    client.resume("s", wait=True)
    printed = viewer.text.count("\n")
    until(lambda: viewer.text.count("\n") > printed)
    stop.touch()
    until(lambda: client.runs("s")[-1]["status"] == "ok")
    until(lambda: "end\n" in viewer.text)
    assert viewer.text.splitlines()[1:] == expected(viewer.text.count("\n") - 2)
    client.close_session("s")


def test_a_budget_is_not_crossed_by_more_than_a_second_and_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("CIUIC_PRICE_PER_HOUR", "3600")  # a dollar a second
    client: PlaneClient = request.getfixturevalue("client")
    client.create("s")
    viewer = Viewer(client, "s")
    client.run("s", "r", until_there(tmp_path / "stop"))
    until(lambda: "2 0." in viewer.text)
    budget = int(client.session("s")["spent_nano"]) + 14 * NANO
    client.create("s", budget_nano=budget)
    until(lambda: "is reached" in client.session("s")["message"])
    began = time.monotonic()
    until(lambda: client.session("s")["state"] == "paused")
    stopping = time.monotonic() - began
    view = client.session("s")
    assert view["suspended"]["run"] == "r"
    assert budget / 2 < view["spent_nano"] <= budget + (1 + stopping) * NANO
    assert view["budgets"][0]["scope"] == "session"
