"""Memory that is kept between saves: a training step's state is copied into it in a blink and written from it later."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

_COPIERS = 4  # more threads than that do not fill the memory's bus faster
_PIECE = 8 << 20  # bytes that one thread copies at a time
_ALIGN = 64  # bytes; where a copy starts
_HUGE = 2 << 20  # bytes of a huge page
_SPARE = 256 << 20  # bytes that must be left when the arena has grown


class NoRoom(Exception):
    """There is too little memory for a copy."""


class Arena:
    """Holds one copy at a time; it grows to the largest that was asked for and keeps that until `release`."""

    def __init__(self) -> None:
        self._memory: mmap.mmap | None = None

    @property
    def size(self) -> int:
        """Bytes that it holds of the machine's memory."""
        return 0 if self._memory is None else len(self._memory)

    def reserve(self, size: int) -> None:
        """Have room for `size` bytes, touched already: a first copy into fresh memory takes several times as long.

        NoRoom if the machine or its container has too little memory for that.
        """
        if size > self.size:
            _touch(self._grow(size))

    def release(self) -> None:
        """Give the memory back as soon as no copy in it is in use."""
        self._memory = None

    def copy(self, views: Sequence[memoryview]) -> list[memoryview]:
        """Copy `views` (bytes) in several threads and return where they are now, until the next `copy`.

        NoRoom if the machine has too little memory.
        """
        starts, size = [], 0
        for view in views:
            starts.append(size)
            size += -(-view.nbytes // _ALIGN) * _ALIGN
        target = memoryview(self._grow(size))
        _in_lanes(partial(_copy, target), list(_pieces(views, starts)))
        return [target[start : start + view.nbytes] for start, view in zip(starts, views, strict=True)]

    def _grow(self, size: int) -> mmap.mmap:
        if self._memory is not None and len(self._memory) >= size:
            return self._memory
        self._memory = None
        length = max(1, -(-size // _HUGE)) * _HUGE
        if length + _SPARE > available():
            raise NoRoom(
                f"a copy of {size / 1e6:.0f} MB does not fit into the {available() / 1e6:.0f} MB that are free"
            )
        memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
        self._memory = memory
        return memory


def _pieces(views: Sequence[memoryview], starts: Sequence[int]) -> Iterator[tuple[int, memoryview]]:
    for view, start in zip(views, starts, strict=True):
        for offset in range(0, view.nbytes, _PIECE):
            yield start + offset, view[offset : offset + _PIECE]


def _in_lanes(work: Callable[[Sequence[Any]], None], parts: Sequence[Any]) -> None:
    """Share `parts` out among threads, of which this is one."""
    count = max(1, min(_COPIERS, len(os.sched_getaffinity(0)), len(parts)))
    with ThreadPoolExecutor(count, "checkpoint copier") as pool:
        lanes = [pool.submit(work, parts[lane::count]) for lane in range(1, count)]
        work(parts[::count])
    for lane in lanes:
        lane.result()


def _copy(target: memoryview, pieces: Sequence[tuple[int, memoryview]]) -> None:
    import numpy as np  # noqa: PLC0415 - its copy lets the other threads run

    into = np.frombuffer(target, np.uint8)
    for start, piece in pieces:
        np.copyto(into[start : start + piece.nbytes], np.frombuffer(piece, np.uint8))


def _touch(memory: mmap.mmap) -> None:
    import numpy as np  # noqa: PLC0415 - it lets the other threads run

    whole = np.frombuffer(memory, np.uint8)

    def touch(starts: Sequence[int]) -> None:
        for start in starts:
            whole[start : start + _PIECE : mmap.PAGESIZE] = 0

    _in_lanes(touch, range(0, len(memory), _PIECE))


def available() -> int:
    """Return how many bytes this process can still take: of the machine, and of the container where it has a limit."""
    rooms = [1 << 62]
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        rooms += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    for folder, most, now in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with suppress(OSError, ValueError):  # "max" is no number: there is no limit
            root = Path(folder)
            stat = dict(line.split() for line in (root / "memory.stat").read_text().splitlines())
            cache = int(stat.get("inactive_file", 0))  # what the system gives up first
            rooms.append(int((root / most).read_text()) - int((root / now).read_text()) + cache)
    return min(rooms)
