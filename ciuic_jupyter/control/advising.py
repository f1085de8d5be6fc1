"""What the ledger and the samples it keeps say of a session, as facts for `core.advice`, and the advice as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.projections import Book, Run, Segment
from ciuic_jupyter.control.report import run_row
from ciuic_jupyter.core.advice import Facts, Gap, Ran, Stretch, advise
from ciuic_jupyter.providers.base import Offer

if TYPE_CHECKING:
    from ciuic_jupyter.control.context import Context
    from ciuic_jupyter.control.plane import Plane

View = dict[str, Any]


async def advice(plane: Plane, session: str | None) -> View:
    """Return the advice for a session, or for each there is; UnknownSession if there is no such session."""
    runners = [plane.runner(session)] if session is not None else list(plane.runners.values())
    context = plane.context
    offers, _ = await context.offers()
    found = []
    for runner in runners:
        between = runner.tally.view() if runner.live and runner.current is None else None
        facts = facts_of(runner.book, context, offers, between)
        about = {"session": runner.book.name, "currency": facts.currency}
        found += [{**about, **asdict(one)} for one in advise(facts)]
    return {"session": session, "advice": found, "as_of": context.now_ms() / 1000}


def facts_of(book: Book, context: Context, offers: Sequence[Offer], between: Mapping[str, Any] | None) -> Facts:
    """Return what is known of a session's newest life; `between`: samples since its last cell, on a live machine."""
    now_ms, lives = context.now_ms(), context.books.lives
    currency, (save, restore) = str(book.offer["currency"]), context.timings(book)
    on_ms = sum(segment.length_ms(now_ms) for life in lives for segment in life.segments)
    return Facts(
        runs=[_ran(book, run, now_ms) for run in book.runs.values() if run.started_ms is not None],
        here=Offer(**book.offer),
        currency=currency,
        stretches=[_stretch(book, one, now_ms, between) for one in book.segments if one.currency == currency],
        offers=offers,
        save_seconds=save,
        restore_seconds=restore,
        storage_nano_per_hour=context.storage_rate,
        saves=book.save_seconds,
        failures=sum(life.failures for life in lives),
        failure_seconds=on_ms / 1000,
    )


def _ran(book: Book, run: Run, now_ms: int) -> Ran:
    row = run_row(book, run, now_ms)
    return Ran(run.run, row["machine_seconds"], row["spent_nano"], run.usage, run.checkpoint_every)


def _stretch(book: Book, segment: Segment, now_ms: int, between: Mapping[str, Any] | None) -> Stretch:
    end = segment.closed_ms if segment.closed_ms is not None else max(segment.opened_ms, now_ms)
    return Stretch(
        segment.opened_ms,
        end,
        segment.rate,
        segment.unit_ms,
        segment.minimum_ms,
        gaps=list(_gaps(book, segment, end, between)),
        here=not segment.instance or segment.instance == book.offer["instance"],
    )


def _gaps(book: Book, segment: Segment, end: int, between: Mapping[str, Any] | None) -> Iterator[Gap]:
    """Yield the times after a cell in which none ran on that machine."""
    runs = [run for run in book.runs.values() if run.started_ms is not None]
    for run in runs:
        since = run.ended_ms
        if since is None or not segment.opened_ms < since < end or any(_covers(other, since) for other in runs):
            continue
        later = [other for other in runs if segment.opened_ms <= since <= (other.started_ms or 0) < end]
        following = min((one for one in later if one is not run), key=lambda one: one.started_ms or 0, default=None)
        if following is not None:
            yield Gap(since, following.started_ms or since, following.before)
            continue
        if segment.closed_ms is not None:
            told = [receipt for receipt in book.receipts if receipt["machine"] == segment.machine]
            usage = told[-1].get("between") if told else None
        else:
            usage = between
        yield Gap(since, end, usage, last=True)


def _covers(run: Run, at_ms: int) -> bool:
    return (run.started_ms or 0) <= at_ms and (run.ended_ms is None or at_ms < run.ended_ms)
