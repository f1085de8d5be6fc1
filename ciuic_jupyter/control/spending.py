"""What was spent in a stretch of time, and what the same sessions cost had nobody ever paused them.

Every amount is a difference of two running totals, so days add up to the bill to the nano-unit, whatever was rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.core.money import cost
from ciuic_jupyter.core.session import State

if TYPE_CHECKING:
    from ciuic_jupyter.control.context import Context
    from ciuic_jupyter.control.projections import Book, Run, Segment

_DAYS = 31  # of the chart
_TEXT = 120  # characters of a cell's first line

View = dict[str, Any]


def segment_until(segment: Segment, at_ms: int) -> int:
    """Return what a segment had cost at a moment, in nano-units."""
    if at_ms <= segment.opened_ms:
        return 0
    end = at_ms if segment.closed_ms is None else min(at_ms, segment.closed_ms)
    length = max(0, end - segment.opened_ms)
    return cost(segment.rate, length, unit_ms=segment.unit_ms, minimum_ms=segment.minimum_ms)


def spent_between(book: Book, begin_ms: int, end_ms: int) -> int:
    """Return what a session's machines cost between two moments, in nano-units; others' times are not looked at."""
    under = [
        one for one in book.segments if one.opened_ms < end_ms and (one.closed_ms is None or one.closed_ms > begin_ms)
    ]
    return sum(segment_until(one, end_ms) - segment_until(one, begin_ms) for one in under)


def spent_until(book: Book, at_ms: int) -> int:
    """Return what a session's life had cost at a moment: machines and kept checkpoints."""
    compute = sum(segment_until(segment, at_ms) for segment in book.segments)
    since = book.storage_since_ms
    if since is None or at_ms <= since:
        return compute
    return compute + cost(book.storage_rate, max(0, min(at_ms, book.end_ms(at_ms)) - since))


def always_on_until(book: Book, at_ms: int) -> int:
    """Return what it had cost at a moment if its first machine had stayed, at the prices it was given since."""
    return sum(nano for _, nano in always_on_parts(book, at_ms))


def always_on_parts(book: Book, at_ms: int) -> Iterator[tuple[Segment, int]]:
    """Yield each machine with what it had cost by then if it had been kept until the next one came."""
    end = min(at_ms, book.end_ms(at_ms))
    for number, segment in enumerate(book.segments):
        after = book.segments[number + 1].opened_ms if number + 1 < len(book.segments) else end
        length = max(0, min(end, after) - segment.opened_ms)
        yield (
            segment,
            cost(segment.rate, length, unit_ms=segment.unit_ms, minimum_ms=segment.minimum_ms) if length else 0,
        )


def day_of(at_ms: int, zone: tzinfo | None) -> date:
    """Return the date of a moment; without a zone, in this machine's."""
    return datetime.fromtimestamp(at_ms / 1000, zone).date()


def start_of(day: date, zone: tzinfo | None) -> int:
    """Return when a day begins, in unix milliseconds; days of 23 and 25 hours come out as they are."""
    return round(datetime.combine(day, time(), zone).timestamp() * 1000)


def _in_currency(books: Iterable[Book], currency: str) -> list[Book]:
    return [book for book in books if book.offer["currency"] == currency]


def _currency(books: Sequence[Book], context: Context) -> str:
    """Return the one currency there is, else that of the settings: amounts of two are never added."""
    found = {str(book.offer["currency"]) for book in books}
    return found.pop() if len(found) == 1 else context.settings.currency


def _since(until: Callable[[Book, int], int], books: Iterable[Book], begin_ms: int, end_ms: int) -> int:
    return sum(until(book, end_ms) - until(book, begin_ms) for book in books)


def spent_since(books: Iterable[Book], begin_ms: int, end_ms: int) -> int:
    """Return what lives cost in a stretch of time, in nano-units; they must be of one currency."""
    return _since(spent_until, books, begin_ms, end_ms)


def total_now(lives: Sequence[Book], context: Context, zone: tzinfo | None = None) -> View:
    """Return rate, today and this month over all lives, beside the same always on; in one currency.

    `budget_nano` is the sum of the open sessions' budgets, None if one of them has none.
    """
    now_ms, currency = context.now_ms(), _currency(lives, context)
    books = _in_currency(lives, currency)
    today = day_of(now_ms, zone)
    day, month = start_of(today, zone), start_of(today.replace(day=1), zone)
    opened = [book for book in books if book.state is not State.CLOSED]
    budgets = [book.budget_nano for book in opened if book.budget_nano is not None]
    return {
        "currency": currency,
        "rate_nano_per_hour": sum(book.rate for book in books),
        "always_on_rate_nano_per_hour": sum(book.segments[-1].rate for book in opened if book.segments),
        "today_nano": _since(spent_until, books, day, now_ms),
        "month_nano": _since(spent_until, books, month, now_ms),
        "today_always_on_nano": _since(always_on_until, books, day, now_ms),
        "month_always_on_nano": _since(always_on_until, books, month, now_ms),
        "budget_nano": sum(budgets) if budgets and len(budgets) == len(opened) else None,
        "as_of": now_ms / 1000,
    }


def history(
    lives: Sequence[Book], context: Context, *, session: str | None, limit: int, zone: tzinfo | None = None
) -> View:
    """Return runs and pauses, newest first, and the days of the last month: `YYYY-MM-DD` in this machine's zone."""
    now_ms, currency = context.now_ms(), _currency(lives, context)
    books = [book for book in _in_currency(lives, currency) if session in (None, book.name)]
    rows = [row for book in books for row in (*_runs(book, now_ms), *_pauses(book, now_ms))]
    rows.sort(key=lambda row: float(row["at"]), reverse=True)
    return {"rows": rows[:limit], "days": _days(books, now_ms, zone), "currency": currency}


def _days(books: Sequence[Book], now_ms: int, zone: tzinfo | None) -> list[View]:
    starts = [book.segments[0].opened_ms for book in books if book.segments]
    if not starts:
        return []
    today = day_of(now_ms, zone)
    day = max(day_of(min(starts), zone), today - timedelta(days=_DAYS - 1))
    found = []
    while day <= today:
        begin, end = start_of(day, zone), min(start_of(day + timedelta(days=1), zone), now_ms)
        amounts = {
            "spent_nano": _since(spent_until, books, begin, end),
            "always_on_nano": _since(always_on_until, books, begin, end),
        }
        found.append({"day": day.isoformat(), **amounts})
        day += timedelta(days=1)
    return found


def _runs(book: Book, now_ms: int) -> list[View]:
    return [_run(book, run, now_ms) for run in book.runs.values() if run.started_ms is not None]


def _run(book: Book, run: Run, now_ms: int) -> View:
    """One cell: what the machines cost while it was under way; a pause in its middle costs nothing."""
    begin, end = run.started_ms or 0, run.ended_ms if run.ended_ms is not None else now_ms
    paid_ms, paid, machine = 0, 0, None
    for segment in book.segments:
        closed = segment.closed_ms if segment.closed_ms is not None else now_ms
        both = min(end, closed) - max(begin, segment.opened_ms)
        if both > 0:
            paid_ms, machine = paid_ms + both, segment.machine
            paid += segment_until(segment, end) - segment_until(segment, begin)
    return {
        "kind": "run",
        "session": book.name,
        "at": begin / 1000,
        "ended": run.ended_ms / 1000 if run.ended_ms is not None else None,
        "seconds": max(0, end - begin) / 1000,
        "billed_seconds": paid_ms / 1000,
        "cost_nano": paid,
        "always_on_nano": always_on_until(book, end) - always_on_until(book, begin),
        "currency": book.offer["currency"],
        "text": first_line(run.code),
        "cell_id": run.cell_id,
        "run": run.run,
        "machine": machine,
        "reason": run.state,
    }


def _pauses(book: Book, now_ms: int) -> list[View]:
    return [_pause(book, receipt, now_ms) for receipt in book.receipts]


def _pause(book: Book, receipt: View, now_ms: int) -> View:
    """One stop: what the machine before it cost, and how long there was none."""
    at_ms = round(receipt["at"] * 1000)
    again = [segment.opened_ms for segment in book.segments if segment.opened_ms >= at_ms]
    ended_ms = min(again) if again else book.closed_ms
    ended_ms = max(at_ms, ended_ms) if ended_ms is not None else None
    saved = receipt.get("checkpoint") or {}
    run = book.runs.get(str(saved.get("run")))
    return {
        "kind": "pause",
        "session": book.name,
        "at": receipt["at"],
        "ended": ended_ms / 1000 if ended_ms is not None else None,
        "seconds": max(0, (ended_ms if ended_ms is not None else now_ms) - at_ms) / 1000,
        "billed_seconds": receipt["segment_seconds"],
        "cost_nano": receipt["segment_nano"],
        "currency": receipt["currency"],
        "text": first_line(run.code) if run is not None else "",
        "cell_id": run.cell_id if run is not None else None,
        "run": saved.get("run"),
        "machine": receipt["machine"],
        "reason": receipt["reason"],
    }


def first_line(code: str) -> str:
    """Return the first line of a cell that says something."""
    lines = (line.strip() for line in code.splitlines())
    return next((line[:_TEXT] for line in lines if line), "")
