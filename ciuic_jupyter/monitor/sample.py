"""Usage of a process tree and its GPUs, many times a second, and what it says about idleness.

Known processes are read from /proc directly; who belongs to the tree is looked up once a second, because that walk is
what costs (10 ms for 50 children through psutil).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ciuic_jupyter.core.idle import Reading, Unknown, Witness
from ciuic_jupyter.monitor.nvml import GpuSample, Nvml

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CENSUS_SECONDS = 1.0
_QUIET_PERCENT = 3.0  # of one core: a heartbeat thread is quiet, a training thread is not
_GPU_QUIET_PERCENT = 1.0
_PROCESS_WINDOW = 5.0
_GPU_WINDOW = 60.0
_GPU_SECONDS = 1.0  # NVML itself averages over 1/6 s to 1 s


@dataclass(frozen=True)
class Sample:
    """One moment of a kernel's process tree; CPU in percent of one core since the sample before."""

    cpu_percent: float
    kernel_cpu_percent: float
    rss_bytes: int
    processes: int
    gpus: tuple[GpuSample, ...]
    gpu_why: str | None
    processes_witness: Witness
    gpu_witness: Witness

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; a witness is {quiet, since, detail} or {why}."""
        return asdict(self) | {"gpus": [asdict(gpu) for gpu in self.gpus]}


class QuietWindow:
    """Turns a level that is sampled into a witness: quiet once it stayed at or under `limit` for `seconds`."""

    def __init__(self, limit: float, seconds: float, what: str) -> None:
        self._limit = limit
        self._seconds = seconds
        self._what = what
        self._first: float | None = None
        self._loud_at: float | None = None
        self._level = 0.0

    def take(self, level: float | None, now: float, why: str = "") -> Witness:
        """Note a level (None: it could not be read, for `why`) and return what can be claimed now."""
        if level is None:
            self._first = self._loud_at = None
            return Unknown(why)
        if self._first is None:
            self._first = now
        if level > self._limit:
            self._loud_at, self._level = now, level
        quiet_since = self._first if self._loud_at is None else self._loud_at
        if self._loud_at is not None and now - self._loud_at < self._seconds:
            return Reading(False, self._loud_at, f"{self._what} {self._level:.0f} %")
        if now - self._first < self._seconds:
            return Unknown(f"{self._what}: watched for {now - self._first:.0f} of {self._seconds:.0f} s")
        return Reading(True, quiet_since, f"{self._what} at most {self._limit:.0f} %")


@dataclass
class _Seen:
    ticks: int
    rss: int


class Sampler:
    """Samples the tree under one process; keep one for the kernel's life."""

    def __init__(self, pid: int, hz: float = 10.0) -> None:
        self._pid = pid
        self._nvml = Nvml()
        self._known: dict[int, _Seen] = {}
        self._gone_ticks = 0
        self._census_at: float | None = None
        self._last: tuple[float, int, int] | None = None
        self._since: list[tuple[float, int]] = []
        self._window = QuietWindow(_QUIET_PERCENT, max(_PROCESS_WINDOW, 2 / hz), "CPU of the process tree")
        self._gpu_window = QuietWindow(_GPU_QUIET_PERCENT, _GPU_WINDOW, "GPU")
        self._gpu_at: float | None = None
        self._gpu: tuple[tuple[GpuSample, ...], str | None, Witness] = ((), None, Unknown("not read yet"))

    def sample(self, now: float) -> Sample:
        """Read once; `now` in seconds on a clock that counts suspend."""
        if self._census_at is None or now - self._census_at >= _CENSUS_SECONDS:
            self._census_at = now
            for pid in _tree(self._pid):
                self._known.setdefault(pid, _Seen(0, 0))
        for pid in list(self._known):
            self._read(pid)
        own = self._known.get(self._pid)
        total = self._gone_ticks + sum(seen.ticks for seen in self._known.values())
        kernel = own.ticks if own else 0
        cpu, kernel_cpu, level = 0.0, 0.0, None
        if self._last is not None and now > self._last[0]:
            scale = 100 / _TICK / (now - self._last[0])
            cpu, kernel_cpu = (total - self._last[1]) * scale, max(0, kernel - self._last[2]) * scale
            level = self._level(total, now)
        self._last = (now, total, kernel)
        witness: Witness = self._window.take(level, now) if level is not None else Unknown("first sample")
        if own is None:
            witness = Unknown("the kernel's process is gone")
        gpus, why, gpu_witness = self._gpus(now)
        rss = sum(seen.rss for seen in self._known.values())
        return Sample(cpu, kernel_cpu, rss, len(self._known), gpus, why, witness, gpu_witness)

    def _level(self, total: int, now: float) -> float:
        """Return the CPU share over the last second or so: one clock tick in 1/100 s is not 100 %."""
        self._since.append((now, total))
        while len(self._since) > 2 and now - self._since[1][0] >= 1.0:
            self._since.pop(0)
        begun, ticks = self._since[0]
        return 100 * (total - ticks) / _TICK / (now - begun) if now - begun >= 0.5 else 0.0

    def _read(self, pid: int) -> None:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            fields = []
        if not fields or fields[0] in (b"Z", b"X"):
            self._gone_ticks += self._known.pop(pid).ticks  # its time was spent, the sum must not fall
            return
        seen = self._known[pid]
        seen.ticks, seen.rss = int(fields[11]) + int(fields[12]), int(fields[21]) * _PAGE

    def _gpus(self, now: float) -> tuple[tuple[GpuSample, ...], str | None, Witness]:
        if self._gpu_at is not None and now - self._gpu_at < _GPU_SECONDS:
            return self._gpu
        self._gpu_at = now
        read = self._nvml.read()
        if isinstance(read, str):
            self._gpu = ((), read, self._gpu_window.take(None, now, read))
        elif not read:
            self._gpu = ((), self._nvml.why, Reading(True, 0.0, "no GPU"))
        else:
            level = max(gpu.utilization_percent for gpu in read)
            self._gpu = (read, None, self._gpu_window.take(level, now))
        return self._gpu


def _tree(root: int) -> Iterable[int]:
    """Yield `root` and all its descendants."""
    todo = [root]
    while todo:
        pid = todo.pop()
        yield pid
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                todo += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:
            continue
