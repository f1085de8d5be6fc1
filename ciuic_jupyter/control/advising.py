"""What the ledger and the samples it keeps say of a session, as facts for `core.advice`, and the advice as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.counted import known_peaks
from ciuic_jupyter.control.projections import Book, Run, Segment
from ciuic_jupyter.control.report import machine_ms, run_bounds
from ciuic_jupyter.control.spending import spent_between
from ciuic_jupyter.core.advice import Facts, Gap, Ran, Stretch, advise
from ciuic_jupyter.core.flops import shorter_in_bf16
from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.providers.base import Offer

if TYPE_CHECKING:
    from ciuic_jupyter.control.context import Context
    from ciuic_jupyter.control.plane import Plane
    from ciuic_jupyter.control.runner import Runner

_log = logging.getLogger(__name__)

_MOST = 3  # on a receipt

View = dict[str, Any]
Now = tuple[str | None, View | None]


async def advice(plane: Plane, session: str | None) -> View:
    """Return the advice for a session, or for each there is; UnknownSession if there is no such session."""
    runners = [plane.runner(session)] if session is not None else list(plane.runners.values())
    context = plane.context
    offers, _ = await context.offers()
    found = []
    for runner in runners:
        facts = facts_of(runner.book, context, offers, now_of(runner))
        about = {"session": runner.book.name, "currency": facts.currency}
        found += [{**about, **asdict(one)} for one in advise(facts)]
    return {"session": session, "advice": found, "as_of": context.now_ms() / 1000}


def brief(runner: Runner, end_ms: int) -> list[View]:
    """Return the first of what the ledger and the samples support at a machine's end: kind, amount, how sure.

    Nothing that is wrong with them keeps the machine from being given back.
    """
    try:
        found = advise(facts_of(runner.book, runner.context, (), now_of(runner), end_ms))
    except (ArithmeticError, LookupError, TypeError, ValueError, CiuicError):
        _log.exception("%s: no advice for the receipt", runner.book.name)
        return []
    return [{"kind": one.kind, "saves_nano": one.saves_nano, "sure": one.sure} for one in found[:_MOST]]


def now_of(runner: Runner) -> Now:
    """Return the run under way on a live machine, if any, and what the samples of now belong to."""
    return (runner.current, runner.tally.view()) if runner.live else (None, None)


def facts_of(
    book: Book, context: Context, offers: Sequence[Offer], now: Now = (None, None), now_ms: int | None = None
) -> Facts:
    """Return what is known of a session's newest life, at `now_ms` if that is not now; `now` as `now_of` returns it."""
    now_ms, lives = context.now_ms() if now_ms is None else now_ms, context.books.lives
    (current, seen), between = now, None if now[0] else now[1]
    currency, (save, restore) = str(book.offer["currency"]), context.timings(book)
    on_ms = sum(segment.length_ms(now_ms) for life in lives for segment in life.segments)
    quiet = _quiet(book)
    return Facts(
        runs=[
            _ran(book, run, now_ms, seen if run.run == current else None)
            for run in book.runs.values()
            if run.started_ms is not None
        ],
        here=Offer(**book.offer),
        currency=currency,
        stretches=[_stretch(book, one, now_ms, between, quiet) for one in book.segments if one.currency == currency],
        offers=offers,
        save_seconds=save,
        restore_seconds=restore,
        storage_nano_per_hour=context.storage_rate,
        saves=book.save_seconds,
        failures=sum(life.failures for life in lives),
        failure_seconds=on_ms / 1000,
    )


def _ran(book: Book, run: Run, now_ms: int, seen: View | None) -> Ran:
    begin, end = run_bounds(book, run, now_ms)
    on_ms, spent = machine_ms(book, begin, end, now_ms), max(0, spent_between(book, begin, end))
    bf16 = shorter_in_bf16(run.flops, known_peaks()) if run.flops is not None else None
    return Ran(run.run, on_ms / 1000, spent, seen or run.usage, run.checkpoint_every, bf16)


Quiet = tuple[int, Run | None]  # a moment with no cell behind it, and the cell that was the next


def _quiet(book: Book) -> list[Quiet]:
    """Return where the session's cells left its kernel alone, in their order."""
    found: list[Quiet] = []
    reach: float = -math.inf  # so far cells ran; a suspended one reaches over others
    for run in sorted(book.runs.values(), key=lambda one: one.started_ms or 0):
        if run.started_ms is None:
            continue
        if reach < run.started_ms and reach > -math.inf:
            found.append((int(reach), run))
        reach = max(reach, run.ended_ms if run.ended_ms is not None else math.inf)
    return [*found, (int(reach), None)] if math.isfinite(reach) else found


def _stretch(
    book: Book, segment: Segment, now_ms: int, between: Mapping[str, Any] | None, quiet: Sequence[Quiet]
) -> Stretch:
    end = segment.closed_ms if segment.closed_ms is not None else max(segment.opened_ms, now_ms)
    return Stretch(
        segment.opened_ms,
        end,
        segment.rate,
        segment.unit_ms,
        segment.minimum_ms,
        gaps=list(_gaps(book, segment, end, between, quiet)),
        here=not segment.instance or segment.instance == book.offer["instance"],
    )


def _gaps(
    book: Book, segment: Segment, end: int, between: Mapping[str, Any] | None, quiet: Sequence[Quiet]
) -> Iterator[Gap]:
    """Yield the times after a cell in which none ran on that machine."""
    for since, following in quiet:
        if not segment.opened_ms < since < end:
            continue
        if following is not None and following.started_ms is not None and following.started_ms < end:
            yield Gap(since, following.started_ms, following.before)
            continue
        if segment.closed_ms is not None:
            told = [receipt for receipt in book.receipts if receipt["machine"] == segment.machine]
            usage = told[-1].get("between") if told else None
        else:
            usage = between
        yield Gap(since, end, usage, last=True)
