"""Quotes: the runs of a cell in the books, told apart, and what one more would cost on each machine type there is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from ciuic_jupyter.control import report, spending
from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.core.quote import Past, Quote, Spread, quote
from ciuic_jupyter.core.session import State
from ciuic_jupyter.core.words import plain
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers.base import Offer

View = dict[str, Any]


async def quote_cell(
    context: Context, *, code: str | None, run: str | None, cell_id: str | None, session: str | None
) -> View:
    """Return what the cell with this source, or that `run` is of, would cost on each machine type; nothing is started.

    Where that source never ran, runs of an earlier one of the same cell in `session` are taken, and the view says so: a
    cell's id alone is that of its copies, too. UsageError without a cell, or for a run that nobody knows.
    """
    lives = context.books.lives
    if run is not None:
        known = report.home_of(lives, run).runs[run]
        code, cell_id = known.code, known.cell_id
    if code is None or not code.strip():
        raise UsageError("a quote needs a cell: its code, or one of its runs")
    found, edited = _runs_of(lives, code), False
    if not found and cell_id is not None:
        found = [(book, one) for book, one in _all(lives) if (one.cell_id, book.name) == (cell_id, session)]
        edited = bool(found)
    past, others = _told_apart(found, context.now_ms())
    offers, unasked = await context.offers()
    quotes = _quotes(offers, past, lives, context.books.sessions.get(session or ""), context.now_ms())
    last = found[-1][1].run if found else None
    return {
        "text": spending.first_line(code),
        "edited": edited,
        "last_run": last,
        "whole": len(past),
        "others": dict(others),
        "paused_on_the_way": sum(one.resumed_ms is not None for _, one in found if one.status == "ok"),
        "machines": quotes,
        "unasked": [plain(str(error)) for error in unasked],
        "as_of": context.now_ms() / 1000,
    }


def _all(lives: Sequence[Book]) -> Iterator[tuple[Book, Run]]:
    begun = ((book, run) for book in lives for run in book.runs.values() if run.started_ms is not None)
    return iter(sorted(begun, key=lambda pair: pair[1].started_ms or 0))


def _runs_of(lives: Sequence[Book], code: str) -> list[tuple[Book, Run]]:
    """Return the runs of this source, oldest first; space around it makes no other cell."""
    wanted = code.strip()
    return [(book, run) for book, run in _all(lives) if run.code.strip() == wanted]


def _told_apart(found: Sequence[tuple[Book, Run]], now_ms: int) -> tuple[list[Past], Counter[str]]:
    """Return the runs that can be compared, and how many of each kind can't: by their state, or `moved`."""
    past, others = [], Counter[str]()
    for book, run in found:
        if run.status != "ok" or run.started_ms is None:
            others[run.state] += 1
            continue
        begin, end = report.run_bounds(book, run, now_ms)
        under = [one for one in book.segments if one.opened_ms <= end and (one.closed_ms or end) >= begin]
        types = {one.instance for one in under}
        if len(types) != 1:
            others["moved"] += 1  # begun on one machine type and ended on another
            continue
        spent = spending.spent_between(book, begin, end)
        past.append(Past(types.pop(), report.machine_ms(book, begin, end, end), spent, under[0].currency))
    return past, others


def _quotes(
    offers: Sequence[Offer], past: Sequence[Past], lives: Sequence[Book], here: Book | None, now_ms: int
) -> list[View]:
    """Return a quote for each machine type on offer, cheapest first, then what the cell cost on those that are gone."""
    starts: dict[str, list[int]] = defaultdict(list)
    for segment in (segment for book in lives for segment in book.segments):
        if segment.ready_ms is not None:
            starts[segment.instance].append(max(0, segment.ready_ms - segment.opened_ms))
    found = []
    for offer in offers:
        now = here.open_segment if here is not None and _on(here, offer) else None
        paid_ms = now.length_ms(now_ms) if now is not None else None
        found.append(_view(quote(offer, past, starts, paid_ms=paid_ms), runs_now=now is not None))
    found.sort(key=lambda one: (str(one["currency"]), one["cost_nano"] or [0, one["hour_nano"], 0], one["instance"]))
    there = {offer.instance for offer in offers}
    gone = {one.instance: one for one in past if one.instance not in there}
    return found + [_gone(last, [one for one in past if one.instance == name]) for name, last in sorted(gone.items())]


def _on(book: Book, offer: Offer) -> bool:
    """Tell whether a session's machine, ready for a cell, is of this offer."""
    return book.state is State.RUNNING and book.offer["instance"] == offer.instance


def _view(one: Quote, *, runs_now: bool) -> View:
    offer = one.offer
    return {
        "instance": offer.instance,
        "currency": offer.currency,
        "offered": True,
        "price_nano_per_hour": offer.price_nano_per_hour,
        "unit_seconds": offer.unit_seconds,
        "minimum_seconds": offer.minimum_seconds,
        "runs": one.runs,
        "billed_nano": _spread(one.billed),
        "seconds": [ms / 1000 for ms in _spread(one.ms) or ()] or None,
        "like": one.like,
        "runs_now": runs_now,
        "start_seconds": one.start_ms / 1000 if one.start_ms is not None else None,
        "start_measured": one.start_measured,
        "cost_nano": _spread(one.cost),
        "hour_nano": one.hour_nano,
    }


def _gone(last: Past, runs: Sequence[Past]) -> View:
    """Return what a cell cost on a machine type that nobody offers any more."""
    nothing = Offer(last.instance, "", 0, last.currency)
    view = _view(quote(nothing, runs, {}), runs_now=False)
    return {**view, "offered": False, "price_nano_per_hour": None, "cost_nano": None, "hour_nano": None}


def _spread(spread: Spread | None) -> list[int] | None:
    return [spread.least, spread.median, spread.most] if spread is not None else None
