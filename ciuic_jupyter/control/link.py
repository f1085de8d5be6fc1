"""The plane's end of the line to one agent: events mirrored by number, requests that survive a cut, heartbeats."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket as sockets
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from ciuic_jupyter.errors import AgentUnavailable, CiuicError, ProtocolError, by_name
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import BLOB_CHUNK, DEAD_AFTER, HEARTBEAT, MAX_FRAME, Frame, decode, encode
from ciuic_jupyter.providers.base import Endpoint

_log = logging.getLogger(__name__)

_FIRST_RETRY, _LAST_RETRY = 0.02, 1.0  # seconds; doubles
_ACK_EVERY = 256  # events
_BLOB_PIECE = 1 << 20
_CREDENTIALS = struct.Struct("3i")  # of the other end: pid, user, group

Header = dict[str, Any]


class Listener(Protocol):
    """Who is told what comes over the line; every method returns at once."""

    def line_changed(self, up: bool) -> None:
        """The line is up or down."""

    def hello(self, header: Header) -> None:
        """The agent said what it knows, after each connect."""

    def event(self, header: Header, seq: int, frame: bytes) -> None:
        """A numbered event was mirrored; each comes once, in order."""

    def sample(self, header: Header) -> None:
        """Usage of the machine."""

    def progress(self, header: Header) -> None:
        """A step of a save."""


class AgentLink:
    """Keeps one line open until it is closed; `connect` says where the agent listens now."""

    def __init__(
        self, connect: Callable[[], Awaitable[Endpoint]], token: str, mirror: EventLog, listener: Listener
    ) -> None:
        self._connect = connect
        self._token = token
        self._mirror = mirror
        self._listener = listener
        self._socket: ClientConnection | None = None
        self._waiting: dict[str, tuple[bytes, asyncio.Future[Header]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.down_since: float | None = None

    @property
    def up(self) -> bool:
        """Tell whether the agent is heard now."""
        return self._socket is not None

    def start(self) -> None:
        """Begin to connect, and go on for ever."""
        self.down_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Close the line; requests that wait fail with AgentUnavailable."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for _, future in self._waiting.values():
            if not future.done():
                future.set_exception(AgentUnavailable("the machine was let go before it answered; start it again"))
        self._waiting.clear()

    async def request(self, op: str, *, buffers: Sequence[bytes | memoryview] = (), **fields: Any) -> Header:
        """Ask the agent and return its reply; asked again after each cut, under the same id, so done once."""
        if self._closed:
            raise AgentUnavailable("the machine was let go; start it again")
        request = uuid.uuid4().hex
        frame = encode({"type": "request", "id": request, "op": op, **fields}, buffers)
        future: asyncio.Future[Header] = asyncio.get_running_loop().create_future()
        self._waiting[request] = (frame, future)
        try:
            if self._socket is not None:
                with suppress(ConnectionClosed):  # sent again when the line is back
                    await self._socket.send(frame)
            return await future
        finally:
            self._waiting.pop(request, None)

    async def _keep(self) -> None:
        wait = _FIRST_RETRY
        while True:
            try:
                async with self._open("/") as socket:
                    wait = _FIRST_RETRY
                    await self._serve(socket)
            except (OSError, WebSocketException, TimeoutError, CiuicError) as error:
                _log.info("no line to the agent: %s: %s", type(error).__name__, error)
            finally:
                self._lost()
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LAST_RETRY)

    def _lost(self) -> None:
        if self._socket is not None:
            self._socket = None
            self.down_since = asyncio.get_running_loop().time()
            self._listener.line_changed(False)

    @asynccontextmanager
    async def _open(self, path: str) -> AsyncIterator[ClientConnection]:
        endpoint = await self._connect()
        async with unix_connect(
            sock=await _line_to(endpoint.path),
            uri=f"ws://agent{path}",
            additional_headers={"Authorization": f"Bearer {self._token}"},
            compression=None,
            max_size=MAX_FRAME,
            max_queue=64,
            open_timeout=DEAD_AFTER,
            ping_interval=None,
            close_timeout=1,
        ) as socket:
            yield socket

    async def _serve(self, socket: ClientConnection) -> None:
        await socket.send(encode({"type": "hello", "after": self._mirror.last_seq}))
        first = await self._receive(socket)
        if first.type != "hello":
            raise ProtocolError(f"the agent began with {first.type!r}, not hello")
        self._socket, self.down_since = socket, None
        for frame, _ in list(self._waiting.values()):
            await socket.send(frame)
        self._listener.line_changed(True)
        with _understood(first):
            self._listener.hello(first.header)
        beat = asyncio.create_task(self._beat(socket))
        try:
            await self._read(socket)
        finally:
            beat.cancel()
            await asyncio.gather(beat, return_exceptions=True)

    async def _beat(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            await socket.send(encode({"type": "beat"}))

    async def _receive(self, socket: ClientConnection) -> Frame:
        return decode(await _message(socket))

    async def _read(self, socket: ClientConnection) -> None:
        acked = self._mirror.last_seq
        while True:
            data = await _message(socket)
            frame = decode(data)
            if frame.type == "event":
                seq = frame.header.get("seq")
                if type(seq) is not int:
                    raise ProtocolError(f"an event with the number {str(seq)[:40]!r} from the agent")
                if self._mirror.append_frame(seq, data):
                    with _understood(frame):
                        self._listener.event(frame.header, seq, data)
                if seq - acked >= _ACK_EVERY:
                    acked = seq
                    await socket.send(encode({"type": "ack", "seq": seq}))
            else:
                with _understood(frame):
                    self._other(frame)

    def _other(self, frame: Frame) -> None:
        if frame.type == "reply":
            _, future = self._waiting.get(str(frame.header.get("id")), (b"", None))
            if future is not None and not future.done():
                _settle(future, frame.header)
        elif frame.type == "sample":
            self._listener.sample(frame.header)
        elif frame.type == "progress":
            self._listener.progress(frame.header)
        elif frame.type != "beat":
            raise ProtocolError(f"a frame of type {frame.type!r} from the agent; it is of another version")

    async def upload(self, blob: str, pieces: AsyncIterator[bytes]) -> int:
        """Send a blob of raw bytes to the agent; return its size."""
        size = 0
        async with self._open(f"/blob/{blob}") as socket:
            async for piece in _joined(pieces):
                size += len(piece)
                await socket.send(piece)
            await socket.send("end")
            said = int(json.loads(await socket.recv())["size"])
        if said != size:
            raise AgentUnavailable(f"{said} of {size} bytes arrived at the machine; send them again")
        return size

    async def download(self, blob: str) -> AsyncIterator[bytes]:
        """Yield a blob the agent holds for us."""
        async with self._open(f"/blob/{blob}") as socket:
            async for data in socket:
                if isinstance(data, str):
                    return
                yield data


async def _line_to(path: Path) -> sockets.socket:
    """Connect to the agent's socket; ProtocolError, and no token said, if another user's process listens there."""
    line = sockets.socket(sockets.AF_UNIX)
    try:
        line.setblocking(False)
        async with asyncio.timeout(DEAD_AFTER):
            await asyncio.get_running_loop().sock_connect(line, str(path))
        _, user, _ = _CREDENTIALS.unpack(line.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size))
        if user != os.getuid():
            raise ProtocolError(f"user {user}, not you, listens at {path}; remove what is there")
    except BaseException:
        line.close()
        raise
    return line


@contextmanager
def _understood(frame: Frame) -> Iterator[None]:
    """Break the line over a frame that lacks what it must say; a new line begins with a hello."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _log.warning("a frame of type %r from the agent is not understood", frame.type, exc_info=True)
        raise ProtocolError(f"a frame of type {frame.type!r} from the agent is not understood: {error!r}") from error


async def _message(socket: ClientConnection) -> bytes:
    """Return the next message; TimeoutError if the line is silent, however long a big message takes."""
    parts: list[bytes] = []
    pieces = socket.recv_streaming(decode=False)
    while True:
        try:
            async with asyncio.timeout(DEAD_AFTER):
                parts.append(await anext(pieces))
        except StopAsyncIteration:
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _settle(future: asyncio.Future[Header], header: Header) -> None:
    if header.get("ok"):
        future.set_result(header)
    else:
        said = header.get("error") or {}
        future.set_exception(by_name(str(said.get("type")))(str(said.get("message"))))


async def _joined(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Join what arrives into frames of about 1 MiB: fewer frames cost less than the copy."""
    parts: list[bytes] = []
    size = 0
    async for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size >= _BLOB_PIECE:
            for start in range(0, size, BLOB_CHUNK):
                yield (parts[0] if len(parts) == 1 else b"".join(parts))[start : start + BLOB_CHUNK]
            parts, size = [], 0
    if parts:
        yield b"".join(parts)
