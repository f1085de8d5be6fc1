"""What the measurements of a session say could cost less: each advice with its evidence, or none at all.

Pure: facts in, advice out. What was not measured, or measured too little, makes an advice silent. Amounts of two
advices may be for the same time and are not added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from ciuic_jupyter.core.money import cost, format_money
from ciuic_jupyter.core.offers import Billed, Rentable, Wish, cheapest
from ciuic_jupyter.errors import OutOfCapacity

RUN_SECONDS = 120.0  # seen of a run at least: imports, the first batches and warm-up are not what a training costs
RUN_SAMPLES = 60  # the agent sends two a second: half of the least time may have been lost on the line
SEEN_SHARE = 0.5  # of a run: what was not seen may have been otherwise
WAITS_SHARE = 0.3  # of a run the GPU waits: below it, overlap of two steps and NVML's own window explain it
GPU_USED_PERCENT = 30.0  # a run whose GPU was never busier than that does not wait for data: it hardly uses the GPU
SMALL_GPU_PERCENT = 60.0  # mean use: above it a larger batch gains little
SMALL_MEMORY_SHARE = 0.4  # of the memory: a batch of twice the size fits even if all of it were activations
BF16_SHARE = 0.05  # of a run's time: products that would take less of it less are not what it is spent on
UNUSED_PERCENT = 5.0  # of a GPU's time at its busiest: what a driver or a desktop does with one nobody uses
UNUSED_MEMORY_SHARE = 0.05  # of its memory: a CUDA context that was made and left
MACHINE_SECONDS = 600.0  # of runs seen before a machine is called too large
MACHINE_SEEN_SHARE = 0.9  # of all runs: a GPU that was not looked at may have been used
CHEAPER_SHARE = 0.05  # of the bill: less is not worth a move
IDLE_SECONDS = 300.0  # between two cells: shorter ones are thinking, and a stop and a start cost someone's patience
IDLE_SEEN_SHARE, IDLE_QUIET_SHARE = 0.8, 0.95  # of such a gap: threads and child processes work between cells, too
FAILURES = 3  # with fewer, the mean time between them is known to no better than a factor of five
SAVES = 3  # measured ones, for what one takes
INTERVAL_FACTOR = 2.0  # around the best interval, where the cost is flat: a quarter more at most
CONFIDENCE = 0.9  # of the interval that the mean time between failures is given with

EXACT, ABOUT, MOST = "exact", "about", "at most"
NO_ADVICE = "Nothing that was measured says that this could cost less."


@dataclass(frozen=True)
class Advice:
    """One advice: what was seen, what it would save in nano-units (`sure`: exact, about or at most), what to do."""

    kind: str
    evidence: str
    saves_nano: int
    sure: str
    todo: str
    run: str | None = None


@dataclass(frozen=True)
class Ran:
    """A run: seconds of machine time and what they cost, what its samples said, and how often it was saved."""

    run: str
    seconds: float
    spent_nano: int
    usage: Mapping[str, Any] | None = None  # as `usage.Tally.view` returns it
    every: float | None = None  # seconds between checkpoints in its middle
    bf16: tuple[float, str] | None = None  # as `flops.shorter_in_bf16` returns it, of a run that was counted

    @property
    def known(self) -> Mapping[str, Any] | None:
        """The samples, None if there are none, or if one of their sums is no number."""
        usage = self.usage
        numbers = [one for one in usage.values() if isinstance(one, int | float)] if usage is not None else ()
        return usage if all(map(math.isfinite, numbers)) else None

    def seen(self) -> Mapping[str, Any] | None:
        """Return the samples, None if there are too few to speak of it."""
        usage = self.known
        if usage is None or usage["samples"] < RUN_SAMPLES or usage["seen_seconds"] < RUN_SECONDS:
            return None
        return usage if usage["seen_seconds"] >= SEEN_SHARE * self.seconds else None

    def gpu_seen(self) -> Mapping[str, Any] | None:
        """Return the samples if its GPU was read in all of them."""
        usage = self.seen()
        return usage if usage is not None and usage["gpu_seconds"] >= 0.99 * usage["seen_seconds"] > 0 else None


@dataclass(frozen=True)
class Gap:
    """Time without a cell on a machine, in unix ms; `last`: the machine was given back, or is there still, at its end.

    `usage` is what the samples said meanwhile.
    """

    begin_ms: int
    end_ms: int
    usage: Mapping[str, Any] | None
    last: bool = False

    @property
    def idle(self) -> bool:
        """Whether nothing at all worked there, as far as it was seen, which must be nearly all."""
        seconds, usage = (self.end_ms - self.begin_ms) / 1000, self.usage
        if usage is None or seconds < IDLE_SECONDS:
            return False
        seen = float(usage["seen_seconds"])
        return bool(seen >= IDLE_SEEN_SHARE * seconds and usage["quiet_seconds"] >= IDLE_QUIET_SHARE * seen)


@dataclass(frozen=True)
class Stretch:
    """A machine's paid time in unix ms, as the ledger has it, with the gaps between cells in it."""

    begin_ms: int
    end_ms: int
    rate: int
    unit_ms: int = 1000
    minimum_ms: int = 0
    gaps: Sequence[Gap] = ()
    here: bool = True  # on the type of machine that the session is on now

    def price(self, *parts_ms: int) -> int:
        """Return what stretches of these lengths cost on this machine, in nano-units."""
        return sum(cost(self.rate, part, unit_ms=self.unit_ms, minimum_ms=self.minimum_ms) for part in parts_ms)

    @property
    def spent_nano(self) -> int:
        """What it cost."""
        return self.price(self.end_ms - self.begin_ms)


@dataclass(frozen=True)
class Facts:
    """What is known of one session; `failures` in `failure_seconds` of machines are the user's, over all sessions."""

    runs: Sequence[Ran] = ()
    here: Billed | None = None  # the machine type it is on
    currency: str = "USD"
    stretches: Sequence[Stretch] = ()
    offers: Sequence[Billed] = ()
    save_seconds: float = 0.0  # of a pause: to save, and to start and restore again
    restore_seconds: float = 0.0
    storage_nano_per_hour: int = 0
    saves: Sequence[float] = field(default_factory=tuple)  # seconds, measured
    failures: int = 0
    failure_seconds: float = 0.0


def advise(facts: Facts) -> list[Advice]:
    """Return all that the facts support, the largest amount first."""
    large, cheaper = too_large(facts), cheaper_offer(facts)
    found = [gpu_waits(facts.runs), small_batch(facts.runs), low_precision(facts.runs), large]
    found += [checkpoint_interval(facts), pauses(facts)]
    if cheaper is not None and (large is None or large.todo != cheaper.todo):
        found.append(cheaper)
    return sorted((one for one in found if one is not None and one.saves_nano > 0), key=lambda one: -one.saves_nano)


def gpu_waits(runs: Sequence[Ran]) -> Advice | None:
    """Say that the GPU waits while the CPU works in a cell: data is loaded, or Python does something between steps."""
    found = []
    for run in runs:
        usage = run.gpu_seen()
        if usage is None or _busiest(usage) < GPU_USED_PERCENT:
            continue
        share = usage["gpu_waits_seconds"] / usage["seen_seconds"]
        if share >= WAITS_SHARE:
            found.append((int(run.spent_nano * share), share, run, usage))
    if not found:
        return None
    _, share, run, usage = max(found, key=lambda one: one[:2])
    seconds = usage["seen_seconds"]
    most_by_children = 2 * usage["gpu_waits_for_children_seconds"] > usage["gpu_waits_seconds"]
    who = "processes beside the kernel" if most_by_children else "the kernel's own process"
    evidence = (
        f"{_runs(len(found))} the GPU waited while the CPU worked; in run {run.run[:12]} for {100 * share:.0f} % of "
        f"{seconds:.0f} s seen: CPU {_mean(usage, 'cpu'):.0f} % of a core, mostly in {who}, GPU "
        f"{_mean(usage, 'gpu'):.0f} %"
    )
    todo = (
        "more or faster data workers, or prepare the data once and keep it"
        if most_by_children
        else "load data in other processes (DataLoader num_workers, pin_memory), or do less in Python between steps"
    )
    return Advice("gpu waits for data", evidence, sum(one[0] for one in found), MOST, todo, run.run)


def small_batch(runs: Sequence[Ran]) -> Advice | None:
    """Say that most of the GPU's memory and time is free; not where data workers are what it waits for."""
    found = []
    for run in runs:
        usage = run.gpu_seen()
        if usage is None or _busiest(usage) < GPU_USED_PERCENT or _mean(usage, "gpu") >= SMALL_GPU_PERCENT:
            continue
        shares = [gpu["memory_used_bytes"] / gpu["memory_total_bytes"] for gpu in _used(usage) if _has_memory(gpu)]
        waits = 2 * usage["gpu_waits_for_children_seconds"] > WAITS_SHARE * usage["seen_seconds"]
        if len(shares) == len(_used(usage)) and max(shares) < SMALL_MEMORY_SHARE and not waits:
            idle = 1 - _mean(usage, "gpu") / 100
            found.append((int(run.spent_nano * idle), max(shares), run, usage))
    if not found:
        return None
    _, share, run, usage = max(found, key=lambda one: one[0])
    evidence = (
        f"{_runs(len(found))} memory and time of the GPU were left; in run {run.run[:12]} at most {100 * share:.0f} % "
        f"of its memory was used, and {_mean(usage, 'gpu'):.0f} % of its time, in {usage['seen_seconds']:.0f} s seen"
    )
    todo = "a larger batch (with the learning rate that goes with it), or a smaller GPU"
    return Advice("batch too small", evidence, sum(one[0] for one in found), MOST, todo, run.run)


def low_precision(runs: Sequence[Ran]) -> Advice | None:
    """Say that products run in fp32 or TF32 on a GPU that has bf16; only of runs whose FLOPs were counted.

    Autocast is off for what was counted so; under it parameters and sums stay fp32, and bf16 has fp32's range.
    """
    found = []
    for run in runs:
        if run.bf16 is not None and run.bf16[0] >= BF16_SHARE and run.seen() is not None:
            found.append((int(run.spent_nano * min(1.0, run.bf16[0])), run, *run.bf16))
    if not found:
        return None
    _, run, share, seen = max(found, key=lambda one: one[0])
    evidence = (
        f"{_runs(len(found))} that were counted; in run {run.run[:12]} {seen}: at the GPU's peak bf16 takes "
        f"{100 * share:.0f} % of the run's time less"
    )
    todo = 'with torch.autocast("cuda", dtype=torch.bfloat16): around forward and loss; compare the loss of a short run'
    return Advice("fp32 where bf16 would do", evidence, sum(one[0] for one in found), ABOUT, todo, run.run)


def too_large(facts: Facts) -> Advice | None:
    """Say that some GPUs of the machine were never used, where a cheaper offer has as many as were."""
    here, usages = facts.here, [run.known for run in facts.runs if run.known is not None]
    lived = sum(run.seconds for run in facts.runs)
    seen = sum(min(usage["seen_seconds"], usage["gpu_seconds"]) for usage in usages)
    if here is None or here.gpus < 1 or seen < max(MACHINE_SECONDS, MACHINE_SEEN_SHARE * lived):
        return None
    indices = {gpu["index"] for usage in usages for gpu in usage["gpus"]}
    used = {gpu["index"] for usage in usages for gpu in usage["gpus"] if _worked(gpu)}
    if len(indices) < here.gpus or len(used) >= here.gpus or (used and not here.gpu):
        return None
    found = _cheaper(facts, Wish(len(used), here.gpu if used else ""))
    if found is None:
        return None
    offer, saves = found
    memory = max((usage["rss_peak_bytes"] or 0 for usage in usages), default=0)
    evidence = (
        f"{here.gpus - len(used)} of {here.gpus} GPUs were never used in {seen:.0f} s of runs seen (at most "
        f"{UNUSED_PERCENT:.0f} % of time and {100 * UNUSED_MEMORY_SHARE:.0f} % of memory); the kernel's processes had "
        f"at most {memory / 1e9:.1f} GB of the machine's memory"
    )
    return Advice("machine too large", evidence, saves, EXACT, _move(offer))


def cheaper_offer(facts: Facts) -> Advice | None:
    """Say that as many GPUs of the same name are to be had for less."""
    here = facts.here
    if here is None or here.gpus < 1 or not here.gpu:
        return None
    found = _cheaper(facts, Wish(here.gpus, here.gpu))
    if found is None:
        return None
    offer, saves = found
    prices = [f"{format_money(one.price_nano_per_hour, one.currency)}/h" for one in (here, offer)]
    evidence = f"{offer.gpus} {offer.gpu} cost {prices[1]} as {offer.instance}, {prices[0]} as {here.instance}"
    return Advice("cheaper offer", evidence, saves, EXACT, _move(offer))


def _cheaper(facts: Facts, wish: Wish) -> tuple[Billed, int] | None:
    """Return the cheapest offer that fits, and what the same machine time would have cost less there."""
    here, stretches = facts.here, [stretch for stretch in facts.stretches if stretch.here]
    spent = sum(stretch.spent_nano for stretch in stretches)
    if here is None or spent <= 0:
        return None
    try:
        offer = cheapest([one for one in facts.offers if one.instance != here.instance], wish, facts.currency)
    except OutOfCapacity:
        return None
    there = [
        cost(
            offer.price_nano_per_hour,
            stretch.end_ms - stretch.begin_ms,
            unit_ms=offer.unit_seconds * 1000,
            minimum_ms=offer.minimum_seconds * 1000,
        )
        for stretch in stretches
    ]
    saves = spent - sum(there)
    return (offer, saves) if saves >= CHEAPER_SHARE * spent else None


def pauses(facts: Facts) -> Advice | None:
    """Say what machines cost that waited for the next cell, with nothing at work: saved at once, and back in time."""
    saves, seconds, count = 0, 0.0, 0
    for stretch in facts.stretches:
        taken = _paused(stretch, facts)
        length = sum(gap.end_ms - gap.begin_ms for gap in taken) / 1000
        saves, seconds, count = saves + _saved(stretch, taken, facts), seconds + length, count + len(taken)
    if saves <= 0:
        return None
    evidence = (
        f"in {count} gaps of {IDLE_SECONDS / 60:.0f} min or more between cells, {seconds:.0f} s in all, the machine "
        f"was billed while nothing worked; a save takes {facts.save_seconds:.1f} s here and a restore "
        f"{facts.restore_seconds:.1f} s, both counted"
    )
    todo = "press Pause when a cell has ended, or let the idle rule do it (CIUIC_IDLE_RELEASE, `%ciuic_why`)"
    return Advice("pauses not used", evidence, saves, EXACT, todo)


def _paused(stretch: Stretch, facts: Facts) -> list[Gap]:
    """Return the idle gaps in which a pause would have lowered the bill, longest first: units and minimums count."""
    taken: list[Gap] = []
    shortest = 1000 * 2 * (facts.save_seconds + facts.restore_seconds)
    gaps = [gap for gap in stretch.gaps if gap.idle and gap.end_ms - gap.begin_ms > shortest]
    for gap in sorted(gaps, key=lambda one: one.begin_ms - one.end_ms):
        if _saved(stretch, [*taken, gap], facts) > _saved(stretch, taken, facts):
            taken.append(gap)
    return taken


def _saved(stretch: Stretch, gaps: Sequence[Gap], facts: Facts) -> int:
    """Return what pausing in these gaps would have saved, in nano-units: less compute, more storage."""
    save, restore = round(1000 * facts.save_seconds), round(1000 * facts.restore_seconds)
    parts, begin, kept = [], stretch.begin_ms, []
    for gap in sorted(gaps, key=lambda one: one.begin_ms):
        parts.append(gap.begin_ms + save - begin)
        begin = gap.end_ms if gap.last else gap.end_ms - restore
        kept.append(begin - gap.begin_ms - save)
    if begin < stretch.end_ms:
        parts.append(stretch.end_ms - begin)
    if not gaps or min(*parts, *kept) < 0:  # a clock was set back meanwhile
        return 0
    stored = sum(cost(facts.storage_nano_per_hour, one) for one in kept)
    return stretch.spent_nano - stretch.price(*parts) - stored


def checkpoint_interval(facts: Facts) -> Advice | None:
    """Hold the time between checkpoints against Young and Daly's sqrt(2 C M).

    C is the median of measured saves, M the mean time between failures of this ledger. Source: Young, CACM 17(9), 1974;
    Daly, FGCS 22(3), 2006, first order.
    """
    if facts.failures < FAILURES or len(facts.saves) < SAVES or facts.failure_seconds <= 0:
        return None
    taken, between = median(facts.saves), facts.failure_seconds / facts.failures
    if not (math.isfinite(taken) and 0 < taken < between):
        return None
    best, (few, many) = math.sqrt(2 * taken * between), poisson_interval(facts.failures, CONFIDENCE)
    low, high = (math.sqrt(2 * taken * facts.failure_seconds / count) for count in (many, few))
    saves, worst = 0.0, None
    for run in facts.runs:
        used = run.every if run.every is not None else run.seconds
        if run.seconds <= INTERVAL_FACTOR * high or low / INTERVAL_FACTOR <= used <= INTERVAL_FACTOR * high:
            continue  # it would hardly be saved once, or is saved often enough for all that is known
        wasted = (taken / used if run.every is not None else 0.0) + used / (2 * between)
        saved = (min(1.0, wasted) - math.sqrt(2 * taken / between)) * run.spent_nano
        if saved > 0:
            saves += saved
            worst = run if worst is None or run.spent_nano > worst.spent_nano else worst
    if worst is None:
        return None
    now = f"every {_time(worst.every)}" if worst.every is not None else "never in its middle"
    evidence = (
        f"{facts.failures} failures in {_time(facts.failure_seconds)} of machines: one in {_time(between)} "
        f"({100 * CONFIDENCE:.0f} % sure: {_time(facts.failure_seconds / many)} to "
        f"{_time(facts.failure_seconds / few)}); a save takes {taken:.1f} s; run {worst.run[:12]} was saved {now}"
    )
    todo = f"%%ciuic_train --checkpoint-every {_option(best)} (Young/Daly; anything from {_time(low)} to {_time(high)})"
    return Advice("checkpoint interval", evidence, round(saves), ABOUT, todo, worst.run)


def poisson_interval(count: int, confidence: float) -> tuple[float, float]:
    """Return the bounds of the mean of a Poisson variable that was `count` >= 1 (Garwood's, by bisection)."""

    def at_most(number: int, mean: float) -> float:
        term = total = math.exp(-mean)
        for step in range(1, number + 1):
            term *= mean / step
            total += term
        return total

    def solve(number: int, wanted: float) -> float:
        low, high = 0.0, 10.0 * count + 20.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at_most(number, middle) > wanted else (low, middle)
        return (low + high) / 2

    tail = (1 - confidence) / 2
    return solve(count - 1, 1 - tail), solve(count, tail)


def lines(one: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return an advice as the plane tells it in three lines for people: kind and amount, evidence, what to do."""
    amount = format_money(int(one["saves_nano"]), str(one["currency"]))
    return (
        f"{one['session']}: {one['kind']}: {one['sure']} {amount}",
        f"  seen: {one['evidence']}",
        f"  do: {one['todo']}",
    )


def _busiest(usage: Mapping[str, Any]) -> float:
    return max((float(gpu["peak_percent"]) for gpu in usage["gpus"]), default=0.0)


def _mean(usage: Mapping[str, Any], what: str) -> float:
    seconds = float(usage[f"{what}_seconds"])
    return float(usage[f"{what}_sum"]) / seconds if seconds > 0 else 0.0


def _has_memory(gpu: Mapping[str, Any]) -> bool:
    return bool(gpu["memory_total_bytes"] > 0)


def _worked(gpu: Mapping[str, Any]) -> bool:
    held = not _has_memory(gpu) or gpu["memory_used_bytes"] > UNUSED_MEMORY_SHARE * gpu["memory_total_bytes"]
    return bool(held or gpu["peak_percent"] > UNUSED_PERCENT)


def _used(usage: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [gpu for gpu in usage["gpus"] if _worked(gpu)]


def _runs(count: int) -> str:
    return "in 1 run" if count == 1 else f"in {count} runs"


def _move(offer: Rentable) -> str:
    return f"pause, then resume on it: --instance {offer.instance}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _option(seconds: float) -> str:
    return f"{max(1, round(seconds))}s" if seconds < 120 else f"{round(seconds / 60)}m"
