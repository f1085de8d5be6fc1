"""What a cell would cost on each machine type, from what its earlier runs took: pure, from facts somebody else read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ciuic_jupyter.core.money import HOUR_MS, cost
from ciuic_jupyter.core.offers import Billed


@dataclass(frozen=True)
class Spread:
    """The least, the median and the most of some whole numbers."""

    least: int
    median: int
    most: int

    @classmethod
    def of(cls, values: Iterable[int]) -> Spread | None:
        """Return the spread of `values`, None of none; the median of an even number is the mean of the middle two."""
        found = sorted(values)
        if not found:
            return None
        middle = len(found) // 2
        median = found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) // 2
        return cls(found[0], median, found[-1])


@dataclass(frozen=True)
class Past:
    """A run that came to its end, all of it on one machine type; pauses in its middle count as no time."""

    instance: str
    machine_ms: int
    cost_nano: int
    currency: str


@dataclass(frozen=True)
class Quote:
    """What one more run would cost by an offer, in nano-units of its currency.

    `billed`: what its runs there did cost, at the prices of then; None where there was none. `like`: the machine type
    whose times are taken, with the same speed assumed; None where they were measured on this one, or nowhere.
    """

    offer: Billed
    runs: int
    billed: Spread | None
    like: str | None
    ms: Spread | None
    start_ms: int | None  # of a machine, until its kernel is ready; None: never measured, and not in the cost
    start_measured: bool  # on this very type
    cost: Spread | None
    hour_nano: int  # an hour of it, by its billing unit and minimum


def reference(past: Sequence[Past]) -> str | None:
    """Return the machine type with the most runs, the latest of equals; None without any."""
    counts = Counter(run.instance for run in past)
    order = {run.instance: at for at, run in enumerate(past)}
    return max(counts, key=lambda instance: (counts[instance], order[instance]), default=None)


def quote(
    offer: Billed, past: Sequence[Past], starts: Mapping[str, Sequence[int]], *, paid_ms: int | None = None
) -> Quote:
    """Price one more run by `offer`: on a machine that starts for it, or on one that has lived for `paid_ms` already.

    `past` is oldest first; `starts` are milliseconds that machines took to start, by type. Billing unit and minimum are
    those of the offer, as in the ledger.
    """
    mine = [run for run in past if run.instance == offer.instance]
    model = offer.instance if mine else reference(past)
    times = Spread.of(run.machine_ms for run in past if run.instance == model)
    own = Spread.of(starts.get(offer.instance, ()))
    any_start = own or Spread.of(ms for each in starts.values() for ms in each)
    start_ms = any_start.median if any_start is not None else None

    def billed(milliseconds: int) -> int:
        unit_ms, minimum_ms = offer.unit_seconds * 1000, offer.minimum_seconds * 1000
        return cost(offer.price_nano_per_hour, milliseconds, unit_ms=unit_ms, minimum_ms=minimum_ms)

    def priced(milliseconds: int) -> int:
        if paid_ms is not None:  # in whole seconds: nobody knows in which part of one it will begin
            return billed(paid_ms + -(-milliseconds // 1000) * 1000) - billed(paid_ms)
        return billed((start_ms or 0) + milliseconds)

    return Quote(
        offer=offer,
        runs=len(mine),
        billed=Spread.of(run.cost_nano for run in mine if run.currency == offer.currency),
        like=model if model != offer.instance else None,
        ms=times,
        start_ms=start_ms,
        start_measured=own is not None,
        cost=Spread(priced(times.least), priced(times.median), priced(times.most)) if times is not None else None,
        hour_nano=billed(HOUR_MS),
    )
