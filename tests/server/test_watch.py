"""Tabs of a real Jupyter server over a real plane: what they are sent, what they can do, and what they cost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from websockets.sync.client import ClientConnection, connect

from tests.server.conftest import Jupyter
from tests.ui.servers import until

CELL = """import sys
for i in range(40):
    print(i, end="\\r")
print("done", i)
print("late", file=sys.stderr)
display({"text/plain": "old"}, raw=True, display_id="d")
i + 1"""
LOOP = """import time
for step in range(10_000):
    print("step", step)
    time.sleep(0.02)"""


class Tab:
    """One page: what it was sent, folded as a page does."""

    def __init__(self, line: ClientConnection) -> None:
        self.line = line
        self.seen: list[dict[str, Any]] = []
        self.sessions: dict[str, dict[str, Any]] = {}
        self.plane: dict[str, Any] = {}

    def take(self, seconds: float = 30.0) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.line.recv(seconds))
        self.seen.append(frame)
        if frame["type"] == "snapshot":
            self.sessions = {one["name"]: one for one in frame["sessions"]}
            self.plane = frame["plane"]
        elif frame["type"] == "session":
            self.sessions[frame["session"]["name"]] = frame["session"]
        elif frame["type"] == "plane":
            self.plane = frame["plane"]
        return frame

    def until(self, reached: Any, what: str) -> Any:
        deadline = time.monotonic() + 60
        while not (found := reached(self)):
            assert time.monotonic() < deadline, (what, self.seen[-3:])
            self.take()
        return found


@contextmanager
def tab(jupyter: Jupyter) -> Iterator[Tab]:
    given = {"Authorization": f"token {jupyter.token}"}
    with connect(jupyter.socket(), additional_headers=given, proxy=None, max_size=None) as line:
        yield Tab(line)


def state(name: str, *wanted: str) -> Any:
    return lambda one: one.sessions.get(name, {}).get("state") in wanted


def run_of(one: dict[str, Any], run: str) -> dict[str, Any]:
    return next((listed for listed in one.get("runs", ()) if listed["run"] == run), {})


def drawn(one: dict[str, Any]) -> list[Any]:
    return list((one.get("usage_history") or {}).get("cpu", ()))


@pytest.fixture(scope="module")
def started(jupyter: Jupyter) -> Jupyter:
    """The plane, started by the page's button."""
    with tab(jupyter) as page:
        assert page.take()["type"] == "snapshot"
        answer = jupyter.ask("plane/start", "POST")
        assert answer.json()["up"] is True
        page.until(lambda one: one.plane["up"], "the plane is up")
    return jupyter


def plane_process(jupyter: Jupyter) -> psutil.Process:
    return psutil.Process(int(jupyter.plane().health()["pid"]))


def last_activity(jupyter: Jupyter) -> str:
    answer = requests.get(
        f"{jupyter.base.removesuffix('ciuic/')}api/status?no_track_activity=1",
        headers={"Authorization": f"token {jupyter.token}"},
        timeout=20,
    )
    return str(answer.json()["last_activity"])


def lines_to_the_plane(jupyter: Jupyter) -> int:
    """Count the Jupyter server's open connections to the plane."""
    port = urlsplit(jupyter.plane().url).port
    found = psutil.Process(jupyter.process.pid).net_connections("tcp")
    return sum(1 for one in found if one.raddr and one.raddr.port == port and one.status == "ESTABLISHED")


def test_a_session_from_its_first_cell_to_its_receipt(started: Jupyter) -> None:
    plane = started.plane()
    with tab(started) as page:
        plane.run("life", "r1", CELL, cell_id="cell-1")
        page.until(lambda one: run_of(one.sessions.get("life", {}), "r1").get("state") == "done", "the cell ends")
        view = page.sessions["life"]
        assert run_of(view, "r1")["cell_id"] == "cell-1"
        assert view["progress"] == {"step": None, "fraction": None, "stopped_at": None, "last_cost_nano": None}
        shown = started.ask("sessions/life/runs/r1/outputs").json()
        assert shown["state"] == "done"
        assert shown["execution_count"] == 1
        assert shown["outputs"] == [
            {"output_type": "stream", "name": "stdout", "text": "done 39\n"},
            {"output_type": "stream", "name": "stderr", "text": "late\n"},
            {"output_type": "display_data", "data": {"text/plain": "old"}, "metadata": {}},
            {"output_type": "execute_result", "data": {"text/plain": "40"}, "metadata": {}, "execution_count": 1},
        ]
        plane.run("life", "r2", 'display({"text/plain": "new"}, raw=True, display_id="d", update=True)\n1/0')
        page.until(lambda one: run_of(one.sessions["life"], "r2").get("state") == "error", "the cell fails")
        again = started.ask("sessions/life/runs/r1/outputs").json()
        assert again["outputs"][2]["data"] == {"text/plain": "new"}
        (failed,) = started.ask("sessions/life/runs/r2/outputs").json()["outputs"]
        assert (failed["output_type"], failed["ename"]) == ("error", "ZeroDivisionError")
        assert started.ask("sessions/life/runs/nothing/outputs").status_code == 400

        plane.run("life", "r3", LOOP, cell_id="cell-3")
        page.until(lambda one: len(drawn(one.sessions["life"])) > 1, "usage is drawn")
        asked = last_activity(started)
        until(lambda: last_activity(started) > asked, "a remote cell that runs counts as activity")
        answer = started.ask("sessions/life/pause", "POST", json={})
        assert answer.status_code == 200
        assert "progress" in answer.json()
        page.until(state("life", "paused"), "the session is paused")
        steps = [frame["session"]["progress"]["step"] for frame in page.seen if frame["type"] == "session"]
        order = [step for at, step in enumerate(steps) if step and step != steps[at - 1]]
        assert order == ["saving", "verifying", "releasing", "stopped"]
        receipt = started.ask("sessions/life/receipts").json()[-1]
        stopped = page.sessions["life"]["progress"]
        assert (stopped["stopped_at"], stopped["last_cost_nano"]) == (receipt["at"], receipt["segment_nano"])
        held = started.ask("sessions/life/runs/r3/outputs").json()
        lines = held["outputs"][0]["text"].splitlines()
        assert (held["state"], held["cell_id"], len(held["outputs"])) == ("suspended", "cell-3", 1)
        assert lines == [f"step {number}" for number in range(len(lines))]

        history = started.ask("history?session=life&limit=3").json()
        assert [row["kind"] for row in history["rows"]] == ["pause", "run", "run"]
        assert history["rows"][0]["cost_nano"] == receipt["segment_nano"]
        assert (
            history["days"][-1]["spent_nano"] + sum(day["spent_nano"] for day in history["days"][:-1])
            == (receipt["spent_nano"])
        )
        assert started.ask("history?limit=0").status_code == 422


def test_ten_tabs_are_one_line_to_the_plane_and_one_change_each(started: Jupyter) -> None:
    with tab(started) as first:
        first.take()
        one = lines_to_the_plane(started)
        pages = [tab(started) for _ in range(9)]
        tabs = [page.__enter__() for page in pages]
        for page in tabs:
            page.take()
        assert 1 <= lines_to_the_plane(started) <= one + 1, "tabs have lines of their own"  # one is kept for requests
        started.plane().keep("life", 3600)
        for page in [first, *tabs]:
            page.until(lambda one: one.sessions["life"]["kept_until"] is not None, "each learns it")
            told = [frame for frame in page.seen if frame["type"] == "session"]
            assert len(told) == 1, "one change is one frame"
        for opened in pages:
            opened.__exit__(None, None, None)


def test_a_plane_that_is_killed_and_started_again_with_the_page_open(started: Jupyter) -> None:
    with tab(started) as page:
        page.take()
        assert page.sessions["life"]["state"] == "paused"
        os.kill(plane_process(started).pid, signal.SIGKILL)
        page.until(lambda one: not one.plane["up"], "the page learns that the plane is away")
        assert "ciuic serve" in page.plane["error"], "it says what to do"
        refused = started.ask("sessions/life/resume", "POST", json={})
        assert (refused.status_code, refused.json()["error"]["type"]) == (503, "PlaneUnavailable")
        away = started.ask("snapshot").json()
        assert (away["plane"]["up"], [one["name"] for one in away["sessions"]]) == (False, ["life"])
        assert started.ask("plane/start", "POST").json()["up"] is True
        page.until(lambda one: one.plane["up"] and one.sessions, "the same line tells of the new plane")
        assert page.sessions["life"]["state"] == "paused"
        assert page.sessions["life"]["suspended"]["cell_id"] == "cell-3"


def test_looking_is_no_activity(started: Jupyter) -> None:
    before = last_activity(started)
    with tab(started) as page:
        page.take()
        started.ask("snapshot")
        started.ask("history")
        time.sleep(0.5)  # two looks for cells that run: there are none
        assert last_activity(started) == before
