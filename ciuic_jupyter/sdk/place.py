"""Where this process is: in a cell of a session, or outside; and the way from here to the control plane."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.core.session import check_name
from ciuic_jupyter.errors import PlaneUnavailable, UsageError
from ciuic_jupyter.settings import Settings

SESSION = "CIUIC_SESSION"  # in the environment of a session's kernel
_MOST_MINUTES = 10**5


class Way:
    """Clients of the plane, one a thread; saved as nothing, and opened anew where it is needed."""

    def __init__(self) -> None:
        self._here = threading.local()

    def __reduce__(self) -> Any:
        return Way, ()

    @property
    def client(self) -> PlaneClient:
        """This thread's client: outside, a plane is started if none runs; in a cell PlaneUnavailable says so."""
        found: PlaneClient | None = getattr(self._here, "client", None)
        if found is None:
            found = PlaneClient.find() if inside() else PlaneClient.ensure(Settings())
            if found is None:
                raise PlaneUnavailable("no control plane can be reached from this machine; the cell runs on without it")
            self._here.client = found
        return found


def inside() -> str | None:
    """Return the session whose kernel this process is, None outside of any."""
    return os.environ.get(SESSION)


def default_session() -> str:
    """Return the session of this kernel, or a name after the script that runs."""
    script = re.sub(r"[^a-z0-9_-]+", "-", Path(sys.argv[0] or "job").stem.lower()).strip("-_")
    return inside() or check_name((script or "job")[:48])


def minutes(value: Any) -> float:
    """Return a checkpoint interval in seconds; UsageError unless it is a number of minutes above zero."""
    fine = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or not 1 / 60 <= value <= _MOST_MINUTES:
        raise UsageError(f"checkpoint_interval={value!r}: give minutes, at least a second, like checkpoint_interval=30")
    return float(value) * 60


def amount(value: Any) -> int:
    """Return a cost alert in nano-units; UsageError unless it is an amount above zero."""
    nano = 0
    if isinstance(value, (int, float, Decimal, str)) and not isinstance(value, bool):
        plain = not isinstance(value, float) or (math.isfinite(value) and abs(value) < 10**9)
        nano = parse_usd(Decimal(repr(value)) if isinstance(value, float) and plain else value) if plain else 0
    if nano <= 0:
        raise UsageError(f"cost_alert={value!r}: give an amount above zero, like cost_alert=100")
    return nano
