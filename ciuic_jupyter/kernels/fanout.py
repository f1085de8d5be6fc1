"""The newest facts to any number of viewers: one slot a fact and viewer, so that who is slow skips and holds up nobody.

Used at both ends of a watch: by the plane for Jupyter servers, by a Jupyter server for its browser tabs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

ALIVE_SECONDS = 10.0  # how often a viewer hears something, at least
SEND_SECONDS = 10.0  # a viewer that takes nothing for so long is let go
_PER_TURN = 50  # viewers woken in one turn of the loop: others have their turn in between

Message = Mapping[str, Any]


def encoded(message: Message) -> bytes:
    """Return a message as one text frame; a lone surrogate of a user's text travels as an escape."""
    return json.dumps(message, allow_nan=False, separators=(",", ":")).encode()


class _Viewer:
    """What one viewer has not been sent yet, the newest of each key."""

    def __init__(self, snapshot: bytes) -> None:
        self.slots = {"": snapshot}
        self.news = asyncio.Event()


class Fanout:
    """Told once, sent to everyone at their own pace. All methods are for the loop's own thread."""

    def __init__(self, snapshot: Callable[[], Message]) -> None:
        """`snapshot` returns everything there is, for who begins to look."""
        self._snapshot = snapshot
        self._viewers: set[_Viewer] = set()
        self._waking: asyncio.Task[None] | None = None
        self._again = self._closed = False

    @property
    def viewers(self) -> int:
        """How many look now."""
        return len(self._viewers)

    def tell(self, key: str, message: Message) -> None:
        """Send `message` to everyone; what of `key` was not sent yet is not sent any more."""
        if not self._viewers:
            return
        frame = encoded(message)
        for viewer in self._viewers:
            viewer.slots[key] = frame
        self._wake()

    def restart(self) -> None:
        """Send everyone a new snapshot instead of what they have not been sent yet."""
        if not self._viewers:
            return
        frame = encoded(self._snapshot())
        for viewer in self._viewers:
            viewer.slots = {"": frame}
        self._wake()

    def close(self) -> None:
        """End every viewer's stream."""
        self._closed = True
        for viewer in self._viewers:
            viewer.news.set()

    def _wake(self) -> None:
        self._again = True
        if self._waking is None or self._waking.done():
            self._waking = asyncio.get_running_loop().create_task(self._wake_all())

    async def _wake_all(self) -> None:
        while self._again:
            self._again = False
            for at, viewer in enumerate(list(self._viewers), 1):
                viewer.news.set()
                if at % _PER_TURN == 0:
                    await asyncio.sleep(0)

    async def serve(self, send: Callable[[bytes], Awaitable[Any]]) -> None:
        """Send a snapshot, then news as they come and a sign of life every 10 s; return when closed.

        TimeoutError when `send` did not end within 10 s: the viewer takes nothing. What `send` raises goes through.
        """
        viewer, loop = _Viewer(encoded(self._snapshot())), asyncio.get_running_loop()
        self._viewers.add(viewer)
        alive_at = loop.time() + ALIVE_SECONDS
        try:
            while not self._closed:
                viewer.news.clear()
                while viewer.slots:
                    frame = viewer.slots.pop(next(iter(viewer.slots)))
                    async with asyncio.timeout(SEND_SECONDS):
                        await send(frame)
                try:
                    async with asyncio.timeout_at(alive_at):
                        await viewer.news.wait()
                except TimeoutError:
                    alive_at = loop.time() + ALIVE_SECONDS
                    viewer.slots["alive"] = encoded({"type": "alive", "now": time.time()})
        finally:
            self._viewers.discard(viewer)
