"""Usage of a kernel's process tree and of the GPUs, many times a second, and what it says about idleness."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from ciuic_jupyter.core.idle import Reading, Unknown, Witness
from ciuic_jupyter.monitor.nvml import GpuSample, Nvml
from ciuic_jupyter.monitor.tree import ProcessTree, TreeUsage

_QUIET_PERCENT = 3.0  # of one core: a heartbeat thread is quiet, a training thread is not
_GPU_QUIET_PERCENT = 1.0
_PROCESS_WINDOW = 5.0
_GPU_WINDOW = 60.0
_GPU_SECONDS = 1.0  # NVML itself averages over 1/6 s to 1 s
_LEVEL_SECONDS = 1.0  # a clock tick of 10 ms within one sample of 10 ms is not 100 %


@dataclass(frozen=True)
class Sample:
    """One moment of a kernel's process tree; CPU in percent of a core since the sample before, seconds since the first.

    None is a level that is not known: nothing to compare with yet, or `processes_witness` says why.
    """

    cpu_percent: float | None
    kernel_cpu_percent: float | None
    rss_bytes: int | None
    processes: int | None
    gpus: tuple[GpuSample, ...]
    gpu_why: str | None
    processes_witness: Witness
    gpu_witness: Witness
    cpu_seconds: float | None = None

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
        self._last: float | None = None
        self._loud_at: float | None = None
        self._level = 0.0

    def take(self, level: float | None, now: float, why: str = "") -> Witness:
        """Note a level (None: it could not be read, for `why`) and return what can be claimed now.

        Nothing is claimed about a time in which nobody looked: after a hole longer than the window it starts anew.
        """
        if level is None:
            self._first = self._last = self._loud_at = None
            return Unknown(why or f"{self._what}: not known")
        if self._first is None or self._last is None or not 0 <= now - self._last <= self._seconds:
            self._first, self._loud_at = now, None
        self._last = now
        if level > self._limit:
            self._loud_at, self._level = now, level
        if self._loud_at is not None and now - self._loud_at < self._seconds:
            return Reading(False, self._loud_at, f"{self._what} {self._level:.0f} %")
        if now - self._first < self._seconds:
            return Unknown(f"{self._what}: watched for {now - self._first:.0f} of {self._seconds:.0f} s")
        since = self._first if self._loud_at is None else self._loud_at
        return Reading(True, since, f"{self._what} at most {self._limit:.0f} %")


class Sampler:
    """Samples the tree under one process, and the GPUs; keep one for the kernel's life."""

    def __init__(
        self,
        pid: int,
        hz: float = 10.0,
        *,
        reaper: int | None = None,
        spared: Collection[int] = (),
        nvml: Nvml | None = None,
    ) -> None:
        """Watch the kernel `pid`; with `reaper`, also what it left to that process, but for the trees of `spared`."""
        self._tree = ProcessTree(pid, reaper=reaper, spared=spared)
        self._nvml = nvml if nvml is not None else Nvml()
        self._last: tuple[float, TreeUsage] | None = None
        self._past: deque[tuple[float, float]] = deque()
        self._window = QuietWindow(_QUIET_PERCENT, max(_PROCESS_WINDOW, 2 / hz), "CPU of the process tree")
        self._gpu_window = QuietWindow(_GPU_QUIET_PERCENT, max(_GPU_WINDOW, 2 / hz), "GPU")
        self._gpu_at: float | None = None
        self._gpu: tuple[tuple[GpuSample, ...], str | None, Witness] = ((), None, Unknown("not read yet"))

    def sample(self, now: float) -> Sample:
        """Read once; `now` in seconds on a clock that counts suspend."""
        gpus, why, gpu_witness = self._gpus(now)
        usage = self._tree.read(now)
        if isinstance(usage, Unknown):
            said = self._window.take(None, now, usage.why)
            return Sample(None, None, None, None, gpus, why, said, gpu_witness)
        cpu = kernel_cpu = None
        if self._last is not None and now > self._last[0]:
            seconds, before = now - self._last[0], self._last[1]
            cpu = 100 * (usage.cpu_seconds - before.cpu_seconds) / seconds
            if usage.root_cpu_seconds is not None and before.root_cpu_seconds is not None:
                kernel_cpu = 100 * (usage.root_cpu_seconds - before.root_cpu_seconds) / seconds
        self._last = (now, usage)
        witness = self._witness(usage, now)
        seen = (usage.rss_bytes, usage.processes, gpus, why, witness, gpu_witness, usage.cpu_seconds)
        return Sample(cpu, kernel_cpu, *seen)

    def close(self) -> None:
        """Let all descriptors go."""
        self._tree.close()

    def _witness(self, usage: TreeUsage, now: float) -> Witness:
        """Judge the CPU share over the last second or so."""
        if usage.root_cpu_seconds is None:
            return self._window.take(None, now, "the kernel's process is gone")
        past = self._past
        if past and now < past[-1][0]:
            past.clear()
        past.append((now, usage.cpu_seconds))
        while len(past) > 2 and now - past[1][0] >= _LEVEL_SECONDS:
            past.popleft()
        begun, spent = past[0]
        if now - begun < _LEVEL_SECONDS / 2:
            return Unknown("CPU of the process tree: the first readings are under way")
        return self._window.take(100 * (usage.cpu_seconds - spent) / (now - begun), now)

    def _gpus(self, now: float) -> tuple[tuple[GpuSample, ...], str | None, Witness]:
        if self._gpu_at is not None and 0 <= now - self._gpu_at < _GPU_SECONDS:
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
