"""What a cloud said and took back, what it never said, and machines nobody asked for: the ledger ends as the bill does.

The fixture compares ledger and bill, to the nano-dollar, when each test ends.
"""

from __future__ import annotations

import asyncio

import pytest

from ciuic_jupyter.control.ledger import Ledger, Row
from ciuic_jupyter.control.reconcile import tidy
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers.base import MachineState
from tests.control.conftest import Cloud, reach, until


async def test_a_machine_called_stopped_that_lives_is_billed_on_shown_and_stopped_again(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.stop_ignored = 1
    cloud.provider.faults.lies = [MachineState.STOPPED]
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert len(cloud.provider.alive) == 1
    cloud.clock.turn(60)
    cloud.provider.faults.stop_ignored = 1
    await cloud.plane.reconcile()
    assert runner.view()["rate_nano_per_hour"] > 0, "its machine lives"
    assert "billed until it is gone" in runner.view()["text"]
    cloud.clock.turn(40)
    await cloud.plane.reconcile()
    assert cloud.provider.alive == ()
    view = runner.view()
    assert view["rate_nano_per_hour"] == 0
    assert view["compute_nano"] == 100 * NANO // 1000
    assert "compute $0" in view["text"]


async def test_a_start_that_is_told_again_opens_no_second_segment(cloud: Cloud) -> None:
    runner = await cloud.session()
    context = cloud.plane.context
    written = Ledger(cloud.settings.state_dir / "ledger.db", cloud.clock)
    [opened] = [entry for entry in written.replay() if entry.kind == "segment_open"]
    written.close()
    row = Row(opened.kind, {**opened.body}, opened.session, opened.machine, f"open:{opened.machine}")
    for entry in await context.ledger.append_all([row]):  # as when reconciling and the session find it at once
        context.books.apply(entry)
    assert [segment.machine for segment in runner.book.segments] == [opened.machine]
    await runner.pause()
    await reach(runner, State.PAUSED)


async def test_an_end_that_the_cloud_tells_later_replaces_the_estimate(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.lies = [None, None]
    cloud.provider.faults.stop_seconds = 30
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert runner.book.segments[0].estimated
    cloud.clock.turn(50)
    cloud.provider.faults.hidden.update(cloud.provider.alive)
    await cloud.plane.reconcile()
    segment = runner.book.segments[0]
    assert (segment.estimated, segment.closed_ms) == (False, round((cloud.clock.wall() - 20) * 1000))


async def test_one_answer_that_knows_no_such_machine_proves_nothing(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.stop_ignored = 1
    cloud.provider.faults.lies = [None]
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert cloud.provider.alive == ()
    assert not runner.book.segments[0].estimated


async def test_a_machine_whose_start_was_told_to_have_failed_and_that_is_gone_again_is_billed(cloud: Cloud) -> None:
    cloud.provider.faults.start_error_after = 1
    cloud.provider.faults.lies = [None]
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await reach(runner, State.FAILED)
    cloud.clock.turn(7)
    cloud.provider.vanish(cloud.provider.alive[0])
    await cloud.plane.reconcile()
    assert runner.view()["compute_nano"] == 7 * NANO // 1000


async def test_the_machine_of_an_earlier_start_is_stopped_while_its_session_runs_on_another(cloud: Cloud) -> None:
    cloud.provider.faults.start_error_after = 1
    cloud.provider.faults.lies = [None]
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await reach(runner, State.FAILED)
    await cloud.session()
    assert len(cloud.provider.alive) == 2
    cloud.clock.turn(60)
    await cloud.plane.reconcile()
    assert cloud.provider.alive == (runner.book.intent["id"],)  # type: ignore[index]
    assert runner.book.state is State.RUNNING
    assert sorted(segment.closed_ms is None for segment in runner.book.segments) == [False, True]


async def test_a_correction_stands_after_a_restart(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.stop_ignored = 2
    cloud.provider.faults.lies = [MachineState.STOPPED]
    await runner.pause()
    await reach(runner, State.PAUSED)
    await cloud.plane.reconcile()
    await cloud.restart()
    assert cloud.plane.runner("s").view()["rate_nano_per_hour"] > 0
    cloud.clock.turn(10)
    await cloud.plane.reconcile()
    assert cloud.provider.alive == ()


async def test_two_rounds_at_once_make_one_book_of_an_orphan(cloud: Cloud) -> None:
    offers = cloud.provider.offers

    async def slow():  # type: ignore[no-untyped-def]
        await asyncio.sleep(0)
        return await offers()

    cloud.provider.offers = slow  # type: ignore[method-assign]
    cloud.provider.foreign("lost", cloud.plane.context.owner)
    await asyncio.gather(cloud.plane.reconcile(), cloud.plane.reconcile())
    assert [book.name for book in cloud.plane.context.books.lives] == ["orphans"]


@pytest.mark.parametrize("tag", ["{0}x", "x{0}", "{0} ", "", "{1}"])
async def test_a_machine_with_any_other_tag_is_never_asked_to_stop(cloud: Cloud, tag: str) -> None:
    owner = cloud.plane.context.owner
    cloud.provider.foreign("theirs", tag.format(owner, owner.upper()))
    asked = []
    stop, listing = cloud.provider.stop, cloud.provider.list

    async def watched(machine: str) -> None:
        asked.append(machine)
        await stop(machine)

    async def careless(_tag: str):  # type: ignore[no-untyped-def]
        found = await listing(owner)
        return [*found, *(kept.machine for kept in cloud.provider._kept.values())]  # a cloud that can't filter

    cloud.provider.stop, cloud.provider.list = watched, careless  # type: ignore[method-assign]
    await cloud.plane.reconcile()
    assert asked == []
    assert cloud.plane.context.books.lives == []
    cloud.provider._kept.clear()  # it is on their bill, not ours


async def test_while_a_stop_is_refused_the_meter_runs_and_says_so(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.stop_error = 10**9
    await runner.pause()
    await until(lambda: "still billed" in runner.message)
    cloud.clock.turn(100)
    view = runner.view()
    assert view["state"] == "stopping"
    assert view["rate_nano_per_hour"] > 0
    assert view["compute_nano"] == 100 * NANO // 1000
    assert view["text"] == "releasing; billed until the machine is gone"
    cloud.provider.faults.stop_error = 0
    await reach(runner, State.PAUSED)


async def test_what_machines_left_is_removed_a_week_after_the_ledger_closed_their_time(cloud: Cloud) -> None:
    forgotten: list[str] = []
    refused: list[str] = []

    async def left() -> set[str]:
        return {segment.machine for segment in runner.book.segments} | {"a stranger's"}

    async def forget(machine: str) -> None:
        if machine not in refused:
            refused.append(machine)
            raise ProviderError("the disk refuses")
        forgotten.append(machine)

    runner = await cloud.session()
    cloud.provider.left, cloud.provider.forget = left, forget  # type: ignore[attr-defined]
    await runner.pause()
    await reach(runner, State.PAUSED)
    first = runner.book.segments[0].machine
    cloud.clock.turn(6.9 * 86400)
    await tidy(cloud.plane.context)
    assert refused == []
    await runner.ensure()
    await reach(runner, State.RUNNING)
    cloud.clock.turn(30 * 86400)
    for _ in range(2):  # another round, another try
        await tidy(cloud.plane.context)
    assert forgotten == [first], "the one it runs on stays, however old it is"


async def test_a_cloud_that_answers_nothing_proves_no_end(cloud: Cloud) -> None:
    runner = await cloud.session()

    async def dead(*_: object) -> None:
        raise ProviderError("401: the credentials have expired")

    look, listing = cloud.provider.look, cloud.provider.list
    cloud.provider.look = cloud.provider.list = dead  # type: ignore[method-assign, assignment]
    await cloud.plane.reconcile()
    await cloud.turn(100)
    assert runner.book.state is State.RUNNING
    assert runner.view()["rate_nano_per_hour"] > 0
    cloud.provider.look, cloud.provider.list = look, listing  # type: ignore[method-assign]
