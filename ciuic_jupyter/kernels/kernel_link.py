"""The agent's side of a kernel's five sockets: messages in order, none dropped, no polling."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zmq
from jupyter_client.session import Session
from zmq.constants import (
    EVENTS,
    FD,
    LINGER,
    NOBLOCK,
    POLLIN,
    RCVHWM,
    RECONNECT_IVL,
    ROUTING_ID,
    SNDHWM,
    SUBSCRIBE,
    SocketType,
)

from ciuic_jupyter.errors import KernelDied, by_name

_log = logging.getLogger(__name__)

_BATCH = 200  # messages handled before the event loop gets its turn
_SUBSCRIBE_RETRY = 0.05  # seconds to wait for iopub's echo of a request before the next one

Message = dict[str, Any]


class _Channel:
    """One ZeroMQ socket read from asyncio by its file descriptor: every message in one wake-up, no task a message."""

    def __init__(self, socket: Any, session: Session, handle: Callable[[Message], None]) -> None:
        self._socket = socket
        self._session = session
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(socket.getsockopt(FD), self.drain)
        self._loop.call_soon(self.drain)

    def send(self, kind: str, content: Mapping[str, Any], **more: Any) -> str:
        message = self._session.send(self._socket, kind, dict(content), **more)
        self._loop.call_soon(self.drain)  # the descriptor is edge-triggered: a send can swallow its edge
        return str(message["header"]["msg_id"])

    def drain(self) -> int:
        """Handle what has arrived; return how many messages that was."""
        count = 0
        while not self._socket.closed and self._socket.getsockopt(EVENTS) & POLLIN:
            if count == _BATCH:
                self._loop.call_soon(self.drain)
                break
            count += 1
            try:
                _, rest = self._session.feed_identities(self._socket.recv_multipart(NOBLOCK))
                self._handle(self._session.deserialize(rest))
            except (ValueError, TypeError, KeyError):  # unsigned or torn: user code can reach the kernel's sockets
                _log.warning("a message of the kernel can't be read and is left out", exc_info=True)
        return count

    def close(self) -> None:
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.getsockopt(FD))
            self._socket.close(linger=0)


class KernelLink:
    """A client of one kernel. `on_iopub` and `on_stdin` get every message of their channel, in order."""

    def __init__(
        self, info: Mapping[str, Any], on_iopub: Callable[[Message], None], on_stdin: Callable[[Message], None]
    ) -> None:
        self._session = Session(key=str(info["key"]).encode(), check_pid=False)
        self._context = zmq.Context(io_threads=1)  # type: ignore[attr-defined]  # its stub leaves the name out
        self._replies: dict[str, Callable[[Message], None]] = {}
        self._echo: tuple[str, asyncio.Event] | None = None
        self._on_iopub = on_iopub
        self._dead: str | None = None
        self._waiting: set[asyncio.Future[Message]] = set()
        self._shell = self._channel(info, "shell", SocketType.DEALER, self._shell_message)
        self._control = self._channel(info, "control", SocketType.DEALER, self._shell_message)
        self._stdin = self._channel(info, "stdin", SocketType.DEALER, on_stdin)
        self._iopub = self._channel(info, "iopub", SocketType.SUB, self._iopub_message)

    def _channel(self, info: Mapping[str, Any], name: str, kind: int, handle: Callable[[Message], None]) -> _Channel:
        socket = self._context.socket(kind)
        for option in (RCVHWM, SNDHWM, LINGER):
            socket.setsockopt(option, 0)
        socket.setsockopt(RECONNECT_IVL, 5)  # ms; the kernel binds its files while we wait
        if kind == SocketType.SUB:
            socket.setsockopt(SUBSCRIBE, b"")
        else:
            socket.setsockopt(ROUTING_ID, self._session.bsession)  # a kernel asks for input where requests came from
        socket.connect(f"ipc://{info['ip']}-{info[name + '_port']}")
        return _Channel(socket, self._session, handle)

    def _shell_message(self, message: Message) -> None:
        handle = self._replies.pop(str(message["parent_header"].get("msg_id")), None)
        if handle is not None:
            handle(message)

    def _iopub_message(self, message: Message) -> None:
        if self._echo is not None and message["parent_header"].get("msg_id") == self._echo[0]:
            self._echo[1].set()
            return
        self._on_iopub(message)

    def send(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes | memoryview] = (),
        on_reply: Callable[[Message], None] | None = None,
    ) -> str:
        """Send one message on the shell channel and return its id; `on_reply` gets the answer.

        KernelDied after the kernel's death.
        """
        if self._dead is not None:
            raise KernelDied(self._dead)
        sent = self._shell.send(kind, content, metadata=dict(metadata or {}), buffers=list(buffers) or None)
        if on_reply is not None:
            self._replies[sent] = on_reply
        return sent

    def answer(self, request: Message, value: str) -> None:
        """Answer a kernel's input_request."""
        self._stdin.send("input_reply", {"value": value}, parent=request)

    async def ready(self) -> dict[str, Any]:
        """Wait until the kernel answers and its iopub reaches us; return its kernel_info. KernelDied if it ends."""
        while True:
            echo = asyncio.Event()
            answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
            self._echo = (self.send("kernel_info_request", {}, on_reply=_resolver(answer)), echo)
            info = await self._unless_dead(answer)
            try:
                async with asyncio.timeout(_SUBSCRIBE_RETRY):
                    await echo.wait()
                return dict(info["content"])
            except TimeoutError:  # published before our subscription reached it: ask again
                continue
            finally:
                self._echo = None

    async def request(self, op: str, **content: Any) -> dict[str, Any]:
        """Have the kernel's main thread do `op` after what it was sent before; return its reply's content.

        KernelDied if it ends; what the kernel raised if it can't.
        """
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.send("ciuic_request", {"op": op, **content}, on_reply=_resolver(answer))
        reply = dict((await self._unless_dead(answer))["content"])
        if reply.get("status") != "ok":
            raise _error_of(reply, op)
        return reply

    def control(self, kind: str, content: Mapping[str, Any]) -> None:
        """Send one message past the cell under way; KernelDied after the kernel's death."""
        if self._dead is not None:
            raise KernelDied(self._dead)
        self._control.send(kind, content)

    async def request_control(self, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Do so and return the reply's content. KernelDied if the kernel ends; what it raised if it can't."""
        if self._dead is not None:
            raise KernelDied(self._dead)
        answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._replies[self._control.send(kind, content)] = _resolver(answer)
        reply = dict((await self._unless_dead(answer))["content"])
        if reply.get("status") != "ok":
            raise _error_of(reply, str(content.get("op", kind)))
        return reply

    async def _unless_dead(self, answer: asyncio.Future[Message]) -> Message:
        self._waiting.add(answer)
        try:
            return await answer
        finally:
            self._waiting.discard(answer)

    async def drained(self, quiet: float = 0.05, limit: float = 2.0) -> None:
        """After the kernel's death: wait until what it had sent is handled (`quiet` seconds of silence)."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + limit
        last = loop.time()
        while loop.time() - last < quiet and loop.time() < ends:
            if self._iopub.drain() + self._shell.drain():
                last = loop.time()
            await asyncio.sleep(0.005)

    def died(self, reason: str) -> None:
        """Fail everything that waits for the kernel, and whatever is sent from now on, with `reason`."""
        self._dead = reason
        self._replies.clear()
        for answer in list(self._waiting):
            if not answer.done():
                answer.set_exception(KernelDied(reason))

    def close(self) -> None:
        """Close the sockets; nothing is sent any more."""
        for channel in (self._shell, self._control, self._stdin, self._iopub):
            channel.close()
        self._context.term()


def _resolver(future: asyncio.Future[Message]) -> Callable[[Message], None]:
    def resolve(message: Message) -> None:
        if not future.done():
            future.set_result(message)

    return resolve


def _error_of(reply: Mapping[str, Any], op: str) -> Exception:
    return by_name(str(reply.get("type")))(str(reply.get("message", f"the kernel refused to {op}")))
