"""Watch what a job costs: the plane knows, this asks, and calls who wants to know once the alert's amount is passed."""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from decimal import Decimal
from time import monotonic
from typing import Any, TypeVar

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.errors import CiuicError, UsageError
from ciuic_jupyter.sdk import place
from ciuic_jupyter.sdk.job import TrainingJob

_SECONDS = 1.0  # between two looks

Handler = TypeVar("Handler", bound=Callable[..., Any])


class CostMonitor:
    """Calls its handlers when the job's session has cost as much as the job's `cost_alert`, once.

    Outside a thread looks each second while this object lives. In a cell each call of `job.checkpoint_callback` looks,
    in the thread that trains, so that a handler can do there what the training could.
    """

    def __init__(self, job: TrainingJob) -> None:
        """Watch `job` from the first handler on; UsageError for a job without a cost_alert."""
        if job.alert_nano is None:
            raise UsageError("this job has no cost_alert; make it with one, like TrainingJob(cost_alert=100)")
        self.job = job
        self.alerted = False
        self._handlers: list[Callable[..., Any]] = []
        self._thread: threading.Thread | None = None
        self._looked = float("-inf")

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_thread": None, "_looked": float("-inf")}

    @property
    def cost(self) -> Decimal:
        """What the job's session has cost so far, in units of its currency."""
        return self.job.cost

    def on_alert(self, handler: Handler) -> Handler:
        """Have `handler` called at the alert, with the cost so far if it takes an argument; a decorator.

        What it raises is shown, and keeps no other from being called.
        """
        if not callable(handler):
            raise UsageError(f"{handler!r} can't be called; write @monitor.on_alert above a function")
        self._handlers.append(handler)
        if place.inside() is not None:
            if self._look_soon not in self.job.watched:
                self.job.watched.append(self._look_soon)
        elif self._thread is None:
            self._thread = threading.Thread(target=_watch, args=(weakref.ref(self),), name="ciuic-costs", daemon=True)
            self._thread.start()
        return handler

    def look(self) -> bool:
        """Look at the cost now and alert if it is time; return whether the alert was given, now or before."""
        if not self.alerted:
            cost = self.cost
            if self.job.alert_nano is not None and cost * NANO >= self.job.alert_nano:
                self.alerted = True
                for handler in list(self._handlers):
                    self._call(handler, cost)
        return self.alerted

    def _look_soon(self) -> None:
        """Look if the last look is a second ago; a plane that does not answer stops no training."""
        if not self.alerted and monotonic() >= self._looked + _SECONDS:
            self._looked = monotonic()
            try:
                self.look()
            except CiuicError:
                return

    def _call(self, handler: Callable[..., Any], cost: Decimal) -> None:
        try:
            handler(*([cost] if _takes_one(handler) else []))
        except Exception:  # noqa: BLE001 - the user's code: shown, as a thread's own error would be
            sys.stderr.write(traceback.format_exc())


def _takes_one(handler: Callable[..., Any]) -> bool:
    try:
        inspect.signature(handler).bind(None)
    except (TypeError, ValueError):
        return False
    return True


def _watch(monitor: weakref.ref[CostMonitor]) -> None:
    """Look each second until the alert is given or nobody holds the monitor."""
    pause = threading.Event()
    while True:
        held = monitor()
        if held is None:
            return
        try:
            if held.look():
                return
        except CiuicError:  # no session yet, or no plane for a moment: asked again
            pass
        del held
        pause.wait(_SECONDS)
