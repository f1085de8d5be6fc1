"""The lease: a machine that hears nothing from its plane saves, verifies and leaves by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

AWAY_SECONDS = 6.0  # a plane that lives is heard every two


def boottime() -> float:
    """Seconds since boot, a suspended laptop's sleep included: a lease runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Lease:
    """When the plane was last heard, and how long silence is borne; times come in from the caller (boottime)."""

    seconds: float
    heard_at: float
    started_at: float
    deadline: float | None = None  # seconds from started_at: then a running cell is interrupted

    def heard(self, now: float) -> None:
        self.heard_at = now

    def lapsed(self, now: float) -> bool:
        """Whether the plane has been silent for the whole lease, or is away while the budget ends."""
        silent = now - self.heard_at
        return silent >= self.seconds or (silent >= AWAY_SECONDS and self.over(now))

    def bound(self, seconds: float | None, now: float) -> None:
        """Take a new deadline, `seconds` from now; None: there is none."""
        self.started_at, self.deadline = now, seconds

    def over(self, now: float) -> bool:
        """Whether a machine nobody hears must not go on running its cell."""
        return self.deadline is not None and now - self.started_at >= self.deadline

    @property
    def tick(self) -> float:
        """Seconds between two looks at the lease."""
        return min(1.0, self.seconds / 4)
