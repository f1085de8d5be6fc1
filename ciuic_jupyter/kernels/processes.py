"""Processes of a machine: forked before any thread exists, tied to their parent, killed to the last descendant."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_subreaper() -> None:
    """Make orphaned descendants ours, so that a double fork hides nothing from `kill_tree`."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(parent: int) -> None:
    """Have the system SIGKILL this process when `parent` ends, and end now if it already did."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def fork_child(target: Callable[[], None], log: Path, keep: Collection[int] = (), *, tied: bool = True) -> int:
    """Fork a child that runs `target` and exits; return its pid.

    The child leads its own session, holds no descriptor but 0-2 (`log`) and `keep`, has default signals, and with
    `tied` dies with this process. Call it while this process has one thread.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    _run_child(target, log, keep, parent if tied else None)


def _run_child(target: Callable[[], None], log: Path, keep: Collection[int], parent: int | None) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if parent is not None:
            die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        _own_descriptors(log, keep)
        target()
        code = 0
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing above may run twice
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _own_descriptors(log: Path, keep: Collection[int]) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor > 2 and descriptor not in keep:
            with suppress(OSError):
                os.close(descriptor)
    # whatever the parent's streams were, these write to the log
    sys.stdout = os.fdopen(1, "w", buffering=1, errors="backslashreplace", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)


def descendants(spared: Collection[int] = ()) -> list[psutil.Process]:
    """Return every live process under this one, but for the trees of `spared`."""
    me = psutil.Process()
    with suppress(psutil.NoSuchProcess):
        children = {child.pid: child for child in me.children(recursive=True)}
        for pid in spared:
            if pid in children:
                for below in [children[pid], *children[pid].children(recursive=True)]:
                    children.pop(below.pid, None)
        return [child for child in children.values() if _alive(child)]
    return []


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


async def kill_tree(grace: float, spared: Collection[int] = (), *, limit: float = 10.0) -> list[int]:
    """End every descendant: SIGTERM, `grace` seconds, then SIGKILL until none is left.

    Return the pids that were still there after `limit` more seconds (a process in an uninterruptible call).
    """
    started = time.monotonic()
    _signal_all(descendants(spared), signal.SIGTERM)
    while time.monotonic() - started < grace and descendants(spared):  # noqa: ASYNC110 - no event tells a tree is gone
        await asyncio.sleep(0.02)
    killing = time.monotonic()
    while left := descendants(spared):
        if time.monotonic() - killing > limit:
            return [process.pid for process in left]
        _signal_all(left, signal.SIGKILL)
        await asyncio.sleep(0.01)
    return []


def kill_leftovers(session: int, marker: bytes, *, limit: float = 5.0) -> None:
    """SIGKILL what outlived its agent: members of the kernel's unix `session`, and whatever was started with `marker`
    (NAME=value) in its environment."""
    ends = time.monotonic() + limit
    while (found := _leftovers(session, marker)) and time.monotonic() < ends:
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _leftovers(session: int, marker: bytes) -> list[int]:
    found = []
    for pid in psutil.pids():
        with suppress(OSError, psutil.Error):
            ours = os.getsid(pid) == session or marker in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if ours and pid != os.getpid() and _alive(psutil.Process(pid)):
                found.append(pid)
    return found
