"""Budgets: what one counts, how much of it is used, and which marks that passes."""

from __future__ import annotations

from dataclasses import dataclass

MARKS = (50, 80, 100)  # percent; the last is told when saving begins, before the budget is crossed


@dataclass(frozen=True)
class Limit:
    """One budget at one moment, in nano-units; `end_nano`: spent once all that it counts is saved and stopped."""

    key: str  # which it is, and of when: "session", "run:...", "day:2026-11-25", "month:2026-11", "user"
    words: str  # "the budget of this day"
    budget_nano: int
    spent_nano: int
    end_nano: int
    rate: int = 0  # nano-units an hour that are spent of it now

    @property
    def near(self) -> bool:
        """Tell whether it would be crossed if saving did not begin now."""
        return self.end_nano >= self.budget_nano

    @property
    def percent(self) -> int:
        """Return how much of it is spent, rounded down."""
        return self.spent_nano * 100 // self.budget_nano

    @property
    def mark(self) -> int:
        """Return the highest mark that is passed, 0 for none; 100 from when saving has to begin."""
        return MARKS[-1] if self.near else passed(0, self.percent) or 0

    @property
    def hours_left(self) -> float:
        """Return for how long it lasts at the present rate, as what is tightest is told; by what is left at none."""
        return (self.budget_nano - self.spent_nano) / max(1, self.rate)


def passed(told: int, percent: int) -> int | None:
    """Return the highest mark below 100 that lies above what was told and is reached now, if any."""
    return max((mark for mark in MARKS[:-1] if told < mark <= percent), default=None)


def affordable_ms(left_nano: int, rate: int, billed_ms: int, length_ms: int, unit_ms: int) -> int | None:
    """Return for how long a machine may still run on `left_nano` more, whole billing units counted; None: for ever.

    `billed_ms` of its `length_ms` are paid (or due) already.
    """
    if rate <= 0:
        return None
    more = max(0, left_nano) * 3_600_000 // rate // unit_ms * unit_ms
    return max(0, billed_ms + more - length_ms)
