"""Sessions as JSON for people and panels: money in integer nano-units, times in unix seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.projections import Book
from ciuic_jupyter.control.purse import view as purse_view
from ciuic_jupyter.control.rows import checkpoint_view
from ciuic_jupyter.core.session import State

if TYPE_CHECKING:
    from ciuic_jupyter.control.context import Context
    from ciuic_jupyter.control.runner import Runner

_WORDS = {
    None: "not started",
    State.REQUESTED: "starting a machine",
    State.STARTING: "starting the kernel",
    State.RUNNING: "ready",
    State.SAVING: "saving",
    State.STOPPING: "releasing; billed until the machine is gone",
    State.PAUSED: "paused: compute $0",
    State.FAILED: "failed: no machine, nothing is billed",
    State.CLOSED: "closed",
}


def session_view(runner: Runner) -> dict[str, Any]:
    """Return everything about a session that a meter shows."""
    book, context = runner.book, runner.context
    running = book.runs.get(runner.current) if runner.current is not None else None
    started = running.started_ms if running is not None else None
    return {
        **cost_view(book, context),
        "name": book.name,
        "id": book.life,
        "state": str(book.state.value) if book.state is not None else "requested",
        "text": _text(book),
        "instance": book.offer["instance"],
        "provider": book.offer["provider"],
        "machine": book.intent["id"] if runner.live and book.intent is not None else None,
        "budget_nano": book.budget_nano,
        "budgets": [purse_view(limit) for limit in runner.cap.tightest()],
        "busy": running is not None,
        "run": runner.current,
        "run_started_at": started / 1000 if started is not None else None,
        "forecast": runner.forecast.view(),
        "queued": len(book.queued),
        "pause_pending": runner.pause_pending,
        "pause": runner.hold.view(),
        "suspended": _suspended(book),
        "usage": runner.usage,
        "idle": runner.watch.view(runner) if book.state is State.RUNNING else None,
        "kept_until": book.kept_until,
        "checkpoint": checkpoint_view(book.checkpoint),
        "step": runner.step_text,
        "message": runner.message,
        "line": runner.hand.link is not None and runner.hand.link.up,
        "last_seq": runner.mirror.last_seq,
    }


def _text(book: Book) -> str:
    suspended = book.suspended
    if book.state in (State.PAUSED, State.FAILED, State.CLOSED) and book.open_segment is not None:
        return f"{book.state.value}; a machine of it lives: it is being stopped, and billed until it is gone"
    if book.state is not State.PAUSED or suspended is None:
        return _WORDS[book.state]
    where = suspended.boundary["where"] if suspended.boundary is not None else ""
    return f"paused {f'at {where}' if where else 'in the middle of a cell'}: compute $0"


def _suspended(book: Book) -> dict[str, Any] | None:
    """Return the cell that goes on with the session, and where the checkpoint it goes on from stands."""
    run = book.suspended
    if run is None or run.boundary is None:
        return None
    return {"run": run.run, "cell_id": run.cell_id, **run.boundary}


def cost_view(book: Book, context: Context) -> dict[str, Any]:
    """Return what one life of a session cost so far, and what its pauses saved."""
    now_ms = context.now_ms()
    return {
        "currency": book.offer["currency"],
        "rate_nano_per_hour": book.rate,
        "spent_nano": book.spent_nano(now_ms),
        "compute_nano": book.compute_nano(now_ms),
        "storage_nano": book.storage_nano(now_ms),
        "storage_nano_per_hour": book.storage_rate,
        "billed_seconds": book.billed_ms(now_ms) / 1000,
        "unbilled_seconds": book.unbilled_ms(now_ms) / 1000,
        "unspent_nano": book.unspent_nano(now_ms),
        "estimated": any(segment.estimated for segment in book.segments) or book.open_segment is not None,
        "as_of": now_ms / 1000,
    }


def total_view(books: list[Book], context: Context) -> dict[str, Any]:
    """Return the sum over sessions of one currency each line is in, and the sessions."""
    sessions = [{"name": book.name, "state": str(book.state), **cost_view(book, context)} for book in books]
    names = (
        "rate_nano_per_hour",
        "spent_nano",
        "compute_nano",
        "storage_nano",
        "storage_nano_per_hour",
        "billed_seconds",
        "unbilled_seconds",
        "unspent_nano",
    )
    currencies = sorted({str(session["currency"]) for session in sessions})
    if len(currencies) > 1:
        return {"sessions": sessions, "currencies": currencies, "as_of": context.now_ms() / 1000}
    total = {name: sum(session[name] for session in sessions) for name in names}
    currency = currencies[0] if currencies else context.settings.currency
    return {**total, "currency": currency, "sessions": sessions, "as_of": context.now_ms() / 1000}
