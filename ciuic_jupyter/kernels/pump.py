"""Wait in an ipykernel's main thread and handle widget messages meanwhile, so that buttons work during a cell.

ipykernel queues everything behind a running cell (6.x), or hands comm messages to threads of its own in a way that
changed with each 7.x. While a magic waits, the main thread is ours: it reads the shell channel itself, handles comm
messages and the two requests a reloaded page needs, and gives everything else back in order when the wait ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

NOW = frozenset({"comm_open", "comm_msg", "comm_close", "comm_info_request", "kernel_info_request"})


class Waker:
    """A file descriptor that other threads and signals make readable."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._lock = threading.RLock()  # a signal handler may set it inside a `clear` of the same thread

    def fileno(self) -> int:
        return self._read

    def set(self) -> None:
        """Make it readable."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._write >= 0:
                os.write(self._write, b"w")

    def clear(self) -> None:
        """Make it unreadable."""
        with self._lock, contextlib.suppress(BlockingIOError):
            if self._read >= 0:
                os.read(self._read, 1 << 16)

    def close(self) -> None:
        """Release the descriptors; later calls do nothing."""
        with self._lock:
            ends, self._read, self._write = (self._read, self._write), -1, -1
            for end in ends:
                if end >= 0:
                    os.close(end)

    @contextlib.contextmanager
    def on_interrupt(self, call: Callable[[], None]) -> Iterator[None]:
        """Call back on Ctrl-C instead of raising KeyboardInterrupt; does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handler(_number: int, _frame: FrameType | None) -> None:
            call()

        # A signal that another thread got, or that came just before the wait began, would not end the wait: Python
        # writes a byte here at once, whoever got it.
        before_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        before = signal.signal(signal.SIGINT, handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            signal.set_wakeup_fd(before_fd)


class PlainPump:
    """The same waiting for a shell that is no kernel: nothing to handle meanwhile."""

    def __init__(self, waker: Waker) -> None:
        self._waker = waker

    def __enter__(self) -> PlainPump:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self, seconds: float) -> None:
        """Return when the waker was set, at the latest after `seconds`."""
        select.select([self._waker], [], [], seconds)
        self._waker.clear()


class ShellPump:
    """Waiting with dispatch, for ipykernel 6.29 to 7.x; use as a context manager around all waits of one cell."""

    def __init__(self, kernel: Any, waker: Waker) -> None:
        import zmq  # noqa: PLC0415  (plain terminals need none)

        self._zmq: Any = zmq
        self._kernel = kernel
        self._waker = waker
        self._stream = _shell_stream(kernel)
        self._held: list[Any] = []
        self._parent = kernel.get_parent("shell")
        self._ident = kernel._parent_ident["shell"]  # noqa: SLF001  (no public way to the requester's identity)
        self._poller = self._zmq.Poller()
        self._poller.register(self._stream.socket, self._zmq.POLLIN)
        self._poller.register(waker.fileno(), self._zmq.POLLIN)
        self._stdin: Callable[[str], None] | None = None

    def __enter__(self) -> ShellPump:
        # 6.x: messages that the kernel has already moved from its socket into its own queue come first.
        queue = getattr(self._kernel, "msg_queue", None)
        while queue is not None and queue.qsize():
            _index, dispatch, arguments = queue.get_nowait()
            if dispatch == self._kernel.dispatch_shell and len(arguments) == 1:
                self._take(arguments[0])
            else:
                self._held.append((dispatch, arguments))
        return self

    def __exit__(self, *_: object) -> None:
        stream = self._stream
        for held in self._held:
            if isinstance(held, tuple):
                self._kernel.schedule_dispatch(held[0], *held[1])
            else:  # exactly what the stream does with a message it has read: order and abort rules stay the kernel's
                stream._run_callback(stream._recv_callback, held)  # noqa: SLF001
        self._held = []
        # The socket was read behind the stream's back and its descriptor is edge-triggered: make the loop look again.
        stream.io_loop.add_callback(lambda: stream.closed() or stream.flush(self._zmq.POLLIN, 1))

    def wait(self, seconds: float) -> None:
        """Handle messages until the waker is set, at the latest for about `seconds`."""
        ready = dict(self._poller.poll(max(0, round(seconds * 1000))))
        if self._waker.fileno() in ready:
            self._waker.clear()
        if self._stream.socket in ready:
            self._read_shell()
        if self._kernel.stdin_socket in ready:
            self._read_stdin()

    def _read_shell(self) -> None:
        while True:
            try:
                message = self._stream.socket.recv_multipart(self._zmq.NOBLOCK, copy=False)
            except self._zmq.Again:
                return
            self._take(message)

    def _take(self, message: list[Any]) -> None:
        if self._type_of(message) in NOW:
            self._dispatch(message)
        else:
            self._held.append(message)

    def _type_of(self, message: list[Any]) -> str:
        """Read only the header: a full read would mark the message as seen and its second one as a replay."""
        session = self._kernel.session
        try:
            _idents, frames = session.feed_identities(message, copy=False)
            return str(session.unpack(frames[1].bytes)["msg_type"])
        except (ValueError, KeyError, IndexError, TypeError):
            return ""  # not a request (ipykernel's own "stop aborting" mark): the kernel knows what to do with it

    def _dispatch(self, message: list[Any]) -> None:
        kernel = self._kernel
        outer_handler = getattr(kernel, "saved_sigint_handler", None)  # the nested call overwrites the cell's own
        work = kernel.dispatch_shell(message)
        try:
            work.send(None)
        except StopIteration:
            pass
        else:
            work.close()
            kernel.log.warning(
                "a widget message's handler waits for the event loop, which a running cell holds; dropped"
            )
        finally:
            if outer_handler is not None:
                kernel.saved_sigint_handler = outer_handler
            kernel.set_parent(self._ident, self._parent)
        # Lab shows the kernel as idle after the message's own idle.
        kernel.session.send(
            kernel.iopub_socket, "status", {"execution_state": "busy"}, parent=self._parent, ident=b"status"
        )

    def ask(self, prompt: str, password: bool, answer: Callable[[str], None]) -> None:
        """Ask the front end for a line; `answer` is called from a later `wait`. EOF comes as chr(4)."""
        kernel = self._kernel
        socket = kernel.stdin_socket
        with contextlib.suppress(self._zmq.Again):
            while True:  # stale replies of an interrupted question
                socket.recv_multipart(self._zmq.NOBLOCK)
        self._stdin = answer
        self._poller.register(socket, self._zmq.POLLIN)
        content = {"prompt": prompt, "password": password}
        kernel.session.send(socket, "input_request", content, self._parent, ident=self._ident)

    @property
    def can_ask(self) -> bool:
        """Whether the front end answers questions."""
        return bool(self._kernel._allow_stdin)  # noqa: SLF001  (no public way)

    def unask(self) -> None:
        """Wait for no answer any more."""
        if self._stdin is not None:
            self._stdin = None
            self._poller.unregister(self._kernel.stdin_socket)

    def _read_stdin(self) -> None:
        _ident, reply = self._kernel.session.recv(self._kernel.stdin_socket)
        answer = self._stdin
        if reply is not None and answer is not None:
            self.unask()
            answer(str(reply["content"].get("value", "")))


def _shell_stream(kernel: Any) -> Any:
    """Return the ZMQStream through which this ipykernel's main thread gets its requests."""
    thread = getattr(kernel, "shell_channel_thread", None)
    if thread is None:
        return kernel.shell_stream
    return thread.manager._shell_channel_to_main.to_stream  # noqa: SLF001  (the main end of 7.x's shell thread)
