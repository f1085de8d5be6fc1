"""What a stretch of time looked like in the samples of its machine, in a record of fixed size; unknown is no number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ciuic_jupyter.core.words import plain

GAP_SECONDS = 10.0  # without a sample: nothing is claimed about it
WORKING_CPU = 50.0  # percent of one core: a thread that loads data or drives a GPU is above, a heartbeat below
QUIET_CPU, QUIET_GPU = 10.0, 5.0  # percent: at most so much is nobody's work
_MOST_GPUS = 16  # of one machine that are kept apart
_MOST_PERCENT = 1e7  # of a core: a hundred thousand of them
_MOST_BYTES = 1 << 60  # that any memory has

View = dict[str, Any]


class Tally:
    """Sums up the samples of one stretch: a run, or the time between two. Times are weighted, not counted."""

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        """Begin anew, or go on with what `view` returned of an earlier part of the same stretch."""
        told = before or {}
        self._at: float | None = None
        self._samples = int(told.get("samples", 0))
        self._sums = {name: float(told.get(name, 0.0)) for name in _SUMS}
        self._rss = int(told.get("rss_peak_bytes") or 0)
        self._gpus = {int(gpu["index"]): dict(gpu) for gpu in told.get("gpus", ())}

    def take(self, sample: Mapping[str, Any], now: float) -> None:
        """Take a sample frame of the agent, at `now` (seconds on one clock)."""
        seconds = now - self._at if self._at is not None else 0.0
        self._at = now
        self._rss = max(self._rss, _bytes(sample.get("rss_bytes")))
        if not 0 < seconds <= GAP_SECONDS:
            return
        self._samples += 1
        cpu, gpu = _percent(sample.get("cpu_percent")), self._take_gpus(sample, seconds)
        sums = self._sums
        sums["seen_seconds"] += seconds
        if cpu is not None:
            sums["cpu_seconds"] += seconds
            sums["cpu_sum"] += cpu * seconds
        no_gpu = not sample.get("gpus") and "quiet" in (sample.get("gpu_witness") or {})
        quiet = cpu is not None and cpu <= QUIET_CPU and (no_gpu or (gpu is not None and gpu <= QUIET_GPU))
        sums["quiet_seconds"] += seconds * quiet
        if gpu is None:
            return
        sums["gpu_seconds"] += seconds
        sums["gpu_sum"] += gpu * seconds
        if cpu is not None and cpu >= WORKING_CPU:
            idle = seconds * max(0.0, 1 - gpu / 100)
            kernel = _percent(sample.get("kernel_cpu_percent"))
            sums["gpu_waits_seconds"] += idle
            sums["gpu_waits_for_children_seconds"] += idle if kernel is not None and cpu > 2 * kernel else 0.0

    def _take_gpus(self, sample: Mapping[str, Any], seconds: float) -> float | None:
        """Note each GPU and return the use of the busiest; None if there is none, or one can't be read."""
        busiest: float | None = None
        for told in sample.get("gpus") or ():
            used, index = _percent(told.get("utilization_percent")), told.get("index")
            if used is None or type(index) is not int:
                return None
            busiest = used if busiest is None else max(busiest, used)
            if index not in self._gpus and len(self._gpus) == _MOST_GPUS:
                continue
            gpu = self._gpus.setdefault(
                index, {"index": index, "name": plain(str(told.get("name", ""))[:100]), **_NO_GPU}
            )
            gpu["peak_percent"] = max(gpu["peak_percent"], used)
            gpu["seconds"] += seconds
            for name in ("memory_used_bytes", "memory_total_bytes"):
                gpu[name] = max(gpu[name], _bytes(told.get(name)))
        return busiest

    def view(self) -> View | None:
        """Return it as plain data of bounded size, None if nothing was seen."""
        if not self._samples:
            return None
        sums = {name: round(value, 3) for name, value in self._sums.items()}
        gpus = [dict(gpu) | {"seconds": round(gpu["seconds"], 3)} for _, gpu in sorted(self._gpus.items())]
        return {"samples": self._samples, **sums, "rss_peak_bytes": self._rss or None, "gpus": gpus}


_SUMS = (
    *("seen_seconds", "cpu_seconds", "cpu_sum", "gpu_seconds", "gpu_sum", "quiet_seconds"),
    *("gpu_waits_seconds", "gpu_waits_for_children_seconds"),
)
_NO_GPU = {"peak_percent": 0.0, "seconds": 0.0, "memory_used_bytes": 0, "memory_total_bytes": 0}


def _bytes(told: Any) -> int:
    return min(told, _MOST_BYTES) if type(told) is int and told > 0 else 0


def _percent(told: Any) -> float | None:
    """Return a reading that can be one; NaN and infinity can't."""
    return float(told) if type(told) in (int, float) and 0 <= told <= _MOST_PERCENT else None
