"""Machines' devices for Prometheus: GPUs under dcgm-exporter's names, labels and units, kernels under names of ours.

What a machine does not tell is absent, never 0. All of it is said by machines, so nothing is taken as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, UnknownMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ciuic_jupyter.control.clock import Clock

FRESH_SECONDS = 10.0  # an older sample is of a machine that nobody hears
_KEPT_SECONDS = 300.0  # a host that was not heard for so long begins anew: Prometheus has forgotten it, too
_LONGEST = 100  # characters of a label's value
_MOST_GPUS = 64  # of one machine
_MOST = 1e18  # of anything
_MIB = 1 << 20

_GPU_LABELS = ("gpu", "UUID", "modelName", "Hostname")
_GPU = (  # dcgm-exporter's name and words, ours, and what ours are multiplied by
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", "utilization_percent", 1.0),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", "memory_utilization_percent", 1.0),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", "memory_used_bytes", 1 / _MIB),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", "memory_free_bytes", 1 / _MIB),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", "power_watts", 1.0),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Total energy consumption since boot (in mJ).", "energy_joules", 1000.0),
    ("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", "temperature_celsius", 1.0),
)
_COUNTER = "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"  # without `_total`, so no counter by today's rules: untyped

View = Mapping[str, Any]
Place = tuple[str, str]  # host, machine type


@dataclass(frozen=True)
class _Heard:
    """The newest sample of one machine."""

    place: Place
    at: float
    sample: View


class Devices:
    """The newest sample of each machine, and what its kernels' process trees used since the plane heard of it."""

    def __init__(self) -> None:
        self.heard: dict[str, _Heard] = {}
        self.cpu: dict[Place, float] = {}
        self._seen: dict[str, float] = {}  # CPU seconds by machine
        self._last: dict[Place, float] = {}

    def take(self, machine: str, machine_type: str, sample: View, now: float) -> None:
        """Take a sample of `now` (seconds on a clock that counts suspend)."""
        place = (_text(sample.get("hostname")), machine_type[:_LONGEST])
        self.heard[machine] = _Heard(place, now, sample)
        self._last[place] = now
        used = _number(sample.get("cpu_seconds"))
        if used is not None:
            before = self._seen.get(machine, used)  # what was used while nobody listened is not of this count
            self.cpu[place] = self.cpu.get(place, 0.0) + (used - before if used >= before else used)
            self._seen[machine] = used
        self._forget(now)

    def gone(self, machine: str) -> None:
        """Forget a machine that is gone; what it used counts on."""
        self.heard.pop(machine, None)
        self._seen.pop(machine, None)

    def _forget(self, now: float) -> None:
        for machine in [machine for machine, one in self.heard.items() if now - one.at > _KEPT_SECONDS]:
            self.gone(machine)
        for place in [place for place, at in self._last.items() if now - at > _KEPT_SECONDS]:
            del self._last[place]
            self.cpu.pop(place, None)

    def fresh(self, now: float) -> list[_Heard]:
        """Return the samples that are of now, oldest first."""
        return sorted(
            (one for one in list(self.heard.values()) if now - one.at <= FRESH_SECONDS), key=lambda one: one.at
        )


class DeviceCollector(Collector):
    """Reads a plane's newest samples, in whatever thread asks."""

    def __init__(self, devices: Devices, clock: Clock) -> None:
        self._devices = devices
        self._clock = clock

    def collect(self) -> Iterable[Metric]:
        """Return every family that some machine has told of."""
        fresh = self._devices.fresh(self._clock.boot())
        gpus: dict[tuple[str, ...], View] = {}
        for one in fresh:  # two kernels on one host see the same devices: the newest word counts
            told = one.sample.get("gpus")
            for gpu in list(told)[:_MOST_GPUS] if isinstance(told, list | tuple) else ():
                if isinstance(gpu, Mapping):
                    gpus[_gpu_key(gpu, one.place[0])] = gpu
        return [*_gpu_families(gpus), *self._kernel_families(fresh)]

    def _kernel_families(self, fresh: list[_Heard]) -> Iterable[Metric]:
        labels = ("hostname", "machine_type")
        cpu = CounterMetricFamily(
            "ciuic_kernel_cpu_seconds", "CPU time of kernels and their children, since the plane heard.", labels=labels
        )
        for place in sorted({one.place for one in fresh}):
            if (seconds := self._devices.cpu.get(place)) is not None:
                cpu.add_metric(place, seconds)
        words = {"rss_bytes": "Resident memory of kernels and their children.", "processes": "Their processes."}
        names = {"rss_bytes": "ciuic_kernel_resident_memory_bytes", "processes": "ciuic_kernel_processes"}
        found: list[Metric] = [cpu] if cpu.samples else []
        for key, name in names.items():
            sums: dict[Place, float] = {}
            for one in fresh:
                if (value := _number(one.sample.get(key))) is not None:
                    sums[one.place] = sums.get(one.place, 0.0) + value
            family = GaugeMetricFamily(name, words[key], labels=labels)
            for place, value in sorted(sums.items()):
                family.add_metric(place, value)
            found += [family] if sums else []
        return found


def _gpu_families(gpus: Mapping[tuple[str, ...], View]) -> Iterable[Metric]:
    for name, words, key, factor in _GPU:
        kind = UnknownMetricFamily if name == _COUNTER else GaugeMetricFamily
        family = kind(name, words, labels=_GPU_LABELS)
        for labels, gpu in sorted(gpus.items()):
            if (value := _number(_free(gpu) if key == "memory_free_bytes" else gpu.get(key))) is not None:
                family.add_metric(labels, value * factor if factor != 1000.0 else round(value * factor))
        if family.samples:
            yield family


def _free(gpu: View) -> float | None:
    used, total = _number(gpu.get("memory_used_bytes")), _number(gpu.get("memory_total_bytes"))
    return total - used if used is not None and total is not None and total >= used else None


def _gpu_key(gpu: View, host: str) -> tuple[str, ...]:
    return (_text(gpu.get("index")), _text(gpu.get("uuid")), _text(gpu.get("name")), host)


def _text(said: Any) -> str:
    return str(said)[:_LONGEST] if isinstance(said, str | int) else ""


def _number(said: Any) -> float | None:
    """Return a number that a sensor can show, None for any other (NaN, infinite, below zero, no number)."""
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said <= _MOST:
        return None
    return float(said)
