"""Seconds and bytes of a scrape of 10, 100 and 1,000 sessions, and how long the event loop waits meanwhile.

Run: python -m benchmarks.metrics. Each session has 5 machines in its past, 50 cells, and every tenth a machine now. The
peer says the three facts of a session that our page says of each it names, as `Gauge.labels()`, set at each scrape.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from ciuic_jupyter.control.metrics import LedgerCollector
from ciuic_jupyter.control.metrics_routes import Page
from ciuic_jupyter.control.projections import Book, Books, Run, Segment
from ciuic_jupyter.control.purse import Purse
from ciuic_jupyter.core.session import State
from ciuic_jupyter.settings import Settings

ROUNDS = 9
MACHINES, CELLS = 5, 50
HOUR = 3_600_000
BEGIN = 1_800_000_000_000
NOW = BEGIN + 40 * HOUR


def book(number: int) -> Book:
    """Return a life of 5 hours on and 5 off, with ten cells in each hour on."""
    offer = {"price_nano_per_hour": 900_000_000, "currency": "USD", "instance": f"t{number % 5}", "provider": "fake"}
    made = Book(f"s{number}", f"life{number}", offer, BEGIN, state=State.PAUSED)
    for count in range(MACHINES):
        at = BEGIN + 2 * count * HOUR
        states = (State.STARTING, State.RUNNING, State.SAVING, State.STOPPING, State.PAUSED)
        made.moments += [
            (at + step * 1000 if step < 2 else at + HOUR - 5000 + step * 1000, one) for step, one in enumerate(states)
        ]
        made.segments.append(
            Segment(f"m{number}-{count}", at, 900_000_000, "USD", 1000, 60_000, at + HOUR, instance=f"t{number % 5}")
        )
        made.save_seconds.append(1.5)
        made.restore_seconds.append(2.5)
        for cell in range(CELLS // MACHINES):
            begin, name = at + (cell + 1) * 300_000, f"r{count}-{cell}"
            made.runs[name] = Run(name, "", None, begin, "ok", 1, 2, begin, begin + 200_000)
    if number % 10 == 0:
        made.moments.append((NOW - HOUR, State.RUNNING))
        made.state = State.RUNNING
        made.segments.append(
            Segment(f"m{number}", NOW - HOUR, 900_000_000, "USD", 1000, 60_000, instance=f"t{number % 5}")
        )
    return made


def collector(count: int, folder: Path, **settings: Any) -> LedgerCollector:
    """Return the collector of a plane with so many sessions, and a clock that runs."""
    books, begun = Books(), time.monotonic()
    for number in range(count):
        made = book(number)
        books.sessions[made.name] = made
    known = Settings(state_dir=folder, runtime_dir=folder, budget_per_month="1000000", **settings)
    context: Any = SimpleNamespace(
        settings=known, books=books, now_ms=lambda: NOW + round((time.monotonic() - begun) * 1000)
    )
    context.purse = Purse(context, {})
    plane: Any = SimpleNamespace(settings=known, context=context, runners={})
    return LedgerCollector(plane)


class Peer:
    """A gauge a fact, set for each session at each scrape."""

    def __init__(self, count: int) -> None:
        self._books = [book(number) for number in range(count)]
        self._registry = CollectorRegistry()
        names = ["cost", "billed", "state"]
        self._gauges = [Gauge(f"peer_{name}", "A fact.", ["session"], registry=self._registry) for name in names]

    def page(self) -> bytes:
        cost, billed, state = self._gauges
        for one in self._books:
            cost.labels(one.name).set(one.spent_nano(NOW) / 1e9)
            billed.labels(one.name).set(one.billed_ms(NOW) / 1000)
            state.labels(one.name).set(1)
        return generate_latest(self._registry)


def timed(work: Callable[[], bytes]) -> tuple[float, float, int]:
    """Return milliseconds of the first page and the median of the others, and bytes."""
    took, page = [], b""
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        page = work()
        took.append(1000 * (time.perf_counter() - begun))
    return took[0], statistics.median(took[1:]), len(page)


async def stall(made: LedgerCollector) -> tuple[float, float]:
    """Return the longest wait of a loop that wants to turn each millisecond: alone, and while a first page is made."""

    async def longest(seconds: float, work: asyncio.Task[None] | None) -> float:
        worst, end = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < end or (work is not None and not work.done()):
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - begun - 0.001)
        return 1000 * worst

    async def pages() -> None:
        for _ in range(ROUNDS):
            await Page(made).text()

    gc.collect()
    gc.freeze()
    alone = await longest(1.0, None)
    return alone, await longest(0.0, asyncio.create_task(pages()))


def main() -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; first of {ROUNDS} pages, median of the rest")
    print("| sessions | page | ms, first | ms, then | KiB | longest wait of the event loop, ms (alone) |")
    print("|---|---|---|---|---|---|")
    for count in (10, 100, 1000):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for words, settings in (
                ("ours, nobody named", {}),
                ("ours, each session named", {"metrics_sessions": True, "metrics_sessions_limit": 1000}),
            ):
                made = collector(count, folder, **settings)
                gc.collect()
                gc.freeze()  # as the plane does once it has read its ledger
                first, then, size = timed(lambda made=made: generate_latest(made))
                alone, worst = asyncio.run(stall(collector(count, folder, **settings)))
                waits = f"{worst:.1f} ({alone:.1f})"
                print(f"| {count} | {words} | {first:.1f} | {then:.1f} | {size / 1024:.1f} | {waits} |")
            peer = Peer(count)
            gc.collect()
            gc.freeze()
            first, then, size = timed(peer.page)
            print(f"| {count} | `Gauge.labels()`, each session | {first:.1f} | {then:.1f} | {size / 1024:.1f} | - |")


if __name__ == "__main__":
    main()
