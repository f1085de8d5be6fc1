"""The nursery: each verification in a fresh process; what it dies of is said, and it serves the next one."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ciuic_jupyter.checkpoint import process
from ciuic_jupyter.checkpoint.namespace import capture
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, SaveFailed
from ciuic_jupyter.kernels.nursery import Nursery


class Does:
    """Runs an expression when it is loaded."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (self.expression,)


@pytest.fixture
async def nursery(tmp_path: Path) -> AsyncIterator[Nursery]:
    made = Nursery(tmp_path / "nursery.log", 0x7FFFFFF0, "CIUIC_TEST=none", lambda: None)
    yield made
    made.end()
    psutil.Process(made.pid).wait(timeout=10)
    await asyncio.sleep(0)  # the transport closes in the loop's next turn


def body(root: Path, **namespace: Any) -> dict[str, Any]:
    process.remember_start()  # what pytest loaded and set is not a user's
    return capture(namespace, Store(root))


async def test_what_loads_is_reported(nursery: Nursery, tmp_path: Path) -> None:
    for number in range(3):
        report = await nursery.verify(tmp_path, body(tmp_path, a=[number], b={"x": 2}), 60)
        assert report["ok"] and report["names"] == 2


async def test_each_is_loaded_in_a_process_of_its_own(nursery: Nursery, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    told = Does(f"open({str(seen)!r}, 'a').write(str(__import__('os').getpid()) + chr(10))")
    for _ in range(3):
        await nursery.verify(tmp_path, body(tmp_path, told=told), 60)
    pids = {int(line) for line in seen.read_text().split()}
    assert len(pids) == 3 and not pids & {os.getpid(), nursery.pid}
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("__import__('os').kill(__import__('os').getpid(), 9)", "killed by SIGKILL .out of memory"),
        ("__import__('os').abort()", "killed by SIGABRT"),
        ("__import__('os')._exit(5)", "exit code 5"),
    ],
)
async def test_a_death_is_named_and_the_next_one_is_served(
    nursery: Nursery, tmp_path: Path, expression: str, words: str
) -> None:
    with pytest.raises(SaveFailed, match=words):
        await nursery.verify(tmp_path, body(tmp_path, bad=Does(expression)), 60)
    assert (await nursery.verify(tmp_path, body(tmp_path, good=1), 60))["ok"]


async def test_too_long_is_too_long_and_what_it_started_is_killed(nursery: Nursery, tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    forks = Does(
        "(lambda os, time: os.fork() or [open(" + repr(str(pidfile)) + ", 'w').write(str(os.getpid())), "
        "time.sleep(600)])(__import__('os'), __import__('time'))"
    )
    slow = Does("__import__('time').sleep(600)")
    with pytest.raises(SaveFailed, match="longer than 2 seconds"):
        await nursery.verify(tmp_path, body(tmp_path, forks=forks, slow=slow), 2)
    if psutil.pid_exists(child := int(pidfile.read_text())):
        psutil.Process(child).wait(timeout=10)
    assert (await nursery.verify(tmp_path, body(tmp_path, good=1), 60))["ok"]


async def test_a_child_that_holds_the_pipe_does_not_delay_the_answer(nursery: Nursery, tmp_path: Path) -> None:
    stays = Does("__import__('os').fork() or __import__('time').sleep(600)")
    assert (await nursery.verify(tmp_path, body(tmp_path, stays=stays), 60))["names"] == 1


async def test_damaged_chunks_are_found(nursery: Nursery, tmp_path: Path) -> None:
    written = body(tmp_path, x=list(range(100_000)))
    chunks = max((p for p in (tmp_path / "chunks").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(chunks.read_bytes())
    data[len(data) // 2] ^= 1
    chunks.write_bytes(data)
    with pytest.raises(CheckpointDamaged):
        await nursery.verify(tmp_path, written, 60)


async def test_without_the_nursery_a_save_fails_at_once(tmp_path: Path) -> None:
    nursery = Nursery(tmp_path / "nursery.log", 0x7FFFFFF0, "CIUIC_TEST=none", lambda: None)
    psutil.Process(nursery.pid).kill()
    psutil.Process(nursery.pid).wait(timeout=10)
    with pytest.raises(SaveFailed, match="gone"):
        await nursery.verify(tmp_path, {}, 60)
    nursery.end()


OWNER = """
import os, subprocess, sys, time
from pathlib import Path
from ciuic_jupyter.kernels.nursery import Nursery
from ciuic_jupyter.kernels.processes import fork_child
log = Path(sys.argv[1])
sleep = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"]
marked = subprocess.Popen(sleep, env={**os.environ, "CIUIC_TEST": sys.argv[1]}, stdout=subprocess.PIPE,
                          start_new_session=True)
marked.stdout.readline()
reader, writer = os.pipe()
def kernel():
    child = subprocess.Popen(sleep, stdout=subprocess.PIPE)
    child.stdout.readline()
    os.write(writer, b"%d" % child.pid)
    time.sleep(600)
leader = fork_child(kernel, log, keep={writer})
child = int(os.read(reader, 100))
secrets = {"key": 1}
nursery = Nursery(log, leader, "CIUIC_TEST=" + sys.argv[1], secrets.clear)
print(leader, child, marked.pid, nursery.pid, flush=True)
time.sleep(600)
"""


def test_when_its_owner_is_killed_it_kills_what_is_left_and_ends(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        family = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(family) == 4
        owner.kill()
        _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive


async def test_what_the_kernel_imported_is_there_before_the_save(nursery: Nursery, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    told = Does(f"open({str(seen)!r}, 'w').write(str('tabnanny' in __import__('sys').modules))")
    await nursery.verify(tmp_path, body(tmp_path, told=told), 60)
    assert seen.read_text() == "False"
    await nursery.prepare(["tabnanny", "no_such_module_anywhere"])
    await nursery.verify(tmp_path, body(tmp_path, told=told), 60)
    assert seen.read_text() == "True"


async def test_an_import_that_starts_a_thread_makes_it_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spinner.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = Nursery(tmp_path / "nursery.log", 0x7FFFFFF0, "CIUIC_TEST=none", lambda: None)
    await made.prepare(["spinner", "tabnanny"])
    seen = tmp_path / "seen"
    told = Does(f"open({str(seen)!r}, 'w').write(str('tabnanny' in __import__('sys').modules))")
    for _ in range(2):
        await made.verify(tmp_path, body(tmp_path, told=told), 60)
        assert seen.read_text() == "False", "it was not begun anew"
        await made.prepare(["tabnanny"])  # it does not try again
    assert len(os.listdir(f"/proc/{made.pid}/task")) == 1
    made.end()
    psutil.Process(made.pid).wait(timeout=10)
    await asyncio.sleep(0)
