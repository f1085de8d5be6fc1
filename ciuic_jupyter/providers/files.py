"""Private files of providers and of the control plane."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

_EVENTS = re.compile(r"([0-9]{16})\.log")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600, whole or not at all, on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def behind(names: Iterable[str], after: int) -> list[str]:
    """Return the files of an event log, named by their first events, that may hold events behind number `after`."""
    files = sorted(name for name in names if _EVENTS.fullmatch(name))
    return [one for one, following in pairwise(files) if int(following[:16]) > after + 1] + files[-1:]
