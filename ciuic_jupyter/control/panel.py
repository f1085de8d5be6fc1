"""A session as the panel shows it: the view of meters, what its button says, its runs, and a minute of usage."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.projections import Run
from ciuic_jupyter.control.views import session_view
from ciuic_jupyter.core.session import State

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_RUNS = 50  # the newest ones
_POINTS = 60
_POINT_SECONDS = 1.0
_VERIFYING = ("verifying", "signing", "saved")  # the agent's steps behind the last byte
_GONE = (State.PAUSED, State.FAILED, State.CLOSED)

View = dict[str, Any]


class UsageTrace:
    """CPU in percent of one core and GPU in percent of time, one point a second of the last minute; None: not known."""

    def __init__(self) -> None:
        self._points: deque[tuple[float | None, float | None]] = deque(maxlen=_POINTS)
        self._next = float("-inf")

    def clear(self) -> None:
        """Forget a machine that is gone."""
        self._points.clear()

    def take(self, sample: View, now: float) -> None:
        """Note one sample frame of the agent."""
        if now < self._next:
            return
        self._next = now + _POINT_SECONDS
        cpu, gpus = sample.get("cpu_percent"), sample.get("gpus") or ()
        busiest = max((float(gpu["utilization_percent"]) for gpu in gpus), default=None)
        self._points.append((_rounded(cpu), _rounded(busiest)))

    def view(self) -> View:
        """Return the points, oldest first."""
        cpu, gpu = [point[0] for point in self._points], [point[1] for point in self._points]
        return {"seconds": _POINT_SECONDS, "cpu": cpu, "gpu": gpu if any(one is not None for one in gpu) else None}


def _rounded(percent: float | None) -> float | None:
    return round(percent, 1) if percent is not None else None


def panel_view(runner: Runner) -> View:
    """Return the session's view with `progress`, `runs` and `usage_history`."""
    view = session_view(runner)
    history = runner.trace.view() if runner.usage is not None else None
    runs = [_run(run) for run in list(runner.book.runs.values())[-_RUNS:]]
    return {**view, "usage_history": history, "progress": progress(runner), "runs": runs}


def progress(runner: Runner) -> View:
    """Return what a one-click button says: the step of a stop under way, or when billing stopped and for how much.

    `fraction` is the share of the bytes that are saved, None where the kernel has not told.
    """
    book, step, fraction = runner.book, None, None
    if book.state is State.SAVING:
        step = "verifying" if runner.step_text in _VERIFYING else "saving"
        fraction = runner.saved_share if step == "saving" else None
    elif book.state is State.STOPPING:
        step = "releasing"
    elif book.state in _GONE and book.receipts:
        step = "stopped"
    receipt = book.receipts[-1] if step == "stopped" else None
    return {
        "step": step,
        "fraction": fraction,
        "stopped_at": receipt["at"] if receipt is not None else None,
        "last_cost_nano": receipt["segment_nano"] if receipt is not None else None,
    }


def _run(run: Run) -> View:
    return {
        "run": run.run,
        "cell_id": run.cell_id,
        "state": run.state,
        "started_at": run.started_ms / 1000 if run.started_ms is not None else None,
        "ended_at": run.ended_ms / 1000 if run.ended_ms is not None else None,
    }
