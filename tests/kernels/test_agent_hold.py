"""A cell held in its middle: saved there, let go, or gone on with on another machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.store import Store
from tests.kernels.agent_client import KEY, Event, Plane, machine
from tests.kernels.double_engine import INSTALL

COUNTS = """
from tests.kernels.double_engine import resumed, turns
import time
if not resumed(): total = 0; seen = []
for i in turns(60, seen):
    print('turn', i, flush=True); seen.append(i); total += i
    time.sleep(0.03)
total
"""
WHOLE = "".join(f"turn {i}\n" for i in range(60))


def start(plane: Plane, code: str = COUNTS, run: str = "long", **more: Any) -> None:
    plane.call("run", run=run, code=code, **more)
    plane.until(lambda e: e["kind"] == "output" and e["run"] == run)


def ended(plane: Plane, run: str = "long") -> Event:
    return plane.until(lambda e: e["kind"] == "run_ended" and e["run"] == run)


def result(plane: Plane, run: str = "long") -> Any:
    (event,) = [e for e in plane.events if e["kind"] == "output" and e["msg_type"] == "execute_result"]
    assert event["run"] == run
    return event["content"]["data"]["text/plain"], event["content"]["execution_count"]


def shown_after(plane: Plane, seq: int, run: str = "long") -> list[Event]:
    events = [e for e in plane.events if e["kind"] == "output" and e["run"] == run and e["seq"] > seq]
    return [{key: value for key, value in event.items() if key != "buffers"} for event in events]


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Any]:
    for name in "abc":
        (tmp_path / name).mkdir()
    return {"store": str(tmp_path / "store"), "cwd": str(tmp_path), "before": INSTALL}


def test_a_held_cell_is_saved_and_goes_on_on_another_machine(tmp_path: Path, shared: dict[str, Any]) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        assert plane.run("before = 'kept'")["count"] == 1
        start(plane, cell_id="c1")
        held = plane.call("hold")
        assert held["held"] and held["run"] == "long" and held["where"].startswith("turn ")
        before, last = plane.text(), plane.last
        saved = plane.call("save")
        told = saved["report"]["run"]
        assert told == {**told, "run": "long", "code": COUNTS, "cell_id": "c1", "count": 2, "seq": last}
        assert before.count("\n") == int(told["where"].split()[1]), "all it printed came before, and nothing else"
        fresh = made.connect(after=last)
        assert fresh.hello["held"] is True and fresh.hello["run"] == "long"
        fresh.close()
    assert Store(tmp_path / "store").read_manifest(1, KEY).body["run"] == told
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        state = plane.until(lambda e: e["kind"] == "kernel")
        assert state["state"] == "restored" and state["report"]["run"] == told, state
        assert plane.hello["restored"] is None or plane.hello["restored"]["run"] == told
        plane.call("resume", run="long", shown=[])
        begun = plane.until(lambda e: e["kind"] == "run_resumed")
        assert begun == {**begun, **{key: told[key] for key in ("run", "code", "cell_id", "count", "where")}}
        assert ended(plane)["status"] == "ok" and ended(plane)["count"] == 2
        assert before + plane.text() == WHOLE
        assert result(plane) == (str(sum(range(60))), 2)
        assert not [e for e in plane.events if e["kind"] in ("run_started", "note")]
        after = plane.run("print(len(In), _i2 == _i, sorted(Out), _, before, seen == list(range(60)))")
        assert after["count"] == 3 and plane.text(after["run"]) == "4 True [2] 1770 kept True\n"
        plane.call("resume", run="long", shown=[])  # the same request again does nothing
        assert plane.run("1")["count"] == 4


def test_a_cell_that_is_let_go_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        start(plane)
        one, two = plane.ask("hold"), plane.ask("hold")
        assert plane.reply(one)["held"] and plane.reply(two)["where"] == plane.reply(one)["where"]
        assert plane.call("boundary")["held"] is True
        assert plane.call("go")["went"] is True
        assert plane.call("hold")["held"] is True
        assert plane.call("save")["seq"] == 1
        assert plane.call("go")["went"] is True
        assert ended(plane)["status"] == "ok" and plane.text() == WHOLE
        assert plane.call("go")["went"] is False
        nothing = plane.call("hold")
        assert (nothing["held"], nothing["run"]) == (False, None)
        assert plane.call("boundary")["run"] is None
        assert plane.call("save")["report"]["run"] is None
        assert plane.run("print(len(In), len(Out))")["count"] == 2


def test_a_hold_that_finds_no_boundary_ends_with_its_cell_and_says_why(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        plane.call("run", run="plain", code="print('in', flush=True); x = input()")
        plane.until(lambda e: e["kind"] == "input_request")
        asked = plane.ask("hold")
        found = plane.call("boundary")
        assert found["run"] == "plain" and not found["held"] and found["asked_seconds"] >= 0
        assert found["has_loops"] is False and asked not in plane.replies
        withdrawn = plane.ask("go")
        assert plane.reply(withdrawn)["went"] is True and plane.reply(asked)["held"] is False
        again = plane.ask("hold")
        plane.call("boundary")
        plane.call("input", run="plain", value="")
        assert plane.reply(again) == {**plane.reply(again), "held": False, "run": "plain"}
        plane.call("run", run="next", code=COUNTS)
        assert ended(plane, "next")["status"] == "ok", "no hold was left over"
        assert plane.text("next") == WHOLE


def test_holds_asked_around_the_ends_of_cells_neither_hang_nor_hit_the_next(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        plane.run("from tests.kernels.double_engine import turns")
        outcomes = set()
        for number in range(40):
            asked = [plane.ask("run", run=f"n{number}", code="for _ in turns(3): pass"), plane.ask("hold")]
            held = plane.reply(asked[1])
            outcomes.add(held["held"])
            if held["held"]:
                plane.call("go")
            assert ended(plane, f"n{number}")["status"] == "ok"
            plane.run("for _ in turns(3): pass")
        assert True in outcomes


def test_a_checkpoint_lets_the_cell_go_on_and_output_shown_since_is_not_shown_again(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        start(plane, COUNTS.replace("60", "400"))  # still on when the checkpoint is there
        saved = plane.call("checkpoint")
        run = saved["report"]["run"]
        beyond = int(run["where"].split()[1]) + 5
        plane.until(lambda e: f"turn {beyond}\n" in plane.text())
        os.kill(made.kernel_pid(), signal.SIGKILL)
        plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "dead")
        before, last, shown = plane.text(), plane.last, shown_after(plane, run["seq"])
        assert shown and not [e for e in plane.events if e["kind"] == "run_ended"], "it goes on from its checkpoint"
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        plane.call("resume", run="long", shown=shown)
        assert ended(plane)["status"] == "ok"
        assert before + plane.text() == "".join(f"turn {i}\n" for i in range(400))
        assert not [e for e in plane.events if e["kind"] == "note"]


def test_output_that_differs_from_what_was_shown_is_shown_from_there_with_a_note(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        start(plane)
        plane.call("hold")
        run = plane.call("save")["report"]["run"]
        before, last = plane.text(), plane.last
    turn = int(run["where"].split()[1])
    text = f"turn {turn}\nturn {turn + 1} of another life\n"
    shown = [{"kind": "output", "msg_type": "stream", "content": {"name": "stdout", "text": text}, "metadata": {}}]
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        plane.call("resume", run="long", shown=shown)
        assert ended(plane)["status"] == "ok"
        (note,) = [e for e in plane.events if e["kind"] == "note"]
        assert note["run"] == "long" and "does not print again" in note["text"]
        assert before + f"turn {turn}\nturn {turn + 1}" + plane.text() == WHOLE


def test_an_interrupt_while_held_raises_in_the_cell_and_ends_the_hold(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        start(plane)
        plane.call("hold")
        plane.call("save")
        assert plane.call("interrupt", run="long")["interrupted"]
        assert ended(plane)["ename"] == "KeyboardInterrupt"
        assert plane.call("boundary")["held"] is False
        assert plane.run("print(total == sum(seen))")["status"] == "ok" and plane.text().endswith("True\n")
        start(plane, run="again")
        assert plane.call("hold")["held"] and plane.call("go")["went"]
        assert ended(plane, "again")["status"] == "ok"


def test_a_boundary_whose_position_cannot_be_saved_is_refused_and_the_next_one_serves(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    code = """
from tests.kernels.double_engine import hook
import time, threading
for i in range(2000):
    hook(i, threading.Event().wait if i % 10 != 9 else None)
    time.sleep(0.005)
"""
    deadly = code.replace("threading.Event().wait", "Deadly()").replace(
        "for i", "class Deadly:\n    def __reduce__(self): return eval, ('1/0',)\nfor i"
    )
    for name, bad in (("a", code.replace("threading.Event().wait", "(x for x in 'ab')")), ("b", deadly)):
        with machine(tmp_path / name, **{**shared, "store": str(tmp_path / name / "store")}) as made:
            plane = made.connect().ready()
            plane.call("run", run="picky", code=bad)
            plane.until(lambda e: e["kind"] == "run_started")
            assert plane.call("hold")["held"]
            saved = plane.call("save")
            assert int(saved["report"]["run"]["where"].split()[1]) % 10 == 9, saved
            assert [line for line in saved["report"]["placeholders"] if "position" in line["path"]] == []
            found = plane.call("boundary")
            assert found["held"] and any("state['position']" in line for line in found["skipped"]), found


@pytest.mark.parametrize("held", [False, True])
def test_an_output_that_does_not_load_again_costs_itself_alone(
    tmp_path: Path, shared: dict[str, Any], held: bool
) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        plane.run("'good'")
        plane.run("class Bad:\n    def __reduce__(self): return eval, ('1/0',)\nBad()")
        if held:
            start(plane)
            plane.call("hold")
        report = plane.call("save")["report"]
        assert [(line["name"], line["path"]) for line in report["placeholders"]] == [("Out", "Out[2]")], report
        assert report["attempts"] == 2 and (report["run"] is not None) == held
        last = plane.last
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        if held:
            plane.call("resume", run="long", shown=[])
            assert ended(plane)["status"] == "ok"
        after = plane.run("print(Out[1], repr(Out[2])[:11], len(In))")
        assert plane.text(after["run"]) == f"good <not saved: {5 if held else 4}\n"


def test_a_save_that_fails_while_held_leaves_the_cell_held_and_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with machine(tmp_path, store=str(tmp_path / "file" / "store"), before=INSTALL) as made:
        plane = made.connect(deadline=10).ready()
        start(plane)
        plane.call("hold")
        failed = plane.reply(plane.ask("save"))
        assert failed["error"]["type"] == "SaveFailed"
        assert plane.call("boundary")["held"] is True
        assert plane.call("go")["went"] and ended(plane)["status"] == "ok" and plane.text() == WHOLE


REAL = """
import random, time
random.seed(5)
class Net:
    def __init__(self): self.weight = 0.0
    def train(self, steps):
        for step in range(steps):
            self.weight += random.random()
            print('step', step, flush=True)
            time.sleep(0.02)
net = Net()
for epoch in range(16):
    print('epoch', epoch)
    net.train(8)
net.weight
"""


def test_the_engine_goes_on_with_a_training_cell_bit_for_bit(tmp_path: Path, shared: dict[str, Any]) -> None:
    config = {**shared, "before": ""}
    with machine(tmp_path / "a", **config) as made:
        plane = made.connect().ready()
        plane.call("run", run="whole", code=REAL)
        ended(plane, "whole")
        start(plane, REAL)
        plane.until(lambda e: "epoch 1" in plane.text("long"))
        plane.call("checkpoint")
        plane.until(lambda e: "epoch 2" in plane.text("long"))
        os.kill(made.kernel_pid(), signal.SIGKILL)
        plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "dead")
        run = Store(tmp_path / "store").read_manifest(1, KEY).body["run"]
        whole, before, last = plane.text("whole"), plane.text("long"), plane.last
        (value,) = [e for e in plane.events if e["kind"] == "output" and e["msg_type"] == "execute_result"]
        shown = shown_after(plane, run["seq"])
    with machine(tmp_path / "b", **config, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        plane.call("resume", run="long", shown=shown)
        assert ended(plane)["status"] == "ok" and not [e for e in plane.events if e["kind"] == "note"]
        assert before + plane.text("long") == whole
        assert result(plane)[0] == value["content"]["data"]["text/plain"]
        again = plane.ask("run", run="again", code=REAL)
        assert plane.reply(again)["ok"] and plane.call("hold")["held"]
        plane.call("interrupt", run="again")
        assert ended(plane, "again")["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("op", ["hold", "save", "checkpoint"])
def test_a_kernel_that_dies_under_a_hold_fails_what_waits_for_it(tmp_path: Path, op: str) -> None:
    deadly = COUNTS + "\nclass Slow:\n    def __reduce__(self):\n        import time; time.sleep(600)\n"
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        if op == "hold":
            plane.call("run", run="long", code="x = input()")
            plane.until(lambda e: e["kind"] == "input_request")
        else:
            plane.run(deadly.partition("class")[1] + deadly.partition("class")[2] + "slow = Slow()")
            start(plane)
            if op == "save":
                plane.call("hold")
        asked = plane.ask(op)
        if op == "hold":
            plane.call("boundary")
        else:
            while not [f for f in plane.frames if f["type"] == "progress" and f["step"] == "capturing"]:
                plane.next()
        os.kill(made.kernel_pid(), signal.SIGKILL)
        assert plane.reply(asked)["error"]["type"] == "KernelDied"
        assert ended(plane)["status"] == "died"
        for again in ("hold", "go", "save", "checkpoint", "boundary", "resume"):
            refused = plane.reply(plane.ask(again, run="long"))
            assert refused["ok"] is (again == "go"), refused


def test_a_paused_cell_that_was_not_resumed_is_kept_by_the_next_save_and_dropped_by_the_next_cell(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        start(plane)
        plane.call("hold")
        run = plane.call("save")["report"]["run"]
        before, last = plane.text(), plane.last
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        again = plane.call("save")
        assert again["seq"] == 2 and again["report"]["run"] == run
        ended_at = plane.run("print(total == sum(seen), len(In))")
        assert ended_at["count"] == 2 and plane.text() == "True 3\n"
        refused = plane.reply(plane.ask("resume", run="long", shown=[]))
        assert refused["error"]["type"] == "UsageError" and "another ran since" in refused["error"]["message"]
        assert plane.call("save")["report"]["run"] is None
    with machine(tmp_path / "c", **shared, checkpoint=2, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        plane.call("resume", run="long", shown=[])
        assert plane.call("hold")["held"]
        assert plane.call("save")["report"]["run"]["count"] == 1
        plane.call("go")
        assert ended(plane)["status"] == "ok" and before + plane.text() == WHOLE


def test_a_machine_whose_cell_is_saved_where_it_holds_leaves_without_another_save(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    for name, config in (("a", {}), ("b", {"lease_seconds": 1})):
        with machine(tmp_path / name, **{**shared, "store": str(tmp_path / name / "store")}, **config) as made:
            plane = made.connect().ready()
            start(plane)
            plane.call("hold")
            plane.call("save")
            plane.cut()
            if name == "a":
                made.process.send_signal(signal.SIGTERM)
            assert made.process.wait(timeout=60) == 0
            assert made.final()["checkpoint"] == 1
    with machine(tmp_path / "c", **shared) as made:
        plane = made.connect().ready()
        start(plane, COUNTS.replace("60", "6000"))
        for _ in range(2):
            plane.call("checkpoint")
        plane.call("hold")
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(timeout=60) == 0
        assert made.final()["checkpoint"] == 3, "the cell went on since its last checkpoint"


def test_a_preempted_machine_saves_the_cell_under_way_and_leaves(tmp_path: Path, shared: dict[str, Any]) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        start(plane)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(timeout=60) == 0
        assert made.final()["checkpoint"] == 1 and made.final()["reason"].startswith("preempted")
    assert Store(tmp_path / "store").read_manifest(1, KEY).body["run"]["run"] == "long"


@pytest.mark.parametrize("how", ["no boundary in time", "asked in order", "twice"])
def test_a_sigterm_that_finds_no_boundary_ends_the_machine(tmp_path: Path, how: str) -> None:
    with machine(tmp_path, before=INSTALL, preempt_seconds=2 if how == "no boundary in time" else 600) as made:
        plane = made.connect().ready()
        plane.call("run", run="deaf", code="print(1, flush=True); import time; time.sleep(600)")
        plane.until(lambda e: e["kind"] == "output")
        if how == "asked in order":
            (made.directory / "stopped").touch()
        begun = time.monotonic()
        made.process.send_signal(signal.SIGTERM)
        if how == "twice":
            time.sleep(0.3)  # or the two are one
            assert made.process.poll() is None
            made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(timeout=60) == 0
        assert (time.monotonic() - begun > 2) == (how == "no boundary in time") or how != "no boundary in time"
        assert made.final()["reason"].startswith("stopped") and made.final()["checkpoint"] is None


def test_past_the_deadline_an_unheard_machine_saves_its_cell_where_it_holds(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    with machine(tmp_path / "a", **shared, lease_seconds=4, deadline=6) as made:
        plane = made.connect().ready()
        start(plane, COUNTS.replace("60", "6000"))
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        assert made.final()["reason"] == "lease" and made.final()["checkpoint"] == 1
    assert Store(tmp_path / "store").read_manifest(1, KEY).body["run"]["run"] == "long"


def test_a_cell_held_for_a_plane_that_is_gone_is_saved_and_the_machine_leaves(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    with machine(tmp_path / "a", **shared, lease_seconds=4) as made:
        plane = made.connect().ready()
        start(plane)
        plane.call("hold")
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        assert made.final()["reason"] == "lease" and made.final()["checkpoint"] == 1


def test_a_run_whose_end_was_told_is_not_saved_again(tmp_path: Path, shared: dict[str, Any]) -> None:
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        start(plane)
        plane.call("hold")
        plane.call("save")
        last = plane.last
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        plane.call("emit", event={"kind": "run_ended", "run": "long", "status": "aborted"})
        assert plane.call("save")["report"]["run"] is None
        refused = plane.reply(plane.ask("resume", run="long", shown=[]))
        assert refused["error"]["type"] == "UsageError"
    assert Store(tmp_path / "store").read_manifest(2, KEY).body["run"] is None


def test_a_cell_goes_on_while_its_checkpoint_is_checked_and_a_save_waits_for_that(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    slow = "import time\nclass Slow:\n    def __init__(self): self.x = 1\n"
    slow += "    def __setstate__(self, state): time.sleep(2); self.x = 1\n"
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        plane.run(slow + "slow = Slow()")
        start(plane, COUNTS.replace("60", "200"))
        checkpoint = plane.ask("checkpoint")
        while not [f for f in plane.frames if f["type"] == "progress" and f["step"] == "verifying"]:
            plane.next()
        lines = plane.text().count("\n")
        plane.until(lambda e: plane.text().count("\n") > lines + 10)
        assert checkpoint not in plane.replies, "it goes on before the checkpoint is there"
        plane.call("hold")
        saved = plane.call("save")
        assert plane.reply(checkpoint)["seq"] == 1 and saved["seq"] == 2
        assert plane.reply(checkpoint)["report"]["attempts"] == 1
        turns = [int(reply["report"]["run"]["where"].split()[1]) for reply in (plane.reply(checkpoint), saved)]
        assert turns[0] < turns[1] == plane.text().count("\n")
        plane.call("go")
        assert ended(plane)["status"] == "ok"


def test_a_running_cell_without_a_hold_makes_a_save_wait_and_a_checkpoint_needs_a_cell(tmp_path: Path) -> None:
    with machine(tmp_path, before=INSTALL) as made:
        plane = made.connect().ready()
        refused = plane.reply(plane.ask("checkpoint"))
        assert refused["error"]["type"] == "UsageError"
        start(plane)
        saving = plane.ask("save")
        assert saving not in plane.replies
        assert plane.reply(saving)["report"]["run"] is None and ended(plane)["status"] == "ok"


SOON = "from ciuic_jupyter.kernels import agent_core; agent_core.NO_BOUNDARY_AFTER = 0.0"


def test_a_cell_that_stays_on_and_can_not_be_paused_says_so_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with machine(tmp_path / "a", before=SOON) as made:
        plane = made.connect().ready()
        plane.call("run", run="long", code="import threading; threading.Event().wait()")
        note = plane.until(lambda e: e["kind"] == "note")
        assert note["run"] == "long" and "no loop turn to pause at" in note["text"]
        plane.call("interrupt", run="long")
        ended(plane)
        plane.call("run", run="loop", code="while not threading.Event().wait(0.01): pass")
        plane.until(lambda e: e["kind"] == "run_started" and e["run"] == "loop")
        assert plane.call("hold")["held"]
        assert len([e for e in plane.events if e["kind"] == "note"]) == 1
