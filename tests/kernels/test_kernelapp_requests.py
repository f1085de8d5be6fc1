"""What an agent asks of its kernel between two cells: names, push, pull, save, restore."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic_jupyter.kernels import variables
from tests.ipykernels import VERSIONS
from tests.kernels.forked_kernel import ForkedKernel

EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[ForkedKernel]:
    with ForkedKernel(tmp_path / "k") as made:
        yield made


def ok(reply: dict[str, Any]) -> dict[str, Any]:
    assert reply["status"] == "ok", reply
    return reply


@EVERY_VERSION
def test_names_are_the_users_own(version: str, tmp_path: Path) -> None:
    with ForkedKernel(tmp_path / "k", version=version) as kernel:
        assert ok(kernel.client.request("names"))["names"] == {}
        kernel.client.text(
            "import numpy as np\nclass Mine: pass\na, m, _private, quit = np.ones(3), Mine(), 1, 'taken'"
        )
        names = ok(kernel.client.request("names"))["names"]
        assert names == {
            "np": "module",
            "Mine": "type",
            "a": "numpy.ndarray",
            "m": "Mine",
            "_private": "int",
            "quit": "str",
        }


def test_an_unknown_request_is_refused_by_name(kernel: ForkedKernel) -> None:
    reply = kernel.client.request("fly")
    assert (reply["status"], reply["type"]) == ("error", "ProtocolError") and "fly" in reply["message"]


def test_what_is_pushed_is_there_and_what_is_pulled_is_equal(kernel: ForkedKernel, tmp_path: Path) -> None:
    sent, back = tmp_path / "sent", tmp_path / "back"
    array = np.random.default_rng(3).random(500_000)
    variables.write_file(variables.dump({"array": array, "twice": [array, array], "word": "hi"}), sent)
    assert ok(kernel.client.request("push", path=str(sent), names=["array", "twice", "word"]))["names"] == {
        "array": "numpy.ndarray",
        "twice": "list",
        "word": "str",
    }
    sent.unlink()
    assert kernel.client.value("[twice[0] is array, word, float(array.sum())]") == [True, "hi", float(array.sum())]
    kernel.client.text("array[0] = 5\nclass Box:\n    def get(self): return word\nbox = Box()")
    assert ok(kernel.client.request("pull", path=str(back), names=["array", "twice", "box"]))["size"] > array.nbytes
    got = variables.load(back)
    assert got["array"][0] == 5 and got["twice"][1] is got["array"] and got["box"].get() == "hi"
    assert kernel.client.value("In[-2][:5]") == "array", "a request is no cell"


def test_every_name_that_is_missing_is_said_and_no_file_is_left(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text("here = 1")
    reply = kernel.client.request("pull", path=str(tmp_path / "blob"), names=["here", "gone", "away"])
    assert reply["type"] == "UnknownName" and "gone, away" in reply["message"] and "here," not in reply["message"]
    kernel.client.text("import threading; held = threading.Lock()")
    reply = kernel.client.request("pull", path=str(tmp_path / "blob"), names=["here", "held"])
    assert reply["type"] == "NotPicklable"
    assert "held can't be sent" in reply["message"] and "lock" in reply["message"] and "here" not in reply["message"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["k"]


def test_a_push_that_fails_changes_nothing(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text("a = 'before'")
    sent = tmp_path / "sent"
    variables.write_file(variables.dump({"a": 1, "not a name": 2}), sent)
    assert kernel.client.request("push", path=str(sent))["type"] == "UsageError"
    assert kernel.client.request("push", path=str(sent), names=["a", "b"])["type"] == "UnknownName"
    sent.write_bytes(sent.read_bytes()[:-3])
    assert kernel.client.request("push", path=str(sent), names=["a"])["type"] == "ProtocolError"
    assert kernel.client.request("push", path=str(tmp_path / "none"), names=["a"])["status"] == "error"
    assert kernel.client.value("a") == "before"


INTERRUPTS = """
import os, signal
class Interrupts:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000): pass
        return (Interrupts, ())
noisy = Interrupts()
"""


def test_an_interrupted_pull_says_so_and_leaves_no_file(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text(INTERRUPTS)
    reply = kernel.client.request("pull", path=str(tmp_path / "blob"), names=["noisy"])
    assert reply["status"] == "error" and "interrupted" in reply["message"]
    assert not (tmp_path / "blob").exists()
    assert kernel.client.value("1 + 1") == 2


def test_an_interrupt_meant_for_the_cell_before_does_not_hurt_a_save(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text(INTERRUPTS)
    assert save(kernel, tmp_path / "store")["body"]["placeholders"] == []
    reply = kernel.client.raw.execute("import time\nwhile True: time.sleep(0.01)", stop_on_error=False)
    while kernel.client.raw.get_iopub_msg(timeout=30)["msg_type"] != "execute_input":
        pass
    os.kill(kernel.pid, signal.SIGINT)
    assert kernel.client._reply(reply)["ename"] == "KeyboardInterrupt", "cells can be interrupted again"


def save(kernel: ForkedKernel, store: Path) -> dict[str, Any]:
    return ok(kernel.client.request("save", store=str(store)))


def restore(kernel: ForkedKernel, store: Path, saved: dict[str, Any]) -> dict[str, Any]:
    return ok(kernel.client.request("restore", store=str(store), body=saved["body"]))


@EVERY_VERSION
def test_a_new_kernel_goes_on_where_the_old_one_stood(version: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    draw = "[random.random(), numpy.random.rand(), torch.rand(1).item()]"
    with ForkedKernel(tmp_path / "a", version=version) as first:
        client = first.client
        client.text("import random, numpy, torch, os\nrandom.seed(3); numpy.random.seed(3); torch.manual_seed(3); None")
        client.text("shared = [1, 2]; alias = {'s': shared}; grid = numpy.arange(12.).reshape(3, 4); row = grid[1]")
        client.text("class Mine:\n    def __init__(self, n): self.n = n\n    def more(self): return self.n + base")
        client.run("base = 10; one = Mine(5)\none")
        client.run("shared")
        client.text("os.environ['MY_CHANGE'] = 'kept'; os.makedirs('sub', exist_ok=True); os.chdir('sub')")
        client.value(draw)
        saved = save(first, store)
        expected = client.value(draw), client.value("len(In)")
    with ForkedKernel(tmp_path / "b", version=version, cwd=tmp_path / "a") as second:
        client = second.client
        assert client.text("before = globals(); number = id(before); print('x')") == "x\n"
        report = restore(second, store, saved)
        assert report["placeholders"] == [] and {"shared", "one", "grid"} <= set(report["names"])
        client.raw.kernel_info(reply=True, timeout=30)  # one more client that connects
        drawn = client.value(draw), client.value("len(In)")
        assert drawn == expected
        assert client.value("[alias['s'] is shared, Out[5] is shared, Out[4] is one, one.more(), _i5]") == [
            True,
            True,
            True,
            15,
            "shared",
        ]
        client.text("base = 20; row[0] = -1.0")
        assert client.value("[one.more(), float(grid[1, 0])]") == [25, -1.0]
        assert client.value("[get_ipython().user_ns is globals(), In is get_ipython().user_ns['_ih']]") == [True, True]
        assert client.value("[os.environ['MY_CHANGE'], os.path.basename(os.getcwd())]") == ["kept", "sub"]
        (shown,) = client.run("one.n")
        assert shown["content"]["execution_count"] == client.value("len(In)") - 2
        assert client.value("_") == 5


def test_a_save_leaves_the_namespace_history_and_random_state_alone(kernel: ForkedKernel, tmp_path: Path) -> None:
    state = "[sorted(globals()), len(In), hash(repr(random.getstate())), hash(repr(numpy.random.get_state()))]"
    kernel.client.text("import random, numpy")
    kernel.client.run("1")
    before = kernel.client.value(state)
    save(kernel, tmp_path / "store")
    after = kernel.client.value(state)
    assert after[1] == before[1] + 1 and after[2:] == before[2:]
    assert {name for name in set(before[0]) ^ set(after[0]) if not name.startswith("_i")} == set()


def test_what_still_runs_is_named(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text(
        "import threading, asyncio, subprocess\n"
        "worker = threading.Thread(target=threading.Event().wait, name='my-worker', daemon=True); worker.start()\n"
        "task = asyncio.get_running_loop().create_task(asyncio.sleep(600), name='my-task')\n"
        "process = subprocess.Popen(['sleep', '601'])"
    )
    saved = save(kernel, tmp_path / "store")
    reasons = " | ".join(line["reason"] for line in saved["body"]["placeholders"])
    assert "thread my-worker was running" in reasons
    assert "asyncio task my-task was running" in reasons
    assert "(sleep 601) was running" in reasons
    assert saved["running"] and all(line in reasons for line in saved["running"])
    kernel.client.text("task.cancel(); process.kill(); process.wait()")


def test_an_idle_kernel_runs_nothing_of_the_users(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text("import tqdm\nfor _ in tqdm.tqdm(range(3)): pass")
    assert save(kernel, tmp_path / "store")["running"] == []


def test_history_that_the_user_took_over_stays_the_users(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.run("7")
    kernel.client.text("for _ in range(3): pass")
    kernel.client.text("Out_of = 1; quit = 'mine'")
    saved = save(kernel, tmp_path / "store")
    with ForkedKernel(tmp_path / "b") as second:
        restore(second, tmp_path / "store", saved)
        assert second.client.value("[_, quit, Out[1]]") == [2, "mine", 7]
        second.client.run("8")
        assert second.client.value("_") == 2, "IPython leaves a _ alone that was assigned by hand"


def test_large_bodies_go_by_file(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.text("text = 'kept'")
    path = tmp_path / "body"
    saved = ok(kernel.client.request("save", store=str(tmp_path / "store"), body_path=str(path)))
    assert "body" not in saved and json.loads(path.read_bytes())["names"]
    with ForkedKernel(tmp_path / "b") as second:
        ok(second.client.request("restore", store=str(tmp_path / "store"), body_path=str(path)))
        assert second.client.value("text") == "kept"


def test_a_pushed_array_survives_a_save(kernel: ForkedKernel, tmp_path: Path) -> None:
    sent = tmp_path / "sent"
    array = np.random.default_rng(3).random(500_000)
    variables.write_file(variables.dump({"array": array}), sent)
    ok(kernel.client.request("push", path=str(sent)))
    kernel.client.text("part = array[10:20]")
    saved = save(kernel, tmp_path / "store")
    assert saved["body"]["placeholders"] == []
    with ForkedKernel(tmp_path / "b") as second:
        restore(second, tmp_path / "store", saved)
        second.client.text("part[0] = 9")
        assert second.client.value("[float(array[10]), float(array[11])]") == [9.0, float(array[11])]
