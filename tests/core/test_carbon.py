"""Energy and grams: counted where there is a counter, modelled where that is said, unknown else."""

from __future__ import annotations

from typing import Any

import pytest

from ciuic_jupyter.control.rows import regions
from ciuic_jupyter.core import carbon
from ciuic_jupyter.core.carbon import EnergyMeter, emitted, grid
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.notebook import report

NO_GPU = {"gpus": [], "gpu_why": "no NVIDIA driver", "gpu_witness": {"quiet": True, "since": 0.0, "detail": "no GPU"}}


def metered(*samples: tuple[float, dict[str, Any]]) -> dict[str, Any]:
    meter = EnergyMeter()
    for now, sample in samples:
        meter.take(sample, now)
    return meter.view()


def gpu(energy: float | None, power: float | None = None, index: int = 0) -> dict[str, Any]:
    return {"cpu_percent": 0.0, "gpus": [{"index": index, "energy_joules": energy, "power_watts": power}]}


def test_a_machine_without_a_gpu_is_its_cpu_by_the_model() -> None:
    view = metered((0, NO_GPU), (5, {**NO_GPU, "cpu_percent": 150.0}), (10, {**NO_GPU, "cpu_percent": 50.0}))
    assert view["joules"] == pytest.approx(4 * 1.5 * 5 + 4 * 0.5 * 5)
    assert (view["gpu_joules"], view["seen_seconds"]) == (0.0, 10)
    assert "model of 4 W" in view["how"] and "estimate" in view["how"]


def test_the_counter_is_used_where_there_is_one_and_power_where_there_is_none() -> None:
    counted = metered((0, gpu(1000.0, 999.0)), (2, gpu(1500.0, 999.0)), (4, gpu(1700.0, 999.0)))
    assert counted["joules"] == 700 and "energy counter" in counted["how"]
    powered = metered((0, gpu(None, 100.0)), (2, gpu(None, 100.0)), (4, gpu(None, 50.0)))
    assert powered["joules"] == 300 and "power samples" in powered["how"]


def test_what_can_not_be_read_is_unknown_and_never_zero() -> None:
    unread = metered(
        (0, NO_GPU), (1, {"cpu_percent": 1.0, "gpus": [], "gpu_why": "NVML failed", "gpu_witness": {"why": "x"}})
    )
    assert (unread["joules"], unread["gpu_joules"], unread["why"]) == (None, None, "NVML failed")
    assert metered((0, gpu(None)), (1, gpu(None)))["why"] == "GPU 0 tells neither energy nor power"
    assert metered((0, NO_GPU), (1, {**NO_GPU, "cpu_percent": None}))["joules"] is None
    assert metered()["why"] == metered((0, NO_GPU))["why"] == "no samples"
    assert emitted(unread, "DEU", regions())["grams"] is None


def test_resets_gaps_and_wild_counters_add_nothing_that_was_not_seen() -> None:
    reset = metered((0, gpu(1000.0)), (1, gpu(1100.0)), (2, gpu(5.0)), (3, gpu(105.0)))
    assert reset["joules"] == 200
    wild = metered((0, gpu(0.0)), (1, gpu(10.0)), (2, gpu(1e9)), (3, gpu(1e9 + 10)))
    assert wild["joules"] == 20
    gap = metered((0, {**NO_GPU, "cpu_percent": 100.0}), (3600, {**NO_GPU, "cpu_percent": 100.0}))
    assert gap["why"] == "no samples"
    assert metered((5, NO_GPU), (4, NO_GPU))["why"] == "no samples"


def test_grams_are_energy_times_intensity_with_its_source() -> None:
    energy = metered((0, NO_GPU), (10, {**NO_GPU, "cpu_percent": 9000.0}))  # 3.6 kJ: a thousandth of a kWh
    found = emitted(energy, "DEU", regions())
    assert found["grams"] == pytest.approx(0.38095)
    assert "Germany 380.95 g/kWh in 2023" in found["source"]
    assert "CIUIC_GRID_REGION" in emitted(energy, None, regions())["why"]
    assert "'Atlantis'" in emitted(energy, "Atlantis", regions())["why"]
    text = report.receipt("s", {"energy": energy, "carbon": found}).text()
    assert "0.001000 kWh in 10 s seen" in text and "0.381 g CO2e" in text
    unknown = report.receipt("s", {"energy": energy, "carbon": emitted(energy, None, {})}).text()
    assert "unknown: no grid region is set" in unknown
    assert "energy" not in report.receipt("s", {}).text()  # of before there was any


def test_every_region_has_an_intensity_and_a_year() -> None:
    assert len(regions()) > 200
    assert all(2000 < one.year <= 2026 and 0 < one.grams_per_kwh < 2000 for one in regions().values())


@pytest.mark.parametrize(
    "line", ["DEU,Germany,381", "DEU,Germany,much,2023", "DEU,Germany,nan,2023", "DEU,Germany,-1,2023"]
)
def test_a_line_that_is_no_region_is_named(line: str) -> None:
    with pytest.raises(UsageError, match="line 2"):
        grid(f"# source\n{line}\n")


def test_no_carbon_line_without_readings() -> None:
    assert carbon.lines(None, None) == ()
