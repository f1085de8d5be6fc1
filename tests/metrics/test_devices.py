"""Devices under dcgm-exporter's names, units and labels: what a machine does not tell is absent, and never 0."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.control.clock import FakeClock
from ciuic_jupyter.control.devices import DeviceCollector, Devices
from ciuic_jupyter.core.session import State
from ciuic_jupyter.monitor.nvml import Nvml
from tests.control.conftest import Cloud, reach, until
from tests.metrics.pages import by, families, series, text
from tests.monitor.test_nvml import Library

MIB = 1 << 20
GPU = {
    "index": 0,
    "name": "NVIDIA H100",
    "uuid": "GPU-a",
    "utilization_percent": 37.0,
    "memory_utilization_percent": 12.0,
    "memory_used_bytes": 3 * MIB,
    "memory_total_bytes": 80 * MIB,
    "power_watts": 71.5,
    "energy_joules": 5_000_000.001,
    "temperature_celsius": 45,
}
LABELS = (("Hostname", "node1"), ("UUID", "GPU-a"), ("gpu", "0"), ("modelName", "NVIDIA H100"))


class Heard:
    """Devices with a clock to turn."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.devices = Devices()

    def take(self, machine: str = "m", kind: str = "t", **sample: Any) -> None:
        self.devices.take(machine, kind, {"hostname": "node1", **sample}, self.clock.boot())

    @property
    def page(self) -> str:
        return text(DeviceCollector(self.devices, self.clock))


@pytest.fixture
def heard() -> Heard:
    return Heard()


def test_names_units_and_labels_are_those_of_dcgm_exporter(heard: Heard) -> None:
    heard.take(gpus=[GPU])
    shown = {family.name: family.samples for family in families(heard.page)}
    assert {name: samples[0].value for name, samples in shown.items()} == {
        "DCGM_FI_DEV_GPU_UTIL": 37,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 12,
        "DCGM_FI_DEV_FB_USED": 3,
        "DCGM_FI_DEV_FB_FREE": 77,
        "DCGM_FI_DEV_POWER_USAGE": 71.5,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 5_000_000_001,  # millijoules, whole ones
        "DCGM_FI_DEV_GPU_TEMP": 45,
    }
    assert {tuple(sorted(one.labels.items())) for samples in shown.values() for one in samples} == {LABELS}


def test_what_nvml_itself_reads_is_shown(heard: Heard, tmp_path: Path) -> None:
    read = Nvml(lambda: Library(2), tmp_path).read()
    assert not isinstance(read, str)
    heard.take(gpus=[asdict(gpu) for gpu in read])
    assert by(heard.page, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "UUID") == {"GPU-0": 5000, "GPU-1": 5000}
    assert by(heard.page, "DCGM_FI_DEV_POWER_USAGE", "gpu") == {"0": 71.5, "1": 71.5}


def test_without_a_gpu_or_a_sensor_a_series_is_absent(heard: Heard) -> None:
    heard.take(gpus=[], rss_bytes=None, processes=None, cpu_seconds=None)
    assert heard.page == ""
    heard.take(gpus=[{**GPU, "power_watts": None, "energy_joules": None, "temperature_celsius": None}])
    assert len(families(heard.page)) == 4


def test_two_kernels_on_one_host_see_one_device_and_the_newest_word_counts(heard: Heard) -> None:
    heard.take("a", gpus=[GPU])
    heard.clock.turn(1)
    heard.take("b", gpus=[{**GPU, "utilization_percent": 80.0}])
    assert series(heard.page, "DCGM_FI_DEV_GPU_UTIL") == {LABELS: 80}


def test_a_machine_that_is_not_heard_is_not_shown(heard: Heard) -> None:
    heard.take(gpus=[GPU], cpu_seconds=1.0)
    heard.clock.turn(10)
    assert heard.page
    heard.clock.turn(0.1)
    assert heard.page == ""


def test_cpu_time_of_a_place_only_grows_over_machines_that_come_and_go(heard: Heard) -> None:
    def cpu() -> float:
        return by(heard.page, "ciuic_kernel_cpu_seconds_total", "hostname").get("node1", 0.0)

    heard.take("a", cpu_seconds=100.0)  # used before the plane was there to count
    assert cpu() == 0
    heard.take("a", cpu_seconds=103.0)
    heard.take("b", cpu_seconds=1.0)
    heard.take("b", cpu_seconds=1.5)
    assert cpu() == 3.5
    heard.devices.gone("a")
    assert cpu() == 3.5
    heard.take("b", cpu_seconds=0.5)  # its agent began anew
    assert cpu() == 4.0
    heard.take("c", "other", cpu_seconds=0.0, rss_bytes=7)
    assert by(heard.page, "ciuic_kernel_resident_memory_bytes", "machine_type") == {"other": 7}


def test_hosts_of_long_ago_are_forgotten(heard: Heard) -> None:
    for number in range(50):
        heard.devices.take(str(number), "t", {"hostname": f"h{number}", "cpu_seconds": 1.0}, heard.clock.boot())
        heard.clock.turn(10)
    assert len(heard.devices.heard) <= 31 and len(heard.devices.cpu) <= 31


BAD = [math.nan, math.inf, -1, "7", None, True, 10**400, [1], {}]


@pytest.mark.parametrize("bad", BAD, ids=repr)
def test_a_machine_can_say_what_it_likes_and_breaks_no_page(heard: Heard, bad: Any) -> None:
    heard.take("good", gpus=[GPU], rss_bytes=1)
    sample = dict.fromkeys(("gpus", "cpu_seconds", "rss_bytes", "processes"), bad)
    heard.devices.take("bad", "t", {**sample, "hostname": bad}, heard.clock.boot())
    heard.devices.take(
        "worse", "t", {"hostname": "x", "gpus": [bad, dict.fromkeys(GPU, bad)] * 100}, heard.clock.boot()
    )
    assert series(heard.page, "DCGM_FI_DEV_GPU_UTIL")[LABELS] == 37
    assert by(heard.page, "ciuic_kernel_resident_memory_bytes", "hostname") == {"node1": 1}


def test_labels_of_a_machine_are_cut_and_stay_in_their_quotes(heard: Heard) -> None:
    nasty = '"} 1\nDCGM_FI_DEV_GPU_UTIL{gpu="9"} 99\n' + "x" * 500
    heard.take(gpus=[{**GPU, "name": nasty}] * 500)
    ((labels, value),) = series(heard.page, "DCGM_FI_DEV_GPU_UTIL").items()
    assert dict(labels)["modelName"] == nasty[:100] and value == 37


async def test_samples_come_from_the_agents_and_go_with_their_machines(cloud: Cloud) -> None:
    runner = await cloud.session()
    collector = DeviceCollector(cloud.plane.context.devices, cloud.clock)
    await cloud.agent.sample(1.0, quiet_since=None, gpus=[GPU], hostname="node1", cpu_seconds=2.0, rss_bytes=5)
    await until(lambda: text(collector))
    assert series(text(collector), "DCGM_FI_DEV_FB_USED") == {LABELS: 3}
    assert by(text(collector), "ciuic_kernel_resident_memory_bytes", "machine_type") == {"fake.1": 5}
    await runner.pause()
    await reach(runner, State.PAUSED)
    assert text(collector) == ""
