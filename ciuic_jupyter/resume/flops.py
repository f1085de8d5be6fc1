"""FLOPs of a cell on request, by torch's own counter: kept with the position of a paused cell, and set on the way back.

The counter is a mode of the thread that runs the cell, entered around each of its statements once torch is there; torch
is never imported because of it.
"""

from __future__ import annotations

import dis
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from types import CodeType
from typing import Any

_LATE = "torch was imported within a statement: what that one counted before is not in it"
_MOST_WHYS = 5
_OTHER = "this version of torch counts in another way"


class Count:
    """What one cell computed so far, by device and kind of number, and in how many seconds of its own."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._names: dict[str, str] = {}  # of GPUs
        self._whys: set[str] = set()  # it is not all of the cell
        self._seconds = 0.0
        self._since: float | None = None  # a statement is under way
        self._counter: Any = None

    @contextmanager
    def statement(self, code: object) -> Iterator[None]:
        """Count what a statement of the cell, compiled to `code`, computes in this thread."""
        if self._counter is not None:  # of the statement that runs this one (%%capture, %run): it counts already
            yield
            return
        torch, within = "torch" in sys.modules, self._since is not None
        made = _counter_class() if torch else None
        if torch and made is None:
            self._whys.add(_OTHER)
        self._add()
        self._counter, self._since = made(self._names) if made is not None else None, time.monotonic()
        try:
            with self._counter or nullcontext():
                yield
        finally:
            self._add()
            self._counter, self._since = None, self._since if within else None
            if not torch and "torch" in sys.modules and _calls(code):
                self._whys.add(_LATE)

    def _add(self) -> None:
        """Take over what the counter has."""
        now = time.monotonic()
        if self._since is not None:
            self._seconds, self._since = self._seconds + now - self._since, now
        if self._counter is not None:
            for key, counts in self._counter.flop_counts.items():
                self._known[key] = self._known.get(key, 0) + sum(counts.values())
            self._counter.flop_counts.clear()
            self._whys.update(f"torch has no formula for {name}" for name in self._counter.uncounted)
            self._counter.uncounted.clear()

    def take(self) -> dict[str, Any]:
        """Return it as plain data: {by: {"device kind": FLOPs}, gpus: {device: name}, seconds, whys}.

        `whys` say what keeps it from being all of the cell.
        """
        self._add()
        whys = sorted(self._whys)[:_MOST_WHYS]
        return {"by": dict(self._known), "gpus": dict(self._names), "seconds": self._seconds, "whys": whys}

    def put(self, taken: Mapping[str, Any]) -> None:
        """Be where `take` was: what was counted since then is forgotten."""
        self._add()
        self._known, self._seconds, self._whys = dict(taken["by"]), float(taken["seconds"]), set(taken["whys"])
        self._names.update(taken["gpus"])


class _Now:
    count: Count | None = None  # of the cell under way, if it is to be counted


def begin() -> None:
    """Count the cell that begins, or goes on."""
    _Now.count = Count()


def end() -> dict[str, Any] | None:
    """Return what the cell that ends computed, None if it was not to be counted."""
    count, _Now.count = _Now.count, None
    return count.take() if count is not None else None


def statement(code: object) -> Any:
    """Return a context for one statement of the cell under way."""
    return _Now.count.statement(code) if _Now.count is not None else nullcontext()


def take() -> dict[str, Any] | None:
    """Return what the cell under way computed so far, None if that is not counted."""
    return _Now.count.take() if _Now.count is not None else None


def put(taken: Mapping[str, Any] | None) -> None:
    """Have the cell under way count on from what `take` returned."""
    if _Now.count is not None and taken is not None:
        _Now.count.put(taken)


@contextmanager
def aside() -> Iterator[None]:
    """Count nothing of the block, and none of its time: a save in the middle of a cell."""
    before = take()
    try:
        yield
    finally:
        put(before)


def _calls(code: object) -> bool:
    """Tell whether a statement does more than import: it may have computed something, too."""
    return not isinstance(code, CodeType) or any("CALL" in one.opname for one in dis.get_instructions(code))


@cache
def _counter_class() -> Any:
    """Return what counts, with torch that is loaded; None if this version of it counts in another way."""
    try:
        from ciuic_jupyter.resume.counter import Counter  # noqa: PLC0415 - it imports torch
    except ImportError:
        return None
    Counter.warm()
    return Counter
