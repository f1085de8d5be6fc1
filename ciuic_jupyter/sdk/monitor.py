"""Watch what a job costs: the plane knows, this asks, and calls who wants to know once an amount is passed."""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from time import monotonic
from typing import Any, TypeVar

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.errors import CiuicError, UsageError
from ciuic_jupyter.sdk import place
from ciuic_jupyter.sdk.job import TrainingJob

_SECONDS = 1.0  # between two looks

Handler = TypeVar("Handler", bound=Callable[..., Any])


@dataclass(frozen=True)
class Alert:
    """One budget that has passed a mark: `scope` is cost_alert, run, session, day, month or user.

    Amounts are in units of the session's currency; `percent` is 50, 80, or 100 from when saving begins.
    """

    scope: str
    percent: int
    budget: Decimal
    spent: Decimal


class CostMonitor:
    """Calls its handlers at alerts, each once: of the job's `cost_alert`, and of every budget that counts for it.

    A handler without a parameter, or with one (the cost so far), is called when the session has cost as much as the
    job's `cost_alert`. One with two gets the `Alert` as well, and is called for budgets, too: those of the run, the
    session, the day, the month and the user, at 50, 80 and 100 %.

    Outside a thread looks each second while this object lives. In a cell each call of `job.checkpoint_callback` looks,
    in the thread that trains, so that a handler can do there what the training could.
    """

    def __init__(self, job: TrainingJob) -> None:
        """Watch `job` from the first handler on."""
        self.job = job
        self.alerted = False
        self._handlers: list[Callable[..., Any]] = []
        self._told: dict[str, int] = {}  # the highest mark of each budget, by its key
        self._thread: threading.Thread | None = None
        self._looked = float("-inf")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_thread": None, "_looked": float("-inf")}

    @property
    def cost(self) -> Decimal:
        """What the job's session has cost so far, in units of its currency."""
        return self.job.cost

    @property
    def over(self) -> bool:
        """Whether nothing is left to be told."""
        return self.alerted and not any(_takes(handler, 2) for handler in self._handlers)

    def on_alert(self, handler: Handler) -> Handler:
        """Have `handler` called at alerts: `()`, `(cost)` or `(cost, alert)`; a decorator.

        What it raises is shown, and keeps no other from being called. UsageError for one that could never be called:
        without a second parameter, for a job without a cost_alert.
        """
        if not callable(handler):
            raise UsageError(f"{handler!r} can't be called; write @monitor.on_alert above a function")
        if self.job.alert_nano is None and not _takes(handler, 2):
            raise UsageError(
                "this job has no cost_alert; make it with one, like TrainingJob(cost_alert=100), or give the handler a "
                "second parameter to have it called for budgets"
            )
        self._handlers.append(handler)
        if place.inside() is not None:
            if self._look_soon not in self.job.watched:
                self.job.watched.append(self._look_soon)
        elif self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=_watch, args=(weakref.ref(self),), name="ciuic-costs", daemon=True)
            self._thread.start()
        return handler

    def look(self) -> bool:
        """Look at the costs now and alert if it is time; return whether the cost_alert was given, now or before."""
        view = self.job.view
        cost, limit = _units(view["spent_nano"]), self.job.alert_nano
        if not self.alerted and limit is not None and int(view["spent_nano"]) >= limit:
            self.alerted = True
            for handler in list(self._handlers):
                self._call(handler, cost, Alert("cost_alert", 100, _units(limit), cost))
        for budget in view["budgets"]:
            key, mark = str(budget["key"]), int(budget["mark"])
            if mark > self._told.get(key, 0):
                self._told[key] = mark
                alert = Alert(budget["scope"], mark, _units(budget["budget_nano"]), _units(budget["spent_nano"]))
                for handler in [one for one in self._handlers if _takes(one, 2)]:
                    self._call(handler, cost, alert)
        return self.alerted

    def _look_soon(self) -> None:
        """Look if the last look is a second ago; a plane that does not answer stops no training."""
        if not self.over and monotonic() >= self._looked + _SECONDS:
            self._looked = monotonic()
            try:
                self.look()
            except CiuicError:
                return

    def _call(self, handler: Callable[..., Any], cost: Decimal, alert: Alert) -> None:
        given = (cost, alert) if _takes(handler, 2) else (cost,) if _takes(handler, 1) else ()
        try:
            handler(*given)
        except Exception:  # noqa: BLE001 - the user's code: shown, as a thread's own error would be
            sys.stderr.write(traceback.format_exc())


def _units(nano: Any) -> Decimal:
    return Decimal(int(nano)) / NANO


def _takes(handler: Callable[..., Any], count: int) -> bool:
    """Tell whether a handler can be called with so many arguments."""
    try:
        inspect.signature(handler).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _watch(monitor: weakref.ref[CostMonitor]) -> None:
    """Look each second until nothing is left to be told, or nobody holds the monitor."""
    pause = threading.Event()
    while True:
        held = monitor()
        if held is None:
            return
        try:
            held.look()
            if held.over:
                return
        except CiuicError:  # no session yet, or no plane for a moment: asked again
            pass
        del held
        pause.wait(_SECONDS)
