"""Saving and restoring through the agent: captured, test-loaded in a fresh process, signed, read back, resumed."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointError
from tests.kernels.agent_client import KEY, Machine, Plane, machine


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """Two machines' roots and the config they share: one store."""
    roots = tmp_path / "a", tmp_path / "b"
    for root in roots:
        root.mkdir()
    return *roots, {"store": str(tmp_path / "store"), "cwd": str(tmp_path)}


def saved(plane: Plane) -> dict[str, Any]:
    reply = plane.call("save")
    return {"seq": reply["seq"], **reply["report"]}


def test_a_saved_kernel_goes_on_in_a_new_machine(two: tuple[Path, Path, dict[str, Any]]) -> None:
    first, second, config = two
    with machine(first, **config) as made:
        plane = made.connect().ready()
        plane.run(
            "import random\nrandom.seed(7)\nclass Point:\n    def __init__(self, x): self.x = x\n"
            "a = [Point(1)]; b = a; f = lambda: random.random()\nd = {'a': a}"
        )
        report = saved(plane)
        assert report["seq"] == 1 and report["placeholders"] == []
        assert {"Point", "a", "b", "f", "d"} <= set(report["names"]) and report["bytes_total"] > 0
        assert set(report["seconds"]) == {"capture", "verify", "sign", "total"}
        steps = [(f["step"], f["done"]) for f in plane.frames if f["type"] == "progress"]
        assert steps == sorted(steps, key=lambda step: step[1]) and steps[-1] == ("saved", 3)
        plane.run("print(f(), b is a)")
        told = plane.text()
        last = plane.last
    with machine(second, **config, checkpoint=report["seq"], first_seq=last + 1) as made:
        plane = made.connect(after=last)
        event = plane.until(lambda e: e["kind"] == "kernel")
        assert event["state"] == "restored" and event["report"]["seq"] == 1 and event["report"]["warnings"] == []
        ended = plane.run("print(f(), d['a'] is b is a and a[0].x == 1)")
        assert plane.text() == told and ended["count"] == 2
        fresh = made.connect(after=plane.last)
        assert fresh.hello["restored"]["seq"] == 1 and fresh.hello["checkpoint"] == 1
        fresh.close()


def test_what_a_cell_under_way_imported_is_imported_where_its_save_will_be_loaded(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=8) as made:
        plane = made.connect().ready()
        agent = made.process.pid
        nursery = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        maps = [Path(f"/proc/{pid}/maps") for pid in nursery]
        assert not any("kiwisolver" in each.read_text() for each in maps)
        others = f"[pid for pid in {nursery} if int(pid) != os.getpid()]"
        look = f"any('kiwisolver' in open(f'/proc/{{pid}}/maps').read() for pid in {others})"
        plane.run(
            f"import kiwisolver, os, time\nends = time.time() + 40\nwhile not {look} and time.time() < ends: pass\n"
            f"print({look})"
        )
        assert plane.text().strip() == "True"


def test_libraries_are_looked_at_between_cells_before_a_save_needs_it(tmp_path: Path) -> None:
    with machine(tmp_path, lease_seconds=4) as made:
        plane = made.connect().ready()
        plane.run("import decimal; from ciuic_jupyter.checkpoint import survey")
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.1)  # the kernel looks when nobody asks it for anything
            plane.run("print(survey.is_known('decimal'))")
            if plane.text().split()[-1] == "True":
                break
        assert plane.text().split()[-1] == "True"


def test_a_save_waits_for_the_cell_and_runs_wait_for_the_save(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.call("run", run="waits", code="x = input()")
        plane.until(lambda e: e["kind"] == "input_request")
        saving = plane.ask("save")
        busy = plane.reply(plane.ask("run", run="other", code="x = 'never'"))
        assert not busy["ok"] and busy["error"]["message"].startswith("busy: a save")
        again = plane.reply(plane.ask("save"))
        assert not again["ok"] and "under way" in again["error"]["message"]
        assert saving not in plane.replies
        plane.call("input", run="waits", value="after the cell")
        assert plane.reply(saving)["ok"]
        store = Store(tmp_path / "store")
        assert "x" in store.read_manifest(1, KEY).body["names"]
        assert plane.run("print(x)")["status"] == "ok"
        assert plane.text() == "after the cell\n"


def test_saves_are_numbered_and_the_newest_is_the_latest(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        for number in range(1, 4):
            plane.run(f"n = {number}")
            assert saved(plane)["seq"] == number
        assert Store(tmp_path / "store").manifests() == [1, 2, 3]


def test_what_does_not_load_again_becomes_a_named_placeholder(two: tuple[Path, Path, dict[str, Any]]) -> None:
    first, second, config = two
    with machine(first, **config) as made:
        plane = made.connect().ready()
        plane.run(
            "class Bad:\n    def __reduce__(self): return eval, ('1/0',)\n"
            "good = [1, 2]\nbad = Bad()\nworse = {'in': [Bad()]}"
        )
        report = saved(plane)
        assert {p["name"] for p in report["placeholders"]} == {"bad", "worse"}
        assert all("ZeroDivisionError" in p["reason"] for p in report["placeholders"])
        assert report["attempts"] > 1
        assert plane.run("print(good, bad)")["status"] == "ok"
        plane.close()
    with machine(second, **config, checkpoint=report["seq"]) as made:
        plane = made.connect().ready()
        assert {p["name"] for p in plane.events[-1]["report"]["placeholders"]} == {"bad", "worse"}
        assert plane.run("print(good)")["status"] == "ok"
        assert plane.run("bad.x")["status"] == "error"


def test_a_fresh_process_that_dies_fails_the_save_and_the_kernel_lives_on(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.run(
            "import os\nclass Deadly:\n    def __reduce__(self):\n"
            f"        return eval, (\"__import__('os').getpid() != {made.kernel_pid()} and __import__('os').kill("
            "__import__('os').getpid(), 9)\",)\nx = 1\ndeadly = Deadly()"
        )
        failed = plane.reply(plane.ask("save"))
        assert not failed["ok"] and failed["error"]["type"] == "SaveFailed"
        assert "SIGKILL" in failed["error"]["message"] and "lives on" in failed["error"]["message"]
        assert Store(tmp_path / "store").manifests() == []
        assert plane.run("del deadly\nprint(x)")["status"] == "ok"
        assert saved(plane)["seq"] == 1


def test_loading_that_never_ends_fails_the_save_in_time(tmp_path: Path) -> None:
    with machine(tmp_path, verify_seconds=2) as made:
        plane = made.connect().ready()
        plane.run(
            "class Slow:\n    def __reduce__(self): return eval, (\"__import__('time').sleep(600)\",)\nslow = Slow()"
        )
        failed = plane.reply(plane.ask("save"))
        assert failed["error"]["type"] == "SaveFailed" and "longer than 2 seconds" in failed["error"]["message"]
        plane.run("del slow")
        assert saved(plane)["seq"] == 1


def test_a_store_that_cannot_be_written_fails_the_save_and_the_kernel_lives_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with machine(tmp_path, store=str(tmp_path / "file" / "store")) as made:
        plane = made.connect(deadline=10).ready()
        failed = plane.reply(plane.ask("save"))
        assert failed["error"]["type"] == "SaveFailed"
        assert plane.run("1")["status"] == "ok"


def test_a_kernel_killed_in_its_save_fails_it(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.run("class Last:\n    def __reduce__(self):\n        import os; os.kill(os.getpid(), 9)\nlast = Last()")
        failed = plane.reply(plane.ask("save"))
        assert failed["error"]["type"] in ("KernelDied", "SaveFailed")
        assert plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "dead")["signal"] == signal.SIGKILL
        assert Store(tmp_path / "store").manifests() == []


@pytest.mark.parametrize("damage", ["signature", "chunk", "missing"])
def test_a_checkpoint_that_cannot_be_trusted_is_never_loaded(
    tmp_path: Path, two: tuple[Path, Path, dict[str, Any]], damage: str
) -> None:
    first, second, config = two
    with machine(first, **config) as made:
        plane = made.connect().ready()
        plane.run("x = list(range(100_000))")
        seq = saved(plane)["seq"]
        last = plane.last
    store = tmp_path / "store"
    if damage == "signature":
        (manifest,) = [p for p in (store / "manifests").iterdir() if p.is_file()]
        manifest.write_bytes(manifest.read_bytes().replace(b'"x"', b'"y"'))
    elif damage == "chunk":
        chunk = max((p for p in (store / "chunks").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 1
        chunk.write_bytes(data)
    else:
        seq += 1
    with machine(second, **config, checkpoint=seq, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        event = plane.until(lambda e: e["kind"] == "kernel")
        assert event["state"] == "failed"
        assert event["error"].split(":")[0] in {
            c.__name__ for c in (CheckpointError, *CheckpointError.__subclasses__())
        }
        refused = plane.reply(plane.ask("run", run="r", code="1"))
        assert not refused["ok"] and "failed" in refused["error"]["message"]
        fresh = made.connect(after=plane.last)
        assert fresh.hello["kernel"] == "failed" and fresh.hello["error"] == event["error"]
        fresh.close()


def upload(made: Machine, blob: str, data: bytes) -> int:
    with made.socket(f"/blob/{blob}") as line:
        for start in range(0, len(data), 1 << 20):
            line.send(data[start : start + (1 << 20)])
        line.send("end")
        return int(json.loads(line.recv())["size"])


def download(made: Machine, blob: str) -> bytes:
    data = b""
    with made.socket(f"/blob/{blob}") as line:
        for message in line:
            if isinstance(message, str):
                assert json.loads(message)["size"] == len(data)
                break
            assert len(message) <= 4 << 20
            data += message
    return data


def test_variables_travel_both_ways_and_leave_no_file(tmp_path: Path) -> None:
    import io

    import numpy as np

    from ciuic_jupyter.kernels import variables

    with machine(tmp_path) as made:
        plane = made.connect().ready()
        values = {"array": np.arange(2_000_000), "text": "hi"}
        data = b"".join(bytes(part) for part in variables.dump(values))
        assert upload(made, "up", data) == len(data)
        plane.call("push", blob="up", names=["array", "text"])
        plane.run("array[0] = 5\nprint(array.sum(), text)")
        assert plane.text() == f"{np.arange(2_000_000).sum() + 5} hi\n"
        assert plane.call("names")["names"] == {"array": "numpy.ndarray", "text": "str"}
        pulled = plane.call("pull", names=["array"])
        got = download(made, pulled["blob"])
        assert len(got) == pulled["size"]
        assert variables.load(io.BytesIO(got))["array"][:2].tolist() == [5, 1]
        unknown = plane.reply(plane.ask("pull", names=["nothing"]))
        assert unknown["error"]["type"] == "UnknownName"
        missing = plane.reply(plane.ask("push", blob="up", names=["text"]))
        assert missing["error"]["type"] == "UsageError"
        assert list((made.directory / "blobs").iterdir()) == []


def test_a_cut_upload_leaves_nothing_and_a_cut_download_can_be_asked_again(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        with made.socket("/blob/cut") as line:
            line.send(b"x" * 1000)
        refused = plane.reply(plane.ask("push", blob="cut", names=["x"]))
        assert refused["error"]["type"] == "UsageError"
        plane.run("big = b'x' * 20_000_000")
        pulled = plane.call("pull", names=["big"])
        with made.socket(f"/blob/{pulled['blob']}") as line:
            line.recv()
        assert len(download(made, pulled["blob"])) == pulled["size"]
        for bad in ("..%2Fkey", "../key", "a" * 65, ""):
            with made.socket(f"/blob/{bad}") as line, pytest.raises(Exception, match="1002"):
                line.recv()


def test_a_damaged_pack_is_not_leaned_on_by_the_next_save(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.run("import numpy\nbig = numpy.arange(1_000_000)")
        assert saved(plane)["attempts"] == 1
        pack = max(
            (p for p in (tmp_path / "store" / "chunks").iterdir() if p.is_file()), key=lambda p: p.stat().st_size
        )
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
        again = saved(plane)
        assert again["seq"] == 2 and again["attempts"] == 2 and again["bytes_written"] >= 8_000_000
        assert saved(plane)["bytes_written"] < 1_000_000
