"""What a freshly forked process does to become a session's kernel: own everything, share nothing, then serve."""

from __future__ import annotations

import atexit
import logging
import os
import random
import signal
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn

from ciuic_jupyter.kernels.processes import die_with_parent

STARTED_IN = os.getcwd()  # `python -m` put it in front of sys.path; a notebook's kernel has its own folder there
_OTHERS = ("JPY_PARENT_PID", "JPY_INTERRUPT_EVENT", "JPY_SESSION_NAME", "CIUIC_TOKEN")
_INLINE = "module://matplotlib_inline.backend_inline"


def main(
    connection: Mapping[str, Any], cwd: str | None, env: Mapping[str, str], *, parent: int | None = None
) -> NoReturn:
    """Serve as an ipykernel on `connection` (transport, ip, five ports, key) until told to shut down; never returns.

    Call it in a child just forked from a process with one thread. `env` is laid over the inherited environment;
    `parent` is the pid of the process that forked, with which this one dies (default: whoever is the parent now).
    """
    code = 1
    try:
        become_own(parent)
        settle(cwd, env)
        reseed()
        code = _serve(connection)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing above may run twice
        traceback.print_exc(file=sys.__stderr__)
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()  # type: ignore[union-attr]
        os._exit(code)


def become_own(parent: int | None) -> None:
    """Part from the parent: die with it, lead an own session, default signals, no descriptor but 0-2, no exit hooks."""
    die_with_parent(os.getppid() if parent is None else parent)
    with suppress(PermissionError):  # it leads a session already
        os.setsid()
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}:
        with suppress(OSError, ValueError):  # the two that the C library keeps for itself
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    _own_descriptors()
    logging.getLogger().handlers.clear()  # the parent's log is not where users' warnings belong
    logging.getLogger().setLevel(logging.WARNING)
    # the parent's hooks would remove the parent's files when this process ends
    atexit._clear()  # noqa: SLF001 - there is no public way to leave them out


def _own_descriptors() -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the listing's own
                os.close(int(name))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(null, number)
    if null > 2:
        os.close(null)
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, f"__{name}__") is None:  # the parent ran without one
            setattr(sys, f"__{name}__", os.fdopen(number, "w", buffering=1, closefd=False))
        setattr(sys, name, getattr(sys, f"__{name}__"))


def settle(cwd: str | None, env: Mapping[str, str]) -> None:
    """Enter `cwd` and take over `env`; a folder that is missing here is said in the log and home taken instead."""
    for name in _OTHERS:  # those of a notebook's kernel further up, or secrets of the plane
        os.environ.pop(name, None)
    if os.environ.get("MPLBACKEND") == _INLINE:  # it too; ipykernel sets it anew
        del os.environ["MPLBACKEND"]
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else debugpy warns about frozen modules in the log
    os.environ.update(env)
    if not sys.flags.safe_path and sys.path and sys.path[0] in ("", STARTED_IN):
        del sys.path[0]
    sys.argv = [""]
    if cwd is not None:
        try:
            os.chdir(cwd)
        except OSError as error:
            home = os.path.expanduser("~")
            print(f"can't enter {cwd} ({error}); the kernel starts in {home}", file=sys.__stderr__)
            os.chdir(home)


def reseed() -> None:
    """Give this process random streams of its own.

    A fork copies the generators' states: two kernels forked from one warm parent would draw the same numbers. Python
    re-seeds `random` in a child by itself, numpy and torch do not; torch seeds its generator of the CPU when it is
    imported, from the system's entropy, and those of GPUs with a constant when CUDA starts, which is after the fork.
    """
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


def _serve(connection: Mapping[str, Any]) -> int:
    from ciuic_jupyter.checkpoint import process  # noqa: PLC0415 - an agent forks before it loads what it needs
    from ciuic_jupyter.kernels.kernel import KernelApp  # noqa: PLC0415 - ipykernel is loaded in the kernel alone

    KernelApp.clear_instance()
    app = KernelApp.instance(connection=dict(connection), parent_handle=0)
    app.initialize([])
    process.remember_start()  # what the user changes from here on is saved
    app.start()
    atexit._run_exitfuncs()  # noqa: SLF001 - os._exit follows, which runs none; IPython's and the user's belong here
    return 0
