"""The one line from this kernel to a session: its stream of events, read by one thread, however many cells follow."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from ciuic_jupyter.errors import CiuicError, PlaneUnavailable, UsageError
from ciuic_jupyter.kernels.outputs import Output
from ciuic_jupyter.kernels.replay import Channel, Shaper
from ciuic_jupyter.notebook.widgets_relay import WidgetRelay

FIRST_RETRY = 0.1  # seconds; doubles
LAST_RETRY = 5.0
REVIVE_AFTER = 2.0  # seconds without a plane after which a cell that waits starts one again
CELLS_KEPT = 16  # ended runs whose late outputs (threads of theirs) still find their cell

log = logging.getLogger(__name__)
shaper = Shaper()


class Follower(Protocol):
    """Who wants the events of one run; called from the line's thread."""

    run: str
    channel: Channel
    msg_id: str

    @property
    def over(self) -> bool:
        """Whether the run has ended."""

    @property
    def waits(self) -> bool:
        """Whether a cell is held up by it."""

    def event(self, header: Mapping[str, Any], output: Output | None) -> None:
        """Take the next event of the run."""

    def status(self, view: Mapping[str, Any]) -> None:
        """Take the session's newest state."""


class Line:
    """A stream that is opened again whenever it breaks, from the last event seen."""

    _open: ClassVar[dict[str, Line]] = {}  # by session, guarded by _guard
    _guard = threading.Lock()

    def __init__(self, client: Any, session: str, after: int) -> None:
        self.client = client
        self.session = session
        self.seen = after
        self.lock = threading.RLock()
        self.listening = threading.Event()
        self.broken_since: float | None = None
        self.view: Mapping[str, Any] | None = None
        self.relay = WidgetRelay(self._forward_comm)
        self.counts: dict[int, int] = {}  # remote execution count -> the local cell's
        self._followers: OrderedDict[str, list[Follower]] = OrderedDict()
        self._requests: queue.SimpleQueue[tuple[str, dict[str, Any], Sequence[bytes]] | None] = queue.SimpleQueue()
        self._stream: Any = None
        self._failed: CiuicError | None = None
        self.closed = False
        threading.Thread(target=self._read, name=f"ciuic-line-{session}", daemon=True).start()
        threading.Thread(target=self._ask, name=f"ciuic-ask-{session}", daemon=True).start()

    @classmethod
    def of(cls, client: Any, session: str, after: int) -> Line:
        """Return this process's line to a session, opened after event `after` if there was none."""
        with cls._guard:
            line = cls._open.get(session)
            if line is not None and line.client is not client and line.client.url != client.url:
                if line.broken_since is None:  # another plane altogether, with a session of the same name
                    line.close()
                line.client = client
            if line is None or line.closed:
                line = cls._open[session] = cls(client, session, after)
            elif after < line.seen or (line.view or {}).get("state") in {"closed", "failed"}:
                line._life_of(client.session(session))
            return line

    @classmethod
    def view_of(cls, session: str) -> Mapping[str, Any] | None:
        """Return the newest state an unbroken line brought, with the last event seen as `last_seq`; else None."""
        with cls._guard:
            line = cls._open.get(session)
        if line is None or line.closed or line.broken_since is not None or not line.listening.is_set():
            return None
        with line.lock:
            return None if line.view is None else {**line.view, "last_seq": line.seen}

    def _life_of(self, view: Mapping[str, Any]) -> None:
        """A session begun anew under its name has other events, perhaps counted from the start."""
        with self.lock:
            before, self.view = self.view, view
            if before is None or before.get("id") == view.get("id"):
                return
            if int(view.get("last_seq") or 0) < self.seen:
                self.seen = 0
            self._forget_over(0)
            self.counts.clear()
            self.relay.forget()
            stream = self._stream
        if stream is not None:
            stream.close()  # and the reader opens it again, now of the new life

    def wait_listening(self, seconds: float = 10.0) -> None:
        """Return when events flow; PlaneUnavailable (or what the plane answered) if they don't in time."""
        if not self.listening.wait(seconds) or self.closed:
            self.close()
            raise self._failed or PlaneUnavailable(
                f"the control plane did not open the stream of session {self.session} within {seconds:.0f} s; "
                "run the cell again, or look at `ciuic status`"
            )

    def add(self, follower: Follower) -> int:
        """Deliver the run's events from now on; return the last event seen before."""
        with self.lock:
            self._followers.setdefault(follower.run, []).append(follower)
            self._forget_over(CELLS_KEPT)
            return self.seen

    def _forget_over(self, keep: int) -> None:
        over = [run for run, listed in self._followers.items() if all(one.over for one in listed)]
        for run in over[: len(over) - keep]:
            del self._followers[run]

    def remove(self, follower: Follower) -> None:
        """Deliver no more to this one."""
        with self.lock:
            listed = self._followers.get(follower.run, [])
            if follower in listed:
                listed.remove(follower)
            if not listed:
                self._followers.pop(follower.run, None)

    def request(self, op: str, buffers: Sequence[bytes] = (), **fields: Any) -> None:
        """Send a request to the session, in order and without waiting for its answer."""
        self._requests.put((op, fields, buffers))

    def close(self) -> None:
        """Stop reading; the runs go on."""
        self.closed = True
        self.listening.set()
        self._requests.put(None)
        stream = self._stream
        if stream is not None:
            with contextlib.suppress(CiuicError, OSError):
                stream.close()

    def _forward_comm(self, kind: str, content: dict[str, Any], metadata: dict[str, Any], buffers: list[bytes]) -> None:
        self.request("comm", buffers, msg_type=kind, content=content, metadata=metadata)

    def _ask(self) -> None:
        while (item := self._requests.get()) is not None:
            op, fields, buffers = item
            wait = FIRST_RETRY
            while not self.closed:
                stream = self._stream
                try:
                    if stream is None:
                        raise PlaneUnavailable("the stream is being opened again; the request waits")
                    if op == "interrupt":  # the plane's own call takes a cell that still waits out of the queue
                        self.client.interrupt(self.session, fields["run"])
                    else:
                        stream.request(op, buffers=buffers, **fields)
                    break
                except PlaneUnavailable:
                    time.sleep(wait)
                    wait = min(2 * wait, LAST_RETRY)
                except CiuicError as error:
                    log.warning("session %s refused %s: %s", self.session, op, error)
                    break

    def _read(self) -> None:
        wait = FIRST_RETRY
        while not self.closed:
            try:
                with contextlib.closing(self.client.stream(self.session, after=self.seen)) as stream:
                    self._stream, self.broken_since, wait = stream, None, FIRST_RETRY
                    self.listening.set()
                    for frame in stream:
                        self._frame(frame.header, frame.buffers)
            except (CiuicError, OSError) as error:
                self._failed = error if isinstance(error, CiuicError) else PlaneUnavailable(str(error))
            self._stream = None
            self.broken_since = self.broken_since or time.monotonic()
            if isinstance(self._failed, UsageError):  # no such session: nothing will ever come
                self.close()
            elif not self.closed:
                time.sleep(wait)
                wait = min(2 * wait, LAST_RETRY)
                self._find_plane()

    def _find_plane(self) -> None:
        """A plane that was started again has a new address; a waiting cell starts one that is gone for good."""
        with contextlib.suppress(CiuicError, OSError):
            kind = type(self.client)
            found = kind.find()
            broken = time.monotonic() - (self.broken_since or 0.0)
            if found is None and broken > REVIVE_AFTER and self._waited_for():
                found = kind.ensure()
            if found is not None and found.url != self.client.url:
                self.client = found

    def _waited_for(self) -> bool:
        with self.lock:
            return any(one.waits for listed in self._followers.values() for one in listed)

    def _frame(self, header: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        with self.lock:
            if header.get("type") == "event":
                if header["seq"] <= self.seen:
                    return  # sent again after a reconnect
                self.seen = header["seq"]
                self._event(header, buffers)
            elif header.get("type") == "status":
                self._life_of(header["session"])
                for listed in list(self._followers.values()):
                    for follower in list(listed):
                        follower.status(header["session"])

    def _event(self, header: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        output = as_output(header, buffers)
        followers = list(self._followers.get(str(header.get("run")), ()))
        if output is not None and output.msg_type.startswith("comm_"):
            self.comm(output, followers)
            return
        if header.get("kind") == "kernel" and header.get("state") == "dead":
            self.relay.forget()
        if header.get("kind") == "kernel":
            followers = [one for listed in self._followers.values() for one in listed]
        for follower in followers:
            follower.event(header, output)

    def comm(self, output: Output, followers: Sequence[Follower]) -> None:
        """Relay a widget's message, once, into the cell whose run sent it, or the one that opened it."""
        msg_id = followers[0].msg_id if followers else ""
        cell = followers[0].channel.put if followers else self.relay.cell_of(output.comm_id)
        if cell is not None:
            self.relay.incoming(output, cell, msg_id)


def as_output(header: Mapping[str, Any], buffers: Sequence[memoryview]) -> Output | None:
    """Return the iopub message an event carries, or None for events of other kinds."""
    if header.get("kind") != "output":
        return None
    kept = [bytes(buffer) for buffer in buffers]
    return Output(str(header["msg_type"]), header.get("content") or {}, header.get("metadata") or {}, kept)
