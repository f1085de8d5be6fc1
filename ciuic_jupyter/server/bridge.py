"""Between the tabs of one Jupyter server and the control plane: calls in threads, and one watch for all tabs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import CiuicError, PlaneUnavailable
from ciuic_jupyter.kernels.fanout import Fanout

_log = logging.getLogger(__name__)

_THREADS = 8  # calls under way at once; none of them waits for a cell or a machine
_FIRST_RETRY, _LAST_RETRY = 0.1, 2.0  # seconds; doubles. Without a plane a look is one small file read
_LINGER = 5.0  # seconds the watch is kept when nobody looks: a page that is loaded again finds it
_SETTLE = 3.0  # seconds a first viewer waits for the plane's first word
_NONE = "no control plane runs; start it here, by running a %%ciuic_train cell, or with `ciuic serve`"

View = dict[str, Any]
T = TypeVar("T")


class Bridge:
    """Holds the newest word of the plane while someone looks; every method but `call`'s work is for the loop."""

    def __init__(self) -> None:
        self.fanout = Fanout(self.snapshot)
        self._pool = ThreadPoolExecutor(_THREADS, "ciuic-server")
        self._client: PlaneClient | None = None
        self._sessions: dict[str, View] = {}
        self._total: View | None = None
        self._plane: View = {"up": False, "version": None, "error": _NONE}
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self._at_once = asyncio.Event()

    # -- calls

    async def call(self, work: Callable[[PlaneClient], T]) -> T:
        """Return what `work` does with a client of the running plane, in a thread; PlaneUnavailable if none runs.

        A plane that was started anew at another address is found, once.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._call, work)

    def _call(self, work: Callable[[PlaneClient], T]) -> T:
        client = self._client or self._find()
        try:
            return work(client)
        except PlaneUnavailable:
            found = self._find()
            if found.url == client.url:
                raise
            return work(found)

    def _find(self) -> PlaneClient:
        self._client = None
        found = PlaneClient.find()
        if found is None:
            raise PlaneUnavailable(_NONE)
        self._client = found
        return found

    async def start_plane(self) -> View:
        """Start the plane if none runs, and return its `plane` record; PlaneUnavailable says why it did not start."""

        def start() -> View:
            client = self._client = PlaneClient.ensure()
            return {"up": True, "version": client.health()["version"], "error": None}

        started = await asyncio.get_running_loop().run_in_executor(self._pool, start)
        self._at_once.set()
        return started

    async def snapshot_now(self) -> bytes | View:
        """Return the plane's own snapshot, or the last known one with the reason why it is not there."""
        try:
            status, body = await self.call(lambda client: client.relay("GET", "/snapshot"))
        except PlaneUnavailable as error:
            return {**self.snapshot(), "plane": {**self._plane, "up": False, "error": str(error)}}
        return body if status == 200 else self.snapshot()

    # -- the watch

    def snapshot(self) -> View:
        """Return the newest word on everything."""
        head = {"type": "snapshot", "version": 1, "plane": self._plane, "sessions": list(self._sessions.values())}
        return {**head, "total": self._total, "now": time.time()}

    async def serve(self, send: Callable[[bytes], Awaitable[Any]]) -> None:
        """Send one viewer everything until it goes; TimeoutError if it takes nothing for 10 s."""
        if self._task is None or self._task.done():
            self._settled.clear()
            self._task = asyncio.get_running_loop().create_task(self._keep())
        with suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE):
                await self._settled.wait()
        try:
            await self.fanout.serve(send)
        finally:
            asyncio.get_running_loop().call_later(_LINGER, self._rest)

    def _rest(self) -> None:
        if not self.fanout.viewers and self._task is not None:
            self._task.cancel()
            self._task = None

    async def _keep(self) -> None:
        """Watch the plane, wherever it is, until nobody looks any more."""
        wait = _FIRST_RETRY
        while True:
            try:
                client = await asyncio.get_running_loop().run_in_executor(self._pool, self._find)
                await self._watch(client)
                wait = _FIRST_RETRY
            except CiuicError as error:
                self._away(str(error))
            except Exception as error:  # noqa: BLE001 - whatever one attempt meets, the next one looks again
                _log.exception("the control plane could not be watched")
                self._away(f"the control plane can't be watched: {type(error).__name__}: {error}")
            self._settled.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._at_once.wait()
            self._at_once.clear()
            wait = min(2 * wait, _LAST_RETRY)

    async def _watch(self, client: PlaneClient) -> None:
        """Take what the plane tells until the line breaks; PlaneUnavailable if there was no word at all.

        A break is not told: the plane may be there, and the next look for it says what to do if it is not.
        """
        heard = False
        try:
            async with aclosing(client.watch()) as news:
                async for message in news:
                    heard = True
                    self._take(message)
        except PlaneUnavailable:
            if not heard:
                raise

    def _take(self, message: View) -> None:
        kind = message.get("type")
        if kind == "snapshot":
            self._sessions = {session["name"]: session for session in message["sessions"]}
            self._total, self._plane = message["total"], message["plane"]
            self.fanout.restart()
            self._settled.set()
        elif kind == "session":
            name = message["session"]["name"]
            self._sessions[name] = message["session"]
            self.fanout.tell(f"session {name}", message)
        elif kind == "gone":
            self._sessions.pop(message["name"], None)
            self.fanout.tell(f"session {message['name']}", message)
        elif kind == "total":
            self._total = message["total"]
            self.fanout.tell("total", message)

    def _away(self, error: str) -> None:
        told = {**self._plane, "up": False, "error": error}
        if told != self._plane:
            self._plane = told
            self.fanout.tell("plane", {"type": "plane", "plane": told})
