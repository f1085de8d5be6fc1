"""GPUs through NVML (nvidia-ml-py): absent is a fact, a failing driver is unknown, and neither is ever 0."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READS_BEFORE_RETRY = 30  # a driver that failed is asked again then, about every half minute


@dataclass(frozen=True)
class GpuSample:
    """One device: utilisation in percent of time, memory in bytes, power in watts, energy in joules since boot.

    `memory_utilization_percent`: of time in which memory was read or written; temperature in degrees Celsius.
    """

    index: int
    name: str
    utilization_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    power_watts: float | None
    energy_joules: float | None
    uuid: str | None = None
    memory_utilization_percent: float | None = None
    temperature_celsius: float | None = None


def _load() -> Any:
    import pynvml  # noqa: PLC0415 - loads the driver's library, only where usage is sampled

    return pynvml


class Nvml:
    """The devices of this machine; `why` says why there are none to read, `absent` that there is no GPU at all."""

    def __init__(self, load: Callable[[], Any] = _load, devices: Path = Path("/dev")) -> None:
        """Open the library that `load` returns (pynvml); `devices` is where the driver's device nodes are."""
        self.absent = False
        self.why: str | None = None
        self._load = load
        self._nodes = devices
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._reads = 0
        self._open()

    def read(self) -> tuple[GpuSample, ...] | str:
        """Return one sample a device (none where there is no GPU), or why they can't be read."""
        if self.absent:
            return ()
        if not self._handles:
            self._reads += 1
            if self._reads % _READS_BEFORE_RETRY == 0:
                self._open()
            if not self._handles:
                return () if self.absent else str(self.why)
        try:
            return tuple(self._one(index, handle) for index, handle in enumerate(self._handles))
        except self._nvml.NVMLError as error:
            return f"NVML failed: {error}"

    def _open(self) -> None:
        try:
            self._nvml = nvml = self._load()
        except ImportError:
            self._without("nvidia-ml-py is not installed")
            return
        try:
            nvml.nvmlInit()
            self._handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        except nvml.NVMLError as error:
            if error.value in (nvml.NVML_ERROR_LIBRARY_NOT_FOUND, nvml.NVML_ERROR_DRIVER_NOT_LOADED):
                self._without("no NVIDIA driver")
            else:
                self.why = f"NVML failed: {error}"
            return
        self.absent, self.why = not self._handles, None if self._handles else "no GPU"

    def _without(self, why: str) -> None:
        """Without the library a GPU can't be seen: it is absent only if the driver made no device node either."""
        nodes = [*self._nodes.glob("nvidia[0-9]*"), *self._nodes.glob("dxg")]
        self.absent = not nodes
        self.why = f"{why}, but {nodes[0]} exists: a GPU that can't be read" if nodes else why

    def _one(self, index: int, handle: Any) -> GpuSample:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        used = nvml.nvmlDeviceGetUtilizationRates(handle)
        return GpuSample(
            index=index,
            name=_text(nvml.nvmlDeviceGetName(handle)),
            utilization_percent=float(used.gpu),
            memory_used_bytes=int(memory.used),
            memory_total_bytes=int(memory.total),
            power_watts=self._thousandths(nvml.nvmlDeviceGetPowerUsage, handle),
            energy_joules=self._thousandths(nvml.nvmlDeviceGetTotalEnergyConsumption, handle),
            uuid=_text(uuid) if (uuid := self._optional(nvml.nvmlDeviceGetUUID, handle)) is not None else None,
            memory_utilization_percent=float(used.memory),
            temperature_celsius=self._optional(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        )

    def _optional(self, read: Any, *arguments: Any) -> Any:
        """Return a reading, None where the device has no such sensor."""
        try:
            return read(*arguments)
        except self._nvml.NVMLError:
            return None

    def _thousandths(self, read: Any, handle: Any) -> float | None:
        """Return a reading in base units, of which NVML gives thousandths."""
        found = self._optional(read, handle)
        return float(found) / 1000 if found is not None else None


def _text(said: str | bytes) -> str:
    return said.decode() if isinstance(said, bytes) else str(said)
