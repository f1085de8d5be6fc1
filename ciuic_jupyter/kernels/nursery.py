"""A child forked before any thread exists: from it, each save is test-loaded in a fresh process."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from ciuic_jupyter.errors import CheckpointDamaged, SaveFailed
from ciuic_jupyter.kernels.processes import die_with_parent, fork_child, kill_leftovers

_LENGTH = struct.Struct(">Q")


def _pack(value: Mapping[str, Any]) -> bytes:
    data = json.dumps(value).encode()
    return _LENGTH.pack(len(data)) + data


def _read_exactly(link: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        chunk = link.recv(min(size - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


def _serve(link: socket.socket, kernel: int, marker: bytes, *, prepare: bool = True) -> None:
    """The nursery's loop: one request, one fresh process, one answer; when the agent is gone, kill what it left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        head = _read_exactly(link, _LENGTH.size)
        body = _read_exactly(link, _LENGTH.unpack(head)[0]) if head else None
        if body is None:
            break
        request = json.loads(body)
        if "import" in request:
            imported = _import_all(request["import"]) if prepare else 0
            link.sendall(_pack({"ok": True, "report": {"imported": imported}}))
            if len(os.listdir("/proc/self/task")) > 1:
                _begin_anew(link, kernel, marker)
        else:
            link.sendall(_pack(_verify_in_child(request, link)))
    kill_leftovers(kernel, marker)


def _import_all(modules: list[str]) -> int:
    """Import what the kernel has imported, so that the next fresh process need not; return how many were new."""
    before = len(sys.modules)
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"  # numpy and scipy start a thread for each further core at import; loading needs none
    with suppress(OSError):
        os.nice(5)  # the kernel goes first
    for name in modules:
        if name not in sys.modules:
            with suppress(BaseException):  # a module may do anything; the fresh process will meet it again, and tell
                importlib.import_module(name)
    return len(sys.modules) - before


def _begin_anew(link: socket.socket, kernel: int, marker: bytes) -> NoReturn:
    """Become a nursery that has imported nothing: an import started a thread, and a fork would freeze its locks."""
    os.set_inheritable(link.fileno(), True)
    arguments = [str(link.fileno()), str(kernel), marker.decode()]
    os.execv(sys.executable, [sys.executable, "-m", "ciuic_jupyter.kernels.nursery", *arguments])


def _verify_in_child(request: dict[str, Any], link: socket.socket) -> dict[str, Any]:
    reader, writer = os.pipe()
    nursery = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        link.close()
        _child(request, writer, nursery)
    os.close(writer)
    with suppress(OSError):  # both sides do it: whoever comes first, the group is there when it must be killed
        os.setpgid(pid, pid)
    ends = time.monotonic() + request["seconds"]
    data = bytearray()
    chunk: bytes | None = b"-"
    while chunk and not data.endswith(b"\n"):  # a process that user code forked may hold the pipe open
        chunk = _read_until(reader, ends)
        data += chunk or b""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if chunk is None:
        return {"ok": False, "error": f"loading it in a fresh process took longer than {request['seconds']:g} seconds"}
    if data.endswith(b"\n"):
        return dict(json.loads(data))
    return {"ok": False, "error": f"the fresh process that loads it {_death(status)}"}


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"left with exit code {os.WEXITSTATUS(status)}"


def _read_until(reader: int, ends: float) -> bytes | None:
    """Return the next bytes, b"" at the end of the pipe, None when the time is over."""
    left = ends - time.monotonic()
    if left <= 0 or not select.select([reader], [], [], left)[0]:
        return None
    return os.read(reader, 1 << 20)


def _child(request: dict[str, Any], writer: int, nursery: int) -> None:
    code = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(nursery)
        with suppress(OSError):  # under memory pressure this process goes first, the user's kernel last
            Path("/proc/self/oom_score_adj").write_text("1000")
        answer = _verify(request)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(json.dumps(answer).encode() + b"\n")
        code = 0
    except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing above may run twice
        traceback.print_exc()
    finally:
        os._exit(code)


def _verify(request: dict[str, Any]) -> dict[str, Any]:
    from ciuic_jupyter.checkpoint.verify import verify  # noqa: PLC0415 - loaded in the fresh process alone

    try:
        report = verify(Path(request["root"]), request["body"])
    except CheckpointDamaged as error:
        return {"ok": False, "error": str(error), "damaged": True}
    except Exception as error:  # noqa: BLE001 - anything a user's object raises while loading is the answer
        traceback.print_exc()
        return {"ok": False, "error": f"{type(error).__name__}: {error}"}
    return {"ok": True, "report": asdict(report)}


class Nursery:
    """The agent's side: made (and forked) first, used from asyncio afterwards."""

    def __init__(self, log: Path, kernel: int, marker: str, forget: Callable[[], None]) -> None:
        """Fork the nursery, which calls `forget` first.

        `kernel` (pid) and `marker` (NAME=value in an environment) say what it kills when it outlives the agent.
        """
        ours, theirs = socket.socketpair()
        self._socket = ours

        def serve() -> None:
            forget()
            _serve(theirs, kernel, marker.encode())

        self.pid = fork_child(serve, log, keep={theirs.fileno()}, tied=False)
        theirs.close()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def prepare(self, modules: Sequence[str]) -> None:
        """Have it import what the kernel has imported: fresh processes are forked from it afterwards."""
        await self._ask({"import": list(modules)})

    async def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        async with self._turn:
            if self._streams is None:
                self._streams = await asyncio.open_connection(sock=self._socket)
            reader, writer = self._streams
            try:
                writer.write(_pack(request))
                await writer.drain()
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                return dict(json.loads(await reader.readexactly(length)))
            except (asyncio.IncompleteReadError, OSError) as error:
                raise SaveFailed("the process that test-loads checkpoints is gone; nothing can be verified") from error

    async def verify(self, root: Path, body: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """Load the checkpoint `body` from `root` in a fresh process and return its report.

        CheckpointDamaged when bytes on disk are not what was saved: captured anew they are written anew. SaveFailed
        when that process fails, is killed or takes longer than `seconds`.
        """
        answer = await self._ask({"root": str(root), "body": body, "seconds": seconds})
        if answer.get("damaged"):
            raise CheckpointDamaged(answer["error"])
        if not answer["ok"]:
            raise SaveFailed(f"the save could not be loaded back: {answer['error']}; the kernel lives on")
        return dict(answer["report"])

    def end(self) -> None:
        """End the nursery at once; it has nothing to clear away when the agent leaves in order."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        if self._streams is not None:
            self._streams[1].close()
        self._socket.close()


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3].encode(), prepare=False)
