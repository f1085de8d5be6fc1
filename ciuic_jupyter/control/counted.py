"""Runs whose FLOPs were counted, with their cost: for a run's view, and for the receipt of their machine."""

from __future__ import annotations

import importlib.resources
from functools import lru_cache
from typing import Any

from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.control.report import run_row
from ciuic_jupyter.core.flops import Peak, figures, peaks, told

_MOST = 20  # runs on one receipt

View = dict[str, Any]


def of_run(book: Book, run: Run, now_ms: int, counted: View | None = None) -> View | None:
    """Return a run's FLOPs, from its begin through all pauses, and what they cost; None if its kernel told none.

    `counted` is newer than what its row says, if it is given.
    """
    counted = counted or run.flops
    if counted is None:
        return None
    spent = int(run_row(book, run, now_ms)["spent_nano"])
    return figures(counted, spent, str(book.offer["currency"]), known_peaks())


def on_machine(book: Book, held: View | None, end_ms: int) -> list[View]:
    """Return the newest runs that were to be counted and were under way on the machine that ends at `end_ms`.

    `held` is what a checkpoint says of the run in its middle.
    """
    segment = book.open_segment
    since, found = segment.opened_ms if segment is not None else end_ms, []
    for run in book.runs.values():
        if run.count_flops and run.started_ms is not None and (run.ended_ms is None or run.ended_ms >= since):
            newer = told(held.get("flops")) if held is not None and held["run"] == run.run else None
            found.append({"run": run.run, "figures": of_run(book, run, end_ms, newer)})
    return found[-_MOST:]


@lru_cache
def known_peaks() -> dict[tuple[str, str], Peak]:
    """Return the peaks of the GPUs that the package knows."""
    path = importlib.resources.files("ciuic_jupyter") / "data" / "gpu_peaks.csv"
    return peaks(path.read_text(encoding="utf-8"))
