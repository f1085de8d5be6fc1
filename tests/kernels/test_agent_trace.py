"""A cell held inside a module of the user goes on on another machine, which still knows the module."""

from __future__ import annotations

from pathlib import Path

from tests.kernels.agent_client import machine

LOOPS = """
import time
def work(n):
    total = 0
    for i in range(n):
        print("turn", i, flush=True)
        total += i
        time.sleep(0.02)
    return total
"""
CELL = "import sys; sys.path.insert(0, {folder!r})\nimport loops\ntotal = loops.work(40)\nprint('total', total)"
WHOLE = "".join(f"turn {i}\n" for i in range(40)) + "total 780\n"


def test_a_cell_held_inside_a_named_module_goes_on_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "loops.py").write_text(LOOPS)
    shared = {"store": str(tmp_path / "store"), "cwd": str(tmp_path)}
    code = CELL.format(folder=str(tmp_path))
    for name in "ab":
        (tmp_path / name).mkdir()
    with machine(tmp_path / "a", **shared) as made:
        plane = made.connect().ready()
        plane.call("run", run="long", code=code, trace=["loops"])
        plane.until(lambda e: e["kind"] == "output" and e["run"] == "long")
        held = plane.call("hold")
        assert held["held"] and "in work()" in held["where"]
        before, last = plane.text(), plane.last
        plane.call("save")
    with machine(tmp_path / "b", **shared, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        assert plane.until(lambda e: e["kind"] == "kernel")["state"] == "restored"
        plane.call("resume", run="long", shown=[])
        assert plane.until(lambda e: e["kind"] == "run_ended")["status"] == "ok"
        assert before + plane.text() == WHOLE
        plane.call("run", run="again", code="loops.work(10**6)")
        plane.until(lambda e: e["kind"] == "output" and e["run"] == "again")
        assert "in work()" in plane.call("hold")["where"], "the session knows the module without being told again"


def test_a_module_that_can_not_be_paused_inside_ends_the_cell_before_it_runs(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with machine(tmp_path / "a") as made:
        plane = made.connect().ready()
        plane.call("run", run="r", code="print('ran')", trace=["math"])
        ended = plane.until(lambda e: e["kind"] == "run_ended")
        assert (ended["status"], ended["ename"]) == ("error", "UsageError")
        assert "math" in ended["evalue"] and not plane.text()
