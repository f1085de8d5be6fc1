"""GPUs: absent is a fact only where nothing could be there, a driver that fails is unknown, nothing is ever 0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from ciuic_jupyter.monitor.nvml import GpuSample, Nvml


class Library:
    """pynvml on a machine with devices; `faults` maps a function's name to the NVML error it raises."""

    NVMLError = pynvml.NVMLError
    NVML_ERROR_LIBRARY_NOT_FOUND = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
    NVML_ERROR_DRIVER_NOT_LOADED = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU

    def __init__(self, devices: int = 1, **faults: int) -> None:
        self.devices = devices
        self.faults = faults
        self.percent = 37
        self.opened = 0

    def _say(self, name: str, value: Any) -> Any:
        if name in self.faults:
            raise pynvml.NVMLError(self.faults[name])
        return value

    def nvmlInit(self) -> None:
        self.opened += 1
        self._say("init", None)

    def nvmlDeviceGetCount(self) -> int:
        return int(self._say("count", self.devices))

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return int(self._say("handle", index))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return self._say("memory", SimpleNamespace(used=3, total=80))

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return b"H100"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return self._say("utilization", SimpleNamespace(gpu=self.percent, memory=1))

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return int(self._say("power", 71_500))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        return int(self._say("energy", 5_000))

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return str(self._say("uuid", f"GPU-{handle}"))

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return int(self._say("temperature", 45))


def missing() -> Any:
    raise ImportError("no pynvml")


def test_each_device_is_read_in_base_units(tmp_path: Path) -> None:
    nvml = Nvml(lambda: Library(2), tmp_path)
    assert not nvml.absent and nvml.why is None
    rest = [(f"GPU-{index}", 1.0, 45) for index in range(2)]
    assert nvml.read() == tuple(GpuSample(index, "H100", 37.0, 3, 80, 71.5, 5.0, *rest[index]) for index in range(2))


def test_a_sensor_that_a_device_lacks_is_none_and_not_0(tmp_path: Path) -> None:
    lacking = pynvml.NVML_ERROR_NOT_SUPPORTED
    library = Library(power=lacking, energy=pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, uuid=lacking, temperature=lacking)
    read = Nvml(lambda: library, tmp_path).read()
    assert not isinstance(read, str)
    assert (read[0].power_watts, read[0].energy_joules, read[0].utilization_percent) == (None, None, 37.0)
    assert (read[0].uuid, read[0].temperature_celsius, read[0].memory_utilization_percent) == (None, None, 1.0)


@pytest.mark.parametrize("part", ["memory", "utilization"])
def test_a_reading_that_fails_says_why_and_the_next_can_succeed(part: str, tmp_path: Path) -> None:
    library = Library(**{part: pynvml.NVML_ERROR_GPU_IS_LOST})
    nvml = Nvml(lambda: library, tmp_path)
    read = nvml.read()
    assert isinstance(read, str) and "GPU is lost" in read
    assert not nvml.absent
    library.faults.clear()
    assert len(nvml.read()) == 1


@pytest.mark.parametrize(
    "load",
    [
        missing,
        lambda: Library(init=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND),
        lambda: Library(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED),
    ],
    ids=["no pynvml", "no library", "no driver"],
)
def test_without_library_a_gpu_is_absent_only_if_there_is_no_device_node(
    load: Callable[[], Any], tmp_path: Path
) -> None:
    (tmp_path / "nvidiactl").touch()
    absent = Nvml(load, tmp_path)
    assert absent.absent and absent.read() == () and absent.why
    (tmp_path / "nvidia0").touch()
    unread = Nvml(load, tmp_path)
    assert not unread.absent
    said = unread.read()
    assert isinstance(said, str) and "nvidia0 exists" in said


def test_a_driver_without_devices_has_no_gpu(tmp_path: Path) -> None:
    nvml = Nvml(lambda: Library(0), tmp_path)
    assert nvml.absent and nvml.why == "no GPU" and nvml.read() == ()


@pytest.mark.parametrize("part", ["init", "count", "handle"])
def test_a_driver_that_fails_at_first_is_unknown_and_asked_again(part: str, tmp_path: Path) -> None:
    library = Library(**{part: pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH})
    nvml = Nvml(lambda: library, tmp_path)
    assert not nvml.absent and isinstance(nvml.read(), str)
    library.faults.clear()
    reads = [nvml.read() for _ in range(60)]
    assert library.opened == 2
    assert isinstance(reads[0], str) and not isinstance(reads[-1], str) and len(reads[-1]) == 1


GPUS = [*Path("/dev").glob("nvidia[0-9]*")]


@pytest.mark.skipif(bool(GPUS), reason="this machine has a GPU")
def test_this_machine_without_a_gpu() -> None:
    nvml = Nvml()
    assert nvml.absent and nvml.read() == () and nvml.why


@pytest.mark.gpu
@pytest.mark.skipif(not GPUS, reason="this machine has no GPU")
def test_this_machines_gpus() -> None:
    read = Nvml().read()
    assert read and not isinstance(read, str)
    for gpu in read:
        assert gpu.name and 0 <= gpu.utilization_percent <= 100
        assert 0 <= gpu.memory_used_bytes <= gpu.memory_total_bytes and gpu.memory_total_bytes > 2**30
        assert gpu.power_watts is None or 0 < gpu.power_watts < 2000
        assert gpu.uuid is not None and gpu.uuid.startswith(("GPU-", "MIG-"))
        assert gpu.temperature_celsius is None or 0 < gpu.temperature_celsius < 120
