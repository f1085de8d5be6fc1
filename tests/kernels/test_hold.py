"""The kernel's side of a hold: what it says, in which order, and how it goes on in another process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ipykernels import VERSIONS
from tests.kernels.double_engine import INSTALL
from tests.kernels.forked_kernel import ForkedKernel

EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)
IMPORT = "from tests.kernels.double_engine import Engine, hook, resumed, turns"
COUNTS = "for i in turns(4): print('turn', i); import sys; print('t', i, file=sys.stderr)\nhex(i)"


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[ForkedKernel]:
    with ForkedKernel(tmp_path / "k", before=INSTALL) as made:
        made.client.text(IMPORT)
        yield made


class Cell:
    """A cell under way, and the control channel beside it."""

    def __init__(self, kernel: ForkedKernel, code: str, *, metadata: dict[str, Any] | None = None) -> None:
        self.kernel = kernel
        self.raw = kernel.client.raw
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        message = self.raw.session.msg("execute_request", content, metadata=metadata)
        self.id = message["header"]["msg_id"]
        self.message = message
        self.seen: list[tuple[str, Any]] = []

    def send(self) -> Cell:
        self.raw.shell_channel.send(self.message)
        return self

    def ask(self, op: str, hold: int = 1, **content: Any) -> dict[str, Any]:
        message = self.raw.session.msg("ciuic_hold", {"op": op, "hold": hold, "cell": self.id, **content})
        self.raw.control_channel.send(message)
        while True:
            reply = self.raw.get_control_msg(timeout=30)
            if reply["parent_header"].get("msg_id") == message["header"]["msg_id"]:
                return dict(reply["content"])

    def until(self, word: str) -> Any:
        """Read the cell's messages up to `word`: a state of a hold, or the type of a message."""
        while True:
            message = self.raw.get_iopub_msg(timeout=30)
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != self.id or kind == "status":
                if kind == "status" and content["execution_state"] == word and self._own(message):
                    return content
                continue
            told = content["state"] if kind == "ciuic_hold" else content.get("text", kind)
            self.seen.append((kind, told))
            if word in (kind, told):
                return content

    def _own(self, message: dict[str, Any]) -> bool:
        return bool(message["parent_header"].get("msg_id") == self.id)

    def end(self) -> dict[str, Any]:
        self.until("idle")
        return self.kernel.client._reply(self.id)


@EVERY_VERSION
def test_a_held_cell_is_saved_in_order_with_its_output_and_goes_on_elsewhere(version: str, tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    with ForkedKernel(tmp_path / "a", version=version, before=INSTALL) as kernel:
        kernel.client.text(IMPORT)
        kernel.client.run("'first'")
        cell = Cell(kernel, "if not resumed(): print('once'); mine = ['kept']\n" + COUNTS)
        assert cell.ask("hold") == {"status": "ok"}, "it may come before its cell"
        cell.send()
        assert cell.until("held")["where"] == "turn 0"
        assert cell.seen == [("execute_input", "execute_input"), ("stream", "once\n"), ("ciuic_hold", "held")]
        assert cell.ask("look") == {"status": "ok", "skipped": [], "has_loops": True}
        cell.ask("save", store=store)
        saved = cell.until("saved")
        assert saved["body"]["placeholders"] == [] and saved["running"] == [], saved
        cell.ask("go")
        cell.until("went")
        whole = cell.end()
        shown = [word for word in cell.seen if word[0] != "ciuic_hold"]
        assert whole["status"] == "ok" and whole["execution_count"] == 3
    saved["body"]["run"] = {"run": "r"}
    with ForkedKernel(tmp_path / "b", version=version, before=INSTALL) as kernel:
        restored = kernel.client.request("restore", store=store, body=saved["body"])
        assert restored["run"] == {"run": "r"} and restored["warnings"] == []
        cell = Cell(kernel, "if not resumed(): print('once'); mine = ['kept']\n" + COUNTS, metadata={"ciuic_resume": 1})
        ended = cell.send().end()
        assert (ended["status"], ended["execution_count"]) == ("ok", 3), ended
        assert cell.seen == [("ciuic_hold", "resumed"), *shown[2:]]
        assert kernel.client.value("[len(In), sorted(Out), mine, _, Engine.now.applied is not None]") == [
            5,
            [2, 3],
            ["kept"],
            "0x3",
            True,
        ]
        assert kernel.client.value("[In[3] == _i3, 'resumed' in In[3], In[4] == _i]") == [True, True, True]


@EVERY_VERSION
def test_control_c_while_held_raises_in_the_cell_after_the_save_under_way(version: str, tmp_path: Path) -> None:
    with ForkedKernel(tmp_path / "k", version=version, before=INSTALL) as kernel:
        kernel.client.text(IMPORT)
        kernel.client.text(
            "import os, signal\nclass Interrupts:\n    def __reduce__(self):\n"
            "        os.kill(os.getpid(), signal.SIGINT)\n        for _ in range(1000): pass\n"
            "        return (Interrupts, ())\nnoisy = Interrupts()"
        )
        cell = Cell(kernel, "i = None\ntry:\n    for i in turns(3): pass\nfinally: print('finally', i)")
        cell.ask("hold")
        cell.send().until("held")
        cell.ask("save", store=str(tmp_path / "store"))
        assert cell.until("saved")["body"]["placeholders"] == []
        assert cell.end()["ename"] == "KeyboardInterrupt"
        states = [word for kind, word in cell.seen if kind == "ciuic_hold"]
        assert states == ["held", "saved", "went"] and cell.seen[-2] == ("stream", "finally None\n")
        assert kernel.client.text("print('alive')") == "alive\n"


def test_control_c_while_waiting_goes_to_whoever_takes_it(kernel: ForkedKernel) -> None:
    kernel.client.text("import signal; got = []")
    code = "old = signal.signal(signal.SIGINT, lambda *a: got.append(1))\nfor i in turns(3): pass\n"
    cell = Cell(kernel, code + "signal.signal(signal.SIGINT, old)")
    cell.ask("hold")
    cell.send().until("held")
    os.kill(kernel.pid, signal.SIGINT)
    cell.until("went")
    assert cell.end()["status"] == "ok" and kernel.client.value("[got, i]") == [[1], 2]


def test_a_hold_for_a_cell_that_is_over_says_so_and_hits_no_other(kernel: ForkedKernel) -> None:
    cell = Cell(kernel, "1")
    cell.send().end()
    cell.ask("hold", 7)
    assert cell.until("ended")["hold"] == 7
    other = Cell(kernel, COUNTS)
    assert other.send().end()["status"] == "ok"
    assert not [word for kind, word in other.seen if kind == "ciuic_hold"]


def test_a_cell_without_a_boundary_ends_its_hold(kernel: ForkedKernel) -> None:
    cell = Cell(kernel, "%time 1 + 1")
    cell.ask("hold", 3)
    cell.send()
    assert cell.until("ended")["hold"] == 3
    assert cell.seen[-1] == ("ciuic_hold", "ended") and cell.end()["status"] == "ok"
    assert kernel.client.value("Engine.now.asked") is False


def test_a_hold_that_is_withdrawn_in_time_never_holds(kernel: ForkedKernel) -> None:
    cell = Cell(kernel, COUNTS)
    cell.ask("hold", 1)
    cell.ask("go", 1)
    assert cell.send().end()["status"] == "ok"
    assert not [word for kind, word in cell.seen if kind == "ciuic_hold"]


def test_requests_that_are_not_understood_are_answered(kernel: ForkedKernel) -> None:
    cell = Cell(kernel, COUNTS)
    assert cell.ask("fly")["type"] == "ProtocolError"
    assert cell.send().end()["status"] == "ok"


def test_a_resume_without_a_restored_cell_is_an_error_and_runs_nothing(kernel: ForkedKernel) -> None:
    cell = Cell(kernel, "ran = True", metadata={"ciuic_resume": True})
    ended = cell.send().end()
    assert ended["status"] == "error" and ended["ename"] == "UsageError" and "beginning" in ended["evalue"]
    assert kernel.client.value("'ran' in globals()") is False


def test_a_forked_child_holds_nothing(kernel: ForkedKernel) -> None:
    code = "import os\npid = os.fork()\nif pid == 0:\n    hook(1); os._exit(5)\n"
    code += "status = os.waitpid(pid, 0)[1] >> 8\nhook(2)"
    cell = Cell(kernel, code)
    cell.ask("hold")
    assert cell.send().until("held")["where"] == "turn 2"
    cell.ask("go")
    assert cell.end()["status"] == "ok" and kernel.client.value("status") == 5


def test_the_end_of_a_stage_is_said_in_order_and_by_the_cell_alone(kernel: ForkedKernel) -> None:
    kernel.client.text("from ciuic_jupyter.train import stage")
    code = "import os, threading\nprint('a', flush=True)\nstage('one')\npid = os.fork()\nif pid == 0:\n"
    code += "    stage('forked'); os._exit(0)\nos.waitpid(pid, 0)\n"
    code += "thread = threading.Thread(target=stage, args=('two',)); thread.start(); thread.join()\n"
    cell = Cell(kernel, code + COUNTS)
    cell.ask("hold")
    cell.send().until("held")
    words = [word for word in cell.seen if word[0] != "execute_input"]
    assert words == [("stream", "a\n"), ("ciuic_hold", "stage"), ("ciuic_hold", "stage"), ("ciuic_hold", "held")]
    cell.ask("go")
    assert cell.end()["status"] == "ok"
    cell = Cell(kernel, "stage('a\\nb')")
    assert cell.send().end()["ename"] == "ValueError"
    cell = Cell(kernel, "stage(3)")
    assert cell.send().end()["ename"] == "TypeError"
    assert not [word for kind, word in cell.seen if kind == "ciuic_hold"]
