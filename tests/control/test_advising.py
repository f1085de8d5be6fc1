"""Advice of a plane with a turned clock: amounts are differences of bills, to the nano-unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ciuic_jupyter.control.advising import advice, facts_of
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.control.projections import Books
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.money import cost
from ciuic_jupyter.core.session import State
from ciuic_jupyter.notebook import report
from ciuic_jupyter.providers.base import Offer
from tests.control.conftest import Cloud, reach, until

RATE = 3_600_000_000
NEW = ("usage", "before", "between")
NO_GPU = {"gpus": [], "gpu_why": "no NVIDIA driver", "gpu_witness": {"quiet": True, "since": 0.0, "detail": "no GPU"}}


def gpus(*percents: float) -> dict[str, Any]:
    memory = {"memory_used_bytes": 30 << 30, "memory_total_bytes": 40 << 30}
    none = {"memory_used_bytes": 0, "memory_total_bytes": 40 << 30}
    told = [
        {"index": number, "name": "A100", "utilization_percent": percent, **(memory if percent else none)}
        for number, percent in enumerate(percents)
    ]
    return {"gpus": told, "gpu_witness": {"quiet": False, "since": 0.0, "detail": "told by the test"}}


def watch(cloud: Cloud, runner: Runner, seconds: int, cpu: float = 1.0, **more: Any) -> None:
    """Let time pass with a sample each 5 s, without a look of the plane's."""
    for _ in range(seconds // 5):
        cloud.clock.turn(5)
        runner.sample(
            {"type": "sample", "now": 0.0, "kernel": {}, "cpu_percent": cpu, "rss_bytes": 1, **NO_GPU, **more}
        )


async def cell(cloud: Cloud, runner: Runner, name: str, seconds: int = 10, **more: Any) -> None:
    await runner.submit(name, "hang", None)
    await until(lambda: runner.book.runs[name].started_ms is not None)
    watch(cloud, runner, seconds, 100.0, **more)
    await cloud.agent.finish()
    await until(lambda: runner.current is None)
    await runner.flush()


async def kinds(cloud: Cloud) -> dict[str, Any]:
    return {one["kind"]: one for one in (await advice(cloud.plane, None))["advice"]}


async def test_idle_time_costs_what_the_same_life_with_pauses_would_not_have(cloud: Cloud) -> None:
    cloud.settings = cloud.settings.model_copy(update={"idle_release": False})
    await cloud.restart()
    runner = await cloud.session()
    begun = runner.book.segments[0].opened_ms
    await cell(cloud, runner, "a")
    first = runner.book.runs["a"].ended_ms or 0
    watch(cloud, runner, 600)
    await cell(cloud, runner, "b")
    second, third = runner.book.runs["b"].started_ms or 0, runner.book.runs["b"].ended_ms or 0
    watch(cloud, runner, 900)
    now = cloud.plane.context.now_ms()
    save, restore = (round(1000 * part) for part in cloud.plane.context.timings(runner.book))
    storage = cloud.plane.context.storage_rate
    wanted = (
        cost(RATE, now - begun)
        - cost(RATE, first + save - begun)
        - cost(RATE, third + save - (second - restore))
        - cost(storage, second - restore - first - save)
        - cost(storage, now - third - save)
    )
    assert (await kinds(cloud))["pauses not used"]["saves_nano"] == wanted
    await runner.pause()
    await reach(runner, State.PAUSED)
    closed = (await kinds(cloud))["pauses not used"]
    assert runner.book.receipts[-1]["advice"] == [{key: closed[key] for key in ("kind", "saves_nano", "sure")}]
    assert "advice  pauses not used: exact $" in report.receipt("s", runner.book.receipts[-1]).text()
    assert closed["saves_nano"] <= runner.book.compute_nano(now) and "in 2 gaps" in closed["evidence"]
    assert cloud.books().sessions["s"].runs["b"].before is not None
    await cloud.restart()
    assert (await kinds(cloud))["pauses not used"] == closed, "the ledger alone says the same"


async def test_a_cell_under_way_is_advised_on_and_so_is_its_receipt(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.submit("a", "loop", None)
    await until(lambda: runner.book.runs["a"].started_ms is not None)
    watch(cloud, runner, 200, 100.0, **gpus(50.0))
    assert await kinds(cloud) == {}, "not enough samples"
    for _ in range(60):
        watch(cloud, runner, 5, 100.0, **gpus(50.0))
    said = (await kinds(cloud))["gpu waits for data"]
    assert said["run"] == "a" and "50 % of 495 s seen" in said["evidence"]
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert [one["kind"] for one in runner.book.receipts[-1]["advice"]] == ["gpu waits for data"]
    assert (await kinds(cloud))["gpu waits for data"]["evidence"] == said["evidence"], "from its row now"


async def test_work_between_cells_is_no_pause_that_was_missed(cloud: Cloud) -> None:
    cloud.settings = cloud.settings.model_copy(update={"idle_release": False})
    await cloud.restart()
    runner = await cloud.session()
    await cell(cloud, runner, "a")
    watch(cloud, runner, 900, 100.0)
    assert await kinds(cloud) == {}
    cloud.clock.turn(3600)  # unseen
    assert await kinds(cloud) == {}


async def test_cheaper_machines_are_priced_by_the_ledgers_own_stretches(cloud: Cloud) -> None:
    four = Offer("gpu.4", "fake", 4 * RATE, gpus=4, gpu="A100")
    less = Offer("gpu.4.spot", "fake", 3 * RATE, unit_seconds=3600, gpus=4, gpu="A100")
    one = Offer("gpu.1", "fake", RATE, unit_seconds=60, minimum_seconds=600, gpus=1, gpu="A100")
    cloud.provider._offers[:] = [four]
    cloud.settings = cloud.settings.model_copy(update={"instance": "gpu.4"})
    await cloud.restart()
    runner = await cloud.session()
    await cell(cloud, runner, "a", 1200, **gpus(90.0, 0.0, 0.0, 0.0))
    assert await kinds(cloud) == {}, "there is no other offer"
    await runner.pause()
    await reach(runner, State.PAUSED)
    cloud.provider._offers[:] = [four, less, one]
    (segment,) = runner.book.segments
    length, found = segment.length_ms(0), await kinds(cloud)
    spent = runner.book.compute_nano(0)
    assert spent == cloud.provider.bill()
    assert found["machine too large"]["saves_nano"] == spent - cost(RATE, length, unit_ms=60_000, minimum_ms=600_000)
    assert "cheaper offer" not in found, "an hour of three is dearer than twenty minutes of four"
    cloud.provider._offers[1] = Offer("gpu.4.spot", "fake", 3 * RATE, gpus=4, gpu="A100")
    found = await kinds(cloud)
    assert found["cheaper offer"]["saves_nano"] == spent - cost(3 * RATE, length)
    assert "machine too large" in found
    shown = report.advice(await advice(cloud.plane, "s")).text()
    assert "s: machine too large" in shown and "3 of 4 GPUs" in shown and "exact $" in shown


async def test_a_runs_samples_outlive_the_plane_and_a_pause_in_its_middle(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.submit("a", "loop", None)
    await until(lambda: runner.book.runs["a"].started_ms is not None)
    watch(cloud, runner, 100, 100.0)
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert runner.book.suspended is not None
    first = cloud.books().sessions["s"].runs["a"].usage
    assert first is not None and (first["samples"], first["seen_seconds"]) == (19, 95)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await runner.ensure()
    await until(lambda: runner.book.runs["a"].resumed_seq > 0)
    watch(cloud, runner, 100, 50.0)
    await cloud.agent.finish()
    await until(lambda: runner.book.runs["a"].status == "ok")
    await runner.flush()
    whole = cloud.books().sessions["s"].runs["a"].usage
    assert whole is not None and (whole["samples"], whole["seen_seconds"]) == (38, 190)
    assert whole["cpu_sum"] == pytest.approx(95 * 150)


async def test_deaths_without_a_word_are_counted_over_all_lives(cloud: Cloud) -> None:
    runner = await cloud.session()
    await cloud.agent.die()
    await reach(runner, State.FAILED, State.PAUSED)
    assert (runner.book.failures, cloud.books().sessions["s"].failures) == (1, 1)
    again = await cloud.session()
    await again.pause()
    await reach(again, State.PAUSED)
    assert sum(book.failures for book in cloud.plane.context.books.lives) == 1


async def test_rows_of_before_say_nothing_of_usage(cloud: Cloud) -> None:
    runner = await cloud.session()
    for name in "ab":
        await cell(cloud, runner, name, 600)
        watch(cloud, runner, 20)
    await runner.pause()
    await reach(runner, State.PAUSED)
    ledger = Ledger(cloud.settings.state_dir / "ledger.db", Clock())
    entries = list(ledger.replay())
    ledger.close()
    assert Books(entries).sessions["s"].runs["a"].usage is not None
    old = Books(replace(one, body={key: one.body[key] for key in one.body if key not in NEW}) for one in entries)
    assert {run.usage or run.before for run in old.sessions["s"].runs.values()} == {None}
    facts = facts_of(old.sessions["s"], cloud.plane.context, [])
    assert [gap.usage for gap in facts.stretches[0].gaps] == [None, None]
