"""Who watches the plane is sent changes alone, and who does not watch costs nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from ciuic_jupyter.control import board
from ciuic_jupyter.control.panel import panel_view
from ciuic_jupyter.core.session import State
from tests.control.conftest import Cloud, reach, until


class Watcher:
    def __init__(self, cloud: Cloud) -> None:
        self.frames: list[dict[str, Any]] = []
        self.task = asyncio.create_task(cloud.plane.board.fanout.serve(self._send))

    async def _send(self, frame: bytes) -> None:
        self.frames.append(json.loads(frame))

    async def until(self, reached: Callable[[list[dict[str, Any]]], Any]) -> None:
        await until(lambda: reached(self.frames))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [frame for frame in self.frames if frame["type"] == kind]


async def test_a_watcher_sees_each_step_of_a_session_and_its_cost(cloud: Cloud) -> None:
    watcher = Watcher(cloud)
    await watcher.until(lambda frames: frames)
    assert watcher.frames[0]["sessions"] == []
    runner = await cloud.session("s", budget_nano=10**12)
    await runner.submit("r", "loop", "cell")
    await watcher.until(lambda _: any(one["session"]["busy"] for one in watcher.of("session")))
    await cloud.turn(3600)
    await runner.pause()
    await reach(runner, State.PAUSED)
    await watcher.until(lambda _: watcher.of("session")[-1]["session"]["state"] == "paused")
    steps = [one["session"]["progress"]["step"] for one in watcher.of("session")]
    assert "stopped" in steps
    last = watcher.of("session")[-1]["session"]
    receipt = runner.book.receipts[-1]
    assert last["progress"]["last_cost_nano"] == receipt["segment_nano"] > 0
    (run,) = last["runs"]
    assert (run["run"], run["cell_id"], run["state"], run["ended_at"]) == ("r", "cell", "suspended", None)
    await watcher.until(lambda _: watcher.of("total") and watcher.of("total")[-1]["total"]["rate_nano_per_hour"] == 0)
    total = watcher.of("total")[-1]["total"]
    assert total["budget_nano"] == 10**12
    assert total["month_nano"] <= total["month_always_on_nano"]
    watcher.task.cancel()


async def test_what_did_not_change_is_not_sent(cloud: Cloud) -> None:
    runner = await cloud.session()
    first = Watcher(cloud)
    await first.until(lambda frames: frames)
    await runner.keep(60)
    await first.until(lambda _: first.of("session"))
    sent = len(first.of("session"))
    for _ in range(5):
        runner.changed()
        await asyncio.sleep(2 * board._AT_ONCE)
    assert len(first.of("session")) == sent
    second = Watcher(cloud)
    await second.until(lambda frames: frames)
    assert second.frames[0]["sessions"][0]["kept_until"] == runner.book.kept_until
    await runner.keep(90)
    for watcher in (first, second):
        await watcher.until(
            lambda _, watcher=watcher: (
                watcher.of("session") and watcher.of("session")[-1]["session"]["kept_until"] == runner.book.kept_until
            )
        )
        watcher.task.cancel()


async def test_many_changes_of_a_moment_are_one_frame(cloud: Cloud) -> None:
    runner = await cloud.session()
    watcher = Watcher(cloud)
    await watcher.until(lambda frames: frames)
    for number in range(50):
        runner.message = f"message {number}"
        runner.changed()
    await watcher.until(lambda _: watcher.of("session"))
    assert [one["session"]["message"] for one in watcher.of("session")] == ["message 49"]
    watcher.task.cancel()


async def test_nothing_is_noted_unwatched_and_a_watcher_that_comes_sees_it_all(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.keep(60)
    assert cloud.plane.board._due.keys() <= {""}
    snapshot = cloud.plane.board.snapshot()
    assert [one["name"] for one in snapshot["sessions"]] == ["s"]
    assert json.loads(json.dumps(snapshot["sessions"][0])) == json.loads(json.dumps(panel_view(runner)))


async def test_usage_is_drawn_a_point_a_second(cloud: Cloud) -> None:
    runner = await cloud.session()
    for half_second in range(300):
        cloud.clock.turn(0.5)
        runner.sample({"type": "sample", "cpu_percent": float(half_second), "gpus": [], "now": 0.0})
    history = panel_view(runner)["usage_history"]
    assert (len(history["cpu"]), history["gpu"], history["seconds"]) == (60, None, 1.0)
    assert history["cpu"] == [float(number) for number in range(180, 300, 2)]


async def test_a_watcher_sees_how_much_of_a_save_is_written(cloud: Cloud) -> None:
    watcher = Watcher(cloud)
    runner = await cloud.session("s")
    cloud.agent.hold_save = asyncio.Event()
    await runner.pause()
    await reach(runner, State.SAVING)
    for share, shown in ((None, None), (0.4, 0.4), (1.5, 1.0)):
        header = {"type": "progress", "step": "capturing", "done": 0, "total": 3}
        runner.progress(header if share is None else {**header, "share": share})
        now = {"step": "saving", "fraction": shown}
        await watcher.until(
            lambda _, now=now: any(now.items() <= seen["session"]["progress"].items() for seen in watcher.of("session"))
        )
    runner.progress({"type": "progress", "step": "verifying", "done": 1, "total": 3})
    assert panel_view(runner)["progress"] == {**panel_view(runner)["progress"], "step": "verifying", "fraction": None}
    cloud.agent.hold_save.set()
    await reach(runner, State.PAUSED)
    assert panel_view(runner)["progress"]["fraction"] is None
    watcher.task.cancel()
