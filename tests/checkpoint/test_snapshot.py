"""A save that comes back early holds what was there when it was asked for, whoever writes it and whatever dies."""

from __future__ import annotations

import gc
import io
import logging
import mmap
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from ciuic_jupyter.checkpoint import arena, forked, snapshot
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.snapshot import How, Pending
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import SaveFailed, UsageError

HOWS: tuple[How, ...] = get_args(How)
LATER = ("fork", "arena")  # written after the call came back


def world() -> dict[str, Any]:
    """Make arrays of several sizes and layouts, a model that was trained, and small things."""
    generator = np.random.default_rng(5)
    big = generator.normal(size=(700, 1000))
    net = torch.nn.Linear(600, 600)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(3, 600)).sum().backward()
    optimizer.step()
    return {
        "big": big,
        "window": big[10:500, ::3],
        "turned": np.asfortranarray(generator.normal(size=(300, 900))),
        "little": np.arange(700),
        "bits": bytearray(generator.bytes(3_000_000)),
        "net": net,
        "optimizer": optimizer,
        "half": torch.arange(1_000_000, dtype=torch.bfloat16),
        "words": [str(number) for number in range(1000)],
    }


def restored(body: dict[str, Any], store: Store) -> dict[str, Any]:
    names: dict[str, Any] = {}
    restore(store.read_manifest(store.write_manifest(body, b"k" * 32).seq, b"k" * 32).body, store, names)
    return names


def assert_same(back: dict[str, Any], names: dict[str, Any]) -> None:
    for name in ("big", "window", "turned", "little"):
        assert np.array_equal(back[name], names[name]), name
    assert np.shares_memory(back["window"], back["big"])
    assert back["bits"] == names["bits"]
    assert back["words"] == names["words"]
    assert torch.equal(back["half"], names["half"])
    assert all(map(torch.equal, back["net"].parameters(), names["net"].parameters()))
    first, second = (each["optimizer"].state_dict()["state"] for each in (back, names))
    assert all(torch.equal(first[key]["exp_avg"], second[key]["exp_avg"]) for key in second)
    assert back["optimizer"].param_groups[0]["params"][0] is back["net"].weight


@contextmanager
def stopped_children(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have children that are forked in the block stop before they write anything."""
    write = snapshot._written

    def stop(*args: Any) -> Any:
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGSTOP)
        return write(*args)

    parent = os.getpid()
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_written", stop)
        yield


@pytest.mark.parametrize("how", HOWS)
def test_what_comes_back_is_what_was_there(tmp_path: Path, how: How) -> None:
    store, names = Store(tmp_path), world()
    pending = snapshot.snapshot(names, store, how, state={"inputs": ["a = 1"]})
    body = pending.body()
    assert (pending.how, pending.why) == (how, "")
    assert pending.done()
    assert pending.seconds["blocked"] > 0
    assert pending.seconds["durable"] > 0
    assert pending.body() is body
    assert_same(restored(body, store), names)
    assert set(body) == set(capture(names, store))
    assert body["bytes_written"] == body["bytes_total"]


@pytest.mark.parametrize("how", LATER)
def test_writes_right_after_the_call_are_not_in_it(tmp_path: Path, how: How, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names, before = Store(tmp_path), world(), world()
    before["net"].load_state_dict(names["net"].state_dict())
    before["optimizer"].load_state_dict(names["optimizer"].state_dict())
    before = {name: before[name] for name in names}
    shared = mmap.mmap(-1, 2 << 20)  # a child sees later writes to it
    names["shared"] = np.frombuffer(shared, np.uint8)
    names["shared"][:] = 7
    names["given"] = torch.full((1 << 19,), 3.0).share_memory_()
    gate = threading.Event()
    write = snapshot._written
    parent = os.getpid()

    def late(*args: Any) -> Any:
        if os.getpid() == parent:
            assert gate.wait(60)
        else:
            while os.read(reader, 1) != b"w":
                pass
        return write(*args)

    reader, writer = os.pipe()
    keep = forked._stand_alone
    monkeypatch.setattr(forked, "_stand_alone", lambda numbers: keep({*numbers, reader}))
    monkeypatch.setattr(snapshot, "_written", late)
    pending = snapshot.snapshot(names, store, how)
    assert not pending.done()
    for name in ("big", "turned", "little", "shared"):
        names[name][...] = 1
    names["bits"][:] = bytes(len(names["bits"]))
    names["half"].zero_()
    names["given"].zero_()
    for each in names["net"].parameters():
        each.data.zero_()
    names["optimizer"].state.clear()
    names["words"].clear()
    gate.set()
    os.write(writer, b"w")
    back = restored(pending.body(), store)
    assert pending.how == how
    assert_same(back, before)
    assert (back["shared"] == 7).all()
    assert (back["given"] == 3).all()
    os.close(reader)
    os.close(writer)


def test_the_arena_is_used_again_and_never_while_it_is_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    values = {"a": np.zeros(2_000_000)}
    pending: list[Pending] = []
    for number in range(3):
        values["a"][:] = number
        pending.append(snapshot.snapshot(values, store, "arena"))
    held = snapshot.arena.size
    snapshot.arena.reserve(1000)
    assert snapshot.arena.size == held >= values["a"].nbytes
    for number, each in enumerate(pending):
        assert (restored(each.body(), store)["a"] == number).all()
    values["a"][:] = 9
    snapshot.snapshot(values, store, "arena").body()
    assert snapshot.arena.size == held
    snapshot.arena.release()
    assert snapshot.arena.size == 0
    snapshot.arena.reserve(20_000_000)
    values["a"][:] = 5
    assert (restored(snapshot.snapshot(values, store, "arena").body(), store)["a"] == 5).all()
    assert snapshot.arena.size >= 20_000_000
    snapshot.arena.release()


def test_too_little_memory_for_a_copy_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot.arena.release()
    monkeypatch.setattr(arena, "available", lambda: 300 << 20)
    store, names = Store(tmp_path), {"a": np.ones(20_000_000)}
    pending = snapshot.snapshot(names, store, "arena")
    assert pending.how == "inline"
    assert pending.why == "a copy of 160 MB does not fit into the 315 MB that are free"
    assert (restored(pending.body(), store)["a"] == 1).all()


def test_a_machine_tells_what_it_has() -> None:
    assert 1 << 20 < arena.available() < 1 << 50


# children that die


def test_a_killed_child_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = Store(tmp_path), world()
    with stopped_children(monkeypatch):
        pending = snapshot.snapshot(names, store, "fork")
    names["little"][:] = 3
    os.kill(pending._child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    body = pending.body()
    assert pending.how == "inline"
    assert pending.why == "the process that wrote it was killed by SIGKILL (out of memory?)"
    assert_same(restored(body, store), names)


def test_a_silent_child_is_ended_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, names = Store(tmp_path), world()
    with stopped_children(monkeypatch):
        pending = snapshot.snapshot(names, store, "fork")
    body = pending.body(silence=0.1)
    assert pending.how == "inline"
    assert "said nothing for 0.1 seconds and was ended" in pending.why
    assert_same(restored(body, store), names)


def test_another_thread_never_walks_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stopped_children(monkeypatch):
        pending = snapshot.snapshot({"a": np.ones(10)}, Store(tmp_path), "fork")
    os.kill(pending._child.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    said: list[str] = []

    def ask() -> None:
        try:
            pending.body()
        except SaveFailed as error:
            said.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert said == [
        "the process that wrote it was killed by SIGKILL (out of memory?); nothing was saved, take the checkpoint again"
    ]


@pytest.mark.parametrize("how", HOWS)
def test_a_disk_that_refuses_is_told(tmp_path: Path, how: How) -> None:
    place = tmp_path / "file"
    place.write_text("")
    with pytest.raises(SaveFailed, match=r"the checkpoint can.t be written to .*file"):
        snapshot.snapshot({"a": np.ones(10)}, Store(place / "store"), how).body()


def test_a_child_somebody_else_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path)
    pending = snapshot.snapshot({"a": 1}, store, "fork")
    os.waitpid(pending._child.pid, 0)  # type: ignore[attr-defined]
    assert restored(pending.body(), store) == {"a": 1}
    assert pending.how == "fork"


def test_a_python_without_memfd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    store = Store(tmp_path)
    pending = snapshot.snapshot({"a": 1}, store, "fork")
    assert restored(pending.body(), store) == {"a": 1}
    assert pending.how == "fork"


def test_children_nobody_asks_for_leave_nothing(tmp_path: Path) -> None:
    gc.collect()  # what earlier tests left
    open_before = len(os.listdir("/proc/self/fd"))
    pids = []
    for _ in range(3):
        pids.append(snapshot.snapshot({"a": 1}, Store(tmp_path), "fork")._child.pid)  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == open_before
    ends = time.monotonic() + 30
    while any(
        Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        for pid in pids
        if Path(f"/proc/{pid}").exists()
    ):
        assert time.monotonic() < ends
        time.sleep(0.01)
    forked._reap_dropped()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


# what a fork must leave alone


def test_locks_that_other_threads_hold(tmp_path: Path) -> None:
    store, names = Store(tmp_path), world()
    stop = threading.Event()
    logger = logging.Logger("busy")
    logger.addHandler(logging.NullHandler())
    lock, held, handler = threading.Lock(), threading.Event(), logging.StreamHandler(io.StringIO())

    def log() -> None:
        while not stop.is_set():
            logger.warning("a line")
            logging.getLogger(f"made{random.getrandbits(4)}")

    def allocate() -> None:
        while not stop.is_set():
            [bytearray(random.randrange(1, 1 << 18)) for _ in range(50)]
            torch.ones(300, 300) @ torch.ones(300, 300)

    def hold() -> None:
        handler.acquire()
        with lock:
            held.set()
            stop.wait()

    works: list[Callable[[], None]] = [log, allocate, allocate, hold]
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    try:
        assert held.wait(10)
        for _ in range(8):
            pending = snapshot.snapshot(names, store, "fork")
            assert_same(restored(pending.body(silence=30), store), names)
            assert (pending.how, pending.why) == ("fork", "")
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_generators_that_hooks_move(tmp_path: Path) -> None:
    moved = []

    def move() -> None:
        if moving:
            moved.append(1)
            random.seed(1)
            np.random.seed(1)
            torch.manual_seed(1)

    moving = True
    os.register_at_fork(before=move, after_in_parent=move)
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    expected = (random.random(), np.random.random(), torch.rand(1).item())
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)
    store = Store(tmp_path)
    pending = snapshot.snapshot({"a": torch.ones(1), "b": np.ones(1)}, store, "fork")
    moving = False
    assert len(moved) == 2
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected
    random.seed(9)
    np.random.seed(9)
    restored(pending.body(), store)
    assert (random.random(), np.random.random(), torch.rand(1).item()) == expected


def test_libraries_that_warn_of_forks_are_not_heard(tmp_path: Path) -> None:
    filters = list(warnings.filters)
    warning = True
    os.register_at_fork(before=lambda: warnings.warn("a fork", RuntimeWarning, stacklevel=1) if warning else None)
    pending = snapshot.snapshot({"a": 1}, Store(tmp_path), "fork")
    warning = False
    assert list(warnings.filters) == filters
    assert restored(pending.body(), Store(tmp_path)) == {"a": 1}
    assert pending.how == "fork"


KERNEL = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from ciuic_jupyter.checkpoint.snapshot import snapshot
from ciuic_jupyter.checkpoint.store import Store
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
import atexit
atexit.register(lambda: print("at exit"))
reader, writer = os.pipe()
signal.set_wakeup_fd(os.open("/dev/null", os.O_WRONLY | os.O_NONBLOCK), warn_on_full_buffer=False)
sys.stdout.write("in the buffer ")
pending = snapshot({"a": np.ones(30_000_000)}, Store(Path(sys.argv[1])), "fork")
child = pending._child.pid
os.kill(child, signal.SIGUSR1 if sys.argv[2] == "signal" else 0)
os.close(writer)
assert os.read(reader, 1) == b"", "the child holds the user's pipe open"
body = pending.body()
print(pending.how, pending.why.partition(" by ")[2])
"""


@pytest.mark.parametrize(("kind", "said"), [("plain", "fork "), ("signal", "inline SIGUSR1")])
def test_the_child_says_nothing_and_handles_nothing(tmp_path: Path, kind: str, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, str(tmp_path), kind], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines() == [f"in the buffer {said}", "at exit"]
    assert done.stderr == ""


CELLS = (
    """
from pathlib import Path
import numpy as np, torch
from ciuic_jupyter.checkpoint.snapshot import snapshot
from ciuic_jupyter.checkpoint.store import Store
values = {"a": np.zeros(20_000_000), "b": torch.ones(500, 500) @ torch.ones(500, 500)}
pending = snapshot(values, Store(Path(ROOT)), "fork")
""",
    "values['a'][:] = 1; values['b'].zero_(); print('meanwhile')",
    """
body = pending.body()
print(pending.how, pending.why)
Store(Path(ROOT)).write_manifest(body, b'k' * 32)
""",
)


def test_a_notebook_goes_on_while_its_child_writes(tmp_path: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60)
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        said.append(message["content"].get("text") or str(message["content"].get("traceback", "")))

    try:
        for cell in CELLS:
            code = cell.replace("ROOT", repr(str(tmp_path)))
            reply = client.execute_interactive(code, timeout=60, output_hook=hear)
            assert reply["content"]["status"] == "ok", said
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "".join(said) == "meanwhile\nfork \n"
    names: dict[str, Any] = {}
    store = Store(tmp_path)
    restore(store.read_manifest(None, b"k" * 32).body, store, names)
    assert not names["a"].any()
    assert (names["b"] == 500).all()


class Held:
    """Gives its memory to pickle itself."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held, (pickle.PickleBuffer(self.data),)


def test_what_was_restored_is_not_shared_with_processes_forked_later(tmp_path: Path) -> None:
    store = Store(tmp_path)
    held = restored(capture({"held": Held(bytearray(b"x" * 3_000_000))}, store), store)["held"]
    pid = os.fork()
    if pid == 0:
        held.data[:5] = b"child"
        os._exit(0)
    os.waitpid(pid, 0)
    assert bytes(held.data) == b"x" * 3_000_000


def test_an_unknown_way_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be taken by 'spoon'; say one of fork, arena, inline"):
        snapshot.snapshot({}, Store(tmp_path), "spoon")  # type: ignore[arg-type]
