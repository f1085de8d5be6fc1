"""The plane over a fake cloud: lives of sessions, faults, restarts, caps, idleness, orphans."""

from __future__ import annotations

import asyncio

import pytest

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import BudgetExceeded, OutOfCapacity, ProviderError, SaveFailed, UnknownSession, UsageError
from ciuic_jupyter.providers.base import Intent
from tests.control.conftest import Cloud, reach, until


async def run(runner, name: str, code: str = "ok") -> None:  # type: ignore[no-untyped-def]
    await runner.submit(name, code, None)


async def ended(runner, name: str) -> str:  # type: ignore[no-untyped-def]
    await until(lambda: runner.book.runs[name].status not in ("queued", "running"))
    return str(runner.book.runs[name].status)


async def test_a_life_run_pause_resume_close(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "r1")
    assert await ended(runner, "r1") == "ok"
    cloud.clock.turn(10)
    await runner.pause()
    await runner.let_go()
    assert runner.book.state is State.PAUSED
    assert cloud.provider.alive == ()
    cloud.clock.turn(1000)
    view = runner.view()
    assert view["rate_nano_per_hour"] == 0
    assert view["spent_nano"] == 10 * NANO // 1000
    assert view["unbilled_seconds"] == 1000
    assert view["unspent_nano"] == NANO
    await run(runner, "r2")
    assert await ended(runner, "r2") == "ok"
    assert cloud.agent.restored_from == [None, 1]
    await runner.end()
    await runner.let_go()
    assert runner.book.state is State.CLOSED
    assert [receipt["checkpoint"]["seq"] for receipt in runner.book.receipts] == [1, 2]


async def test_the_intent_is_durable_before_the_machine(cloud: Cloud) -> None:
    seen = []
    start = cloud.agent.start

    def look(intent) -> None:  # type: ignore[no-untyped-def]
        seen.append(intent.id in cloud.books().machines)
        start(intent)

    cloud.provider.on_start = look
    await cloud.session()
    assert seen == [True]


async def test_a_pause_waits_for_the_cell_and_queued_cells_wait_for_the_resume(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "long", "hang")
    await until(lambda: cloud.agent.current == "long")
    await run(runner, "next")
    await runner.pause()
    assert runner.view()["pause_pending"]
    assert runner.book.state is State.RUNNING
    await cloud.agent.finish()
    await runner.let_go()
    assert runner.book.state is State.PAUSED
    assert cloud.agent.runs == ["long"]
    await runner.ensure()
    assert await ended(runner, "next") == "ok"


async def test_a_failed_run_aborts_what_waits_and_tells_its_viewers(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "a", "hang")
    await run(runner, "b")
    await until(lambda: cloud.agent.current == "a")
    await cloud.agent.finish("error")
    assert await ended(runner, "b") == "aborted"
    await until(lambda: any(h.get("run") == "b" and h["kind"] == "run_ended" for _, h in runner.headers(0)))
    assert cloud.agent.runs == ["a"]


async def test_the_same_run_asked_twice_runs_once(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "r")
    await run(runner, "r")
    await ended(runner, "r")
    assert cloud.agent.runs == ["r"]


async def test_no_capacity_fails_without_a_cent_and_can_be_tried_again(cloud: Cloud) -> None:
    cloud.provider.faults.no_capacity = 1
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await reach(runner, State.FAILED)
    assert "no fake.1 left" in runner.message
    assert runner.view()["spent_nano"] == 0
    await cloud.session()


async def test_a_start_that_reports_an_error_but_happened_is_one_machine(cloud: Cloud) -> None:
    cloud.provider.faults.start_error_after = 1
    runner = await cloud.session()
    assert cloud.provider.started == 1
    assert runner.book.open_segment is not None


async def test_a_machine_that_is_discarded_while_it_is_born_is_billed_and_stopped(cloud: Cloud) -> None:
    born = asyncio.Event()
    start = cloud.provider.start

    async def slow(intent):  # type: ignore[no-untyped-def]
        await born.wait()
        return await start(intent)

    cloud.provider.start = slow  # type: ignore[method-assign]
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await runner.release(discard=True)
    await reach(runner, State.STOPPING)
    born.set()
    await runner.let_go()
    assert cloud.provider.started == 1
    assert cloud.provider.alive == ()
    assert [segment.closed_ms is not None for segment in runner.book.segments] == [True]


async def test_a_machine_that_died_while_it_was_started_is_billed(cloud: Cloud) -> None:
    start = cloud.provider.start

    async def dying(intent):  # type: ignore[no-untyped-def]
        await start(intent)
        cloud.clock.turn(5)
        cloud.provider.vanish(intent.id)
        raise ProviderError("the answer was lost")

    cloud.provider.start = dying  # type: ignore[method-assign]
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await reach(runner, State.STARTING)
    assert runner.hand.link is not None
    runner.hand.link.down_since = -10.0
    await cloud.turn(1)
    await cloud.turn(1)
    assert runner.book.state is State.FAILED
    assert runner.view()["spent_nano"] == 5 * NANO // 1000


@pytest.mark.parametrize("fault", ["stop_error", "stop_ignored", "look_error"])
async def test_a_stop_is_asked_for_until_it_is_proven(cloud: Cloud, fault: str) -> None:
    runner = await cloud.session()
    setattr(cloud.provider.faults, fault, 3)
    await runner.pause()
    await runner.let_go()
    assert runner.book.state is State.PAUSED
    assert cloud.provider.alive == ()


async def test_a_slow_stop_is_billed_to_its_end(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.stop_seconds = 100
    await runner.pause()
    await reach(runner, State.STOPPING)
    cloud.clock.turn(50)
    assert runner.view()["rate_nano_per_hour"] > 0
    cloud.clock.turn(51)
    await runner.let_go()
    assert runner.book.segments[-1].closed_ms == round((cloud.clock.wall() - 1) * 1000)


async def test_why_a_machine_went_is_told_again_when_a_slow_stop_is_done(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.stop_seconds = 100
    await runner.release(discard=True)
    await until(lambda: "does not end yet" in runner.message)
    cloud.clock.turn(101)
    await runner.let_go()
    assert runner.message == "released without saving"


async def test_a_failed_save_keeps_machine_and_kernel_and_says_why(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.agent.save_error = "the disk is full"
    await runner.pause()
    with pytest.raises(SaveFailed, match="disk is full"):
        await runner.let_go()
    assert runner.book.state is State.RUNNING
    assert len(cloud.provider.alive) == 1
    await run(runner, "r")
    assert await ended(runner, "r") == "ok"
    cloud.agent.save_error = None
    await runner.pause()
    await runner.let_go()
    assert runner.book.state is State.PAUSED


async def test_the_last_resort_discards_only_where_the_user_chose_it(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.agent.save_error = "the disk is full"
    await runner.pause()
    with pytest.raises(SaveFailed):
        await runner.let_go()
    await cloud.turn(4000)
    assert runner.book.state is State.RUNNING
    runner.context.settings = runner.context.settings.model_copy(update={"last_resort": "discard"})
    await cloud.turn(1)
    await reach(runner, State.CLOSED, State.FAILED)
    assert cloud.provider.alive == ()


async def test_release_interrupts_saves_and_lets_go(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "r", "hang")
    await until(lambda: cloud.agent.current == "r")
    await runner.release(discard=False)
    await runner.let_go()
    assert runner.book.state is State.PAUSED
    assert cloud.agent.saves == 1


async def test_discard_lets_go_without_a_save(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.release(discard=True)
    await runner.let_go()
    assert cloud.agent.saves == 0
    assert runner.book.state is State.CLOSED


async def test_a_machine_that_vanishes_is_billed_to_its_end_and_told(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.pause()
    await runner.let_go()
    await runner.ensure()
    await reach(runner, State.RUNNING)
    cloud.clock.turn(30)
    cloud.provider.vanish(cloud.provider.alive[0])
    await until(lambda: runner.hand.link is not None and runner.hand.link.down_since is not None)
    runner.hand.link.down_since -= 10  # type: ignore[union-attr]
    await cloud.turn(1)
    await cloud.turn(1)
    assert runner.book.state is State.PAUSED
    assert "last checkpoint" in runner.message


async def test_a_machine_that_saved_and_left_is_paused_with_its_checkpoint(cloud: Cloud) -> None:
    runner = await cloud.session()
    seq = cloud.agent.write_checkpoint()
    cloud.provider.vanish(cloud.provider.alive[0])
    await until(lambda: runner.hand.link is not None and runner.hand.link.down_since is not None)
    runner.hand.link.down_since -= 10  # type: ignore[union-attr]
    await cloud.turn(1)
    await cloud.turn(1)
    assert runner.book.state is State.PAUSED
    assert runner.book.checkpoint is not None
    assert runner.book.checkpoint["seq"] == seq
    assert runner.book.receipts[-1]["checkpoint"]["names"] == ["x"]


async def test_a_dead_kernel_stops_the_meter(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "r", "hang")
    await until(lambda: cloud.agent.current == "r")
    await cloud.agent.die()
    await reach(runner, State.FAILED)
    assert cloud.provider.alive == ()
    assert runner.book.runs["r"].status == "died"


async def test_a_restore_that_fails_keeps_the_checkpoint(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.pause()
    await runner.let_go()
    start = cloud.agent.start

    def broken(intent) -> None:  # type: ignore[no-untyped-def]
        start(intent)
        cloud.agent.kernel, cloud.agent.error = "failed", "CheckpointDamaged: a pack is gone"

    cloud.provider.on_start = broken
    await runner.ensure()
    await until(lambda: len(runner.book.receipts) == 2)
    assert runner.book.state is State.PAUSED
    assert "a pack is gone" in runner.message
    assert cloud.provider.alive == ()


async def test_a_machine_that_never_gets_ready_is_stopped(cloud: Cloud) -> None:
    start = cloud.agent.start

    def slow(intent) -> None:  # type: ignore[no-untyped-def]
        start(intent)
        cloud.agent.kernel = "starting"

    cloud.provider.on_start = slow
    runner = await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    await reach(runner, State.STARTING)
    await cloud.turn(301)
    await reach(runner, State.FAILED)
    assert cloud.provider.alive == ()


@pytest.mark.parametrize("state", ["running", "busy", "saving", "stopping", "paused"])
async def test_a_plane_killed_in_any_state_goes_on_from_the_ledger(cloud: Cloud, state: str) -> None:
    runner = await cloud.session()
    if state == "busy":
        await run(runner, "r", "hang")
        await until(lambda: cloud.agent.current == "r")
    elif state == "saving":
        cloud.agent.hold_save = asyncio.Event()
        await runner.pause()
        await until(lambda: cloud.agent.saves == 1)
    elif state == "stopping":
        cloud.provider.faults.stop_seconds = 100
        await runner.pause()
        await reach(runner, State.STOPPING)
    elif state == "paused":
        await runner.pause()
        await runner.let_go()
    await cloud.restart()
    runner = cloud.plane.runner("s")
    assert cloud.provider.started == 1
    if state == "busy":
        await until(lambda: runner.hand.link is not None and runner.hand.link.up)
        await cloud.agent.finish()
        assert await ended(runner, "r") == "ok"
    elif state == "saving":
        assert cloud.agent.hold_save is not None
        cloud.agent.hold_save.set()
        await reach(runner, State.PAUSED)
    elif state == "stopping":
        cloud.clock.turn(100)
        await reach(runner, State.PAUSED)
    elif state == "paused":
        assert runner.book.state is State.PAUSED
    else:
        await until(lambda: runner.hand.link is not None and runner.hand.link.up)
    await runner.ensure()
    await reach(runner, State.RUNNING)


async def test_a_pause_that_waited_still_waits_after_a_restart(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "r", "hang")
    await until(lambda: cloud.agent.current == "r")
    await runner.pause()
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.hand.link is not None and runner.hand.link.up)
    assert runner.pause_pending
    await cloud.agent.finish()
    await reach(runner, State.PAUSED)


async def test_a_run_that_ended_while_the_plane_was_away_has_its_end(cloud: Cloud) -> None:
    runner = await cloud.session()
    await run(runner, "r", "hang")
    await until(lambda: cloud.agent.current == "r")
    await cloud.plane.close()
    await cloud.agent.finish()
    await cloud.begin()
    assert await ended(cloud.plane.runner("s"), "r") == "ok"


async def test_a_cut_line_loses_and_doubles_no_event(cloud: Cloud) -> None:
    runner = await cloud.session()
    for index in range(200):
        await cloud.agent.emit(kind="output", run=None, msg_type="stream", content={"text": str(index)}, metadata={})
        if index % 20 == 0:
            cloud.agent.cut()
            await asyncio.sleep(0)
    assert cloud.agent.log is not None
    last = cloud.agent.log.last_seq
    await until(lambda: runner.mirror.last_seq >= last)
    texts = [h["content"]["text"] for _, h in runner.headers(0) if h["kind"] == "output"]
    assert texts == [str(index) for index in range(200)]


async def test_the_cap_saves_and_releases_before_it_is_crossed(cloud: Cloud) -> None:
    runner = await cloud.session(budget_nano=NANO)  # 1000 s at 3.6 $/h
    await run(runner, "r", "hang")
    await until(lambda: cloud.agent.current == "r")
    for _ in range(1200):
        if runner.book.state is not State.RUNNING or cloud.agent.current is None:
            break
        await cloud.turn(1)
        if runner.pause_pending:
            await asyncio.sleep(0.02)  # the interrupt goes out beside the look
    await reach(runner, State.PAUSED)
    spent = runner.view()["spent_nano"]
    assert 0.98 * NANO < spent <= NANO
    assert "budget" in runner.message
    with pytest.raises(BudgetExceeded):
        await run(runner, "more")
    await runner.set_budget(2 * NANO)
    await run(runner, "more")
    assert await ended(runner, "more") == "ok"


async def test_an_idle_kernel_is_released_by_the_rule_and_resumed_by_the_next_cell(cloud: Cloud) -> None:
    runner = await cloud.session()
    since = cloud.clock.boot()
    for _ in range(400):
        await cloud.agent.sample(cloud.clock.boot(), quiet_since=since)
        await until(lambda: runner.usage is not None and runner.usage["now"] == cloud.clock.boot())
        await cloud.turn(1)
        if runner.book.state is not State.RUNNING:
            break
    await reach(runner, State.PAUSED)
    waited = cloud.clock.boot() - since
    price, wait = 3.6, 30.0  # $/h
    expected = max(60, ((3 + 5) * price + wait * 5) / price)
    assert abs(waited - (expected - 3)) <= 2
    await run(runner, "r")
    assert await ended(runner, "r") == "ok"


async def test_a_kernel_that_works_or_is_not_heard_is_never_idle(cloud: Cloud) -> None:
    runner = await cloud.session()
    await cloud.agent.sample(cloud.clock.boot(), quiet_since=None)
    await until(lambda: runner.usage is not None)
    await cloud.turn(5)
    assert runner.view()["idle"]["verdict"] == "busy"
    await cloud.turn(100_000)
    assert runner.book.state is State.RUNNING
    assert runner.view()["idle"]["verdict"] == "unknown"
    assert runner.view()["idle"]["release_at"] is None


async def test_keep_postpones_the_release(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.keep(5000)
    await cloud.agent.sample(cloud.clock.boot(), quiet_since=cloud.clock.boot())
    await until(lambda: runner.usage is not None)
    idle = runner.view()["idle"]
    assert idle["reason"] == "kept on request"
    assert idle["release_at"] == pytest.approx(cloud.clock.wall() + 5003)
    with pytest.raises(UsageError):
        await runner.keep(10**9)


async def test_orphans_of_ours_are_billed_and_stopped_and_strangers_left_alone(cloud: Cloud) -> None:
    owner = cloud.plane.context.owner
    cloud.provider.foreign("lost", owner)
    cloud.clock.turn(100)
    cloud.provider.faults.duplicates = True
    cloud.provider.faults.stop_ignored = 1
    await cloud.plane.reconcile()
    assert cloud.provider.alive == ("lost",)
    await cloud.plane.reconcile()
    assert cloud.provider.alive == ()
    book = cloud.plane.context.books.sessions["orphans"]
    assert book.compute_nano(0) == 100 * NANO // 1000, "billed from its creation"


async def test_a_machine_of_another_owner_is_never_touched(cloud: Cloud) -> None:
    cloud.provider.foreign("theirs", cloud.plane.context.owner.upper() + "x")
    await cloud.plane.reconcile()
    assert cloud.provider.alive == ("theirs",)
    cloud.provider._kept.clear()  # it is on their bill, not ours


async def test_a_failing_list_closes_nothing(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.provider.faults.list_error = 1
    await cloud.plane.reconcile()
    cloud.provider.faults.hidden.add(cloud.provider.alive[0])
    await cloud.plane.reconcile()
    assert runner.book.state is State.RUNNING


async def test_unknown_names_and_types_say_what_there_is(cloud: Cloud) -> None:
    await cloud.session("first")
    with pytest.raises(UnknownSession, match="first"):
        cloud.plane.runner("second")
    with pytest.raises(OutOfCapacity, match=r"fake\.1"):
        await cloud.plane.create("x", instance="gpu.9", budget_nano=None, cwd=None)
    with pytest.raises(UsageError):
        await cloud.plane.create("../x", instance=None, budget_nano=None, cwd=None)
    assert set(cloud.plane.runners) == {"first"}


async def test_a_restore_that_is_told_twice_is_one(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.pause()
    await reach(runner, State.PAUSED)

    def start(intent: Intent) -> None:
        cloud.agent.start(intent)
        cloud.agent.kernel = "starting"

    cloud.provider.on_start = start
    await runner.ensure()
    await reach(runner, State.STARTING)
    for _ in range(2):  # as a greeting and an event that cross
        runner._kernel("restored", {"seconds": {"total": 2.0}}, "")
    await reach(runner, State.RUNNING)
    await runner.flush()
    assert runner.book.restore_seconds == [2.0]
