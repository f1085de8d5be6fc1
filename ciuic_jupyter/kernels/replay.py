"""Show a remote run's outputs in a local cell, never faster than the user's own jupyter_server lets through."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from ciuic_jupyter.kernels.outputs import Output, compact, merges, stream

WINDOW = 3.2  # seconds; jupyter_server counts over 3 s
WINDOW_BYTES = 2_500_000  # of stream text, the only kind it counts; its limit is 1 MB/s
WINDOW_MESSAGES = 2_400  # its limit is 1000/s
GAP = 0.04  # seconds between two events of text; the first goes at once
CHUNK = 400_000  # bytes of one stream message at most
LEAST = 4096  # bytes; no text is cut smaller than this
FOLD_AT = 512  # waiting messages from which on the list is folded


class Budget:
    """What may still be sent in the current window; shared by all cells of a kernel, as the limit is."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, int]] = deque()
        self._bytes = 0

    def room(self, now: float) -> int:
        """Return how many bytes of text may go now; 0 if nothing may."""
        while self._sent and self._sent[0][0] <= now - WINDOW:
            self._bytes -= self._sent.popleft()[1]
        left = WINDOW_BYTES - self._bytes
        return left if len(self._sent) < WINDOW_MESSAGES and left >= LEAST else 0

    def spend(self, now: float, size: int) -> None:
        self._sent.append((now, size))
        self._bytes += size

    def next_room(self, now: float) -> float:
        """Return when the oldest message leaves the window."""
        return self._sent[0][0] + WINDOW if self._sent else now


def _wire_size(output: Output) -> int:
    return len(json.dumps(output.content["text"], ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _split(output: Output, limit: int) -> tuple[Output, Output | None]:
    """Cut a stream message so that its first part has at most `limit` bytes, at a line's end if possible."""
    limit = min(limit, CHUNK)
    text = output.content["text"]
    if len(text) * 6 <= limit or _wire_size(output) <= limit:
        return output, None
    at = max(1, limit // 6) if not text.isascii() or "\x1b" in text else max(1, limit // 2)
    line = text.rfind("\n", 0, at) + 1
    at = line or at
    name = output.content["name"]
    return stream(name, text[:at]), stream(name, text[at:])


class Channel:
    """The outputs of one run on their way into one cell, in order; `put` may be called from any thread."""

    def __init__(self, shaper: Shaper, send: Callable[[Output], None]) -> None:
        self._shaper = shaper
        self._send = send
        self._waiting: deque[Output] = deque()
        self._characters = 0  # of text that waits
        self._fold_at = (FOLD_AT, WINDOW_BYTES)  # messages, characters of text
        self._last_text = -GAP
        self._line_start = True
        self._on_empty: list[Callable[[], None]] = []

    def put(self, output: Output) -> None:
        """Show `output` now, or as soon as the limits allow."""
        with self._shaper.changed:
            self._waiting.append(output)
            if output.msg_type == "stream":
                self._characters += len(output.content["text"])
            if self.flush(self._shaper.clock()) is not None:
                self._shaper.wake(self)

    @property
    def waiting(self) -> bool:
        """Whether something is still to be shown."""
        return bool(self._waiting)

    def when_empty(self, call: Callable[[], None]) -> None:
        """Call back once, from any thread, as soon as nothing waits."""
        with self._shaper.changed:
            if self._waiting:
                self._on_empty.append(call)
                return
        call()

    def flush(self, now: float) -> float | None:
        """Send what may go (the shaper's lock is held); return when to try again, or None."""
        if self._waiting and self._waiting[0].msg_type == "stream" and now < self._last_text + GAP:
            return self._last_text + GAP
        while self._waiting:
            room = self._shaper.budget.room(now)
            if room <= 0:
                self._fold()
                return self._shaper.budget.next_room(now)
            self._send_first(now, room)
        self._fold_at = (FOLD_AT, WINDOW_BYTES)
        called, self._on_empty = self._on_empty, []
        for call in called:
            call()
        return None

    def _send_first(self, now: float, room: int) -> None:
        output, size = self._waiting.popleft(), 0
        if output.msg_type == "stream":
            output, rest = _split(self._with_followers(output), room)
            if rest is not None:
                self._waiting.appendleft(rest)
            size = _wire_size(output)
            self._characters -= len(output.content["text"])
            self._last_text = now
            self._line_start = output.content["text"].endswith("\n")
        else:
            self._line_start = True
        self._shaper.budget.spend(now, size)
        self._send(output)

    def _fold(self) -> None:
        """Shorten the list when it has doubled since the last time."""
        if len(self._waiting) >= self._fold_at[0] or self._characters >= self._fold_at[1]:
            self._waiting = deque(compact(self._waiting, at_line_start=self._line_start))
            self._characters = sum(len(item.content["text"]) for item in self._waiting if item.msg_type == "stream")
            self._fold_at = (max(FOLD_AT, 2 * len(self._waiting)), max(WINDOW_BYTES, 2 * self._characters))

    def _with_followers(self, first: Output) -> Output:
        """Join a text with those of its stream that wait right behind it, up to what one message holds."""
        texts, size = [first.content["text"]], len(first.content["text"])
        while self._waiting and merges(first, self._waiting[0]) and size < CHUNK:
            texts.append(self._waiting.popleft().content["text"])
            size += len(texts[-1])
        return stream(first.content["name"], "".join(texts)) if len(texts) > 1 else first


class Shaper:
    """The one thread that sends later what may not go now; one per kernel process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.budget = Budget()
        self.changed = threading.Condition(threading.RLock())
        self._busy: list[Channel] = []
        self._thread: threading.Thread | None = None

    def channel(self, send: Callable[[Output], None]) -> Channel:
        """Return a new way into one cell; `send` is called from one thread at a time."""
        return Channel(self, send)

    def wake(self, channel: Channel) -> None:
        """Look after `channel` (the lock is held)."""
        if channel not in self._busy:
            self._busy.append(channel)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="ciuic-replay", daemon=True)
            self._thread.start()
        self.changed.notify()

    def _run(self) -> None:
        with self.changed:
            while True:
                now = self.clock()
                later: list[float] = []
                for channel in list(self._busy):
                    again = channel.flush(now)
                    if again is None:
                        self._busy.remove(channel)
                    else:
                        later.append(again)
                self.changed.wait(max(0.0, min(later) - self.clock()) if later else None)


class KernelCell:
    """One cell of a running ipykernel, by its request: what is sent here lands there, whatever runs meanwhile."""

    def __init__(self, kernel: Any, parent: dict[str, Any], count: int) -> None:
        from jupyter_client.session import Session  # noqa: PLC0415  (this module also serves plain terminals)

        own = kernel.session
        self.parent = parent
        self.count = count
        self._socket = kernel.iopub_socket
        # An own session: the sending threads share no state with the kernel's.
        self._session = Session(
            key=own.key,
            session=own.session,
            username=own.username,
            signature_scheme=own.signature_scheme,
            check_pid=False,
        )

    @property
    def msg_id(self) -> str:
        return str((self.parent.get("header") or {}).get("msg_id", ""))

    def send(self, output: Output) -> None:
        """Publish one message with this cell as its parent."""
        content = dict(output.content)
        if output.msg_type == "execute_result":
            content["execution_count"] = self.count
        self._session.send(
            self._socket,
            output.msg_type,
            content,
            parent=self.parent,
            ident=output.msg_type.encode(),
            metadata=dict(output.metadata),
            buffers=list(output.buffers) or None,
        )


class TerminalCell:
    """A shell that is no kernel: text goes to the standard streams, the rest through IPython's display publisher."""

    msg_id = ""

    def __init__(self, shell: Any, count: int) -> None:
        import sys  # noqa: PLC0415  (streams are looked up at each send: users redirect them)

        self._shell = shell
        self._sys = sys
        self.count = count

    def send(self, output: Output) -> None:
        """Show one message."""
        content = output.content
        if output.msg_type == "stream":
            target = self._sys.stderr if content["name"] == "stderr" else self._sys.stdout
            target.write(content["text"])
            target.flush()
        elif output.msg_type in {"display_data", "update_display_data", "execute_result"}:
            data = dict(content.get("data", {}))
            if output.msg_type == "execute_result" and "text/plain" in data:
                data["text/plain"] = f"Out[{self.count}]: {data['text/plain']}"
            self._shell.display_pub.publish(
                data,
                metadata=dict(content.get("metadata") or {}),
                transient=dict(content.get("transient") or {}),
                update=output.msg_type == "update_display_data",
            )
        elif output.msg_type == "clear_output":
            with contextlib.suppress(AttributeError):
                self._shell.display_pub.clear_output(bool(content.get("wait")))
