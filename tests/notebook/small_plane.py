"""A small stand-in for the control plane: one session, one real remote ipykernel, one numbered log, real websockets.

It speaks the stream protocol only; tests use it where they need to cut lines, script events or count frames.
Run as `python small_plane.py DIRECTORY`; it writes DIRECTORY/url when it listens. `Client` is the other end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import PlaneUnavailable
from ciuic_jupyter.kernels.protocol import Frame, decode, encode


class Stream:
    """One websocket to the small plane, blocking."""

    def __init__(self, url: str, after: int) -> None:
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        self._errors = (OSError, WebSocketException, TimeoutError)
        try:
            self._socket = connect(f"{url}/stream?after={after}", max_size=None, compression=None)
        except self._errors as error:
            raise PlaneUnavailable(str(error)) from error

    def __iter__(self) -> Iterator[Frame]:
        try:
            for data in self._socket:
                yield decode(data)
        except self._errors as error:
            raise PlaneUnavailable(str(error)) from error

    def request(self, op: str, *, buffers: Any = (), **fields: Any) -> None:
        try:
            self._socket.send(encode({"type": "request", "id": uuid.uuid4().hex, "op": op, **fields}, buffers))
        except self._errors as error:
            raise PlaneUnavailable(str(error)) from error

    def close(self) -> None:
        self._socket.close()


class Client:
    """The calls `follow` makes of the plane's client."""

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)

    @property
    def url(self) -> str:
        return (self._directory / "url").read_text()

    @classmethod
    def find(cls) -> None:
        """A small plane is found by its directory alone."""

    @classmethod
    def ensure(cls) -> None:
        """Nor is one ever started again."""

    def stream(self, name: str, after: int = 0) -> Stream:
        return Stream(self.url, after)

    def ask(self, op: str, **fields: Any) -> Any:
        """Send a request on a connection of its own and return the reply's result."""
        from websockets.sync.client import connect

        with connect(f"{self.url}/ask", max_size=None) as socket:
            socket.send(encode({"type": "request", "op": op, **fields}))
            return decode(socket.recv()).header["result"]

    def interrupt(self, name: str, run: str) -> None:
        self.ask("interrupt", run=run)

    def runs(self, name: str) -> Any:
        return self.ask("runs")

    def session(self, name: str) -> Any:
        return self.ask("session")

    def run(self, run: str, code: str, **fields: Any) -> Any:
        return self.ask("run", run=run, code=code, **fields)


class Plane:
    """The server: log, remote kernel, connections."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.runs: list[dict[str, Any]] = []
        self.grown = asyncio.Condition()
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.streams: set[Any] = set()
        self.current: dict[str, Any] | None = None
        self.refuse_until = 0.0

    async def event(self, kind: str, buffers: Any = (), **fields: Any) -> None:
        header = {"type": "event", "seq": len(self.log) + 1, "at": time.time(), "kind": kind, **fields}
        self.log.append(encode(header, buffers))
        async with self.grown:
            self.grown.notify_all()

    async def start(self) -> None:
        import zmq
        from jupyter_client.manager import AsyncKernelManager

        self.manager = AsyncKernelManager(kernel_name="python3")
        await self.manager.start_kernel()
        self.kernel = self.manager.client()
        self.kernel.start_channels()
        self.kernel.iopub_channel.socket.setsockopt(zmq.RCVHWM, 0)
        await self.kernel.wait_for_ready()
        quiet = "import sys\nk = get_ipython().kernel\nk.iopub_thread.socket.sndhwm = 0\ndel k"
        self.kernel.execute(quiet, silent=True, store_history=False)
        self.tasks = [asyncio.create_task(work()) for work in (self.pump_iopub, self.pump_stdin, self.work)]

    async def pump_iopub(self) -> None:
        while True:
            message = await self.kernel.get_iopub_msg()
            kind, content = message["msg_type"], message["content"]
            run = self.runs[-1] if self.runs else {"run": None}
            if kind == "status" and content["execution_state"] == "idle":
                if self.current and message["parent_header"].get("msg_id") == self.current["msg_id"]:
                    self.current["idle"].set()
            elif kind == "execute_input":
                if self.current and message["parent_header"].get("msg_id") == self.current["msg_id"]:
                    fields = {"run": run["run"], "code": content["code"], "cell_id": None}
                    await self.event("run_started", count=content["execution_count"], **fields)
            elif kind not in {"status", "shutdown_reply"}:
                fields = {"run": run["run"], "msg_type": kind, "content": content, "metadata": message["metadata"]}
                await self.event("output", [bytes(b) for b in message.get("buffers") or ()], **fields)

    async def pump_stdin(self) -> None:
        while True:
            message = await self.kernel.get_stdin_msg()
            await self.event("input_request", run=self.runs[-1]["run"], **message["content"])

    async def work(self) -> None:
        while True:
            job = await self.queue.get()
            run = {
                "run": job["run"],
                "first_seq": len(self.log) + 1,
                "last_seq": None,
                "ended": None,
                "status": "running",
            }
            self.runs.append(run)
            started = time.time()
            msg_id = self.kernel.execute(job["code"], allow_stdin=job.get("allow_stdin", True))
            self.current = {"msg_id": msg_id, "idle": asyncio.Event()}
            reply = await self.reply(msg_id)
            if reply["status"] != "died":
                await self.current["idle"].wait()
            run |= {"status": reply["status"], "ended": time.time()}
            kept = {key: reply[key] for key in ("status", "ename", "evalue", "traceback", "payload") if key in reply}
            count = reply.get("execution_count")
            await self.event("run_ended", run=run["run"], count=count, seconds=time.time() - started, **kept)
            run["last_seq"] = len(self.log)

    async def reply(self, msg_id: str) -> Any:
        from queue import Empty

        while True:
            try:
                message = await self.kernel.get_shell_msg(timeout=0.2)
            except Empty:
                if not await self.manager.is_alive():
                    return {"status": "died"}
                continue
            if message["parent_header"].get("msg_id") == msg_id:
                return message["content"]

    def view(self) -> dict[str, Any]:
        running = self.runs[-1]["run"] if self.runs and not self.runs[-1]["ended"] else None
        return {"name": "s", "state": "running", "run": running, "last_seq": len(self.log), "message": ""}

    async def request(self, header: dict[str, Any], buffers: Any) -> Any:
        op = header["op"]
        if op == "cut":
            self.refuse_until = time.time() + header["seconds"]
            for stream in list(self.streams):
                stream.transport.abort()
        elif op == "kill":
            await self.manager.signal_kernel(9)
        elif op == "emit":
            for event in header["events"]:
                await self.event(**event)
        elif op in {"runs", "session"}:
            return self.runs if op == "runs" else self.view()
        else:
            await self.session_request(op, header, buffers)
        return None

    async def session_request(self, op: str, header: dict[str, Any], buffers: Any) -> None:
        if op == "run":
            await self.queue.put(header)
        elif op == "interrupt":
            await self.manager.interrupt_kernel()
        elif op == "input":
            self.kernel.input(header["value"])
        elif op == "comm":
            message = self.kernel.session.msg(header["msg_type"], header["content"], metadata=header["metadata"])
            self.kernel.session.send(self.kernel.shell_channel.socket, message, buffers=[bytes(b) for b in buffers])

    async def serve(self, socket: Any) -> None:
        if socket.request.path.startswith("/ask"):
            frame = decode(await socket.recv())
            result = await self.request(frame.header, frame.buffers)
            await socket.send(encode({"type": "reply", "result": result}))
            return
        if time.time() < self.refuse_until:
            return
        after = int(socket.request.path.rpartition("=")[2])
        self.streams.add(socket)
        requests = asyncio.create_task(self.take_requests(socket))
        try:
            while True:
                while after < len(self.log):
                    await socket.send(self.log[after])
                    after += 1
                await socket.send(encode({"type": "status", "session": self.view()}))
                async with self.grown:
                    while after >= len(self.log):
                        await self.grown.wait()
        finally:
            self.streams.discard(socket)
            requests.cancel()

    async def take_requests(self, socket: Any) -> None:
        async for data in socket:
            frame = decode(data)
            await self.request(frame.header, frame.buffers)


async def main(directory: Path) -> None:
    from websockets.asyncio.server import serve

    plane = Plane()
    await plane.start()
    async with serve(plane.serve, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        (directory / "url.new").write_text(f"ws://127.0.0.1:{port}")
        (directory / "url.new").rename(directory / "url")
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, sys.stdin.read)  # until the test's end closes it
        await plane.manager.shutdown_kernel(now=True)
        os._exit(0)  # open connections are the tests' to lose


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
