"""CPU time and memory of a process tree, from /proc: its known processes often, who belongs to it once a second.

The walk over all processes is what costs, so it is done seldom; a process that lives between two walks is still seen,
because its time goes to the one that reaps it. `/proc/PID/task/*/children` would be cheaper, but not every kernel has
it, and it may leave out children while processes end (proc(5)).
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from dataclasses import dataclass

from ciuic_jupyter.core.idle import Unknown

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CORES = os.cpu_count() or 1
_CENSUS_SECONDS = 1.0
_CENSUS_SHARE = 0.005  # of a core; on a host with very many processes the walk comes less often
_PINNED = 128  # descriptors held open; the processes above that are opened for each reading


@dataclass(frozen=True)
class TreeUsage:
    """A tree at one moment; CPU seconds since the first reading, by all and by the root alone (None: it is gone)."""

    cpu_seconds: float
    root_cpu_seconds: float | None
    rss_bytes: int
    processes: int


@dataclass(frozen=True)
class _Stat:
    """A line of /proc/PID/stat; times in clock ticks, of the process itself and of the children it reaped."""

    parent: int
    own: int
    reaped: int
    started: int
    rss_pages: int
    alive: bool

    @classmethod
    def parse(cls, line: bytes) -> _Stat:
        fields = line.rpartition(b")")[2].split()  # the name before may hold spaces and brackets
        return cls(
            parent=int(fields[1]),
            own=int(fields[11]) + int(fields[12]),
            reaped=int(fields[13]) + int(fields[14]),
            started=int(fields[19]),
            rss_pages=int(fields[21]),
            alive=fields[0] not in (b"Z", b"X"),
        )


def _read_stat(pid: int) -> _Stat | None:
    """Return the stat of process `pid`, None if it is gone; OSError if it can't be read."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _Stat.parse(os.read(descriptor, 1024))
        finally:
            os.close(descriptor)
    except (FileNotFoundError, ProcessLookupError):
        return None


class _Known:
    """A process of the tree; an open descriptor means this very process, whoever gets its number later."""

    def __init__(self, pid: int, first: _Stat, newer_than: float, *, pinned: bool) -> None:
        self.pid = pid
        self.started = first.started
        self.pinned = pinned
        limit = int(newer_than * _TICK * _CORES)  # what it can have used since nobody looked
        self.own = max(0, first.own - limit)
        self.reaped = max(0, first.reaped - limit)
        self.rss_pages = 0
        self.alive = first.alive
        self._descriptor: int | None = None

    def read(self) -> _Stat | None:
        """Return what it used by now, None if it is gone."""
        if not self.pinned:
            found = _read_stat(self.pid)
        else:
            try:
                if self._descriptor is None:
                    self._descriptor = os.open(f"/proc/{self.pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
                found = _Stat.parse(os.pread(self._descriptor, 1024, 0))
            except (FileNotFoundError, ProcessLookupError):
                found = None
        return found if found is not None and found.started == self.started else None

    def close(self) -> None:
        """Let the descriptor go."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class ProcessTree:
    """The processes under `root`; with `reaper`, also those that it inherited when their parents ended.

    A reaper is the process to which the system gives orphans (PR_SET_CHILD_SUBREAPER): all its children count, but for
    the trees of `spared`; the reaper's own time does not.
    """

    def __init__(self, root: int, *, reaper: int | None = None, spared: Collection[int] = ()) -> None:
        self._root = root
        self._reaper = reaper
        self._spared = frozenset(spared)
        self._known: dict[int, _Known] = {}
        self._reaper_reaped: int | None = None
        self._census_at: float | None = None
        self._census_every = _CENSUS_SECONDS
        self._spent = 0
        self._root_spent = 0
        self._root_started: int | None = None
        self._credit = 0

    def read(self, now: float) -> TreeUsage | Unknown:
        """Read every process once; `now` in seconds. Unknown if something could not be read (it is caught up later)."""
        try:
            if self._census_at is None or not 0 <= now - self._census_at < self._census_every:
                self._census(now)
            self._advance()
        except OSError as error:
            return Unknown(f"/proc can't be read: {error}")
        alive = [process for process in self._known.values() if process.alive]
        root = self._known.get(self._root)
        return TreeUsage(
            cpu_seconds=self._spent / _TICK,
            root_cpu_seconds=self._root_spent / _TICK if root is not None and root.alive else None,
            rss_bytes=sum(process.rss_pages for process in alive) * _PAGE,
            processes=len(alive),
        )

    def close(self) -> None:
        """Let all descriptors go."""
        for process in self._known.values():
            process.close()
        self._known.clear()

    def _census(self, now: float) -> None:
        """Look who belongs to the tree, parents before their children."""
        begun = time.thread_time()
        stats: dict[int, _Stat] = {}
        children: dict[int, list[int]] = {}
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if (found := _read_stat(pid)) is not None:
                stats[pid] = found
                children.setdefault(found.parent, []).append(pid)
        if self._root_started is None and self._root in stats:
            self._root_started = stats[self._root].started
        todo = [self._root]
        if self._reaper is not None:
            todo += [pid for pid in children.get(self._reaper, ()) if pid != self._root]
        unseen = now - self._census_at if self._census_at is not None else 0.0
        for pid in todo:
            if pid not in stats or pid in self._spared:
                continue
            if pid == self._root and stats[pid].started != self._root_started:
                continue  # the kernel ended, and another process got its number
            todo += children.get(pid, ())
            known = self._known.get(pid)
            if known is None or known.started != stats[pid].started:
                self._add(pid, stats[pid], max(0.0, unseen))
        self._census_at = now
        self._census_every = max(_CENSUS_SECONDS, (time.thread_time() - begun) / _CENSUS_SHARE)

    def _add(self, pid: int, first: _Stat, unseen: float) -> None:
        if (old := self._known.pop(pid, None)) is not None:
            self._credit += old.own + old.reaped
            old.close()
        self._known[pid] = _Known(pid, first, unseen, pinned=len(self._known) < _PINNED)

    def _advance(self) -> None:
        """Add what was used since the last reading, each tick once.

        The time of a process that ended goes to the one that reaped it. What was counted while it lived is taken off
        that (`gone`); it can arrive one reading late, never later.
        """
        keeper = _read_stat(self._reaper) if self._reaper is not None else None
        read = [(process, process.read()) for process in self._known.values()]  # parents before children; all or none
        own = reaped = gone = 0
        if keeper is not None:
            reaped += keeper.reaped - self._reaper_reaped if self._reaper_reaped is not None else 0
            self._reaper_reaped = keeper.reaped
        for process, found in read:
            if found is None:
                gone += process.own + process.reaped
                self._known.pop(process.pid).close()
                continue
            used = max(0, found.own - process.own)
            own += used
            reaped += max(0, found.reaped - process.reaped)
            if process.pid == self._root:
                self._root_spent += used
            process.own, process.reaped = found.own, found.reaped
            process.rss_pages, process.alive = found.rss_pages, found.alive
        credit = self._credit + gone
        counted_before = min(reaped, credit)
        self._spent += own + reaped - counted_before
        self._credit = min(gone, credit - counted_before)
