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
_LOOK_SECONDS = 1.0  # between two looks for such viewers: one timer for all of them costs less than one each
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
        self.task = asyncio.current_task()
        self.sending_since: float | None = None
        self.stalled = False


class Fanout:
    """Told once, sent to everyone at their own pace. All methods are for the loop's own thread."""

    def __init__(self, snapshot: Callable[[], Message]) -> None:
        """`snapshot` returns everything there is, for who begins to look."""
        self._snapshot = snapshot
        self._viewers: set[_Viewer] = set()
        self._waking: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
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

    async def _look_after(self) -> None:
        """Let go of viewers that take nothing, and give the others a sign of life, as long as there are any."""
        loop = asyncio.get_running_loop()
        alive_at = loop.time() + ALIVE_SECONDS
        while self._viewers:
            await asyncio.sleep(_LOOK_SECONDS)
            now = loop.time()
            for viewer in list(self._viewers):
                since = viewer.sending_since
                if since is not None and now - since > SEND_SECONDS and viewer.task is not None:
                    viewer.stalled = True
                    viewer.task.cancel()
            if now >= alive_at:
                alive_at = now + ALIVE_SECONDS
                self.tell("alive", {"type": "alive", "now": time.time()})

    async def serve(self, send: Callable[[bytes], Awaitable[Any]]) -> None:
        """Send a snapshot, then news as they come and a sign of life every 10 s; return when closed.

        TimeoutError when `send` did not end within 10 s: the viewer takes nothing. What `send` raises goes through.
        """
        viewer, loop = _Viewer(encoded(self._snapshot())), asyncio.get_running_loop()
        self._viewers.add(viewer)
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look_after())
        try:
            while not self._closed:
                viewer.news.clear()
                while viewer.slots:
                    viewer.sending_since = loop.time()
                    await send(viewer.slots.pop(next(iter(viewer.slots))))
                    viewer.sending_since = None
                await viewer.news.wait()
        except asyncio.CancelledError:
            if not viewer.stalled or viewer.task is None or viewer.task.uncancel() > 0:
                raise
            raise TimeoutError(f"nothing was taken for {SEND_SECONDS:.0f} s; look again") from None
        finally:
            self._viewers.discard(viewer)
