"""The agent's end of the plane's websocket: one connection, newest wins, resumed by sequence number."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ciuic_jupyter.errors import CiuicError, ProtocolError
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import DEAD_AFTER, HEARTBEAT, MAX_FRAME, Frame, decode, encode

_log = logging.getLogger(__name__)

_REPLIES_KEPT = 1000
_EVENTS_PER_TURN = 64
_FRAGMENT = 1 << 20  # bytes

Handler = Callable[[Frame], Awaitable[dict[str, Any]]]


class _Plane:
    """One connection: a sender that follows the log, and what goes beside the log (replies, beats, samples)."""

    def __init__(self, socket: ServerConnection, log: EventLog, after: int) -> None:
        self.socket = socket
        self.acked = after
        self._log = log
        self._sent = after
        self._beside: deque[bytes] = deque()
        self._latest: dict[str, bytes] = {}
        self._wake = asyncio.Event()
        self.sent_all = asyncio.Event()
        self.wake()

    def wake(self) -> None:
        self.sent_all.clear()
        self._wake.set()

    def push(self, frame: bytes) -> None:
        self._beside.append(frame)
        self.wake()

    def replace(self, kind: str, frame: bytes) -> None:
        """Send the newest of its kind: a slow plane skips the ones before."""
        self._latest[kind] = frame
        self.wake()

    async def send_for_ever(self) -> None:
        """Send whatever is new, in order; only this task waits when the plane is slow."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._beside or self._latest or self._sent < self._log.last_seq:
                while self._beside:
                    await self._send(self._beside.popleft())
                for kind in list(self._latest):
                    await self._send(self._latest.pop(kind))
                await self._send_events()
            if not self._wake.is_set():
                self.sent_all.set()

    async def _send(self, frame: bytes) -> None:
        if len(frame) <= _FRAGMENT:
            await self.socket.send(frame)
        else:  # in fragments, so that the other end sees a slow line live
            await self.socket.send([frame[start : start + _FRAGMENT] for start in range(0, len(frame), _FRAGMENT)])

    async def _send_events(self) -> None:
        for turn, (seq, frame) in enumerate(self._log.read(self._sent)):
            await self._send(frame)
            self._sent = seq
            if turn >= _EVENTS_PER_TURN:
                return


class PlaneSocket:
    """Serves the plane on a unix socket; `hello()` says what the agent knows, `handle(request)` does what is asked."""

    def __init__(self, token: str, log: EventLog, hello: Callable[[], dict[str, Any]], handle: Handler) -> None:
        self._token = f"Bearer {token}".encode()
        self._log = log
        self._hello = hello
        self._handle = handle
        self._plane: _Plane | None = None
        self._replies: OrderedDict[str, asyncio.Task[bytes]] = OrderedDict()
        self._server: Server | None = None
        self._closing: asyncio.Task[None] | None = None
        self.on_heard: Callable[[], None] = lambda: None
        self.on_blob: Callable[[str, ServerConnection], Awaitable[None]] | None = None

    @property
    def connected(self) -> bool:
        return self._plane is not None

    async def serve(self, path: Path) -> None:
        """Listen on `path` (mode 0600; a stale socket is replaced)."""
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - once, before anything is served
        before = os.umask(0o177)
        try:
            self._server = await unix_serve(
                self._connection,
                str(path),
                process_request=self._admit,
                compression=None,
                max_size=MAX_FRAME,
                max_queue=64,
                ping_interval=None,
                close_timeout=1,
            )
        finally:
            os.umask(before)

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        given = request.headers.get_all("Authorization")
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(errors="replace"), self._token):
            return connection.respond(HTTPStatus.UNAUTHORIZED, "not this machine's token\n")
        if request.path != "/" and not request.path.startswith("/blob/"):
            return connection.respond(HTTPStatus.NOT_FOUND, "an agent serves / and /blob/<id>\n")
        return None

    async def _connection(self, socket: ServerConnection) -> None:
        path = socket.request.path if socket.request is not None else "/"
        try:
            if path.startswith("/blob/") and self.on_blob is not None:
                await self.on_blob(path.removeprefix("/blob/"), socket)
            else:
                await self._serve_plane(socket)
        except ProtocolError as error:
            _log.warning("a connection is closed: %s", error)
            await socket.close(1002, str(error).encode()[:120].decode(errors="ignore"))
        except (ConnectionClosed, TimeoutError):
            await socket.close()

    async def _serve_plane(self, socket: ServerConnection) -> None:
        first = await self._receive(socket)
        after = first.header.get("after")
        if first.type != "hello" or type(after) is not int:
            raise ProtocolError("the first frame must be hello with after; connect again")
        if not self._log.first_seq - 1 <= after <= self._log.last_seq:
            raise ProtocolError(f"no event {after} here; this log has {self._log.first_seq} to {self._log.last_seq}")
        plane = _Plane(socket, self._log, after)
        replaced, self._plane = self._plane, plane
        if replaced is not None:  # beside us: a dead line answers no goodbye
            self._closing = asyncio.create_task(replaced.socket.close(1000, "a newer connection took over"))
        plane.push(encode({"type": "hello", **self._hello()}))
        tasks = [asyncio.create_task(plane.send_for_ever()), asyncio.create_task(self._beat(plane))]
        try:
            await self._read_for_ever(plane)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._plane is plane:
                self._plane = None
                _log.info("the plane is not heard any more")

    async def _receive(self, socket: ServerConnection) -> Frame:
        parts: list[bytes] = []
        fragments = socket.recv_streaming()
        while True:
            try:
                async with asyncio.timeout(DEAD_AFTER):
                    part = await anext(fragments)
            except StopAsyncIteration:
                return decode(parts[0] if len(parts) == 1 else b"".join(parts))
            if isinstance(part, str):
                raise ProtocolError("a text frame; frames are binary")
            parts.append(part)
            self.on_heard()

    async def _beat(self, plane: _Plane) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            plane.replace("beat", encode({"type": "beat"}))

    async def _read_for_ever(self, plane: _Plane) -> None:
        while True:
            frame = await self._receive(plane.socket)
            if frame.type == "request":
                self._take_request(frame)
            elif frame.type == "ack" and type(frame.header.get("seq")) is int:
                plane.acked = max(plane.acked, frame.header["seq"])
            elif frame.type not in ("beat", "ack", "hello"):
                raise ProtocolError(f"a frame of type {frame.type!r}; connect again with this agent's version")

    def _take_request(self, frame: Frame) -> None:
        request = frame.header.get("id")
        if not isinstance(request, str) or not request:
            raise ProtocolError("a request without an id")
        task = self._replies.get(request)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._reply(request, frame))
            self._replies[request] = task
            self._forget()
        task.add_done_callback(self._send_reply)

    def _forget(self) -> None:
        while len(self._replies) > _REPLIES_KEPT:
            oldest = next(iter(self._replies))
            if not self._replies[oldest].done():
                return
            del self._replies[oldest]

    def _send_reply(self, task: asyncio.Task[bytes]) -> None:
        if self._plane is not None and not task.cancelled():
            self._plane.push(task.result())

    async def _reply(self, request: str, frame: Frame) -> bytes:
        try:
            done = await self._handle(frame)
            return encode({**done, "type": "reply", "id": request, "ok": True})
        except CiuicError as error:
            failure = {"type": type(error).__name__, "message": str(error)}
        except Exception as error:  # noqa: BLE001 - a request that fails never ends the agent: the plane is told
            _log.exception("a request failed")
            failure = {"type": "CiuicError", "message": f"the agent failed at {frame.header.get('op')!r}: {error!r}"}
        return encode({"type": "reply", "id": request, "ok": False, "error": failure})

    def wake(self) -> None:
        """The log has something new."""
        if self._plane is not None:
            self._plane.wake()

    def tell(self, header: Mapping[str, Any]) -> None:
        """Send a frame beside the log if the plane is there: the newest of a type replaces one that waits."""
        if self._plane is not None:
            self._plane.replace(str(header["type"]), encode(header))

    async def close(self) -> None:
        """Send what waits, for at most a second, then close."""
        if self._server is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                if self._plane is not None:
                    await self._plane.sent_all.wait()
        self._server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._server.wait_closed()
