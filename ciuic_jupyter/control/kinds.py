"""What machine time went to: starts, cells, waiting, saves, releases. Parts that add up to the bill, to the nano-unit.

A billing unit that has begun belongs to what was going on then, as does a provider's minimum; so no part ever shrinks
as time goes on, and an hour billed as a whole is the hour's first moment's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ciuic_jupyter.control.spending import segment_until
from ciuic_jupyter.core.money import billed_ms
from ciuic_jupyter.core.session import State

if TYPE_CHECKING:
    from ciuic_jupyter.control.projections import Book, Segment

STOP_MS = 10_000  # from the end of a machine to the provider's word of it
KINDS = ("starting", "running", "idle", "saving", "releasing", "orphan")

_OF_STATE = {
    State.REQUESTED: "starting",
    State.STARTING: "starting",
    State.RUNNING: "idle",  # but for the cells in it
    State.SAVING: "saving",
}


@dataclass(frozen=True)
class Part:
    """A stretch of one machine's time: what for, what it cost in nano-units, what is billed in milliseconds."""

    kind: str
    nano: int
    billed_ms: int


class Course:
    """What a session's life was doing, from when to when; the last of it goes on."""

    def __init__(self, book: Book) -> None:
        self._orphan = book.state is None  # machines that no session asked for
        self._begins: list[int] = []
        self._kinds: list[str] = []
        runs = sorted((run.started_ms, run.ended_ms) for run in list(book.runs.values()) if run.started_ms is not None)
        moments = list(book.moments)
        number = 0
        for at, (begin, state) in enumerate(moments):
            end = moments[at + 1][0] if at + 1 < len(moments) else None
            self._enter(begin, _OF_STATE.get(state, "releasing"))
            if state is not State.RUNNING:
                continue
            while number < len(runs) and (end is None or runs[number][0] < end):
                started, ended = runs[number]
                if ended is None or ended > begin:
                    self._enter(max(begin, started), "running")
                    if ended is None or (end is not None and ended >= end):
                        break  # it went on beyond this state
                    self._enter(ended, "idle")
                number += 1

    def _enter(self, at_ms: int, kind: str) -> None:
        if self._begins and at_ms < self._begins[-1]:
            at_ms = self._begins[-1]  # a clock that was put back
        self._begins.append(at_ms)
        self._kinds.append(kind)

    def told_until(self, now_ms: int) -> int:
        """Return until when an open machine's time will surely be billed: it may have ended since it was told to."""
        number = bisect_right(self._begins, now_ms) - 1
        since = None
        while number >= 0 and self._kinds[number] == "releasing":
            since, number = self._begins[number], number - 1
        return now_ms if since is None else max(since, now_ms - STOP_MS)

    def parts(self, segment: Segment, now_ms: int) -> Iterator[Part]:
        """Yield the parts of a machine's time until now, in their order; they sum to its cost and billed time."""
        end = segment.closed_ms if segment.closed_ms is not None else now_ms
        number = bisect_right(self._begins, segment.opened_ms) - 1
        paid, counted, last = 0, 0, False
        while not last:
            after = self._begins[number + 1] if number + 1 < len(self._begins) else end
            last = after >= end
            nano = segment.cost(now_ms) if last else segment_until(segment, after)
            billed = segment.billed_ms(now_ms) if last else _billed_until(segment, after)
            if nano > paid or billed > counted:
                yield Part(self._kind(number), nano - paid, billed - counted)
            paid, counted, number = nano, billed, number + 1

    def _kind(self, number: int) -> str:
        if self._orphan:
            return "orphan"
        return self._kinds[number] if number >= 0 else "starting"


def _billed_until(segment: Segment, at_ms: int) -> int:
    if at_ms <= segment.opened_ms:
        return 0
    return billed_ms(at_ms - segment.opened_ms, unit_ms=segment.unit_ms, minimum_ms=segment.minimum_ms)
