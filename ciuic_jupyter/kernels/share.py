"""How much of a save is done: two numbers in a small file, which the kernel's busy thread sets and the agent reads."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NUMBERS = struct.Struct("=QQ")  # bytes done, bytes in all; 0 in all: not known yet


def begin(path: Path) -> None:
    """Make the file anew, for one save. OSError if the disk refuses."""
    path.unlink(missing_ok=True)
    path.write_bytes(bytes(_NUMBERS.size))


def read(path: Path) -> float | None:
    """Return the share that is done, 0 to 1; None if that is not known yet, or not any more."""
    try:
        done, total = _NUMBERS.unpack(path.read_bytes())
    except (OSError, struct.error):
        return None
    return min(1.0, float(done) / float(total)) if total else None


@contextmanager
def telling(path: str | None) -> Iterator[Callable[[int, int], None] | None]:
    """Give what a save calls with bytes done and in all; None without a `path`, or where its file can't be used."""
    memory = None
    with suppress(OSError, ValueError):
        if path is not None:
            with Path(path).open("r+b") as file:
                memory = mmap.mmap(file.fileno(), _NUMBERS.size)
    if memory is None:
        yield None
        return
    with memory, memoryview(memory) as raw, raw.cast("Q") as numbers:

        def tell(done: int, total: int) -> None:
            numbers[0], numbers[1] = done, total

        yield tell
