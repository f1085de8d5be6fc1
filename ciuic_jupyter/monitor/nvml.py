"""GPUs through NVML (nvidia-ml-py): absent is a fact, a failing driver is unknown, and neither is ever 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GpuSample:
    """One device: utilisation in percent of time, memory in bytes, power in watts, energy in joules since boot."""

    index: int
    name: str
    utilization_percent: float
    memory_used_bytes: int
    memory_total_bytes: int
    power_watts: float | None
    energy_joules: float | None


class Nvml:
    """The devices of this machine; `why` says why there are none to read, `absent` that there is no GPU at all."""

    def __init__(self) -> None:
        self.absent = False
        self.why: str | None = None
        self._nvml: Any = None
        self._devices: list[Any] = []
        try:
            import pynvml  # noqa: PLC0415 - loads the driver's library, only where usage is sampled
        except ImportError:
            self.absent, self.why = True, "nvidia-ml-py is not installed"
            return
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self._devices = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except pynvml.NVMLError as error:
            gone = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
            self.absent = getattr(error, "value", None) in gone
            self.why = "no NVIDIA driver" if self.absent else f"NVML failed: {error}"
            return
        if not self._devices:
            self.absent, self.why = True, "no GPU"

    def read(self) -> tuple[GpuSample, ...] | str:
        """Return one sample a device (none where there is no GPU), or why they can't be read."""
        if not self._devices:
            return () if self.absent else str(self.why)
        try:
            return tuple(self._one(index, handle) for index, handle in enumerate(self._devices))
        except self._nvml.NVMLError as error:
            return f"NVML failed: {error}"

    def _one(self, index: int, handle: Any) -> GpuSample:
        nvml = self._nvml
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        name = nvml.nvmlDeviceGetName(handle)
        return GpuSample(
            index=index,
            name=name.decode() if isinstance(name, bytes) else str(name),
            utilization_percent=float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            memory_used_bytes=int(memory.used),
            memory_total_bytes=int(memory.total),
            power_watts=self._optional(nvml.nvmlDeviceGetPowerUsage, handle),
            energy_joules=self._optional(nvml.nvmlDeviceGetTotalEnergyConsumption, handle),
        )

    def _optional(self, read: Any, handle: Any) -> float | None:
        """Return a reading in base units (NVML gives thousandths), None where the device has no such sensor."""
        try:
            return float(read(handle)) / 1000
        except self._nvml.NVMLError:
            return None
