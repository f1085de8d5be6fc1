"""What is kept of a run's samples: times, not counts; no reading is no number; of bounded size."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ciuic_jupyter.core.usage import Tally

NO_GPU = {"gpus": [], "gpu_why": "no NVIDIA driver", "gpu_witness": {"quiet": True, "since": 0.0, "detail": "no GPU"}}


def gpu(percent: float, used: int = 1, total: int = 10, index: int = 0) -> dict[str, Any]:
    return {
        "index": index,
        "name": "A100",
        "utilization_percent": percent,
        "memory_used_bytes": used,
        "memory_total_bytes": total,
    }


def frame(cpu: float | None, *gpus: dict[str, Any], kernel: float | None = None) -> dict[str, Any]:
    return {"cpu_percent": cpu, "kernel_cpu_percent": kernel, "rss_bytes": 7, "gpus": list(gpus)}


def tallied(*samples: dict[str, Any], step: float = 2.0, before: Any = None) -> Any:
    tally = Tally(before)
    for number, sample in enumerate(samples):
        tally.take(sample, number * step)
    return tally.view()


def test_times_are_weighted_and_the_first_sample_only_starts_the_clock() -> None:
    view = tallied(frame(0.0, gpu(100)), frame(100.0, gpu(20)), frame(60.0, gpu(40)))
    assert (view["samples"], view["seen_seconds"], view["rss_peak_bytes"]) == (2, 4.0, 7)
    assert view["cpu_sum"] / view["cpu_seconds"] == 80
    assert view["gpu_sum"] / view["gpu_seconds"] == 30
    assert view["gpu_waits_seconds"] == pytest.approx(2 * 0.8 + 2 * 0.6)
    assert view["gpus"][0]["peak_percent"] == 40


def test_the_gpu_waits_only_while_the_cpu_works_and_for_whom() -> None:
    idle = tallied(frame(0.0, gpu(0)), frame(49.0, gpu(0)), frame(None, gpu(0)))
    assert idle["gpu_waits_seconds"] == 0
    children = tallied(frame(0.0, gpu(0)), frame(400.0, gpu(0), kernel=20.0))
    assert children["gpu_waits_for_children_seconds"] == children["gpu_waits_seconds"] == 2
    own = tallied(frame(0.0, gpu(0)), frame(100.0, gpu(0), kernel=99.0), frame(100.0, gpu(0)))
    assert (own["gpu_waits_for_children_seconds"], own["gpu_waits_seconds"]) == (0, 4)


@pytest.mark.parametrize(
    "sample",
    [
        frame(None, gpu(0)),
        frame(math.nan, gpu(0)),
        frame(0.0),  # a GPU that nobody could read
        frame(0.0, gpu(math.nan)),
        frame(11.0, gpu(0)),
        frame(0.0, gpu(6)),
    ],
)
def test_work_or_no_reading_is_not_quiet(sample: dict[str, Any]) -> None:
    assert tallied(sample, sample)["quiet_seconds"] == 0


def test_quiet_needs_every_reading_or_no_gpu_at_all() -> None:
    quiet = {**frame(1.0), **NO_GPU}
    view = tallied(quiet, quiet, quiet)
    assert (view["quiet_seconds"], view["gpu_seconds"], view["gpus"]) == (4, 0, [])
    assert tallied(frame(1.0, gpu(0)), frame(1.0, gpu(0)))["quiet_seconds"] == 2


def test_holes_clocks_that_jump_and_single_samples_are_not_seen() -> None:
    assert tallied() is None and tallied(frame(1.0)) is None
    assert tallied(frame(1.0), frame(1.0), step=11.0) is None
    assert tallied(frame(1.0), frame(1.0), step=-1.0) is None
    assert tallied(frame(1.0), frame(1.0), step=math.nan) is None


def test_nan_and_negative_readings_are_none() -> None:
    view = tallied(*[frame(math.nan, gpu(-5.0))] * 3, frame(math.inf, gpu(math.inf)))
    assert view["cpu_seconds"] == view["gpu_seconds"] == 0
    json.dumps(view, allow_nan=False)


def test_a_machine_that_tells_nonsense_is_not_seen_there() -> None:
    wild = {**gpu(50), "name": "A\x1b[2J" * 99, "memory_used_bytes": 1e300, "memory_total_bytes": 10**40}
    view = tallied(*[{**frame(10**400, wild), "rss_bytes": math.inf}] * 3)
    assert (view["cpu_seconds"], view["rss_peak_bytes"]) == (0, None)
    assert view["gpus"][0]["memory_used_bytes"] == 0 and view["gpus"][0]["memory_total_bytes"] == 1 << 60
    assert view["gpus"][0]["name"].isprintable()
    nameless = tallied(*[frame(1.0, {**gpu(50), "index": "0"})] * 3)
    assert (nameless["gpu_seconds"], nameless["gpus"]) == (0, [])


def test_it_goes_on_where_a_paused_run_stood_and_stays_small() -> None:
    first = tallied(frame(0.0, gpu(10)), frame(100.0, gpu(10)))
    both = tallied(frame(0.0, gpu(10)), frame(100.0, gpu(30)), before=json.loads(json.dumps(first)))
    assert (both["samples"], both["seen_seconds"], both["gpu_sum"]) == (2, 4, 80)
    assert both["gpus"][0]["peak_percent"] == 30 and first["gpus"][0]["peak_percent"] == 10
    many = tallied(*[frame(1.0, *(gpu(1, index=number) for number in range(40)))] * 1000)
    assert len(json.dumps(many)) < 4000
