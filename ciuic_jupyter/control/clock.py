"""The clocks of the control plane, as one object that tests replace by one they turn."""

from __future__ import annotations

import time
from pathlib import Path


class Clock:
    """Wall clock for people and provider times; CLOCK_BOOTTIME, which counts suspend, for spans within one boot."""

    def __init__(self) -> None:
        self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def wall(self) -> float:
        """Return unix seconds."""
        return time.time()

    def boot(self) -> float:
        """Return seconds since boot, suspend included; comparable only under one `boot_id`."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class FakeClock(Clock):
    """A clock that stands still until it is turned."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.boot_id = "fake"
        self._wall = wall
        self._boot = 1000.0

    def wall(self) -> float:
        """Return the turned unix time."""
        return self._wall

    def boot(self) -> float:
        """Return the turned boot time."""
        return self._boot

    def turn(self, seconds: float, *, wall: float | None = None) -> None:
        """Let `seconds` pass; `wall` differs where the wall clock is stepped."""
        self._boot += seconds
        self._wall += seconds if wall is None else wall
