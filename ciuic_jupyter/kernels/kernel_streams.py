"""Standard streams of a kernel whose flush costs next to nothing, in unchanged order and without loss."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Any

import zmq
from ipykernel.iostream import IOPubThread, OutStream
from zmq.eventloop.zmqstream import ZMQStream

CHILDREN = 6  # number of the socket behind the kernel's own five
EVERY = 0.05  # seconds between two messages of one stream, as long as only flushes ask for them


class PrivateIOPub(IOPubThread):  # type: ignore[misc]  # ipykernel has no types
    """An IOPubThread that hears what forked children print through a unix socket beside its own.

    ipykernel's listens on a TCP port of loopback, where every user of the machine can connect.
    """

    def _setup_pipe_in(self) -> None:
        own = self.socket.last_endpoint.decode()
        if not own.startswith("ipc://"):
            super()._setup_pipe_in()
            return
        self._endpoint = f"{own.rpartition('-')[0]}-{CHILDREN}"
        self._pipe_uuid = os.urandom(16)
        pipe_in = self.socket.context.socket(zmq.PULL)  # type: ignore[attr-defined]
        pipe_in.linger = 0
        pipe_in.bind(self._endpoint)
        self._pipe_in = ZMQStream(pipe_in, self.io_loop)
        self._pipe_in.on_recv(self._handle_pipe_msg)

    def _setup_pipe_out(self) -> tuple[Any, Any]:
        if not hasattr(self, "_endpoint"):
            return tuple(super()._setup_pipe_out())
        context = zmq.Context()  # type: ignore[attr-defined]  # its stub leaves the name out; a child needs its own
        pipe_out = context.socket(zmq.PUSH)  # type: ignore[attr-defined]
        pipe_out.linger = 3000  # as ipykernel's
        pipe_out.connect(self._endpoint)
        return context, pipe_out


class SoftStream(OutStream):  # type: ignore[misc]  # ipykernel has no types
    """An OutStream that flushes at once, or within `EVERY` seconds when it did so just before.

    `print(..., flush=True)` in a loop costs ipykernel one message and two thread switches a line. What waits is sent
    before any other message of the kernel (see `order_iopub`), before a fork, and at a cell's end.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sent_at = 0.0
        self._waits = False
        _streams.add(self)

    def flush(self) -> None:
        """Send what was written: now, or soon if the last flush was less than `EVERY` seconds ago."""
        if not self._soft():
            super().flush()
            return
        if self._waits:
            return
        _send_waiting(self.pub_thread, besides=self)
        left = self._sent_at + EVERY - time.monotonic()
        if left <= 0:
            self.drain()
            return
        self._waits = True
        self.pub_thread.schedule(lambda: self._io_loop.call_later(left, self._on_time))

    def drain(self) -> None:
        """Send what was written and return when it is on its way; what was flushed on another stream goes first."""
        _send_waiting(self.pub_thread, besides=self)
        self._sent_at = time.monotonic()
        super().flush()  # until its turn comes it still waits, so that another stream's timer lets it go first

    def send_waiting(self) -> None:
        """Queue what waits for its turn before anything this thread sends from now on."""
        with _turn:
            if self._waits:
                self._waits = False
                self._flush()

    def _flush(self) -> None:
        """Send what was written, as ipykernel's own timer does, too: what another stream flushed before goes first."""
        with _turn:
            _send_waiting(self.pub_thread, besides=self)
            self._waits = False
            super()._flush()

    def _on_time(self) -> None:
        with _turn:
            if self._waits:
                self._waits = False
                self._sent_at = time.monotonic()
                self._flush()

    def _soft(self) -> bool:
        thread = getattr(self.pub_thread, "thread", None)
        return (
            thread is not None
            and os.getpid() == self._master_pid
            and thread.is_alive()
            and thread is not threading.current_thread()
        )


_streams: weakref.WeakSet[SoftStream] = weakref.WeakSet()
# text leaves a buffer and joins the queue in one step; one lock for all, as one stream's message may cause another's
_turn = threading.RLock()


def _send_waiting(thread: Any, besides: SoftStream | None = None) -> None:
    for stream in list(_streams):
        if stream.pub_thread is thread and stream is not besides:
            stream.send_waiting()


def order_iopub(thread: Any) -> None:
    """Keep the order of output: on this IOPubThread a display or a status overtakes no flushed line."""
    send = thread.send_multipart

    def send_multipart(*args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not thread.thread:
            _send_waiting(thread)
        return send(*args, **kwargs)

    thread.send_multipart = send_multipart


def _before_fork() -> None:
    for stream in list(_streams):
        if stream._waits and stream._soft():  # noqa: SLF001 - this module's own class
            stream.drain()  # a forked child would send its copy again
    _turn.acquire()  # or the child could inherit it held by a thread it has not


os.register_at_fork(before=_before_fork, after_in_parent=_turn.release, after_in_child=_turn.release)
