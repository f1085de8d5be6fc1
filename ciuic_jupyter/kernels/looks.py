"""The agent's looks at the loops of the cell under way: once a second, for the plane's forecast."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ciuic_jupyter.errors import CiuicError, KernelDied
from ciuic_jupyter.kernels.holds import Holds
from ciuic_jupyter.kernels.kernel_link import KernelLink
from ciuic_jupyter.kernels.pause import HOLD
from ciuic_jupyter.kernels.runs import Run, Runs

LOOK_SECONDS = 1.0


class Looks:
    """Asks the kernel past the cell under way; one that is deep in a library answers late, and is not asked twice."""

    def __init__(self, runs: Runs, holds: Holds) -> None:
        self.runs = runs
        self._holds = holds
        self._run: Run | None = None
        self._at = 0.0  # of the last look, monotonic
        self._was_held = False
        self._held_seconds = 0.0
        self._newest: dict[str, Any] | None = None

    def newest(self) -> dict[str, Any] | None:
        """Return what was seen since the last call, once: {run, ran, loops}; `ran` in seconds without those held."""
        newest, self._newest = self._newest, None
        return newest

    async def look_for_ever(self, link: KernelLink) -> None:
        """Look once a second while a cell runs, until the kernel ends."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            run = self.runs.current
            if run is None or not run.started:
                continue
            try:
                told = await link.request_control(HOLD, {"op": "loops", "cell": run.request})
            except KernelDied:
                return
            except CiuicError:
                continue
            if self.runs.current is run and "at" in told:
                self._newest = {"run": run.run, "ran": self._ran(run, told), "loops": list(told.get("loops") or ())}

    def _ran(self, run: Run, told: Mapping[str, Any]) -> float:
        """Return the seconds the run has run here; both processes read one monotonic clock, which no one sets."""
        at, now = float(told["at"]), time.monotonic()
        at = at if run.begun <= at <= now else now
        if self._run is not run:
            self._run, self._at, self._held_seconds, self._was_held = run, run.begun, 0.0, False
        if self._holds.held or self._was_held:
            self._held_seconds += max(0.0, at - self._at)
        self._at, self._was_held = max(self._at, at), self._holds.held
        return round(max(0.0, at - run.begun - self._held_seconds), 6)
