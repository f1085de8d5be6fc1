"""Budgets that all sessions share (a day, a month, the user), and what is left of any for a machine nobody hears.

Days and months begin at midnight in the time zone of the machine that the control plane runs on (TZ); where clocks are
put forward or back, a day has 23 or 25 hours. They follow the wall clock, also where it is set by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.control.spending import day_of, spent_between, spent_since, start_of
from ciuic_jupyter.core.budget import Limit, affordable_ms
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.settings import Settings

if TYPE_CHECKING:
    from ciuic_jupyter.control.context import Context
    from ciuic_jupyter.control.runner import Runner

HOLD_SECONDS = 20.0  # a cell under way has so long to come to a loop boundary before it is interrupted...
_HOLD_PERCENT = 5  # ...of which so much of the budget is the most
STOP_SECONDS = 3.0  # from noticing that the cap is near to the machine's end, without the save
SILENCE_SECONDS = 6.0  # a plane that was not heard for so long is away


@dataclass(frozen=True)
class Window:
    """A stretch of time with a budget: from `begin_ms` to now."""

    key: str
    words: str
    budget_nano: int
    begin_ms: int

    @property
    def scope(self) -> str:
        """Its kind: day, month or user."""
        return self.key.partition(":")[0]


def hold_seconds(budget_nano: int, rate: int) -> float:
    """Return how long a cell may be waited for near the end of a budget."""
    if rate <= 0:
        return HOLD_SECONDS
    return min(HOLD_SECONDS, budget_nano * 3600 * _HOLD_PERCENT / (100 * rate))


def run_cost(book: Book, run: Run, now_ms: int) -> int:
    """Return what the machines of a session cost while a run was under way, in nano-units."""
    if run.started_ms is None:
        return 0
    end = run.ended_ms if run.ended_ms is not None else now_ms
    return spent_between(book, run.started_ms, end)


def run_under_way(book: Book, current: str | None) -> Run | None:
    """Return the run that costs money, or will when the session is resumed."""
    return book.runs.get(current) if current is not None else book.suspended


class Purse:
    """Knows the shared budgets; every session of their currency counts."""

    def __init__(self, context: Context, runners: Mapping[str, Runner], zone: tzinfo | None = None) -> None:
        settings = context.settings
        self._context, self._runners, self._zone = context, runners, zone
        self._day = _amount(settings, "budget_per_day")
        self._month = _amount(settings, "budget_per_month")
        self._user = _amount(settings, "budget_total")
        self.per_run = _amount(settings, "budget_per_run")
        self.told: dict[str, int] = {
            window.key: self._spent(window) * 100 // window.budget_nano for window in self._windows()
        }

    def spent(self, at_ms: int) -> list[tuple[Window, int]]:
        """Return the shared budgets of now, with what was spent of each until `at_ms`."""
        return [(window, self._spent(window, at_ms)) for window in self._windows()]

    def _windows(self) -> list[Window]:
        day = day_of(self._context.now_ms(), self._zone)
        first = day.replace(day=1)
        found = []
        if self._day is not None:
            found.append(Window(f"day:{day}", "the budget of this day", self._day, start_of(day, self._zone)))
        if self._month is not None:
            begin = start_of(first, self._zone)
            found.append(Window(f"month:{day:%Y-%m}", "the budget of this month", self._month, begin))
        if self._user is not None:
            found.append(Window("user", "the budget of all sessions", self._user, 0))
        return found

    def _books(self) -> list[Book]:
        currency = self._context.settings.currency
        return [book for book in self._context.books.lives if book.offer["currency"] == currency]

    def _spent(self, window: Window, at_ms: int | None = None) -> int:
        until_ms = self._context.now_ms() if at_ms is None else at_ms
        return spent_since(self._books(), window.begin_ms, max(window.begin_ms, until_ms))

    def check_currency(self, currency: str) -> None:
        """Raise UsageError if a machine is paid in a currency that the shared budgets can't count."""
        known = self._context.settings.currency
        if currency != known and (self._day, self._month, self._user) != (None, None, None):
            raise UsageError(
                f"the machine is paid in {currency} and your budgets are in {known}: they could not count it; nothing "
                "was started. Set CIUIC_CURRENCY, or take the budgets away"
            )

    def limits(self, runner: Runner, more: Callable[[Runner, float], int], *, hold: bool) -> list[Limit]:
        """Return the shared budgets; `more`: what a session costs from now to its stop, its cell waited for so long."""
        if runner.book.offer["currency"] != self._context.settings.currency:
            return []
        others = [one for one in self._runners.values() if one.live and one is not runner]
        same = [one for one in others if one.book.offer["currency"] == runner.book.offer["currency"]]
        rate = sum(one.book.rate for one in (*same, runner))
        kept = sum(one.flow - one.rate for one in self._books())
        found = []
        for window in self._windows():
            spent = self._spent(window)
            seconds = hold_seconds(window.budget_nano, rate) if hold else 0.0
            ends = sum(more(one, seconds) for one in (runner, *same))
            found.append(Limit(window.key, window.words, window.budget_nano, spent, spent + ends, rate + kept))
        return found

    def seconds_left(self, book: Book, current: str | None = None) -> float | None:
        """Return how long a session's machine may go on unheard until it must save and leave; None: no budget says."""
        now_ms, rate = self._context.now_ms(), int(book.offer["price_nano_per_hour"])
        run = run_under_way(book, current)
        lefts = [(window.budget_nano - self._spent(window), window.budget_nano, True) for window in self._windows()]
        if book.budget_nano is not None:
            lefts.append((book.budget_nano - book.spent_nano(now_ms), book.budget_nano, False))
        if run is not None and run.budget_nano is not None:
            lefts.append((run.budget_nano - run_cost(book, run, now_ms), run.budget_nano, False))
        if not lefts or rate <= 0:
            return None
        total = max(rate, sum(one.book.rate for one in self._runners.values() if one.live))
        save, _ = self._context.timings(book)
        return max(
            1.0,
            min(self._seconds(book, left, budget, total if shared else rate) for left, budget, shared in lefts) - save,
        )

    def _seconds(self, book: Book, left: int, budget: int, total: int) -> float:
        now_ms, rate, segment = self._context.now_ms(), int(book.offer["price_nano_per_hour"]), book.open_segment
        unit_ms = int(book.offer["unit_seconds"]) * 1000
        billed, length = (segment.billed_ms(now_ms), segment.length_ms(now_ms)) if segment is not None else (0, 0)
        more = affordable_ms(left * rate // total, rate, billed, length, unit_ms) or 0
        return more / 1000 - STOP_SECONDS - SILENCE_SECONDS - hold_seconds(budget, rate)


def _amount(settings: Settings, name: str) -> int | None:
    value = getattr(settings, name)
    return None if value is None else parse_usd(value)


def view(limit: Limit) -> dict[str, Any]:
    """Return a budget as JSON for people and panels; `key` is another one on another day, or for another cell."""
    return {
        "key": limit.key,
        "scope": limit.key.partition(":")[0],
        "budget_nano": limit.budget_nano,
        "spent_nano": limit.spent_nano,
        "rate_nano_per_hour": limit.rate,
        "percent": limit.percent,
        "mark": limit.mark,
    }
