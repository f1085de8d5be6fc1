"""A warm parent: imports what is slow to import, runs none of it, and forks machines that start at once.

`python -m ciuic_jupyter.kernels.warm SOCKET MODULES [OWNER_PID]`; MODULES is a list with commas. The socket appears
when everything is imported. One JSON line in, one out: {"config": path} -> {"pid": n} or {"error": {type, message}};
on an error, or where there is no socket, start the agent cold.
"""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import CiuicError, ProviderError, UsageError
from ciuic_jupyter.kernels.processes import fork_child

_log = logging.getLogger(__name__)

# what an agent, its nursery and its kernel import before the first cell has run
_OURS = (
    "IPython",
    "IPython.core.completerlib",
    "IPython.core.tips",
    "IPython.extensions.storemagic",
    "ciuic_jupyter.checkpoint.namespace",
    "ciuic_jupyter.checkpoint.store",
    "ciuic_jupyter.checkpoint.verify",
    "ciuic_jupyter.kernels.agent",
    "ciuic_jupyter.kernels.agent_core",
    "ciuic_jupyter.kernels.kernel",
    "ciuic_jupyter.resume.engine",
    "ipykernel.debugger",
    "sqlite3",
    "tornado.platform.asyncio",
    "encodings.idna",
)
# read by a library or the loader when it is loaded: too late in a fork
_READ_AT_LOAD = (
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "NUMEXPR_",
    "LD_",
    "MALLOC_",
    "PYTHON",
    "TORCH",
    "PYTORCH",
)
_LINE = 64 << 10  # bytes of a request
_PATIENCE = 5.0  # seconds for a client to send its line


def load(modules: Sequence[str]) -> list[str]:
    """Import `modules` and what every machine needs; return those that could not be imported here."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else debugpy writes a warning about frozen modules
    missing = []
    for name in (*_OURS, *modules):
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a broken package raises anything; it is as good as missing
            missing.append(name)
            _log.info("%s is not preloaded: %s", name, error)
    gc.collect()
    gc.freeze()  # a collection in a child would touch, and so copy, every page
    if _tasks() > 1:
        # OpenBLAS starts threads when it is loaded and ends them before a fork, for good as long as nothing is computed
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
    return missing


def _tasks() -> int:
    return len(os.listdir("/proc/self/task"))


def check_forkable() -> None:
    """ProviderError if a fork of this process would not be a sound one: a second thread, or CUDA in use."""
    if threading.active_count() > 1 or _tasks() > 1:
        names = ", ".join(thread.name for thread in threading.enumerate() if thread is not threading.main_thread())
        raise ProviderError(
            f"the warm parent has {_tasks()} threads ({names or 'of a library'}), so it can't be forked: start cold; "
            "leave out of warm_modules what starts threads when imported"
        )
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        raise ProviderError("a module initialised CUDA in the warm parent, so it can't be forked: start cold")


def fork_agent(config_path: Path) -> int:
    """Fork an agent for the config at `config_path` and return its pid; ProviderError if it must be started cold."""
    check_forkable()
    if not config_path.is_file():
        raise UsageError(f"there is no config {config_path}; write it first")
    sys.stdout.flush()
    sys.stderr.flush()
    return fork_child(lambda: _become_agent(config_path), config_path.parent / "agent.log", tied=False)


def _become_agent(config_path: Path) -> None:
    # read here: the secrets in it must not lie in the memory that later kernels are forked from
    config = json.loads(config_path.read_text())
    env = config.get("env") or {}
    late = [name for name in env if name.startswith(_READ_AT_LOAD) and os.environ.get(name) != env[name]]
    if late:
        arguments = [sys.executable, "-m", "ciuic_jupyter.kernels.agent", str(config_path)]
        os.execve(sys.executable, arguments, {**os.environ, **env})
    agent = importlib.import_module("ciuic_jupyter.kernels.agent")
    sys.exit(agent.main(config))


class WarmParent:
    """The listening side; one request at a time, as a fork takes milliseconds."""

    def __init__(self, path: Path, owner: int) -> None:
        """Listen on `path` (0600, in a directory of mode 0700) as long as the process `owner` lives."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path = path
        self._owner = os.pidfd_open(owner)
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._listener = socket.socket(socket.AF_UNIX)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        before = os.umask(0o177)
        try:
            self._listener.bind(str(partial))
        finally:
            os.umask(before)
        self._listener.listen(16)
        partial.rename(path)  # a path in place is one that answers

    def serve(self) -> None:
        """Answer until the owner is gone; the agents forked so far live on."""
        poll = select.poll()
        for descriptor in (self._owner, self._listener.fileno()):
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._owner:
                    self._path.unlink(missing_ok=True)
                    return
                if descriptor in self._children:
                    poll.unregister(descriptor)
                    os.waitpid(self._children.pop(descriptor), 0)
                    os.close(descriptor)
                    continue
                pid = self._accept()
                if pid:
                    watched = os.pidfd_open(pid)
                    self._children[watched] = pid
                    poll.register(watched, select.POLLIN)

    def _accept(self) -> int | None:
        link, _ = self._listener.accept()
        with link:
            link.settimeout(_PATIENCE)
            pid = None
            try:
                answer: dict[str, Any] = {"pid": (pid := fork_agent(_request(link)))}
            except (CiuicError, OSError) as error:
                kind = type(error).__name__ if isinstance(error, CiuicError) else "ProviderError"
                answer = {"error": {"type": kind, "message": str(error)}}
            with suppress(OSError):  # it left; it will find the machine by its lock
                link.sendall(json.dumps(answer).encode() + b"\n")
            return pid


def _request(link: socket.socket) -> Path:
    data = b""
    while not data.endswith(b"\n"):
        chunk = link.recv(_LINE)
        data += chunk
        if not chunk or len(data) > _LINE:
            raise UsageError("the warm parent reads one line of JSON; send {'config': path}")
    try:
        return Path(json.loads(data)["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"the warm parent reads {{'config': path}}, not {data[:80]!r}") from error


def main(arguments: Sequence[str]) -> int:
    """Run a warm parent to its owner's end."""
    if len(arguments) not in (2, 3):
        sys.stderr.write("usage: python -m ciuic_jupyter.kernels.warm SOCKET MODULES [OWNER_PID]\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    owner = int(arguments[2]) if len(arguments) == 3 else os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load([name for name in arguments[1].split(",") if name])
    try:
        parent = WarmParent(Path(arguments[0]), owner)
    except ProcessLookupError:
        return 0
    parent.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
