"""The lease: a machine that hears nothing lets its cell end, saves, and leaves; one that is heard stays."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.lease import Lease
from ciuic_jupyter.kernels.protocol import decode
from tests.kernels.agent_client import KEY, Machine, machine

times = st.floats(0, 1e6)


@given(seconds=st.floats(0.1, 1e5), heard=times, silence=st.floats(0, 1e6))
def test_a_lease_lapses_after_its_silence_and_not_before(seconds: float, heard: float, silence: float) -> None:
    lease = Lease(seconds, heard_at=heard, started_at=heard)
    assert lease.lapsed(heard + silence) == (heard + silence - heard >= seconds)
    lease.heard(heard + silence)
    assert not lease.lapsed(heard + silence)
    assert 0 < lease.tick <= min(1.0, seconds)


def test_without_a_deadline_a_cell_may_go_on_for_ever() -> None:
    assert not Lease(1, 0, 0).over(1e12)
    assert Lease(1, 0, started_at=5, deadline=10).over(15)
    assert not Lease(1, 0, started_at=5, deadline=10).over(14.9)
    away = Lease(600, heard_at=20, started_at=5, deadline=10)
    assert not away.lapsed(25.9) and away.lapsed(26)
    away.bound(None, 26)
    assert not away.lapsed(619.9) and away.lapsed(620)


def events(made: Machine) -> list[dict[str, object]]:
    with EventLog(made.directory / "events") as log:
        return [decode(frame).header for _, frame in log.read(0)]


def test_a_machine_nobody_hears_saves_and_leaves(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=4) as made:
        plane = made.connect().ready()
        plane.run("kept = 'yes'")
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        assert made.final()["reason"] == "lease" and made.final()["checkpoint"] == 1
    assert "kept" in Store(tmp_path / "store").read_manifest(1, KEY).body["names"]


def test_a_running_cell_goes_on_to_its_end_first(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=4) as made:  # long enough for a busy machine's plane to ask
        plane = made.connect().ready()
        plane.call("run", run="long", code="import time\ntime.sleep(7)\ndone = 'yes'\nprint('done')")
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        told = events(made)
    (ended,) = [e for e in told if e["kind"] == "run_ended"]
    assert ended["status"] == "ok" and float(str(ended["seconds"])) > 6.9
    assert "done" in Store(tmp_path / "store").read_manifest(None, KEY).body["names"]


def test_past_the_deadline_the_cell_is_interrupted_and_what_it_made_is_saved(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=4, deadline=6, preempt_seconds=1) as made:
        plane = made.connect().ready()
        plane.call("run", run="long", code="import time\nmade = 'yes'\ntime.sleep(600)  # no boundary to hold at")
        plane.until(lambda e: e["kind"] == "run_started")
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        (ended,) = [e for e in events(made) if e["kind"] == "run_ended"]
        assert ended["ename"] == "KeyboardInterrupt"
        assert made.final()["checkpoint"] == 1
    assert "made" in Store(tmp_path / "store").read_manifest(1, KEY).body["names"]


def test_a_plane_that_is_away_when_the_budget_ends_is_not_waited_for(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=600, deadline=3600, preempt_seconds=20) as made:
        plane = made.connect().ready()
        for bad in (-1, True, "2", 10**11):
            refused = plane.reply(plane.ask("lease", seconds=600, deadline=bad))
            assert "a deadline of" in refused["error"]["message"]
        plane.call("lease", seconds=600, deadline=2)
        loop = "import time\nturns = 0\nwhile True:\n    turns += 1\n    time.sleep(0.01)"
        plane.call("run", run="long", code=loop)
        plane.until(lambda e: e["kind"] == "run_started")
        plane.cut()
        assert made.process.wait(timeout=120) == 0
        assert made.final()["reason"] == "lease" and made.final()["checkpoint"] is not None
    assert Store(tmp_path / "store").read_manifest(None, KEY).body["run"]["run"] == "long"


def test_beats_alone_keep_a_machine(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=5) as made:
        plane = made.connect().ready()
        beats = 0
        while beats < 3:
            beats += plane.next().type == "beat"
        assert made.process.poll() is None
        assert plane.run("1")["status"] == "ok"


def test_the_plane_can_change_the_lease(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=600) as made:
        plane = made.connect().ready()
        plane.call("lease", seconds=0.5)
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        assert made.final()["reason"] == "lease"


def test_a_dead_kernel_is_left_without_a_save(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=600) as made:
        plane = made.connect().ready()
        plane.call("run", run="r", code="import os; os._exit(3)")
        plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "dead")
        plane.call("lease", seconds=1)
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        assert made.final() == {**made.final(), "reason": "lease: the kernel is dead", "checkpoint": None}


DEADLY = (
    "class Deadly:\n    def __reduce__(self):\n"
    "        return eval, (\"__import__('os').kill(__import__('os').getpid(), 9)\",)\ndeadly = Deadly()"
)


def test_a_machine_that_cannot_save_stays_by_default_and_says_so(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=600) as made:
        plane = made.connect().ready()
        plane.run(DEADLY)
        last = plane.last
        plane.call("lease", seconds=1)
        plane.cut()
        alive = made.directory / "alive"
        begun = alive.stat().st_mtime
        while alive.stat().st_mtime < begun + 5:
            assert made.process.poll() is None
        plane = made.connect(after=last)
        note = plane.until(lambda e: e["kind"] == "note")
        assert note["level"] == "error" and "could not save" in note["text"]
        while not plane.reply(plane.ask("run", run="again", code="print(type(deadly))"))["ok"]:
            assert made.process.poll() is None  # the save under way ends first
        assert plane.until(lambda e: e["kind"] == "run_ended" and e["run"] == "again")["status"] == "ok"


def test_with_discard_a_machine_that_cannot_save_leaves_after_its_limit(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=600, last_resort="discard", save_failure_seconds=2) as made:
        plane = made.connect().ready()
        plane.run(DEADLY)
        plane.call("lease", seconds=1)
        plane.cut()
        assert made.process.wait(timeout=60) == 0
        assert "discard" in made.final()["reason"] and made.final()["checkpoint"] is None
