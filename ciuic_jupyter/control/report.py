"""What was spent by day, session, run or machine type, beside the same hours always on; runs of one cell compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta, tzinfo
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control import spending
from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.errors import UsageError

if TYPE_CHECKING:
    from ciuic_jupyter.control.context import Context

BY = ("day", "session", "run", "machine")

View = dict[str, Any]


def report(
    lives: Sequence[Book], context: Context, by: str, *, session: str | None = None, zone: tzinfo | None = None
) -> View:
    """Return rows by `by`, each with seconds billed, nano-units spent and always on; amounts of one currency a row.

    Days are those of `zone`, else of this machine's. UsageError for another `by`.
    """
    if by not in BY:
        raise UsageError(f"costs can't be shown by {by!r}; choose one of {', '.join(BY)}")
    now_ms = context.now_ms()
    books = [book for book in lives if session in (None, book.name) and book.segments]
    rows: list[View] = []
    for currency in sorted({str(book.offer["currency"]) for book in books}):
        mine = [book for book in books if book.offer["currency"] == currency]
        rows += [{**row, "currency": currency} for row in _rows(mine, by, now_ms, zone)]
    return {"by": by, "session": session, "rows": rows, "as_of": now_ms / 1000}


def _rows(books: Sequence[Book], by: str, now_ms: int, zone: tzinfo | None) -> Iterable[View]:
    if by == "day":
        return _days(books, now_ms, zone)
    if by == "run":
        return [
            run_row(book, run, now_ms) for book in books for run in book.runs.values() if run.started_ms is not None
        ]
    if by == "session":
        return _by_session(books, now_ms)
    return _by_machine(books, now_ms)


def _days(books: Sequence[Book], now_ms: int, zone: tzinfo | None) -> Iterable[View]:
    day = spending.day_of(min(book.segments[0].opened_ms for book in books), zone)
    begin = spending.start_of(day, zone)
    while begin < now_ms:
        following = spending.start_of(day + timedelta(days=1), zone)
        end = min(following, now_ms)
        spent = sum(spending.spent_until(book, end) - spending.spent_until(book, begin) for book in books)
        always = sum(spending.always_on_until(book, end) - spending.always_on_until(book, begin) for book in books)
        if spent or always:
            on_ms = sum(machine_ms(book, begin, end, now_ms) for book in books)
            yield _row(day.isoformat(), on_ms, spent, always)
        day, begin = day + timedelta(days=1), following


def machine_ms(book: Book, begin_ms: int, end_ms: int, now_ms: int) -> int:
    """Return the milliseconds between two moments in which a session had a machine."""
    ends = [(one.opened_ms, one.closed_ms if one.closed_ms is not None else now_ms) for one in book.segments]
    return sum(max(0, min(end_ms, until) - max(begin_ms, since)) for since, until in ends)


def _row(key: str, on_ms: int, spent: int, always: int) -> View:
    return {"key": key, "machine_seconds": on_ms / 1000, "spent_nano": spent, "always_on_nano": always}


def _by_session(books: Sequence[Book], now_ms: int) -> Iterable[View]:
    found: dict[str, View] = {}
    for book in books:
        spent, always = spending.spent_until(book, now_ms), spending.always_on_until(book, now_ms)
        _add(found, book.name, machine_ms(book, 0, now_ms, now_ms), spent, always)
    return _dearest_first(found)


def _by_machine(books: Sequence[Book], now_ms: int) -> Iterable[View]:
    """Yield a row a machine type, and one for checkpoints that were kept for money."""
    found: dict[str, View] = {}
    for book in books:
        for segment, always in spending.always_on_parts(book, now_ms):
            name = segment.instance or str(book.offer["instance"])
            _add(found, name, segment.length_ms(now_ms), spending.segment_until(segment, now_ms), always)
        if stored := spending.spent_until(book, now_ms) - book.compute_nano(now_ms):
            _add(found, "kept checkpoints", 0, stored, 0)
    return _dearest_first(found)


def _add(found: dict[str, View], key: str, on_ms: int, spent: int, always: int) -> None:
    row = found.setdefault(key, _row(key, 0, 0, 0))
    row["machine_seconds"] += on_ms / 1000
    row["spent_nano"] += spent
    row["always_on_nano"] += always


def _dearest_first(found: dict[str, View]) -> Iterable[View]:
    return sorted(found.values(), key=lambda row: (-int(row["spent_nano"]), str(row["key"])))


def home_of(lives: Sequence[Book], run: str) -> Book:
    """Return the session's life that a run is of; UsageError if there is no such run."""
    home = next((book for book in lives if run in book.runs), None)
    if home is None:
        raise UsageError(f"no run {run!r}; `ciuic cost --by run` lists them")
    return home


def run_bounds(book: Book, run: Run, now_ms: int) -> tuple[int, int]:
    """Return when a run began and ended, or the last moment of it that there is."""
    begin = run.started_ms or 0
    return begin, run.ended_ms if run.ended_ms is not None else max(begin, min(now_ms, book.end_ms(now_ms)))


def run_row(book: Book, run: Run, now_ms: int) -> View:
    """Return one run: what machines cost while it was under way, and what one kept on through its pauses would have."""
    begin, end = run_bounds(book, run, now_ms)
    spent = spending.spent_between(book, begin, end)
    always = spending.always_on_until(book, end) - spending.always_on_until(book, begin)
    more = {
        "session": book.name,
        "instance": str(book.offer["instance"]),
        "at": begin / 1000,
        "cell_id": run.cell_id,
        "text": spending.first_line(run.code),
        "state": run.state,
        "turns": run.turns,
        "loss": run.loss,
        "flops": sum(run.flops["by"].values()) if run.flops is not None else None,
    }
    return {**_row(run.run, machine_ms(book, begin, end, now_ms), spent, always), **more}


def same_cell(lives: Sequence[Book], context: Context, run: str) -> View:
    """Return every run of the cell that `run` is of, oldest first: of its code, or of its cell in its session.

    Each says whether its code was another one (`edited`), what one turn of its loop cost where turns were counted, and
    one unit by which the loss fell that it printed, and what the first cost that is in its currency and cost anything.
    UsageError if there is no such run.
    """
    now_ms = context.now_ms()
    home = home_of(lives, run)
    like = home.runs[run]

    def same(book: Book, other: Run) -> bool:
        its = like.cell_id is not None and (other.cell_id, book.name) == (like.cell_id, home.name)
        return other.started_ms is not None and (its or other.code.strip() == like.code.strip())

    found = [(book, one) for book in lives for one in book.runs.values() if same(book, one)]
    rows = [
        {
            **run_row(book, one, now_ms),
            "currency": book.offer["currency"],
            "edited": one.code.strip() != like.code.strip(),
        }
        for book, one in found
    ]
    rows.sort(key=lambda row: float(row["at"]))
    first: dict[str, int] = {}
    for row in rows:
        spent, turns = int(row["spent_nano"]), int((row.get("turns") or {}).get("done") or 0)
        if spent:
            first.setdefault(row["currency"], spent)
        row["first_nano"] = first.get(row["currency"])
        row["per_turn_nano"] = -(-spent // turns) if turns else None
        fall = row["loss"]["first"] - row["loss"]["last"] if row["loss"] is not None else 0.0
        row["per_loss_nano"] = round(spent / fall) if fall > 1e-9 else None
    return {"rows": rows, "text": spending.first_line(like.code)}
