"""The forecast of a run under a turned clock: money in billing units, no time without a machine, the budget's end."""

from __future__ import annotations

from typing import Any

import pytest

from ciuic_jupyter.control.report import report
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.providers.base import Offer
from tests.control.conftest import Cloud, reach, until

SECOND = NANO // 1000  # the fake machine costs a milli-dollar a second


def loop(taken: int, left: int) -> dict[str, Any]:
    told = {"place": "u 1:0", "name": "line 1", "taken": taken, "left": left}
    return {**told, "kind": "range_iterator", "endless": None, "follow": 0}


async def looked(cloud: Cloud, runner: Runner, ran: float, loops: list[Any]) -> dict[str, Any]:
    """Send one look and return the session's forecast behind it."""
    look = {"run": runner.current, "ran": ran, "loops": loops}
    before = runner.usage
    await cloud.agent.sample(0.0, quiet_since=None, look=look)
    await until(lambda: runner.usage is not before)
    assert "look" not in (runner.usage or {})
    return dict(runner.view()["forecast"])


async def goes(cloud: Cloud, runner: Runner, begin: int, end: int, *, total: int, ran: int = 0) -> dict[str, Any]:
    """Let the turns from `begin` to `end` go by, a second each; the agent has seen `ran` seconds of the run."""
    told: dict[str, Any] = {}
    for turn in range(begin, end):
        cloud.clock.turn(1)
        ran += 1
        told = await looked(cloud, runner, float(ran), [loop(turn + 1, total - turn - 1)])
    return told


async def begun(cloud: Cloud, **session: Any) -> Runner:
    runner = await cloud.session(**session)
    await runner.submit("r", "loop", None)
    await until(lambda: cloud.agent.current == "r" and runner.current == "r")
    return runner


async def test_a_run_is_forecast_in_time_and_money_and_its_turns_are_kept(cloud: Cloud) -> None:
    runner = await begun(cloud)
    assert runner.view()["forecast"]["why"] == "its loops were not looked at yet"
    told = await goes(cloud, runner, 0, 20, total=100)
    assert told["total_nano"] == pytest.approx(100 * SECOND, rel=0.03)
    assert told["low_nano"] < told["total_nano"] < told["high_nano"]
    assert told["fraction"] == pytest.approx(0.2, abs=0.01) and told["budget_seconds"] is None
    assert told["ends_at"] == pytest.approx(cloud.clock.wall() + 80, abs=2)
    assert (told["done"], told["total"], told["why"]) == (19, 100, None)
    await cloud.agent.finish()
    await until(lambda: runner.current is None)
    assert runner.view()["forecast"] is None
    await until(lambda: cloud.books().sessions["s"].runs["r"].turns is not None)
    (row,) = report(cloud.books().lives, cloud.plane.context, "run")["rows"]
    assert row["turns"] == {"done": 19, "total": 100, "seconds_per_turn": pytest.approx(1.0, abs=0.1)}


async def test_a_pause_in_its_middle_is_no_time_of_the_run(cloud: Cloud) -> None:
    runner = await begun(cloud)
    await goes(cloud, runner, 0, 40, total=100)
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert runner.view()["forecast"] is None
    spent = runner.book.spent_nano(runner.context.now_ms())
    cloud.clock.turn(7200)
    await runner.ensure()
    await until(lambda: runner.current == "r")
    told = await goes(cloud, runner, 30, 50, total=100)  # the checkpoint was ten turns old
    assert told["why"] is None
    assert told["ends_at"] == pytest.approx(cloud.clock.wall() + 50, abs=3)
    assert told["total_nano"] == pytest.approx(spent + 70 * SECOND, rel=0.05)
    assert told["fraction"] == pytest.approx(60 / 110, abs=0.02)
    await cloud.agent.finish()
    await until(lambda: runner.current is None)


@pytest.mark.parametrize(("turns", "hours"), [(100, 1), (4000, 2)])
async def test_whole_billing_units_are_forecast(cloud: Cloud, turns: int, hours: int) -> None:
    cloud.provider._offers[0] = Offer("fake.1", "fake", 3_600_000_000, unit_seconds=3600)
    runner = await begun(cloud)
    told = await goes(cloud, runner, 0, 20, total=turns)
    assert told["total_nano"] == hours * 3600 * SECOND
    await cloud.agent.finish()
    await until(lambda: runner.current is None)


@pytest.mark.parametrize(("turns", "reached"), [(60, None), (150, 60)])
async def test_a_budget_that_will_not_do_is_said_before_it_is_reached(
    cloud: Cloud, turns: int, reached: int | None
) -> None:
    runner = await begun(cloud, budget_nano=90 * SECOND)
    told = await goes(cloud, runner, 0, 20, total=turns)
    assert told["budget_seconds"] == (reached and pytest.approx(reached, abs=10))  # the stop is paid, too
    await cloud.agent.finish()
    await until(lambda: runner.current is None)


async def test_looks_of_nonsense_change_nothing(cloud: Cloud) -> None:
    runner = await begun(cloud)
    good = await goes(cloud, runner, 0, 10, total=100)
    for ran, loops in ((1e300, [loop(1, 9)]), ("9", []), (11, None), (5, [loop(1, 9)]), (None, [loop(1, 9)])):
        assert await looked(cloud, runner, ran, loops) == good  # type: ignore[arg-type]
    other = {"run": "another", "ran": 30, "loops": [loop(1, 9)]}
    for look in (other, "no look", [1]):
        await cloud.agent.sample(0.0, quiet_since=None, look=look)
    told = await looked(cloud, runner, 12.0, [{"place": 3, "left": -1, "taken": "x", "name": None}, 7])
    assert told == {"fraction": None, "ends_at": None, "why": "the loop of  (an iterator) has no known length"}
    await cloud.agent.finish()
    await until(lambda: runner.current is None)
