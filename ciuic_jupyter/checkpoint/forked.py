"""A forked child that writes memory as it was at the fork, while its parent goes on and changes it.

The child may touch bytes and files, nothing else: an operation of torch in it waits for threads that were not forked,
and so does any lock of Python's that another thread held. A child that is silent or dies costs a new save, never more.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import random
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ciuic_jupyter import errors
from ciuic_jupyter.errors import CiuicError

SILENCE = 120  # seconds without a sign of life, a slow disk's last fsync included; then the child is given up
_DESCRIPTORS = 1 << 20  # more than a process may have
_LOOK = 1.0  # seconds between looks whether a child that can't be heard is there at all

Beat = Callable[[], None]

_dropped: list[int] = []  # children nobody waited for


class ChildLost(Exception):
    """The child died or fell silent; what it wrote has no name."""


class Child:
    """Runs `work` in a forked child; made in the thread whose memory must be as it is now."""

    def __init__(self, work: Callable[[Beat], dict[str, Any]]) -> None:
        """Fork. `work` gets a function to call now and then as a sign of life; what it returns must be JSON.

        OSError if the system has no room for another process.
        """
        _reap_dropped()
        self._answer = _nameless_file()
        self._beats, theirs = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(theirs, False)
        try:
            with _quiet():
                self.pid = os.fork()
                if self.pid == 0:
                    _run(work, self._answer, theirs)
        except OSError:
            os.close(self._answer)
            os.close(self._beats)
            raise
        finally:
            os.close(theirs)
        self._status: int | None = None

    def ended(self) -> bool:
        """Tell whether the child has ended."""
        if self._status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # code of the user's waited for any child
                pid, status = self.pid, 0
            if pid:
                self._status = status
        return self._status is not None

    def wait(self, silence: float) -> dict[str, Any]:
        """Return what `work` returned. ChildLost if the child dies or says nothing for `silence` seconds.

        CiuicError is what `work` raised of that tree.
        """
        heard = time.monotonic()
        poll = select.poll()
        poll.register(self._beats, select.POLLIN)
        while not self.ended():
            if not poll.poll(_LOOK * 1000):
                if time.monotonic() - heard > silence:
                    self.kill()
                    raise ChildLost(f"the process that wrote it said nothing for {silence:g} seconds and was ended")
            elif os.read(self._beats, 1 << 16):
                heard = time.monotonic()
            else:  # the end of the pipe comes just before the end of the process
                time.sleep(0.0005)
        return self._result()

    def _result(self) -> dict[str, Any]:
        said = os.pread(self._answer, os.fstat(self._answer).st_size, 0)
        if not said.endswith(b"\n"):
            raise ChildLost(f"the process that wrote it {_death(self._status or 0)}")
        answer = dict(json.loads(said))
        if "lost" in answer:
            raise ChildLost(f"the process that wrote it failed: {answer['lost']}")
        if "error" in answer:
            raise getattr(errors, answer["error"], CiuicError)(answer["message"])
        return answer

    def kill(self) -> None:
        """End the child at once."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                self._status = os.waitpid(self.pid, 0)[1]

    def __del__(self) -> None:
        if getattr(self, "pid", 0):
            if not self.ended():
                _dropped.append(self.pid)
            os.close(self._answer)
            os.close(self._beats)


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):  # a Python that was built for an old system lacks it
        return os.memfd_create("ciuic answer", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _reap_dropped() -> None:
    for pid in list(_dropped):
        with suppress(ChildProcessError):
            if not os.waitpid(pid, os.WNOHANG)[0]:
                continue
        _dropped.remove(pid)


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"left with exit code {os.WEXITSTATUS(status)}"


# around the fork, in the parent


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold signals back, which would run the user's handlers in both, and keep hooks from moving random generators.

    Python and some libraries warn of a fork beside threads. The filters are swapped, not changed: a change would have
    every warning that was shown once shown again.
    """
    before, filters = _generators(), warnings.filters
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    warnings.filters = [("ignore", None, Warning, None, 0)]
    try:
        yield
    finally:
        warnings.filters = filters
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for (name, state), (_, now) in zip(before.items(), _generators().items(), strict=True):
            if state != now:
                _SETTERS[name](pickle.loads(state))


def _generators() -> dict[str, bytes]:
    """Return the states of the generators that libraries keep for everybody."""
    found = {"random": pickle.dumps(random.getstate())}
    drawing: Any = sys.modules.get("numpy.random")
    torch: Any = sys.modules.get("torch")
    if hasattr(drawing, "get_state"):
        found["numpy"] = pickle.dumps(drawing.get_state(legacy=False))
    if hasattr(torch, "get_rng_state"):
        found["torch"] = pickle.dumps(torch.get_rng_state().numpy())
    return found


def _set_numpy(state: Any) -> None:
    sys.modules["numpy.random"].set_state(state)


def _set_torch(state: Any) -> None:
    torch = sys.modules["torch"]
    torch.set_rng_state(torch.from_numpy(state))


_SETTERS: dict[str, Callable[[Any], None]] = {"random": random.setstate, "numpy": _set_numpy, "torch": _set_torch}


# in the child


def _run(work: Callable[[Beat], dict[str, Any]], answer: int, beats: int) -> NoReturn:
    code = 1
    try:
        _stand_alone({answer, beats})
        said = _said(work, lambda: _beat(beats))
        for start in range(0, len(said), 1 << 20):
            os.write(answer, said[start : start + (1 << 20)])
        code = 0
    finally:  # nothing of the parent's that is above this frame may run twice
        os._exit(code)


def _said(work: Callable[[Beat], dict[str, Any]], beat: Beat) -> bytes:
    try:
        said = work(beat)
    except CiuicError as error:
        said = {"error": type(error).__name__, "message": str(error)}
    except BaseException as error:  # noqa: BLE001 - the parent tells it and saves by itself
        said = {"lost": f"{type(error).__name__}: {error}"}
    return json.dumps(said).encode() + b"\n"


def _beat(beats: int) -> None:
    signal.alarm(SILENCE)  # ends this process by itself: its parent may be gone
    with suppress(BlockingIOError):  # nobody listens yet
        os.write(beats, b".")


def _stand_alone(keep: Collection[int]) -> None:
    """Let go of all that is the parent's: signals, tracing, descriptors; be the first that an empty memory ends."""
    gc.disable()
    sys.settrace(None)
    sys.setprofile(None)
    threading.settrace(None)
    threading.setprofile(None)
    signal.set_wakeup_fd(-1)
    for each in signal.valid_signals():
        if callable(signal.getsignal(each)):
            signal.signal(each, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SILENCE)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    low = 3
    for number in (*sorted(number for number in keep if number > 2), _DESCRIPTORS):
        os.closerange(low, number)
        low = number + 1
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
