"""What happens between the steps: starts that take long, lines that are down, restarts between two rows, lies."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.report import report
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import AgentUnavailable, BudgetExceeded, SaveFailed
from ciuic_jupyter.providers.base import Intent, Machine, Offer
from tests.control.conftest import Cloud, reach, until


def hold_starts(cloud: Cloud) -> asyncio.Event:
    """Let the cloud answer no start until the event is set."""
    go = asyncio.Event()
    start = cloud.provider.start

    async def slow(intent: Intent) -> Machine:
        await go.wait()
        return await start(intent)

    cloud.provider.start = slow  # type: ignore[method-assign]
    return go


def ends(runner: Runner) -> dict[str, str]:
    """Return how runs ended, by the events that viewers read."""
    return {h["run"]: h["status"] for _, h in runner.headers(0) if h["kind"] == "run_ended"}


def notes(runner: Runner) -> list[str]:
    return [h["text"] for _, h in runner.headers(0) if h["kind"] == "note"]


async def cut_off(cloud: Cloud, runner: Runner) -> None:
    """The machine vanishes, and the plane looks until it is sure."""
    cloud.provider.vanish(cloud.provider.alive[0])
    await until(lambda: runner.hand.link is not None and runner.hand.link.down_since is not None)
    runner.hand.link.down_since -= 10  # type: ignore[union-attr,operator]
    await cloud.turn(1)
    await cloud.turn(1)


async def test_a_cell_taken_back_while_its_machine_starts_is_told_and_the_machine_still_answers(cloud: Cloud) -> None:
    go = hold_starts(cloud)
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await runner.submit("a", "ok", None)
    await runner.submit("b", "ok", None)
    assert await runner.interrupt("a")
    assert runner.book.runs["a"].status == "aborted"
    go.set()
    await until(lambda: ends(runner) == {"a": "aborted", "b": "ok"})
    seqs = [seq for seq, _ in runner.headers(0)]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_cell_taken_back_before_a_start_that_fails_is_told_too(cloud: Cloud) -> None:
    go = hold_starts(cloud)
    cloud.provider.faults.no_capacity = 1
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await runner.submit("a", "ok", None)
    await runner.interrupt("a")
    go.set()
    await until(lambda: ends(runner) == {"a": "aborted"})
    await cloud.session()


async def test_viewers_are_told_that_a_run_went_down_with_its_machine(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.submit("r", "hang", None)
    await runner.submit("next", "ok", None)
    await until(lambda: cloud.agent.current == "r")
    await cut_off(cloud, runner)
    assert runner.book.state is State.FAILED
    await until(lambda: ends(runner) == {"r": "died", "next": "aborted"})
    again = await cloud.session()
    await again.submit("after", "ok", None)
    await until(lambda: ends(runner).get("after") == "ok")


async def test_a_cell_is_taken_only_once_the_agent_or_the_ledger_has_it(cloud: Cloud) -> None:
    """Killed right behind the answer, the plane still knows the cell: one of the two has it, whichever was first."""
    for number in range(20):
        runner = await cloud.session()
        await runner.submit(f"r{number}", "hang", None)
        known = set(cloud.agent.runs)
        await cloud.restart()  # what the ledger was given is written; what is not, the agent must have
        runner = cloud.plane.runner("s")
        await until(lambda r=runner, n=number: r.current == f"r{n}")  # type: ignore[misc]
        assert f"r{number}" in known or f"r{number}" in cloud.books().sessions["s"].runs
        await cloud.agent.finish()


async def test_a_cell_that_was_queued_when_the_plane_was_killed_runs_after_the_restart(cloud: Cloud) -> None:
    runner = await cloud.session()
    body = {"run": "r", "code": "ok", "cell_id": None, "at_ms": 0}
    await cloud.plane.context.ledger.append(Row("run", body, session="s"))
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.book.runs["r"].status == "ok")
    assert cloud.agent.runs == ["r"]


async def test_a_cell_whose_row_the_kill_cut_off_is_in_the_history_all_the_same(cloud: Cloud) -> None:
    await cloud.session()
    await cloud.plane.close()
    cloud.agent.runs.append("r")
    cloud.agent.current = "r"
    await cloud.agent.emit(kind="run_started", run="r", code="hang", cell_id="c", count=1)
    await cloud.begin()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.current == "r" and "r" in runner.book.runs)
    await cloud.agent.finish()
    await until(lambda: runner.book.runs["r"].status == "ok")
    await until(lambda: "r" in (runs := cloud.books().sessions["s"].runs) and runs["r"].status == "ok")
    assert runner.book.runs["r"].code == "hang"


async def test_what_only_the_mirror_knows_of_a_run_is_taken_from_there(cloud: Cloud) -> None:
    """Events were mirrored, rows were not yet written: nothing runs twice, nothing is thought to run for ever."""
    runner = await cloud.session("s")
    await runner.submit("old", "ok", None)
    await until(lambda: runner.book.runs["old"].status == "ok")
    await runner.end()
    await runner.let_go()
    runner = await cloud.session("s")
    runner.write_soon = lambda *rows: runner.spawn(asyncio.sleep(0))  # type: ignore[method-assign]  # killed before
    await runner.submit("ended", "ok", None)
    await until(lambda: runner.book.runs["ended"].status == "ok")
    await runner.submit("going", "hang", None)
    await until(lambda: ends(runner).keys() == {"old", "ended"} and runner.book.runs["going"].first_seq)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.current == "going")
    assert {name: run.status for name, run in runner.book.runs.items()} == {"ended": "ok", "going": "running"}
    await runner.submit("ended", "ok", None)
    await cloud.agent.finish()
    await until(lambda: runner.book.runs["going"].status == "ok")
    assert cloud.agent.runs == ["old", "ended", "going"]
    assert runner.current is None


async def test_what_a_run_cost_stands_from_its_end_on_though_its_row_is_still_on_its_way(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.submit("r", "hang", None)
    await until(lambda: runner.book.runs["r"].started_ms is not None)
    cloud.clock.turn(10)
    runner.write_soon = lambda *rows: runner.spawn(asyncio.sleep(0))  # type: ignore[method-assign]  # a slow disk
    await cloud.agent.finish()
    await until(lambda: runner.book.runs["r"].status == "ok")
    found = []
    for _ in range(2):
        found += [row["spent_nano"] for row in report([runner.book], runner.context, "run")["rows"]]
        cloud.clock.turn(100)
    assert found[0] == found[1] > 0


async def test_a_pause_whose_save_never_began_begins_after_the_restart(cloud: Cloud) -> None:
    runner = await cloud.session()
    body = {"event": "pause", "to": "running", "at_ms": 0, "goal": "paused"}
    await runner.context.ledger.append(Row("state", body, session="s"))
    await cloud.restart()
    await reach(cloud.plane.runner("s"), State.PAUSED)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("ask", ["pause", "end"])
async def test_what_is_asked_while_a_machine_starts_comes_true(cloud: Cloud, ask: str, restart: bool) -> None:
    go = hold_starts(cloud)
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await getattr(runner, ask)()
    if restart:
        await cloud.restart()
        runner = cloud.plane.runner("s")
    go.set()
    await reach(runner, State.PAUSED, State.CLOSED)
    assert runner.book.state is (State.PAUSED if ask == "pause" else State.CLOSED)
    assert cloud.agent.saves == 1


@pytest.mark.parametrize("state", [State.SAVING, State.STOPPING])
async def test_a_close_while_a_pause_is_under_way_closes(cloud: Cloud, state: State) -> None:
    runner = await cloud.session()
    cloud.agent.hold_save = asyncio.Event()
    cloud.provider.faults.stop_seconds = 5
    await runner.pause()
    await reach(runner, State.SAVING)
    if state is State.STOPPING:
        cloud.agent.hold_save.set()
        await reach(runner, State.STOPPING)
    await runner.end()
    await runner.pause()  # a pause after that takes nothing back
    cloud.agent.hold_save.set()
    await reach(runner, State.STOPPING)
    cloud.clock.turn(6)
    await reach(runner, State.CLOSED)
    assert runner.book.checkpoint is not None


async def test_a_machine_nobody_wants_that_a_list_forgets_is_closed_where_it_ended(cloud: Cloud) -> None:
    cloud.provider.foreign("lost", cloud.plane.context.owner)
    cloud.provider.faults.stop_seconds = 50
    await cloud.plane.reconcile()
    cloud.clock.turn(100)
    cloud.provider.faults.hidden.add("lost")
    await cloud.plane.reconcile()
    segment = cloud.plane.context.books.sessions["orphans"].segments[0]
    assert segment.closed_ms == round((cloud.clock.wall() - 50) * 1000)


async def test_one_session_that_nobody_answers_for_holds_up_no_other(cloud: Cloud) -> None:
    silent = await cloud.session("silent")
    cloud.provider.faults.look_error = 10**9
    silent.hand.link.down_since = -10.0  # type: ignore[union-attr]
    silent.begin_tick()
    other = silent
    await asyncio.sleep(0)
    assert other._looking["hand"] is silent._looking["hand"]
    first = silent._looking["hand"]
    rules = silent._looking["rules"]
    await until(rules.done)
    silent.begin_tick()
    assert silent._looking["hand"] is first, "a second look was begun beside one that nobody answers"
    assert silent._looking["rules"] is not rules, "the cap waits for a provider's answer"
    cloud.provider.faults.look_error = 0


async def test_the_cap_holds_though_the_line_is_down_and_the_machine_is_found_gone(cloud: Cloud) -> None:
    runner = await cloud.session(budget_nano=NANO)
    await runner.submit("r", "hang", None)
    await until(lambda: cloud.agent.current == "r")
    cloud.clock.turn(998)
    await cut_off(cloud, runner)  # the interrupt can't be answered: the look must not wait for it
    assert runner.book.state is State.FAILED
    assert ends(runner).get("r", "died") == "died"


async def test_a_user_who_pauses_a_long_cell_keeps_the_cap(cloud: Cloud) -> None:
    runner = await cloud.session(budget_nano=NANO)
    await runner.submit("r", "hang", None)
    await until(lambda: cloud.agent.current == "r")
    await runner.pause()
    cloud.clock.turn(993)
    await cloud.turn(2)
    await reach(runner, State.PAUSED)
    assert runner.view()["spent_nano"] <= NANO
    assert any("budget" in text for text in notes(runner))


async def test_the_cap_counts_whole_billing_units_and_the_minimum(cloud: Cloud) -> None:
    cloud.provider._offers[0] = Offer("fake.1", "fake", 3_600_000_000, unit_seconds=3600, minimum_seconds=3600)
    with pytest.raises(BudgetExceeded):
        await cloud.plane.create("dear", instance=None, budget_nano=3 * NANO, cwd=None)
    assert cloud.provider.started == 0
    runner = await cloud.session("s", budget_nano=4 * NANO)  # one hour costs 3.60
    await cloud.turn(3590)
    assert not runner.pause_pending
    await cloud.turn(5)
    await reach(runner, State.PAUSED)
    assert runner.view()["spent_nano"] == 3_600_000_000


async def test_alerts_come_once_at_half_and_at_four_fifths(cloud: Cloud) -> None:
    runner = await cloud.session(budget_nano=NANO)  # 1000 s
    for seconds in (400, 150, 50, 250, 10):
        await cloud.turn(seconds)
    await until(lambda: len(notes(runner)) >= 2)
    assert [text.split()[0] for text in notes(runner)] == ["50", "80"]
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await cloud.turn(1)
    assert len(notes(runner)) == 2


async def test_more_budget_lets_cells_go_on_where_the_save_at_the_cap_failed(cloud: Cloud) -> None:
    runner = await cloud.session(budget_nano=NANO)
    cloud.agent.save_error = "the disk is full"
    cloud.clock.turn(994)
    await cloud.turn(1)
    await until(lambda: runner.retry.error is not None and runner.book.state is State.RUNNING)
    with pytest.raises(BudgetExceeded):
        await runner.submit("r", "ok", None)
    await runner.set_budget(2 * NANO)
    await cloud.turn(1)
    await runner.submit("r", "ok", None)
    await until(lambda: runner.book.runs["r"].status == "ok")


async def test_a_save_that_failed_is_tried_again_until_it_works(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.agent.save_error = "the disk is full"
    await runner.end()
    with pytest.raises(SaveFailed):
        await runner.let_go()
    cloud.agent.save_error = None
    await cloud.turn(30)
    assert cloud.agent.saves == 1
    await cloud.turn(31)
    await reach(runner, State.CLOSED)
    assert cloud.agent.saves == 2


async def test_who_works_on_after_a_failed_save_is_not_thrown_out(cloud: Cloud) -> None:
    settings = runner_settings(cloud, last_resort="discard")
    runner = await cloud.session()
    cloud.agent.save_error = "the disk is full"
    await runner.pause()
    with pytest.raises(SaveFailed):
        await runner.let_go()
    await runner.submit("r", "ok", None)
    await until(lambda: runner.book.runs["r"].status == "ok")
    await cloud.turn(settings.save_failure_limit_seconds + 100)
    assert runner.book.state is State.RUNNING
    assert cloud.agent.saves == 1


async def test_a_save_that_never_ends_is_given_up_where_the_user_chose_it(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.agent.hold_save = asyncio.Event()
    await runner.pause()
    await until(lambda: cloud.agent.saves == 1)
    await cloud.turn(4000)
    assert runner.book.state is State.SAVING
    runner_settings(cloud, last_resort="discard")
    await cloud.turn(1)
    await reach(runner, State.CLOSED)
    assert cloud.provider.alive == ()


def runner_settings(cloud: Cloud, **changed: Any) -> Any:
    context = cloud.plane.context
    context.settings = context.settings.model_copy(update=changed)
    return context.settings


async def test_viewers_of_an_ended_life_are_sent_to_the_next(cloud: Cloud) -> None:
    runner = await cloud.session()
    frames = runner.feed_viewers.frames(0)
    await anext(frames)
    reading = asyncio.create_task(_drain(frames))
    await runner.end()
    await runner.let_go()
    again = await cloud.session()
    await asyncio.wait_for(reading, 10)
    assert again.mirror.last_seq >= 0


async def _drain(frames: Any) -> None:
    async for _ in frames:
        pass


async def test_a_line_that_was_closed_answers_at_once(cloud: Cloud) -> None:
    runner = await cloud.session()
    link = runner.hand.link
    assert link is not None
    await runner.pause()
    await runner.let_go()
    await until(lambda: runner.hand.link is None)
    with pytest.raises(AgentUnavailable):
        await asyncio.wait_for(link.request("names"), 5)


async def test_a_provider_that_is_not_set_up_any_more_keeps_no_plane_from_starting(cloud: Cloud) -> None:
    cloud.plane.context.providers = {"gone": cloud.provider, **cloud.plane.context.providers}
    cloud.provider._offers.append(Offer("gone.1", "gone", 3_600_000_000))
    lost = await cloud.plane.create("lost", instance="gone.1", budget_nano=None, cwd=None)
    await reach(lost, State.RUNNING)
    await cloud.session()
    await cloud.restart()
    lost, runner = cloud.plane.runner("lost"), cloud.plane.runner("s")
    assert "'gone', which is not set up" in lost.message
    assert lost.view()["rate_nano_per_hour"] > 0, "nobody proved its machine gone"
    await runner.pause()
    await runner.let_go()
    assert runner.book.state is State.PAUSED
