"""Quotes from a ledger that a plane wrote: which runs count as whole, what a machine's start takes, what is assumed."""

from __future__ import annotations

from typing import Any

import pytest

from ciuic_jupyter.control.quotes import quote_cell
from ciuic_jupyter.control.report import same_cell
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import ProviderError, UsageError
from ciuic_jupyter.notebook.quote import quote as shown
from ciuic_jupyter.notebook.report import same_cell as compared
from ciuic_jupyter.providers.base import Offer
from tests.control.conftest import Cloud, reach, until

SECOND = 1_000_000  # nano-units: the fake machine costs $3.60 an hour


async def asked(cloud: Cloud, code: str | None = "loop", **more: Any) -> dict[str, Any]:
    given = {"run": None, "cell_id": None, "session": None, **more}
    return await quote_cell(cloud.plane.context, code=code, **given)


def by_type(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["instance"]: one for one in view["machines"]}


async def begin(cloud: Cloud, runner: Runner, run: str, code: str = "loop", cell_id: str | None = None) -> None:
    await runner.submit(run, code, cell_id)
    await until(lambda: cloud.agent.current == run)


async def finish(cloud: Cloud, runner: Runner, run: str, status: str = "ok") -> None:
    await cloud.agent.finish(status)
    await until(lambda: runner.book.runs[run].ended_ms is not None)


async def test_whole_runs_are_counted_and_others_told_apart(cloud: Cloud) -> None:
    cloud.provider._offers.append(Offer("fake.2", "fake", 7_200_000_000, unit_seconds=60, minimum_seconds=60))
    none = await asked(cloud)
    assert (none["whole"], none["last_run"]) == (0, None)
    assert [one["cost_nano"] for one in none["machines"]] == [None, None]
    assert "not run to its end yet" in shown(none).text()
    assert "$7.2000 an hour" in shown(none).text()

    runner = await cloud.session()
    for run, seconds, status in (("one", 100, "ok"), ("two", 300, "ok"), ("bad", 10, "error")):
        await begin(cloud, runner, run)
        cloud.clock.turn(seconds)
        await finish(cloud, runner, run, status)
    await begin(cloud, runner, "through")  # paused on its way: one whole run of 50 + 60 s
    cloud.clock.turn(50)
    await runner.pause()
    await reach(runner, State.PAUSED)
    cloud.clock.turn(3600)
    here = await asked(cloud, session="s")
    assert here["others"] == {"error": 1, "suspended": 1}
    assert not by_type(here)["fake.1"]["runs_now"]
    await runner.ensure()
    await reach(runner, State.RUNNING)
    await until(lambda: cloud.agent.current == "through")
    cloud.clock.turn(60)
    await finish(cloud, runner, "through")

    view = await asked(cloud, "\n loop  \n")
    assert (view["whole"], view["paused_on_the_way"], view["others"]) == (3, 1, {"error": 1})
    own, other = by_type(view)["fake.1"], by_type(view)["fake.2"]
    assert (own["runs"], own["like"], own["seconds"]) == (3, None, [100, 110, 300])
    assert own["billed_nano"] == [100 * SECOND, 110 * SECOND, 300 * SECOND]
    assert own["cost_nano"] == own["billed_nano"], "the fake machine starts in no time"
    assert (other["runs"], other["like"]) == (0, "fake.1")
    assert other["cost_nano"] == [2 * 120 * SECOND, 2 * 120 * SECOND, 2 * 300 * SECOND]
    assert [one["instance"] for one in view["machines"]] == ["fake.1", "fake.2"], "cheapest first"
    text = shown(view).text()
    for part in ("3 runs here: 1 min 50 s", "assumed as fast as fake.1", "1 of them through a pause", "1 ended with"):
        assert part in text
    assert (await asked(cloud, None, run="one"))["machines"] == view["machines"]
    now = by_type(await asked(cloud, session="s"))["fake.1"]
    assert now["runs_now"]
    cloud.provider._offers.clear()
    (gone,) = (await asked(cloud))["machines"]
    assert (gone["offered"], gone["runs"], gone["cost_nano"]) == (False, 3, None)
    assert "not offered now" in shown(await asked(cloud)).text()


async def test_a_start_takes_as_long_as_it_was_measured_to_take(cloud: Cloud) -> None:
    runner = await cloud.session()
    segment = runner.book.segments[0]
    assert segment.ready_ms is not None
    segment.ready_ms = segment.opened_ms + 30_000
    await begin(cloud, runner, "one")
    cloud.clock.turn(100)
    await finish(cloud, runner, "one")
    (own,) = (await asked(cloud))["machines"]
    assert (own["start_seconds"], own["start_measured"]) == (30, True)
    assert own["cost_nano"] == [130 * SECOND] * 3
    assert "With the start of a machine: 30 s on fake.1" in shown(await asked(cloud)).text()


async def test_a_run_keeps_the_loss_that_it_printed_and_a_unit_of_it_has_a_price(cloud: Cloud) -> None:
    runner = await cloud.session()

    async def printed(run: str, text: str) -> None:
        said = {"name": "stdout", "text": text}
        await cloud.agent.emit(kind="output", run=run, msg_type="stream", content=said, metadata={})

    for run, last in (("one", "0.5"), ("two", "3.5")):
        await begin(cloud, runner, run)
        await printed(run, "epoch 1 loss 2.5\nepoch 2 lo")
        cloud.clock.turn(100)
        await printed(run, f"ss {last}\n")
        await cloud.agent.emit(
            kind="output", run=run, msg_type="stream", content="loss 9", metadata={}
        )  # no such thing
        await finish(cloud, runner, run)
    await begin(cloud, runner, "mute")
    await finish(cloud, runner, "mute")
    rows = same_cell(cloud.plane.context.books.lives, cloud.plane.context, "one")["rows"]
    assert [row["loss"] for row in rows] == [{"first": 2.5, "last": 0.5}, {"first": 2.5, "last": 3.5}, None]
    assert [row["per_loss_nano"] for row in rows] == [50 * SECOND, None, None], "what did not fall has no price"
    assert "$0.0500 a unit of loss" in compared({"text": "loop", "rows": rows}).text()
    await until(lambda: runner.book.runs["mute"].ended_ms is not None)
    await cloud.restart()
    assert cloud.plane.runner("s").book.runs["one"].loss == {"first": 2.5, "last": 0.5}


async def test_a_run_that_moved_is_nobodys_measure(cloud: Cloud) -> None:
    cloud.provider._offers.append(Offer("fake.2", "fake", 7_200_000_000))
    runner = await cloud.session()
    await begin(cloud, runner, "one")
    await runner.pause()
    await reach(runner, State.PAUSED)
    await cloud.plane.choose(runner, "fake.2")
    await runner.ensure()
    await reach(runner, State.RUNNING)
    await until(lambda: cloud.agent.current == "one")
    await finish(cloud, runner, "one")
    view = await asked(cloud)
    assert (view["whole"], view["others"]) == (0, {"moved": 1})


async def test_an_edited_cell_is_quoted_by_its_earlier_text_and_that_is_said(cloud: Cloud) -> None:
    runner = await cloud.session()
    await begin(cloud, runner, "one", cell_id="c1")
    cloud.clock.turn(5)
    await finish(cloud, runner, "one")
    edited = await asked(cloud, "loop  # edited", cell_id="c1", session="s")
    assert edited["edited"] and edited["whole"] == 1
    assert "changed since" in shown(edited).text()
    assert (await asked(cloud, "other"))["whole"] == 0
    assert not (await asked(cloud, "loop", cell_id="c2"))["edited"]
    assert (await asked(cloud, "loop  # edited", cell_id="c1", session="copy"))["whole"] == 0


async def test_what_is_no_cell_is_refused_and_a_provider_that_fails_is_said(cloud: Cloud) -> None:
    for bad in ({"code": None}, {"code": "  \n"}, {"code": None, "run": "nowhere"}):
        with pytest.raises(UsageError):
            await asked(cloud, **bad)

    class Away:
        name = "away"

        async def offers(self) -> list[Offer]:
            raise ProviderError("the cloud\x1b[2J is away")

    cloud.plane.context.providers = {**cloud.plane.context.providers, "away": Away()}  # type: ignore[dict-item]
    view = await asked(cloud)
    assert view["unasked"] == ["the cloud\\x1b[2J is away"]
    assert "Left out" in shown(view).text()
    assert [one["instance"] for one in view["machines"]] == ["fake.1"]
