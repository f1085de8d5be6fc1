"""A pause in the middle of a cell, seen from the plane: held, saved, stopped, suspended, and gone on with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import SaveFailed, UsageError
from ciuic_jupyter.providers.base import Intent
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


# -- machines and kernels that go by themselves


async def cut_off(cloud: Cloud, runner: Runner) -> None:
    """The machine vanishes, and the plane looks until it is sure."""
    cloud.provider.vanish(cloud.provider.alive[0])
    await until(lambda: runner.hand.link is not None and runner.hand.link.down_since is not None)
    runner.hand.link.down_since -= 10  # type: ignore[union-attr,operator]
    await cloud.turn(1)
    await cloud.turn(1)


async def checkpointed(cloud: Cloud, runner: Runner, run: str = "r") -> None:
    """A run that prints, is saved in its middle after 60 s, and prints on."""
    await looping(cloud, runner, run, checkpoint_every=60)
    await cloud.agent.say("epoch 1")
    await cloud.turn(59)
    await cloud.turn(1)
    await until(lambda: runner.book.holds(run) and not cloud.agent.held)
    await cloud.agent.say("epoch 2")
    await cloud.agent.say("epoch 3")
    await until(lambda: cloud.agent.log is not None and runner.mirror.last_seq == cloud.agent.log.last_seq)


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("how", ["machine", "kernel", "left"])
async def test_a_run_whose_machine_goes_is_suspended_at_its_checkpoint(cloud: Cloud, how: str, restart: bool) -> None:
    runner = await cloud.session()
    await checkpointed(cloud, runner)
    await runner.submit("next", "ok", None)
    if how == "kernel":
        await cloud.agent.die()
        await reach(runner, State.PAUSED)
    else:
        if how == "left":
            cloud.agent.held = True
            cloud.agent.write_checkpoint()
        await cut_off(cloud, runner)
    if restart:
        await cloud.restart()
        runner = cloud.plane.runner("s")
    assert runner.book.state is State.PAUSED
    assert (status(runner), status(runner, "next")) == ("suspended", "queued")
    await runner.ensure()
    shown = [] if how == "left" else ["epoch 2", "epoch 3"]
    await until(lambda: cloud.agent.resumed == [("r", shown)])
    await gone_on(cloud, runner)
    await until(lambda: status(runner, "next") == "ok")
    assert ends(runner)["r"] == "ok"


async def test_what_was_shown_since_the_checkpoint_is_told_each_time_anew(cloud: Cloud) -> None:
    runner = await cloud.session()
    await checkpointed(cloud, runner)
    await cut_off(cloud, runner)
    await runner.ensure()
    await until(lambda: cloud.agent.current == "r" and runner.book.runs["r"].resumed_ms is not None)
    await cloud.agent.say("epoch 4")
    await until(lambda: cloud.agent.log is not None and runner.mirror.last_seq == cloud.agent.log.last_seq)
    await cut_off(cloud, runner)
    assert status(runner) == "suspended"
    await runner.ensure()
    await until(lambda: len(cloud.agent.resumed) == 2)
    assert cloud.agent.resumed[1] == ("r", ["epoch 2", "epoch 3", "epoch 4"])
    await gone_on(cloud, runner)


async def test_a_run_that_no_checkpoint_holds_dies_with_its_machine(cloud: Cloud) -> None:
    runner = await cloud.session()
    await runner.pause()
    await runner.let_go()
    await runner.submit("r", "loop", None)
    await until(lambda: cloud.agent.current == "r")
    await cut_off(cloud, runner)
    await until(lambda: ends(runner) == {"r": "died"})
    assert runner.book.state is State.PAUSED


async def test_a_run_that_had_ended_behind_the_newest_checkpoint_is_brought_to_its_end_again(cloud: Cloud) -> None:
    runner = await cloud.session()
    await checkpointed(cloud, runner)
    await cloud.agent.finish()
    await until(lambda: status(runner) == "ok")
    await looping(cloud, runner, "later", "hang")
    await cut_off(cloud, runner)
    await until(lambda: ends(runner) == {"r": "ok", "later": "died"})
    await runner.ensure()
    await until(lambda: cloud.agent.resumed == [("r", ["epoch 2", "epoch 3"])])
    await until(lambda: any("its rest runs again" in text for text in notes(runner)))
    await gone_on(cloud, runner)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.hand.link is not None and runner.hand.link.up)
    await runner.submit("new", "ok", None)
    await until(lambda: status(runner, "new") == "ok")
    assert len(cloud.agent.resumed) == 1


async def test_a_machine_that_saved_a_cell_nobody_else_knew_of_left_enough_to_go_on(cloud: Cloud) -> None:
    """The plane was killed before it had the cell, and the machine saved it and left."""
    await cloud.session()
    await cloud.plane.close()
    cloud.agent.current, cloud.agent._code["r"] = "r", "loop"
    cloud.agent.held = True
    await cloud.agent.emit(kind="run_started", run="r", code="loop", cell_id=None, count=1)
    cloud.agent.write_checkpoint()
    cloud.provider.vanish(cloud.provider.alive[0])
    await cloud.begin()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.hand.link is not None)
    runner.hand.link.down_since -= 10  # type: ignore[union-attr,operator]
    await cloud.turn(1)
    await cloud.turn(1)
    assert (runner.book.state, status(runner)) == (State.PAUSED, "suspended")
    assert runner.book.runs["r"].code == "loop"
    await runner.ensure()
    await gone_on(cloud, runner)


# -- a plane that is killed at each of these moments


async def test_a_plane_killed_while_it_waits_for_the_hold_asks_again(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    await runner.pause()
    await until(lambda: "hold" in cloud.agent.ops)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    cloud.agent._code["r"] = "loop"
    await reach(runner, State.PAUSED)
    assert status(runner) == "suspended"
    await runner.ensure()
    await gone_on(cloud, runner)


async def test_a_plane_killed_before_it_heard_that_the_cell_is_held(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    cloud.agent.lose_reply = "hold"
    await runner.pause()
    await until(lambda: cloud.agent.held)
    cloud.agent.lose_reply = None
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await reach(runner, State.PAUSED)
    assert status(runner) == "suspended"


async def test_a_plane_killed_while_it_saves_a_held_cell(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    cloud.agent.hold_save = asyncio.Event()
    await runner.pause()
    await until(lambda: cloud.agent.saves == 1)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    cloud.agent.hold_save.set()
    await reach(runner, State.PAUSED)
    assert status(runner) == "suspended"
    await runner.ensure()
    await gone_on(cloud, runner)


async def test_a_plane_killed_while_the_machine_stops(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    cloud.provider.faults.stop_seconds = 100
    await runner.pause()
    await reach(runner, State.STOPPING)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    cloud.clock.turn(101)
    await reach(runner, State.PAUSED)
    assert status(runner) == "suspended"
    assert ends(runner) == {}


async def test_a_plane_killed_while_paused_goes_on_with_the_run(cloud: Cloud) -> None:
    await paused(cloud)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    assert status(runner) == "suspended"
    assert runner.view()["text"] == "paused at line 7 of the cell: compute $0"
    await runner.ensure()
    await gone_on(cloud, runner)
    assert cloud.agent.runs == ["r"]


async def test_a_plane_killed_between_the_restore_and_the_word_to_go_on(cloud: Cloud) -> None:
    runner = await paused(cloud)
    cloud.agent.resume_error = "the kernel is busy"
    await runner.ensure()
    await until(lambda: "resume" in cloud.agent.ops and runner.current is None)
    assert "the kernel is busy" in runner.message
    assert status(runner) == "suspended"
    await cloud.restart()
    runner = cloud.plane.runner("s")
    cloud.agent.resume_error = None
    await until(lambda: runner.hand.link is not None and runner.hand.link.up)
    await cloud.turn(1)
    await gone_on(cloud, runner)
    assert len(cloud.agent.resumed) == 1


@pytest.mark.parametrize("ended", [False, True])
async def test_a_plane_killed_before_it_heard_that_the_run_goes_on_sends_it_no_second_time(
    cloud: Cloud, ended: bool
) -> None:
    runner = await paused(cloud)
    runner.write_soon = lambda *rows: runner.spawn(asyncio.sleep(0))  # type: ignore[method-assign]  # killed before
    cloud.agent.lose_reply = "resume"
    await runner.ensure()
    await until(lambda: cloud.agent.resumed)
    await cloud.plane.close()
    if ended:
        await cloud.agent.finish()
    await cloud.begin()
    runner = cloud.plane.runner("s")
    if not ended:
        await until(lambda: runner.current == "r")
        await cloud.agent.finish()
    await until(lambda: status(runner) == "ok")
    await runner.submit("new", "ok", None)
    await until(lambda: status(runner, "new") == "ok")
    assert len(cloud.agent.resumed) == 1


async def test_a_plane_killed_after_a_kernel_died_knows_the_run_as_suspended(cloud: Cloud) -> None:
    runner = await cloud.session()
    await checkpointed(cloud, runner)
    cloud.provider.faults.stop_seconds = 100
    await cloud.agent.die()
    await reach(runner, State.STOPPING)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    cloud.clock.turn(101)
    await reach(runner, State.PAUSED)
    await runner.ensure()
    await until(lambda: cloud.agent.current == "r" and runner.current == "r")
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.hand.link is not None and runner.hand.link.up)
    assert status(runner) == "running", "the death in the mirror is an old one"
    await gone_on(cloud, runner)


async def test_a_checkpoint_whose_word_was_lost_with_the_plane_is_found(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, checkpoint_every=60)
    cloud.agent.lose_reply = "checkpoint"
    await cloud.turn(61)
    await until(lambda: "checkpoint" in cloud.agent.ops)
    await until(lambda: not cloud.agent.held)
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.book.holds("r"))
    await cut_off(cloud, runner)
    assert status(runner) == "suspended"


# -- saves that fail, waits that are long, money that ends


async def test_a_save_that_fails_lets_the_cell_go_on(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    cloud.agent.save_error = "the disk is full"
    await runner.pause()
    with pytest.raises(SaveFailed, match="disk is full"):
        await runner.let_go()
    await until(lambda: cloud.agent.ops[-1] == "go" and not cloud.agent.held)
    assert (status(runner), runner.current) == ("running", "r")
    cloud.agent.save_error = None
    await runner.pause()
    await runner.let_go()
    assert status(runner) == "suspended"


async def test_a_cell_left_held_by_a_plane_that_was_killed_goes_on(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    await cloud.plane.close()
    cloud.agent.held = True
    await cloud.begin()
    runner = cloud.plane.runner("s")
    await until(lambda: not cloud.agent.held)
    await cloud.agent.finish()
    await until(lambda: status(runner) == "ok")


async def test_after_the_grace_people_choose_and_now_interrupts_what_no_checkpoint_holds(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    cloud.clock.turn(100)
    await runner.pause()
    await cloud.turn(59)
    assert runner.view()["pause"] is None
    await cloud.turn(2)
    await until(lambda: runner.view()["pause"] is not None and runner.view()["pause"]["skipped"])
    asked = runner.view()["pause"]
    assert asked == {
        "waiting_seconds": 61.0,
        "skipped": ["line 3: in except"],
        "choices": ["wait", "now"],
        "goes_back": False,
        "lose_seconds": 161.0,
        "lose_nano": 161 * NANO // 1000,
        "lose_usd": 0.161,
    }
    await cloud.restart()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.hand.link is not None and runner.hand.link.up)
    assert runner.view()["pause"]["waiting_seconds"] == 61.0
    await runner.pause(now=True)
    await runner.let_go()
    assert (runner.book.state, status(runner)) == (State.PAUSED, "error")
    assert cloud.agent.saves == 1


async def test_now_goes_back_to_the_checkpoint_that_holds_the_cell(cloud: Cloud) -> None:
    runner = await cloud.session()
    await checkpointed(cloud, runner)
    cloud.agent._code["r"] = "hang"
    await runner.pause()
    await cloud.turn(30)
    await runner.pause(now=True)
    await runner.let_go()
    assert (runner.book.state, status(runner)) == (State.PAUSED, "suspended")
    assert cloud.agent.saves == 0
    await runner.ensure()
    await until(lambda: cloud.agent.resumed == [("r", ["epoch 2", "epoch 3"])])
    await gone_on(cloud, runner)


async def test_a_run_has_its_own_grace(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang", grace=5)
    await runner.pause()
    await cloud.turn(5)
    assert runner.view()["pause"] is not None
    await cloud.agent.finish()
    await reach(runner, State.PAUSED)
    assert runner.view()["pause"] is None


async def test_at_the_cap_a_cell_is_held_and_loses_nothing(cloud: Cloud) -> None:
    runner = await cloud.session(budget_nano=NANO)  # 1000 s
    await looping(cloud, runner)
    for _ in range(1000):
        if runner.book.state is not State.RUNNING:
            break
        await cloud.turn(1)
        if runner.pause_pending:
            await asyncio.sleep(0.02)
    await reach(runner, State.PAUSED)
    assert status(runner) == "suspended"
    assert 0.95 * NANO < runner.view()["spent_nano"] <= NANO
    assert "interrupt" not in cloud.agent.ops
    await runner.set_budget(2 * NANO)
    await runner.ensure()
    await gone_on(cloud, runner)


async def test_a_checkpoint_that_fails_is_told_and_tried_again(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, checkpoint_every=60)
    cloud.agent.save_error = "the disk is full"
    await cloud.turn(61)
    await until(lambda: any("the disk is full" in text for text in notes(runner)))
    assert (runner.book.state, status(runner)) == (State.RUNNING, "running")
    cloud.agent.save_error = None
    await cloud.turn(30)
    assert cloud.agent.ops.count("checkpoint") == 1
    await cloud.turn(31)
    await until(lambda: runner.book.holds("r"))
    assert len(cloud.books().sessions["s"].save_seconds) == 1


# -- runs that nobody wants any more


async def test_a_dropped_cell_ends_where_it_stands_and_its_variables_are_kept(cloud: Cloud) -> None:
    runner = await paused(cloud)
    await runner.continuing.drop()
    assert status(runner) == "aborted"
    await runner.submit("new", "ok", None)
    await until(lambda: status(runner, "new") == "ok")
    assert cloud.agent.resumed == []
    assert cloud.agent.restored_from == [None, 1]
    assert ends(runner) == {"r": "aborted", "new": "ok"}
    await cloud.restart()
    assert status(cloud.plane.runner("s")) == "aborted"


async def test_a_cell_that_goes_on_already_is_not_dropped(cloud: Cloud) -> None:
    runner = await paused(cloud)
    await runner.ensure()
    await until(lambda: cloud.agent.current == "r" and runner.current == "r")
    with pytest.raises(UsageError, match="interrupt it"):
        await runner.continuing.drop()
    await gone_on(cloud, runner)


async def test_a_session_that_is_closed_ends_its_suspended_run(cloud: Cloud) -> None:
    runner = await paused(cloud)
    await runner.end()
    assert (runner.book.state, status(runner)) == (State.CLOSED, "aborted")
    await until(lambda: ends(runner) == {"r": "aborted"})


async def test_a_close_lets_the_cell_end_even_after_a_pause_was_asked(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    await runner.pause()
    await until(lambda: "hold" in cloud.agent.ops)
    await runner.end()
    await until(lambda: "go" in cloud.agent.ops)
    cloud.agent._code["r"] = "loop"
    await cloud.turn(1)
    assert not cloud.agent.held
    await cloud.agent.finish()
    await reach(runner, State.CLOSED)
    assert status(runner) == "ok"


async def test_a_pause_before_the_cell_goes_on_takes_the_machine_back_as_it_was(cloud: Cloud) -> None:
    runner = await paused(cloud)
    cloud.provider.on_start = _not_ready(cloud)
    await runner.ensure()
    await reach(runner, State.STARTING)
    await runner.pause()
    cloud.agent.kernel = "ready"
    await cloud.agent.emit(kind="kernel", run=None, state="restored", report=cloud.agent._restored)
    await runner.let_go()
    assert (runner.book.state, status(runner)) == (State.PAUSED, "suspended")
    assert cloud.agent.saves == 1
    assert cloud.agent.resumed == []


def _not_ready(cloud: Cloud) -> Callable[[Intent], None]:
    def start(intent: Intent) -> None:
        cloud.agent.start(intent)
        cloud.agent.kernel = "starting"

    return start


async def test_a_restore_that_knows_nothing_of_the_cell_ends_it_and_says_so(cloud: Cloud) -> None:
    runner = await paused(cloud)
    start = cloud.agent.start

    def older(intent: Intent) -> None:
        start(intent)
        cloud.agent._restored = {"seconds": {"total": 1.0}}

    cloud.provider.on_start = older
    await runner.ensure()
    await until(lambda: status(runner) == "aborted")
    await until(lambda: any("it can't go on" in text for text in notes(runner)))
    await runner.submit("new", "ok", None)
    await until(lambda: status(runner, "new") == "ok")


async def test_a_discard_goes_back_to_the_cells_checkpoint(cloud: Cloud) -> None:
    runner = await cloud.session()
    await checkpointed(cloud, runner)
    await runner.release(discard=True)
    await runner.let_go()
    assert (runner.book.state, status(runner)) == (State.PAUSED, "suspended")
