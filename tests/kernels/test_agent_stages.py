"""The end of a stage: an event of the agent's, and a checkpoint from behind it, in the cell's middle or after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.store import Store
from tests.kernels.agent_client import KEY, Event, Plane, machine
from tests.kernels.double_engine import INSTALL

CELL = """
from ciuic_jupyter.train import stage
from tests.kernels.double_engine import resumed, turns
import time
if not resumed():
    print('begins', flush=True)
    stage('one')
    stage('one')
for i in turns(50_000): time.sleep(0.01)  # it is interrupted
"""
RAW = "get_ipython().kernel.say(get_ipython().kernel.get_parent(), {'state': 'stage', 'name': %s})"


def staged(plane: Plane) -> list[Event]:
    return [event for event in plane.events if event["kind"] == "stage"]


def pending(plane: Plane) -> Any:
    fresh = plane.machine.connect(after=plane.last)
    plane.take_over(fresh)
    return plane.hello["stages"]


def test_a_checkpoint_behind_a_stage_is_known_to_hold_it(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        plane.call("run", run="r", code=CELL)
        event = plane.until(lambda e: e["kind"] == "stage")
        assert (event["run"], event["name"]) == ("r", "one")
        assert plane.text() == "begins\n", "what was printed before comes before"
        assert pending(plane) == [["r", "one", event["seq"]]]
        done = plane.call("checkpoint", behind=True)
        assert done["report"]["run"]["seq"] >= event["seq"] and done["report"]["run"]["run"] == "r"
        assert len(staged(plane)) == 1, "said twice before a boundary, it is one end"
        assert pending(plane) == []
        plane.call("interrupt", run="r")
        plane.until(lambda e: e["kind"] == "run_ended")


def test_behind_the_last_cell_what_it_left_is_saved_and_a_cell_that_comes_waits(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        plane.call("run", run="r", code="from ciuic_jupyter.train import stage\nx = input()\nstage('end')")
        plane.until(lambda e: e["kind"] == "input_request")
        asked = plane.ask("checkpoint", behind=True)
        plane.call("boundary")
        plane.call("input", run="r", value="there")
        assert plane.reply(asked)["report"]["run"] is None
        assert "x" in Store(tmp_path / "store").read_manifest(1, KEY).body["names"]
        plane.until(lambda e: e["kind"] == "run_ended")
        assert len(staged(plane)) == 1 and pending(plane) == []
        asked, again = plane.ask("checkpoint", behind=True), plane.ask("checkpoint", behind=True)
        refused = plane.reply(plane.ask("run", run="next", code="1"))
        assert refused["error"]["message"].startswith("busy: a save is under way")
        assert {plane.reply(asked)["seq"], plane.reply(again)["seq"]} == {2, 3}, "each waits for its turn"
        assert plane.run("print(x)")["status"] == "ok" and plane.text() == "there\n"


def test_what_a_cell_says_past_the_front_door_is_no_stage_unless_it_could_be_one(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        for name in ("3", "None", "['a']", "'a\\nb'", "'x' * 2_000_000"):
            assert plane.run(RAW % name)["status"] == "ok"
        assert plane.run(RAW % "' fine '")["status"] == "ok"
        assert [event["name"] for event in staged(plane)] == ["fine"]
        plane.run("from ciuic_jupyter.train import stage\nfor i in range(50): stage(f's{i}')")
        assert len(staged(plane)) == 51
        assert [name for _, name, _ in pending(plane)] == [f"s{i}" for i in range(18, 50)]
