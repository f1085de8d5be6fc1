"""The end of a stage, seen from the plane: saved at the next boundary or behind the cell, once, and told."""

from __future__ import annotations

import time

import pytest

from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from tests.control.conftest import Cloud, until
from tests.control.test_suspend import cut_off, gone_on, looping, notes, status


def told(runner: Runner) -> list[str]:
    """Return what was said of stages, by the events that viewers read."""
    return [text for text in notes(runner) if text.startswith("stage ")]


def seq(runner: Runner) -> int:
    return int(runner.book.checkpoint["seq"]) if runner.book.checkpoint is not None else 0


async def test_a_stage_is_saved_at_the_next_boundary_and_goes_on_from_there(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    await cloud.agent.say("before")
    await cloud.agent.stage("pretrained")
    await until(lambda: told(runner))
    at = time.strftime("%H:%M:%S", time.localtime(cloud.clock.wall()))
    assert told(runner) == [f"stage pretrained saved at {at}"]
    assert runner.book.holds("r") and runner.book.state is State.RUNNING
    await cloud.turn(60)
    assert cloud.agent.ops.count("checkpoint") == 1, "once is enough"
    await cloud.agent.say("after")
    await until(lambda: cloud.agent.log is not None and runner.mirror.last_seq == cloud.agent.log.last_seq)
    await cut_off(cloud, runner)
    await runner.ensure()
    await until(lambda: cloud.agent.resumed == [("r", ["after"])])
    await gone_on(cloud, runner)


async def test_a_stage_with_no_boundary_behind_it_is_saved_behind_its_cell_and_the_next_cell_waits(
    cloud: Cloud,
) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    await runner.submit("next", "ok", None)
    await cloud.agent.stage("a")
    await until(lambda: "checkpoint" in cloud.agent.ops)
    await cloud.agent.finish()
    await until(lambda: status(runner, "next") == "ok")
    assert cloud.agent.ops.index("checkpoint") < len(cloud.agent.ops) - 1 - cloud.agent.ops[::-1].index("run")
    assert len(told(runner)) == 1 and seq(runner) == 1
    assert not runner.book.holds("r")
    await cloud.agent.die()
    await until(lambda: runner.book.state is State.PAUSED)
    await runner.ensure()
    await until(lambda: cloud.agent.restored_from == [None, 1])


async def test_stages_that_end_together_share_a_checkpoint_and_one_line(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    for number in range(40):
        await cloud.agent.stage(f"s{number}")
    await until(lambda: cloud.agent.log is not None and runner.mirror.last_seq == cloud.agent.log.last_seq)
    cloud.agent._code["r"] = "loop"
    await until(lambda: told(runner))
    assert len(told(runner)) == seq(runner) == 1
    assert told(runner)[0].startswith("stage s37, s38, s39 and 29 more saved at "), "the agent knows of 32, too"


async def test_a_pause_that_waits_takes_the_stage_with_it(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    await runner.pause()
    await until(lambda: "hold" in cloud.agent.ops)
    await cloud.agent.stage("a")
    await until(lambda: runner.hold._stages)
    cloud.agent._code["r"] = "loop"
    await runner.let_go()
    await until(lambda: told(runner))
    assert (runner.book.state, status(runner), seq(runner)) == (State.PAUSED, "suspended", 1)
    assert len(told(runner)) == 1 and "checkpoint" not in cloud.agent.ops


@pytest.mark.parametrize("lost", [False, True])
async def test_a_plane_killed_before_the_checkpoint_takes_it_after_its_restart(cloud: Cloud, lost: bool) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="loop" if lost else "hang")
    cloud.agent.lose_reply = "checkpoint"
    await cloud.agent.stage("a")
    await until(lambda: "checkpoint" in cloud.agent.ops and (not lost or not cloud.agent.stages))
    await cloud.plane.close()
    cloud.agent.lose_reply = None
    cloud.agent._code["r"] = "loop"
    if not lost:
        await until(lambda: not cloud.agent.stages)
        cloud.agent.stages = [("r", "a", cloud.agent.log.last_seq)]  # type: ignore[union-attr]  # it was not saved
    await cloud.begin()
    runner = cloud.plane.runner("s")
    await until(lambda: runner.book.holds("r"))
    if not lost:
        await until(lambda: told(runner))
    await cut_off(cloud, runner)
    assert status(runner) == "suspended"


async def test_a_line_that_breaks_while_a_stage_is_saved_still_tells_of_it(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    cloud.agent.lose_reply = "checkpoint"
    await cloud.agent.stage("a")
    await until(lambda: "checkpoint" in cloud.agent.ops and not cloud.agent.stages)
    cloud.agent.lose_reply = None
    cloud.agent.cut()
    await until(lambda: told(runner))
    assert runner.book.holds("r")


async def test_a_stage_whose_checkpoint_fails_is_told_and_tried_again(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner)
    cloud.agent.save_error = "the disk is full"
    await cloud.agent.stage("a")
    await until(lambda: any("the disk is full" in text for text in notes(runner)))
    await cloud.turn(30)
    assert cloud.agent.ops.count("checkpoint") == 1
    cloud.agent.save_error = None
    await cloud.turn(31)
    await until(lambda: told(runner))
    assert runner.book.holds("r")


async def test_a_failed_checkpoint_behind_a_cell_holds_no_other_cell_up(cloud: Cloud) -> None:
    runner = await cloud.session()
    await looping(cloud, runner, code="hang")
    await runner.submit("next", "ok", None)
    cloud.agent.save_error = "the disk is full"
    await cloud.agent.stage("a")
    await cloud.agent.finish()
    await until(lambda: status(runner, "next") == "ok")
    assert any("the disk is full" in text for text in notes(runner))
