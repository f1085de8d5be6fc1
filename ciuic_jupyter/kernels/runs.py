"""Runs, one at a time: what the kernel says becomes numbered events."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ciuic_jupyter.errors import KernelDied, ProtocolError, UsageError
from ciuic_jupyter.kernels.kernel_link import KernelLink, Message
from ciuic_jupyter.kernels.pause import FLOPS, HOLD, RESUME, TRACE
from ciuic_jupyter.kernels.repeats import Repeats

MERGE_SECONDS = 0.05
MERGE_CHARACTERS = 1 << 20
REPLY_GRACE = 2.0  # seconds to wait for `idle` behind the reply, or the other way round
INTERRUPT_GRACE = 0.5  # seconds to wait for the reply behind the `idle` of a run that was interrupted
_REMEMBERED = 10000

_OUTPUTS = frozenset(
    {
        *("stream", "display_data", "update_display_data", "execute_result", "clear_output", "error"),
        *("comm_open", "comm_msg", "comm_close"),
    }
)
_USER_WORK = frozenset({"execute_request", "comm_open", "comm_msg", "comm_close"})

Emit = Callable[[Mapping[str, Any], Sequence[bytes | memoryview]], None]


@dataclass
class Run:
    """One cell under way."""

    run: str
    code: str
    cell_id: str | None
    message: str = ""  # of its request, until the kernel is idle again
    request: str = ""  # the same, for good
    begun: float = field(default_factory=time.monotonic)
    started: bool = False
    count: int | None = None
    reply: dict[str, Any] | None = None
    timer: asyncio.TimerHandle | None = None
    interrupted: bool = False
    resumed: Mapping[str, Any] | None = None  # what the checkpoint it goes on from says of it
    repeats: Repeats | None = None


class StreamMerger:
    """Joins text of one stream: the first piece goes at once, what follows within 50 ms goes together."""

    def __init__(self, emit: Callable[[str | None, str, str], None]) -> None:
        self._emit = emit
        self._key: tuple[str | None, str] | None = None
        self._parts: list[str] = []
        self._size = 0
        self._sent = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def add(self, run: str | None, name: str, text: str) -> None:
        if self._parts and self._key != (run, name):
            self.flush()
        if self._key is None or self._key[0] != run:
            self._sent = float("-inf")
        self._key = (run, name)
        self._parts.append(text)
        self._size += len(text)
        loop = asyncio.get_running_loop()
        due = self._sent + MERGE_SECONDS
        if loop.time() >= due or self._size >= MERGE_CHARACTERS:
            self.flush()
        elif self._timer is None:
            self._timer = loop.call_at(due, self.flush)

    def flush(self) -> None:
        """Emit what waits; call it before any other event, so that order holds."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._parts or self._key is None:
            return
        text = "".join(self._parts)
        self._parts, self._size = [], 0
        self._sent = asyncio.get_running_loop().time()
        for start in range(0, len(text), MERGE_CHARACTERS):
            self._emit(*self._key, text[start : start + MERGE_CHARACTERS])


class Runs:
    """The run under way, and the events it makes through `emit(header, buffers)`."""

    def __init__(self, emit: Emit, kernel_pid: int) -> None:
        self._emit_event = emit
        self._kernel_pid = kernel_pid
        self._link: KernelLink | None = None
        self.current: Run | None = None
        self.last_run: str | None = None
        self.idle = asyncio.Event()
        self.idle.set()
        self.kernel_busy = False
        self.kernel_since = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._runs_of_messages: OrderedDict[str, str] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()
        self._input: Message | None = None
        self.suspended: dict[str, Any] | None = None  # a restored run that can go on
        self.saved: str | None = None  # the run that the newest checkpoint holds in its middle
        self.on_hold: Callable[[Mapping[str, Any]], None] = lambda content: None
        self.on_end: Callable[[], None] = lambda: None
        self._stream = StreamMerger(self._emit_stream)

    def attach(self, link: KernelLink) -> None:
        """Give the kernel that runs go to."""
        self._link = link

    def start(self, request: Mapping[str, Any]) -> None:
        """Send a cell to the kernel; the same run id again does nothing. UsageError while another run is on."""
        run = _text(request, "run")
        if run in self._known:
            return
        cell_id = request.get("cell_id")
        starting = Run(run, _text(request, "code"), str(cell_id) if cell_id is not None else None)
        metadata: dict[str, Any] = {"cellId": starting.cell_id} if starting.cell_id else {}
        asked = {TRACE: list(request.get("trace") or ()), FLOPS: bool(request.get("flops"))}
        self._send(starting, request, metadata | {name: value for name, value in asked.items() if value})

    def resume(self, run: str, shown: Sequence[Mapping[str, Any]]) -> None:
        """Go on with the run that was restored in its middle; what repeats the outputs `shown` is left out.

        The same run again does nothing. UsageError if no such run was restored, or another ran since.
        """
        if run in self._known:
            return
        about = self.suspended
        if about is None or about["run"] != run:
            raise UsageError(f"run {run} was not restored here, or another ran since; run its cell again")
        repeats = _repeats(shown)
        going_on = Run(run, str(about["code"]), about.get("cell_id"), resumed=about, repeats=repeats)
        metadata = {"cellId": going_on.cell_id} if going_on.cell_id else {}
        self._send(going_on, {}, {**metadata, RESUME: True})

    def drop(self, run: object) -> None:
        """Forget the restored run: its end was told, nobody goes on with it."""
        if self.suspended is not None and self.suspended["run"] == run:
            self.suspended = None

    def _send(self, starting: Run, request: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
        if self.current is not None:
            raise UsageError(f"busy: run {self.current.run} is under way; one cell runs at a time")
        if self._link is None:
            raise UsageError("busy: the kernel is not ready yet; wait for its ready event")
        content = {
            "code": starting.code,
            "silent": False,
            "store_history": bool(request.get("store_history", True)),
            "user_expressions": {},
            "allow_stdin": bool(request.get("allow_stdin", True)),
            "stop_on_error": False,  # nothing is queued behind it, and an abort would answer a save
        }
        replied = partial(self._replied, starting)
        starting.message = self._link.send("execute_request", content, metadata=metadata, on_reply=replied)
        starting.request = starting.message
        _remember(self._runs_of_messages, starting.message, starting.run)
        _remember(self._known, starting.run, None)
        self.current, self.suspended = starting, None
        self.idle.clear()

    def interrupt(self, run: str | None) -> bool:
        """Send SIGINT to the kernel if `run` (or any, for None) is under way; return whether it was."""
        if self.current is None or (run is not None and run != self.current.run):
            return False
        self.current.interrupted = True
        if self.current.started:  # a kernel that has not begun ignores the signal: it is sent when it begins
            self._send_interrupt()
        return True

    def _send_interrupt(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._kernel_pid, signal.SIGINT)

    def answer(self, run: str | None, value: str) -> None:
        """Answer the input() that waits; UsageError if none does."""
        asked, self._input = self._input, None
        if asked is None or self._link is None or (self.current and run not in (None, self.current.run)):
            raise UsageError(f"run {run} does not wait for input; nothing was sent")
        self._link.answer(asked, value)

    def comm(self, request: Mapping[str, Any], buffers: Sequence[memoryview]) -> None:
        """Pass a widget's message from the browser to the kernel."""
        kind, content = request.get("msg_type"), request.get("content")
        if kind not in ("comm_open", "comm_msg", "comm_close") or not isinstance(content, dict):
            raise UsageError(f"{kind!r} is no comm message with a content; nothing was sent")
        if self._link is None:
            raise UsageError("the kernel is not ready yet; wait for its ready event")
        self._link.send(kind, content, metadata=request.get("metadata"), buffers=[bytes(b) for b in buffers])

    def on_iopub(self, message: Message) -> None:
        """Take one iopub message of the kernel."""
        kind, content = message["msg_type"], message["content"]
        parent = message["parent_header"]
        own = self._runs_of_messages.get(str(parent.get("msg_id")))
        run = own or self.last_run  # a widget's callback or a thread without a cell writes to the newest cell
        if own is not None and kind in _OUTPUTS:
            self._ensure_started(own, None)
        if kind == "stream":
            text = self._new_text(run, str(content["name"]), str(content["text"]))
            if text:
                self._stream.add(run, str(content["name"]), text)
        elif kind == "status":
            self._status(str(parent.get("msg_id")), str(parent.get("msg_type")), str(content["execution_state"]))
        elif kind == "execute_input":
            self._ensure_started(own, content.get("execution_count"))
        elif kind in _OUTPUTS:
            output = {"msg_type": kind, "content": content, "metadata": message["metadata"]}
            if self._is_new(run, output):
                self._emit({"kind": "output", "run": run, **output}, message["buffers"])
        elif kind == HOLD:
            self._ensure_started(own, None)
            self._stream.flush()  # what was printed before it has its number
            self.on_hold(content)

    def _new_text(self, run: str | None, name: str, text: str) -> str:
        now = self.current
        if now is None or now.repeats is None or run != now.run:
            return text
        new = now.repeats.text(name, text)
        self._check_repeats(now)
        return new

    def _is_new(self, run: str | None, output: Mapping[str, Any]) -> bool:
        now = self.current
        if now is None or now.repeats is None or run != now.run:
            return True
        new = now.repeats.output(output)
        self._check_repeats(now)
        return new

    def _check_repeats(self, now: Run, *, ended: bool = False) -> None:
        if now.repeats is None:
            return
        if now.repeats.differs or (ended and now.repeats.left):
            text = "The resumed cell does not print again what it printed before: what is new is shown from here on."
            if not now.repeats.differs:
                text = "The resumed cell ended before it printed again all that it printed before."
            self._emit({"kind": "note", "run": now.run, "text": text, "level": "warning"})
        if now.repeats.differs or not now.repeats.left:
            now.repeats = None

    def on_stdin(self, message: Message) -> None:
        """Take an input_request of the kernel."""
        if message["msg_type"] == "input_request" and self.current is not None:
            self._input = message
            content = message["content"]
            asked = {"prompt": content.get("prompt", ""), "password": bool(content.get("password"))}
            self._emit({"kind": "input_request", "run": self.current.run, **asked})

    def _ensure_started(self, run: str | None, count: int | None) -> None:
        now = self.current
        if now is None or run != now.run or now.started:
            return
        now.started, self.last_run = True, run
        about = {"run": run, "code": now.code, "cell_id": now.cell_id}
        if now.resumed is None:
            now.count = count
            self._emit({"kind": "run_started", **about, "count": count})
        else:
            now.count, where = now.resumed.get("count"), now.resumed.get("where", "")
            self._emit({"kind": "run_resumed", **about, "count": now.count, "where": where})
        if now.interrupted:
            self._send_interrupt()

    def _status(self, message: str, kind: str, state: str) -> None:
        if kind in _USER_WORK and state in ("busy", "idle"):
            self.kernel_busy = state == "busy"
            self.kernel_since = time.clock_gettime(time.CLOCK_BOOTTIME)
        now = self.current
        if state == "idle" and now is not None and message == now.message:
            now.message = ""
            if now.reply is not None:
                self._end(now.reply)
            else:
                grace = INTERRUPT_GRACE if now.interrupted else REPLY_GRACE
                now.timer = asyncio.get_running_loop().call_later(grace, self._end_without_reply, now)

    def _replied(self, now: Run, message: Message) -> None:
        if self.current is not now:
            return
        if now.timer is not None:
            now.timer.cancel()
        now.reply = dict(message["content"])
        if not now.message:  # idle was seen before
            self._end(now.reply)
        else:
            now.timer = asyncio.get_running_loop().call_later(REPLY_GRACE, self._end_incomplete, now)

    def _end_incomplete(self, run: Run) -> None:
        if self.current is run and run.reply is not None:
            self._end({**run.reply, "incomplete": True})

    def _end_without_reply(self, run: Run) -> None:
        """An interrupt that hits ipykernel outside the cell's own code costs the reply."""
        if self.current is run:
            how = {"ename": "KeyboardInterrupt", "evalue": ""} if run.interrupted else {}
            self._end({"status": "error" if run.interrupted else "aborted", **how})

    def _end(self, reply: Mapping[str, Any]) -> None:
        now = self.current
        if now is None:
            return
        self._ensure_started(now.run, reply.get("execution_count"))
        if now.timer is not None:
            now.timer.cancel()
        self._check_repeats(now, ended=True)
        status = str(reply.get("status", "error"))
        ended: dict[str, Any] = {
            "kind": "run_ended",
            "run": now.run,
            "status": status if status in ("ok", "error", "died") else "aborted",
            "ename": reply.get("ename"),
            "evalue": reply.get("evalue"),
            "traceback": reply.get("traceback", []),
            "payload": reply.get("payload", []),
            "count": reply.get("execution_count", now.count),
            "seconds": round(time.monotonic() - now.begun, 6),
        }
        if reply.get("incomplete"):
            ended["incomplete"] = True
        if reply.get(FLOPS) is not None:
            ended["flops"] = reply[FLOPS]
        self._over(ended)

    def _over(self, ended: Mapping[str, Any] | None = None) -> None:
        self.current, self._input = None, None
        if ended is not None:
            self._emit(ended)
        self.idle.set()
        self.on_end()

    def died(self, reason: str) -> None:
        """The kernel ended: so does the run under way, but for one that goes on from the newest checkpoint."""
        if self.current is not None and self.current.run == self.saved:
            self._over()
        else:
            self._end({"status": "died", "ename": KernelDied.__name__, "evalue": reason})
        self._stream.flush()
        self._link = None
        self.kernel_busy = False

    def _emit_stream(self, run: str | None, name: str, text: str) -> None:
        content = {"name": name, "text": text}
        self._emit_event({"kind": "output", "run": run, "msg_type": "stream", "content": content, "metadata": {}}, ())

    def _emit(self, header: Mapping[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> None:
        self._stream.flush()
        try:
            self._emit_event(header, buffers)
        except ProtocolError as error:
            text = f"An output was left out: {error}"
            self._emit_event({"kind": "note", "run": header.get("run"), "text": text, "level": "warning"}, ())


def _text(request: Mapping[str, Any], name: str) -> str:
    value = request.get(name)
    if not isinstance(value, str):
        raise UsageError(f"a run needs {name} as text; nothing was started")
    return value


def _repeats(shown: Sequence[Mapping[str, Any]]) -> Repeats | None:
    try:
        return Repeats(shown) if shown else None
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"shown needs headers of output events ({error!r}); nothing was started") from error


def _remember(known: OrderedDict[str, Any], key: str, value: Any) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
