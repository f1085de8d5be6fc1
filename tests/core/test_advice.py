"""Each advice speaks where the data say so, and is silent just short of it, or where something is missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ciuic_jupyter.core import advice
from ciuic_jupyter.core.advice import Advice, Facts, Gap, Ran, Stretch
from ciuic_jupyter.core.money import cost
from ciuic_jupyter.providers.base import Offer

HOUR = 3_600_000
RATE = 3_600_000_000  # 1,000,000 nano-units a second
GB = 10**9


def gpu(peak: float = 90.0, used: int = 8 * GB, total: int = 40 * GB, index: int = 0) -> dict[str, Any]:
    memory = {"memory_used_bytes": used, "memory_total_bytes": total}
    return {"index": index, "name": "A100", "peak_percent": peak, "seconds": 1000.0, **memory}


def seen(seconds: float = 1000.0, *, waits: float = 0.0, mean: float = 95.0, cpu: float = 100.0, **more: Any) -> Any:
    view = {
        "samples": int(seconds * 2),
        "seen_seconds": seconds,
        "cpu_seconds": seconds,
        "cpu_sum": cpu * seconds,
        "gpu_seconds": seconds,
        "gpu_sum": mean * seconds,
        "quiet_seconds": 0.0,
        "gpu_waits_seconds": waits,
        "gpu_waits_for_children_seconds": 0.0,
        "rss_peak_bytes": GB,
        "gpus": [gpu()],
    }
    return {**view, **more}


def ran(usage: Any, seconds: float = 1000.0, every: float | None = None, run: str = "r1") -> Ran:
    return Ran(run, seconds, round(seconds * 1_000_000), usage, every)


def spoken(facts: Facts, kind: str) -> Advice | None:
    return next((one for one in advice.advise(facts) if one.kind == kind), None)


# -- the GPU waits

WAITS = seen(waits=300.0, mean=60.0)


def test_a_gpu_that_waits_costs_its_share_of_the_run() -> None:
    said = spoken(Facts([ran(WAITS), ran(seen(), run="other")]), "gpu waits for data")
    assert said is not None and (said.saves_nano, said.sure, said.run) == (300_000_000, "at most", "r1")
    assert "30 % of 1000 s" in said.evidence and "kernel's own process" in said.evidence
    assert "num_workers" in said.todo
    workers = seen(waits=300.0, mean=60.0, gpu_waits_for_children_seconds=200.0)
    by_children = spoken(Facts([ran(workers)]), "gpu waits for data")
    assert by_children is not None and "beside the kernel" in by_children.evidence
    two = spoken(Facts([ran(WAITS), ran(WAITS, run="r2")]), "gpu waits for data")
    assert two is not None and two.saves_nano == 600_000_000


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (ran(seen(waits=299.0, mean=60.0)), "just short of the share"),
        (ran(seen(119.9, waits=60.0), 120.0), "a moment too short"),
        (ran(seen(waits=300.0, samples=59)), "a sample too few"),
        (ran(seen(waits=300.0, samples=1)), "one sample"),
        (ran(WAITS, 2001.0), "not half of the run was seen"),
        (ran(None), "a ledger of before"),
        (ran(seen(waits=300.0, gpus=[gpu(29.9)])), "the GPU was hardly used at all"),
        (ran(seen(waits=300.0, gpu_seconds=900.0)), "the GPU was not always read"),
        (ran(seen(waits=0.0, gpu_seconds=0.0, gpu_sum=0.0, gpus=[])), "no GPU"),
    ],
)
def test_a_gpu_that_may_not_wait_is_left_alone(run: Ran, why: str) -> None:
    assert spoken(Facts([run]), "gpu waits for data") is None, why


# -- the batch

SMALL = seen(mean=59.0)


def test_a_small_batch_is_said_with_what_is_left() -> None:
    said = spoken(Facts([ran(SMALL)]), "batch too small")
    assert said is not None and (said.saves_nano, said.sure) == (410_000_000, "at most")
    assert "20 % of its memory" in said.evidence and "59 % of its time" in said.evidence


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (ran(seen(mean=60.0)), "the GPU is used enough"),
        (ran(seen(mean=59.0, gpus=[gpu(used=16 * GB)])), "the memory is used enough"),
        (ran(seen(mean=59.0, gpus=[gpu(used=16 * GB), gpu(index=1)])), "the fullest GPU counts"),
        (ran(seen(mean=59.0, gpus=[gpu(total=0)])), "memory that can't be read"),
        (ran(seen(mean=59.0, gpus=[gpu(20.0)])), "the GPU was hardly used at all"),
        (ran(seen(mean=59.0, waits=400.0, gpu_waits_for_children_seconds=200.0)), "it waits for data workers"),
        (ran(seen(119.9, mean=59.0), 119.9), "too short"),
        (ran(None), "unknown"),
    ],
)
def test_a_batch_that_may_be_large_enough_is_left_alone(run: Ran, why: str) -> None:
    assert spoken(Facts([run]), "batch too small") is None, why


# -- bf16


def test_fp32_is_said_of_runs_that_were_counted() -> None:
    said = spoken(Facts([replace(ran(seen()), bf16=(0.2, "all in TF32"))]), "fp32 where bf16 would do")
    assert said is not None and (said.saves_nano, said.sure) == (200_000_000, "about")
    assert "all in TF32" in said.evidence and "autocast" in said.todo


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (ran(seen()), "nothing was counted"),
        (replace(ran(seen()), bf16=(0.049, "x")), "hardly any time is spent on it"),
        (replace(ran(seen(119.9), 119.9), bf16=(0.2, "x")), "too short"),
        (replace(ran(None), bf16=(0.2, "x")), "nothing was seen"),
    ],
)
def test_fp32_that_may_be_right_is_left_alone(run: Ran, why: str) -> None:
    assert spoken(Facts([run]), "fp32 where bf16 would do") is None, why


# -- the machine

FOUR = Offer("gpu.4", "cloud", 4 * RATE, gpus=4, gpu="A100")
ONE = Offer("gpu.1", "cloud", RATE, unit_seconds=60, gpus=1, gpu="A100 40GB")
IDLE_GPUS = [gpu(), *(gpu(0.0, GB, index=index) for index in (1, 2, 3))]
HOURS = [Stretch(0, HOUR + 1, 4 * RATE), Stretch(2 * HOUR, 3 * HOUR, 4 * RATE)]


def machine(**more: Any) -> Facts:
    usage = more.pop("usage", seen(gpus=IDLE_GPUS))
    facts = Facts([ran(usage)], here=FOUR, stretches=HOURS, offers=[FOUR, ONE])
    return replace(facts, **more)


def test_gpus_that_nobody_uses_are_priced_by_the_cheaper_offer_that_fits() -> None:
    said = spoken(machine(), "machine too large")
    there = cost(RATE, HOUR + 1, unit_ms=60_000) + cost(RATE, HOUR, unit_ms=60_000)
    assert said is not None and said.sure == "exact"
    assert said.saves_nano == sum(one.spent_nano for one in HOURS) - there
    assert "3 of 4 GPUs" in said.evidence and "--instance gpu.1" in said.todo


def test_a_machine_whose_gpus_nobody_uses_may_be_one_without() -> None:
    plain = Offer("cpu.1", "cloud", RATE // 10)
    unused = seen(gpus=[gpu(0.0, GB, index=index) for index in range(4)])
    said = spoken(machine(usage=unused, offers=[FOUR, ONE, plain]), "machine too large")
    assert said is not None and "--instance cpu.1" in said.todo and "4 of 4" in said.evidence


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"usage": seen(gpus=[gpu(index=index) for index in range(4)])}, "all are used"),
        ({"usage": seen(gpus=[*IDLE_GPUS[:3], gpu(0.0, 3 * GB, index=3)]), "offers": [FOUR]}, "no other offer"),
        ({"usage": seen(gpus=[gpu(5.1, GB, index=index) for index in range(4)])}, "each is used a little"),
        ({"usage": seen(gpus=[gpu(0.0, 3 * GB, index=index) for index in range(4)])}, "each has memory in use"),
        ({"usage": seen(gpus=IDLE_GPUS[:3])}, "one GPU was never read"),
        ({"usage": seen(599.0, gpus=IDLE_GPUS), "runs": [ran(seen(599.0, gpus=IDLE_GPUS), 599.0)]}, "too short"),
        ({"runs": [ran(seen(gpus=IDLE_GPUS)), ran(None, 200.0)]}, "a run that was not seen may have used them"),
        ({"runs": []}, "nothing ran"),
        ({"here": None}, "no machine type known"),
        ({"here": replace(FOUR, gpu="")}, "what its GPUs are is not known"),
        ({"offers": [FOUR, replace(ONE, gpu="H100")]}, "no offer with that GPU"),
        ({"offers": [FOUR, replace(ONE, currency="CNY")]}, "no offer in that currency"),
        ({"offers": [FOUR, replace(ONE, listed=False)]}, "an offer that nobody chooses unasked"),
        ({"offers": [FOUR, replace(ONE, price_nano_per_hour=4 * RATE)]}, "it costs as much"),
        ({"offers": [FOUR, replace(ONE, minimum_seconds=24 * 3600)]}, "its minimum costs more"),
        ({"stretches": [replace(one, here=False) for one in HOURS]}, "the time was on another machine type"),
        ({"stretches": []}, "nothing was billed"),
    ],
)
def test_a_machine_that_may_not_be_too_large_is_left_alone(more: dict[str, Any], why: str) -> None:
    assert spoken(machine(**more), "machine too large") is None, why


def test_the_same_gpus_for_less_are_a_cheaper_offer_to_the_nano_unit() -> None:
    less = Offer("spot.4", "other", 4 * RATE * 95 // 100, gpus=4, gpu="A100")
    used = seen(gpus=[gpu(index=index) for index in range(4)])
    facts = machine(usage=used, offers=[FOUR, ONE, less], stretches=[Stretch(0, HOUR, 4 * RATE)])
    said = spoken(facts, "cheaper offer")
    assert said is not None and (said.saves_nano, said.sure) == (4 * RATE // 20, "exact")
    assert [one.kind for one in advice.advise(facts)] == ["cheaper offer"]
    for offer in (replace(less, price_nano_per_hour=4 * RATE * 95 // 100 + 1), replace(less, gpus=3)):
        assert spoken(replace(facts, offers=[FOUR, offer]), "cheaper offer") is None
    nameless = replace(facts, here=replace(FOUR, gpu=""), offers=[replace(less, gpu="")])
    assert spoken(nameless, "cheaper offer") is None, "what a CPU is worth is not known"


# -- pauses


def gap(begin: float, end: float, *, last: bool = False, **more: Any) -> Gap:
    seconds = end - begin
    usage = seen(seconds, quiet_seconds=seconds) | more
    return Gap(round(begin * 1000), round(end * 1000), usage, last)


def waited(*gaps: Gap, **more: Any) -> Facts:
    billing = {"rate": RATE, "unit_ms": 1000, "minimum_ms": 0} | more
    facts = Facts(save_seconds=2.0, restore_seconds=3.0, storage_nano_per_hour=0)
    return replace(facts, stretches=[Stretch(0, 2 * HOUR, gaps=gaps, **billing)])


def test_a_pause_that_was_not_used_is_its_seconds_less_the_save_and_the_restore() -> None:
    said = spoken(waited(gap(600, 1200)), "pauses not used")
    assert said is not None and (said.saves_nano, said.sure) == (595_000_000, "exact")
    last = spoken(waited(gap(6600, 7200, last=True)), "pauses not used")
    assert last is not None and last.saves_nano == 598_000_000
    both = spoken(waited(gap(600, 1200), gap(6600, 7200, last=True)), "pauses not used")
    assert both is not None and both.saves_nano == 595_000_000 + 598_000_000 and "in 2 gaps" in both.evidence


def test_storage_meanwhile_is_taken_off() -> None:
    facts = replace(waited(gap(600, 1200)), storage_nano_per_hour=RATE // 10)
    said = spoken(facts, "pauses not used")
    assert said is not None and said.saves_nano == 595_000_000 - 59_500_000


def test_what_is_billed_by_the_hour_is_paused_only_where_it_saves_an_hour() -> None:
    assert spoken(waited(gap(600, 1200), unit_ms=HOUR), "pauses not used") is None
    hours = spoken(waited(gap(3000, 7000), unit_ms=HOUR), "pauses not used")
    assert hours is None, "two pieces of an hour each are two hours"
    last = spoken(waited(gap(3000, 7200, last=True), unit_ms=HOUR), "pauses not used")
    assert last is not None and last.saves_nano == RATE


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (gap(600, 899.9), "shorter than a thought"),
        (gap(600, 1200, quiet_seconds=569.9), "something worked"),
        (gap(600, 1200, seen_seconds=479.9, quiet_seconds=479.9), "not enough of it was seen"),
        (Gap(600_000, 1_200_000, None), "nothing was seen: a ledger of before"),
        (gap(600, 1200, seen_seconds=math.nan), "no number"),
    ],
)
def test_time_that_may_have_been_used_is_left_alone(one: Gap, why: str) -> None:
    assert spoken(waited(one), "pauses not used") is None, why


def test_gaps_of_a_clock_that_was_set_back_are_not_priced() -> None:
    assert spoken(waited(gap(600, 1200), gap(700, 1300)), "pauses not used").saves_nano == 595_000_000  # type: ignore[union-attr]
    before = replace(waited(gap(600, 1200)), stretches=[Stretch(2 * HOUR, 3 * HOUR, RATE, gaps=[gap(600, 1200)])])
    assert spoken(before, "pauses not used") is None


def test_a_machine_that_costs_nothing_needs_no_advice() -> None:
    free = [replace(ran(WAITS), spent_nano=0)]
    assert advice.advise(replace(waited(gap(600, 1200), rate=0), runs=free)) == []


def test_a_gap_that_a_stop_and_a_start_would_fill_is_left_alone() -> None:
    assert spoken(replace(waited(gap(600, 1200)), save_seconds=200.0, restore_seconds=100.0), "pauses not used") is None


# -- checkpoints

LONG = ran(seen(40_000.0), 40_000.0)
FAILING = Facts([LONG], saves=[4.0, 5.0, 90.0], failures=4, failure_seconds=40_000.0)


def test_young_and_daly_from_measured_saves_and_failures() -> None:
    said = spoken(FAILING, "checkpoint interval")
    best = math.sqrt(2 * 5 * 10_000)  # 316 s
    assert said is not None and said.sure == "about"
    assert "--checkpoint-every 5m" in said.todo and "4 failures in 11.1 h" in said.evidence
    assert "90 % sure" in said.evidence and "never in its middle" in said.evidence
    assert said.saves_nano == round((1.0 - best / 10_000) * LONG.spent_nano)
    often = spoken(replace(FAILING, runs=[replace(LONG, every=20.0)]), "checkpoint interval")
    assert often is not None and "every 20 s" in often.evidence
    assert often.saves_nano == round((5 / 20 + 20 / 20_000 - best / 10_000) * LONG.spent_nano)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"failures": 2}, "too few failures"),
        ({"failures": 0}, "none at all"),
        ({"saves": [4.0, 5.0]}, "too few saves measured"),
        ({"saves": []}, "none measured"),
        ({"saves": [0.0, 0.0, 0.0]}, "a save of no time"),
        ({"saves": [math.nan] * 3}, "no number"),
        ({"saves": [20_000.0] * 3}, "a save longer than a machine lives"),
        ({"failure_seconds": 0.0}, "no time"),
        ({"runs": [replace(LONG, every=300.0)]}, "it is saved often enough"),
        ({"runs": [replace(LONG, every=900.0)]}, "within what is known of the failures"),
        ({"runs": [ran(None, 700.0)]}, "too short to be saved in its middle"),
        ({"runs": []}, "nothing ran"),
    ],
)
def test_an_interval_that_may_be_right_is_left_alone(more: dict[str, Any], why: str) -> None:
    assert spoken(replace(FAILING, **more), "checkpoint interval") is None, why


@pytest.mark.parametrize(("count", "low", "high"), [(1, 0.0513, 4.744), (3, 0.8177, 7.754), (10, 5.425, 16.962)])
def test_bounds_of_a_count_are_those_of_the_tables(count: int, low: float, high: float) -> None:
    assert advice.poisson_interval(count, 0.9) == pytest.approx((low, high), abs=2e-3)


# -- all together


def test_nothing_known_is_nothing_said() -> None:
    assert advice.advise(Facts()) == []
    assert advice.advise(Facts([ran(None)], here=FOUR, stretches=HOURS)) == []


def test_the_largest_amount_comes_first() -> None:
    facts = replace(machine(usage=seen(gpus=IDLE_GPUS, waits=400.0, mean=60.0)))
    kinds = [one.kind for one in advice.advise(facts)]
    assert kinds == ["machine too large", "gpu waits for data"]


@pytest.mark.parametrize("spoil", [lambda: math.nan, lambda: math.inf])
def test_amounts_are_whole_and_positive_whatever_a_reading_says(spoil: Callable[[], float]) -> None:
    for name in ("gpu_waits_seconds", "gpu_sum", "cpu_sum", "seen_seconds", "gpu_seconds"):
        for one in advice.advise(Facts([ran(seen(waits=400.0, mean=50.0) | {name: spoil()})])):
            assert type(one.saves_nano) is int and one.saves_nano >= 0
