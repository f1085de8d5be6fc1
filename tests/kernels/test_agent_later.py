"""A checkpoint in passing: the cell is held for the copy of its memory, and goes on while that is written."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.store import Store
from tests.kernels.agent_client import KEY, Plane, machine
from tests.kernels.double_engine import INSTALL
from tests.kernels.test_agent_hold import ended, start

TURNS = 60
CHANGES = f"""
from tests.kernels.double_engine import resumed, turns
import time, numpy as np
if not resumed(): big = np.zeros(2_000_000); small = [0]; text = bytearray(3_000_000)
for i in turns({TURNS}):
    print('turn', i, flush=True); big += 1; small[0] += 1; text[:3] = bytes([small[0]] * 3)
    time.sleep(0.03)
"""
SAME = "print(set(big) == {float(small[0])}, set(text[:3]) == set(small), small[0])"


def gated(tmp_path: Path) -> dict[str, Any]:
    for name in "ab":
        (tmp_path / name).mkdir()
    gate = f"from tests.kernels import gated_writer; gated_writer.install({str(tmp_path)!r})"
    return {"store": str(tmp_path / "store"), "cwd": str(tmp_path), "before": f"{INSTALL}; {gate}"}


def begin(plane: Plane, folder: Path) -> str:
    """Ask for a checkpoint; return when its memory is copied and nothing of it is written."""
    start(plane, CHANGES)
    asked = plane.ask("checkpoint")
    ends = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert time.monotonic() < ends and asked not in plane.replies, plane.replies
        plane.next()
    return asked


def test_the_cell_ends_and_the_next_one_runs_before_a_byte_is_written_and_none_of_that_is_in_it(tmp_path: Path) -> None:
    config = gated(tmp_path)
    with machine(tmp_path / "a", **config) as made:
        plane = made.connect().ready()
        asked = begin(plane, tmp_path)
        assert ended(plane)["status"] == "ok"
        plane.run("big[:] = -1; small[0] = -2; text[:] = b'x' * len(text); other = 1; del other")
        assert asked not in plane.replies and Store(tmp_path / "store").manifests() == []
        (tmp_path / "open").touch()
        told = plane.reply(asked)
        assert told["ok"] and told["seq"] == 1, told
        report, last = told["report"], plane.last
        assert set(report["seconds"]) == {"capture", "write", "verify", "sign", "total"} and report["run"]
        assert report["placeholders"] == [] and report["bytes_total"] > 19_000_000
        assert plane.call("save")["seq"] == 2
        assert not list(made.directory.glob("body-*")), "nothing is left over"
    turn = int(report["run"]["where"].split()[1])
    with machine(tmp_path / "b", **config, checkpoint=1, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel")
        plane.call("resume", run="long", shown=[])
        assert ended(plane)["status"] == "ok"
        assert plane.text().startswith(f"turn {turn}\n")
        after = plane.run(SAME)
        assert plane.text(after["run"]) == f"True True {TURNS}\n"


def test_an_interrupt_meanwhile_is_the_cells_own_affair(tmp_path: Path) -> None:
    with machine(tmp_path / "a", **gated(tmp_path)) as made:
        plane = made.connect().ready()
        asked = begin(plane, tmp_path)
        assert plane.call("interrupt", run="long")["interrupted"]
        assert ended(plane)["ename"] == "KeyboardInterrupt"
        (tmp_path / "open").touch()
        assert plane.reply(asked)["seq"] == 1
        run = Store(tmp_path / "store").read_manifest(1, KEY).body["run"]
        assert run["run"] == "long" and run["code"] == CHANGES
        assert plane.run("print(1)")["status"] == "ok"


def test_a_pause_meanwhile_waits_for_it_and_is_a_later_boundary(tmp_path: Path) -> None:
    with machine(tmp_path / "a", **gated(tmp_path)) as made:
        plane = made.connect().ready()
        asked = begin(plane, tmp_path)
        lines = plane.text().count("\n")
        plane.until(lambda e: plane.text().count("\n") > lines + 2)
        assert plane.call("hold")["held"]
        saving = plane.ask("save")
        assert plane.call("boundary")["held"] and not {asked, saving} & set(plane.replies)
        (tmp_path / "open").touch()
        passing, paused = plane.reply(asked), plane.reply(saving)
        assert (passing["seq"], paused["seq"]) == (1, 2)
        turns = [int(reply["report"]["run"]["where"].split()[1]) for reply in (passing, paused)]
        assert turns[0] < turns[1] == plane.text().count("\n")
        assert plane.call("boundary")["held"], "the pause's hold is not the checkpoint's to end"
        plane.call("go")
        assert ended(plane)["status"] == "ok"


def test_a_kernel_killed_meanwhile_leaves_no_checkpoint(tmp_path: Path) -> None:
    with machine(tmp_path / "a", **gated(tmp_path)) as made:
        plane = made.connect().ready()
        asked = begin(plane, tmp_path)
        os.kill(made.kernel_pid(), signal.SIGKILL)
        assert plane.reply(asked)["error"]["type"] == "KernelDied"
        assert ended(plane)["status"] == "died"
    assert Store(tmp_path / "store").manifests() == []


@pytest.mark.parametrize("where", ["store", "machine"])
def test_a_disk_that_refuses_meanwhile_fails_the_checkpoint_and_the_cell_goes_on(tmp_path: Path, where: str) -> None:
    """Of the store: its folder is replaced by a file. Of the machine: the list of what was written can't be made."""
    with machine(tmp_path / "a", **gated(tmp_path)) as made:
        plane = made.connect().ready()
        asked = begin(plane, tmp_path)
        if where == "store":
            if (tmp_path / "store").exists():
                os.rename(tmp_path / "store", tmp_path / "away")
            (tmp_path / "store").write_text("no folder")
        else:
            (untold,) = made.directory.glob("body-*.untold")
            partial = made.directory / f".{untold.stem}.json.{made.kernel_pid()}"
            partial.mkdir()  # where the list would be written
        (tmp_path / "open").touch()
        failed = plane.reply(asked)["error"]
        assert failed["type"] == "SaveFailed"
        assert ("can't be written" if where == "store" else "make room on the machine's disk") in failed["message"]
        assert ended(plane)["status"] == "ok"
        after = plane.run(SAME)
        assert plane.text(after["run"]) == f"True True {TURNS}\n"
