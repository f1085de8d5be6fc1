"""An event loop whose time is turned, not waited for, and which can end like a killed process between any two steps.

One step is what runs between two awaits, so a crash before step n is a crash at the n-th await there was. Nothing of a
crashed life runs again: no `finally`, no callback. What was under way in the world outside (a request that the cloud
has already got) belongs to `Time` and goes on.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any


class Crash(BaseException):
    """The process is gone."""


class Stuck(Exception):
    """Nothing is left that could ever happen, and what is waited for has not."""


class Time:
    """Seconds since the history began, and what the world outside will do."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Let `event` happen then, whatever becomes of any process."""
        heapq.heappush(self._events, (when, next(self._order), event))

    def later(self, seconds: float, event: Callable[[], None]) -> None:
        """Let `event` happen in so many seconds."""
        self.at(self.now + seconds, event)

    @property
    def next(self) -> float | None:
        """When the next event is."""
        return self._events[0][0] if self._events else None

    def happen(self) -> None:
        """Let happen what is due."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()


class TurnedLoop(asyncio.BaseEventLoop):
    """Runs one handle at a time in the order they came; with nothing to run, time goes on to the next thing."""

    def __init__(self, time: Time, crash_at: int | None = None, *, limit: float = 1e5) -> None:
        super().__init__()
        self._turned = time
        self._limit = limit
        self.crash_at = crash_at
        self.steps = 0
        self.tasks: list[asyncio.Task[Any]] = []
        self.set_task_factory(self._make)
        self.set_exception_handler(self._failed)
        self.failures: list[str] = []

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **named: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **named)
        self.tasks.append(task)
        if len(self.tasks) > 256:
            self.tasks = [task for task in self.tasks if not task.done()]
        return task

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def time(self) -> float:
        return self._turned.now

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it is the caller's
            done.set_exception(error)
        return done

    def _write_to_self(self) -> None:
        """Nothing sleeps that would have to be woken."""

    def _process_events(self, event_list: Any) -> None:
        """There is no input and no output."""

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0]._cancelled:
            heapq.heappop(self._scheduled)._scheduled = False
        if not self._ready:
            whens = [self._scheduled[0]._when] if self._scheduled else []
            whens += [self._turned.next] if self._turned.next is not None else []
            if not whens or min(whens) > self._limit:
                raise Stuck(f"after {self.steps} steps, at {self._turned.now:.3f} s")
            self._turned.now = max(self._turned.now, min(whens))
        self._turned.happen()
        while self._scheduled and self._scheduled[0]._when <= self._turned.now:
            timer = heapq.heappop(self._scheduled)
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)
        if self._ready:
            handle = self._ready.popleft()
            if not handle._cancelled:
                self.steps += 1
                if self.steps == self.crash_at:
                    raise Crash
                handle._run()

    def abandon(self) -> None:
        """Be gone: nothing that is under way here goes on, and nothing of it says so."""
        self._ready.clear()
        self._scheduled.clear()
        for task in self.tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with suppress(RuntimeError):  # a `finally` that waits
                    task.get_coro().close()  # type: ignore[union-attr]
        self._ready.clear()
        self._scheduled.clear()
        self.close()
