"""A pause in the middle of a cell, seen from the plane: held, saved, stopped, suspended, and gone on with."""

from __future__ import annotations

from typing import Any

from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from tests.control.conftest import Cloud, reach, until


def ends(runner: Runner) -> dict[str, str]:
    """Return how runs ended, by the events that viewers read."""
    return {h["run"]: h["status"] for _, h in runner.headers(0) if h["kind"] == "run_ended"}


def notes(runner: Runner) -> list[str]:
    return [h["text"] for _, h in runner.headers(0) if h["kind"] == "note"]


def status(runner: Runner, run: str = "r") -> str:
    return str(runner.book.runs[run].status)


async def looping(cloud: Cloud, runner: Runner, run: str = "r", code: str = "loop", **options: Any) -> None:
    """Submit a cell and wait until it runs."""
    await runner.submit(run, code, None, **options)
    await until(lambda: runner.book.runs[run].started_ms is not None and cloud.agent.current == run)


async def paused(cloud: Cloud) -> Runner:
    """A session that is paused in the middle of run `r`."""
    runner = await cloud.session()
    await looping(cloud, runner)
    await cloud.agent.say("epoch 1")
    await runner.pause()
    await runner.let_go()
    assert runner.book.state is State.PAUSED
    assert status(runner) == "suspended"
    return runner


async def gone_on(cloud: Cloud, runner: Runner, run: str = "r") -> None:
    """Wait until the run goes on, then let it end well."""
    await until(lambda: cloud.agent.current == run and runner.book.runs[run].status == "running")
    await cloud.agent.finish()
    await until(lambda: status(runner, run) == "ok")


async def test_a_pause_in_a_running_cell_holds_saves_and_stops_and_the_run_goes_on_after_the_resume(
    cloud: Cloud,
) -> None:
    runner = await paused(cloud)
    assert cloud.provider.alive == ()
    assert ends(runner) == {}
    view = runner.view()
    assert view["suspended"] == {
        "run": "r",
        "cell_id": None,
        "checkpoint": 1,
        "after": runner.book.runs["r"].boundary["after"],  # type: ignore[index]
        "where": "line 7 of the cell",
    }
    assert view["text"] == "paused at line 7 of the cell: compute $0"
    assert (view["run"], view["busy"], view["pause"]) == (None, False, None)
    assert view["checkpoint"]["run"] == "r"
    assert runner.book.receipts[-1]["checkpoint"]["run"] == "r"
    await runner.ensure()
    await until(lambda: cloud.agent.resumed == [("r", [])])
    await until(lambda: runner.view()["run"] == "r")
    assert runner.view()["suspended"] is None
    await gone_on(cloud, runner)
    assert ends(runner) == {"r": "ok"}
    assert cloud.agent.runs == ["r"], "it was sent once and gone on with, never run anew"
    assert cloud.agent.restored_from == [None, 1]
    await until(lambda: cloud.books().sessions["s"].runs["r"].status == "ok")


async def test_it_can_be_paused_again_and_again(cloud: Cloud) -> None:
    runner = await paused(cloud)
    for number in (2, 3):
        await runner.ensure()
        await until(lambda: cloud.agent.current == "r" and runner.current == "r")
        await runner.pause()
        await runner.let_go()
        assert status(runner) == "suspended"
        assert runner.book.checkpoint is not None
        assert runner.book.checkpoint["seq"] == number
    await runner.ensure()
    await gone_on(cloud, runner)


async def test_a_cell_that_ends_first_is_saved_behind_its_end(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    await runner.pause()
    await until(lambda: "hold" in cloud.agent.ops)
    await cloud.agent.finish()
    await reach(runner, State.PAUSED)
    assert status(runner) == "ok"
    assert runner.view()["suspended"] is None


async def test_an_agent_that_knows_no_hold_is_paused_behind_its_cell(cloud: Cloud) -> None:
    cloud.agent.knows_hold = False
    runner = await cloud.session()
    await looping(cloud, runner)
    await runner.pause()
    await until(lambda: "hold" in cloud.agent.ops)
    await cloud.turn(1)
    await cloud.turn(1)
    assert cloud.agent.ops.count("hold") == 1
    await cloud.agent.finish()
    await reach(runner, State.PAUSED)
    assert status(runner) == "ok"


async def test_cells_that_wait_go_behind_the_one_that_goes_on(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    await runner.submit("before", "ok", None)
    await runner.pause()
    await runner.let_go()
    await runner.submit("after", "ok", None)
    await until(lambda: cloud.agent.current == "r")
    assert cloud.agent.runs == ["r"]
    await gone_on(cloud, runner)
    await until(lambda: status(runner, "after") == "ok")
    assert cloud.agent.runs == ["r", "before", "after"]
