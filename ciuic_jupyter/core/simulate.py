"""The idle rule on a trace of cells: what it would have billed, beside timeouts and one who knows the future.

The rule is `core.idle.decide` and the prices are `core.money.cost`, those of the control plane: one step of a session
here is what the plane does under a clock that is turned by hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ciuic_jupyter.core.idle import Facts, Idle, Policy, decide
from ciuic_jupyter.core.money import HOUR_MS, billed_ms, cost

Rule = Callable[[float, Facts], float | None]  # idle since (s), facts -> when its save begins (s), None: never


@dataclass(frozen=True)
class Cell:
    """One execution: how long it ran, and how long until the next one began (None: it was the last)."""

    busy_ms: int
    gap_ms: int | None


Sessions = Mapping[str, Sequence[Cell]]


@dataclass(frozen=True)
class Stay:
    """One machine's paid time, in milliseconds since the session began."""

    opened_ms: int
    closed_ms: int


@dataclass(frozen=True)
class Played:
    """What one session came to under a rule; money in nano-units."""

    stays: tuple[Stay, ...]
    saved_ms: int | None  # when the first checkpoint was there, from then on it is kept
    cells: int
    busy_ms: int
    waited_ms: int
    compute_nano: int
    storage_nano: int

    @property
    def resumes(self) -> int:
        """Return how often somebody waited for a machine to come back."""
        return len(self.stays) - 1

    @property
    def bill_nano(self) -> int:
        """Return compute and storage together."""
        return self.compute_nano + self.storage_nano


@dataclass
class Tally:
    """Many sessions under one rule: sums, and each session's own numbers."""

    name: str
    played: list[Played] = field(default_factory=list)

    def sum(self, what: str) -> int:
        """Return the sum of a number of `Played` over all sessions."""
        return sum(int(getattr(one, what)) for one in self.played)

    @property
    def resumes_per_100(self) -> float:
        """Return resumes per 100 cells."""
        return 100 * self.sum("resumes") / max(1, self.sum("cells"))


def by_rule(policy: Policy) -> Rule:
    """Return the product's own rule."""

    def save_at(since: float, facts: Facts) -> float | None:
        return decide(policy, Idle(since), facts).save_at

    return save_at


def by_timeout(seconds: float | None) -> Rule:
    """Return a plain timeout; None never releases."""
    return lambda since, _: None if seconds is None else since + seconds


def play(cells: Sequence[Cell], policy: Policy, rule: Rule, before: tuple[int, int] = (0, 0)) -> Played:
    """Play one session: a restore is waited for and paid; a cell that comes during a save waits and keeps the machine.

    `before`: resumes and cells of the same user's earlier sessions, which the cap counts, too.
    """
    save, restore = round(policy.checkpoint_seconds * 1000), round(policy.restore_seconds * 1000)
    now, opened, waited, saved = 0, 0, 0, None
    stays: list[Stay] = []
    for number, cell in enumerate(cells):
        now += cell.busy_ms
        if cell.gap_ms is None:
            break
        facts = Facts(opened / 1000, resumes=before[0] + len(stays), runs=before[1] + number + 1)
        begins = rule(now / 1000, facts)
        back = now + cell.gap_ms
        gone = None if begins is None else max(now, math.ceil(begins * 1000 - 1e-3)) + save
        now = back
        if gone is None or gone - save >= back:
            continue
        saved = gone if saved is None else saved
        if gone <= back:
            stays.append(Stay(opened, gone))
            opened, now = back, back + restore
        else:
            now = gone
        waited += now - back
    stays.append(Stay(opened, now))
    storage = 0 if saved is None else cost(policy.storage_nano_per_hour, now - saved)
    compute = sum(_price(policy, stay.closed_ms - stay.opened_ms) for stay in stays)
    busy = sum(cell.busy_ms for cell in cells)
    return Played(tuple(stays), saved, len(cells), busy, waited, compute, storage)


def _price(policy: Policy, length_ms: int) -> int:
    unit, minimum = policy.unit_seconds * 1000, policy.minimum_seconds * 1000
    return cost(policy.price_nano_per_hour, length_ms, unit_ms=unit, minimum_ms=minimum)


def play_all(sessions: Sessions, policy: Policy, rule: Rule, name: str = "") -> Tally:
    """Play all sessions in order, as one user's."""
    tally, resumes, runs = Tally(name), 0, 0
    for cells in sessions.values():
        played = play(cells, policy, rule, (resumes, runs))
        tally.played.append(played)
        resumes, runs = resumes + played.resumes, runs + played.cells
    return tally


def least(cells: Sequence[Cell], policy: Policy) -> int:
    """Return the least that one who knows all gaps could have paid, in nano-units, rounded down.

    Exact, over all choices of gaps to release in (saved at once, or later where that time is paid; no start before the
    user is back): for each cell the cheapest way to begin a machine there, from all starts that may still win.
    """
    save, restore = round(policy.checkpoint_seconds * 1000), round(policy.restore_seconds * 1000)
    unit, minimum = policy.unit_seconds * 1000, policy.minimum_seconds * 1000
    p, s = policy.price_nano_per_hour, policy.storage_nano_per_hour
    starts = [(0, 0, 0)]  # in nano-units x ms/h: cost before this machine, when it began, storage per ms while it is on
    now = 0

    def total(start: tuple[int, int, int], end: int) -> int:
        length = end - start[1]
        return start[0] + p * billed_ms(length, unit_ms=unit, minimum_ms=minimum) + start[2] * length

    def released(start: tuple[int, int, int], gone: int, back: int) -> int:
        paid = billed_ms(gone - start[1], unit_ms=unit, minimum_ms=minimum) // unit * unit
        end = min(
            back, max(gone, start[1] + paid)
        )  # the first checkpoint, and with it storage, may as well come late in paid time
        return total(start, end) + s * (back - end)

    for cell in cells:
        now += cell.busy_ms
        if cell.gap_ms is None:
            break
        gone, back = now + save, now + cell.gap_ms
        now = back
        if gone <= back:
            best = min(released(start, gone, back) for start in starts)
            # restores make the clock run ahead: each start keeps its own, as if it had begun that much earlier
            starts.append((best, back - restore, s))
        starts = _may_win(starts, now, policy)
    return min(total(start, now) for start in starts) // HOUR_MS


def _may_win(starts: list[tuple[int, int, int]], now: int, policy: Policy) -> list[tuple[int, int, int]]:
    """Leave out starts that another one beats whatever comes: rounding to units is all that could still help them."""
    p, unit, minimum = policy.price_nano_per_hour, policy.unit_seconds * 1000, policy.minimum_seconds * 1000

    def so_far(start: tuple[int, int, int]) -> int:
        return start[0] + (p + start[2]) * (now - start[1])

    settled = [start for start in starts if now - start[1] >= minimum and start[2] <= policy.storage_nano_per_hour]
    if not settled:
        return starts
    best = min(settled, key=lambda start: (so_far(start), start[2]))
    limit = so_far(best) + p * unit
    return [best, *(one for one in starts if one is not best and (so_far(one) < limit or one[2] < best[2]))]
