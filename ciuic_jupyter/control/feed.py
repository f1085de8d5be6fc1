"""What viewers of one session read: numbered events at each viewer's own pace, and the newest status."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import encode

_RECENT = 512  # events kept in memory; who is further behind reads the log on disk
_PER_TURN = 64
_STATUS_SECONDS = 10.0
_STATUS_GAP = 0.1  # seconds between states that can wait: each costs every viewer a message


class Feed:
    """Events come in once and go out to any number of viewers; none of them can hold up another."""

    def __init__(self, log: EventLog, view: Callable[[], dict[str, Any]]) -> None:
        self._log = log
        self._view = view
        self._recent: deque[tuple[int, bytes]] = deque(maxlen=_RECENT)
        self._viewers: set[asyncio.Event] = set()
        self._version = self._pressing = 0
        self._closed = False

    def close(self) -> None:
        """End every viewer's stream: the session begins a new life, or the plane ends."""
        self._closed = True
        self._wake()

    def event(self, seq: int, frame: bytes) -> None:
        """A new event stands in the log."""
        self._recent.append((seq, frame))
        self._wake()

    def status(self, *, soon: bool = False) -> None:
        """The session's view changed; it goes out ahead of later events, or within a moment if `soon` will do."""
        self._version += 1
        if not soon:
            self._pressing = self._version
        self._wake()

    def _wake(self) -> None:
        for viewer in self._viewers:
            viewer.set()

    async def frames(self, after: int) -> AsyncIterator[bytes]:
        """Yield every event after `after`, then live ones, and a status frame at each change and each 10 s.

        Ends when the feed is closed: who wants the session's next life asks again.
        """
        news, loop = asyncio.Event(), asyncio.get_running_loop()
        self._viewers.add(news)
        shown, due = -1, loop.time()
        try:
            while not self._closed:
                news.clear()
                if self._pressing > shown or (shown != self._version and loop.time() >= due):
                    shown, due = self._version, loop.time() + _STATUS_GAP
                    yield encode({"type": "status", "session": self._view()})
                turn = self._after(after)
                for seq, frame in turn:
                    yield frame
                    after = seq
                if turn or self._pressing > shown:
                    continue
                waiting = shown != self._version
                try:
                    async with asyncio.timeout_at(due if waiting else loop.time() + _STATUS_SECONDS):
                        await news.wait()
                except TimeoutError:
                    shown = shown if waiting else -1
        finally:
            self._viewers.discard(news)

    def _after(self, after: int) -> list[tuple[int, bytes]]:
        if after >= self._log.last_seq:
            return []
        if self._recent and self._recent[0][0] <= after + 1:
            start = after + 1 - self._recent[0][0]
            return [self._recent[i] for i in range(start, min(start + _PER_TURN, len(self._recent)))]
        found = []
        for item in self._log.read(after):
            found.append(item)
            if len(found) >= _PER_TURN:
                break
        return found
