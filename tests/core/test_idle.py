"""Idleness and the break-even rule: unknown is never idle, and no gap costs more than the proved bound."""

from __future__ import annotations

import math
from itertools import product
from statistics import NormalDist

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ciuic_jupyter.core.idle import (
    Busy,
    Decision,
    Facts,
    Idle,
    Policy,
    Reading,
    Uncertain,
    Unknown,
    Verdict,
    Witness,
    decide,
    judge,
)
from ciuic_jupyter.core.money import HOUR_MS, NANO, cost
from ciuic_jupyter.errors import UsageError

QUIET, LOUD, DARK = Reading(True, 10.0), Reading(False, 20.0, "training"), Unknown("no answer")

seconds = st.floats(0.01, 3600, allow_nan=False)
gaps = st.floats(0, 10**6, allow_nan=False)
prices = st.integers(1, 100 * NANO)
readings = st.builds(Reading, st.booleans(), st.floats(-(10**6), 10**6), st.just("x"))
witnesses: st.SearchStrategy[Witness] = readings | st.builds(Unknown, st.just("why"))


def test_only_three_quiet_witnesses_are_idle() -> None:
    for said in product((QUIET, LOUD, DARK), repeat=3):
        verdict = judge(*said, now=100.0)
        if LOUD in said:
            assert verdict == Busy(("kernel", "processes", "gpu")[said.index(LOUD)], "training")
        elif DARK in said:
            assert verdict == Uncertain(("kernel", "processes", "gpu")[said.index(DARK)], "no answer")
        else:
            assert verdict == Idle(10.0)


@given(witnesses, witnesses, witnesses, st.floats(-(10**6), 10**6))
def test_idle_is_since_the_last_to_fall_quiet_and_never_in_the_future(
    kernel: Witness, processes: Witness, gpu: Witness, now: float
) -> None:
    verdict = judge(kernel, processes, gpu, now=now)
    assert isinstance(verdict, Idle) == all(isinstance(w, Reading) and w.quiet for w in (kernel, processes, gpu))
    if isinstance(verdict, Idle):
        latest = max(w.since for w in (kernel, processes, gpu) if isinstance(w, Reading))
        assert verdict.since == min(now, latest)


def released(policy: Policy, verdict: Verdict, facts: Facts) -> tuple[float, float]:
    decision = decide(policy, verdict, facts)
    assert decision.save_at is not None and decision.release_at is not None
    return decision.save_at, decision.release_at


def paid(policy: Policy, gap: float, release_at: float) -> float:
    """Cost of a gap in nano-units, billed per second; a save is dropped if the user is back before its end."""
    p, s = policy.price_nano_per_hour / 3600, policy.storage_nano_per_hour / 3600
    if gap <= release_at:
        return p * gap
    wait = (p + policy.wait_value_nano_per_hour / 3600) * policy.restore_seconds
    return p * release_at + s * (gap - release_at) + wait


def best(policy: Policy, gap: float) -> float:
    """Cost of the same gap for one who knows its length: stay, or save at once."""
    p = policy.price_nano_per_hour / 3600
    stay = p * gap
    return min(stay, paid(policy, gap, policy.checkpoint_seconds)) if gap > policy.checkpoint_seconds else stay


def bound(policy: Policy) -> float:
    """1 + R/(C+R), each weighed with what a second of it costs: a restore is waited for, a save is not."""
    p, v = policy.price_nano_per_hour, policy.wait_value_nano_per_hour
    restore = (p + v) * policy.restore_seconds
    return 1 + restore / (p * policy.checkpoint_seconds + restore)


@given(price=prices, wait=st.just(0) | prices, save=seconds, restore=seconds, gap=gaps, before=gaps)
def test_no_gap_costs_more_than_the_bound(
    price: int, wait: int, save: float, restore: float, gap: float, before: float
) -> None:
    policy = Policy(price, 0, wait, checkpoint_seconds=save, restore_seconds=restore, floor_seconds=0)
    _, release_at = released(policy, Idle(0.0), Facts(segment_started=-before))
    assert paid(policy, gap, release_at) <= bound(policy) * best(policy, gap) * (1 + 1e-9)
    assert bound(policy) <= 2
    if not wait:
        assert bound(policy) == pytest.approx(1 + restore / (save + restore))


@given(price=prices, wait=st.just(0) | prices, save=seconds, restore=seconds, factor=st.floats(1.01, 20))
def test_no_other_moment_holds_the_bound(price: int, wait: int, save: float, restore: float, factor: float) -> None:
    """The worst gap ends just after the release: there the rule reaches its bound, and any other moment breaks it."""
    policy = Policy(price, 0, wait, checkpoint_seconds=save, restore_seconds=restore, floor_seconds=0)
    _, release_at = released(policy, Idle(0.0), Facts(0.0))

    def worst(moment: float) -> float:
        gap = moment * (1 + 1e-9)
        return paid(policy, gap, moment) / best(policy, gap)

    assert worst(release_at) == pytest.approx(bound(policy), rel=1e-6)
    assert worst(release_at * factor) > bound(policy)
    assume(release_at / factor > save)
    assert worst(release_at / factor) > bound(policy)


@given(price=prices, share=st.floats(0, 0.99), wait=st.just(0) | prices, save=seconds, restore=seconds, gap=gaps)
def test_with_storage_to_pay_a_gap_costs_at_most_one_cycle_more_and_at_most_twice(
    price: int, share: float, wait: int, save: float, restore: float, gap: float
) -> None:
    storage = int(price * share)
    policy = Policy(price, storage, wait, checkpoint_seconds=save, restore_seconds=restore, floor_seconds=0)
    _, release_at = released(policy, Idle(0.0), Facts(0.0))
    least = best(policy, gap)
    more = ((price + wait) * restore + storage * save) / 3600
    assert paid(policy, gap, release_at) <= (least + more) * (1 + 1e-9)
    assert paid(policy, gap, release_at) <= 2 * least * (1 + 1e-9)


@pytest.mark.parametrize(
    ("price", "storage", "wait", "save", "restore", "even"),
    [
        (2.5, 0, 0, 30, 90, 120),
        (2.5, 0, 30, 30, 90, 1200),
        (2.5, 0.01, 30, 30, 90, 1204.8),  # the figure of the replayed traces
        (0.9, 0, 0, 3, 5, 8),
        (1, 0.5, 0, 3, 5, 16),
        (1, 1, 0, 3, 5, None),
        (1, 2, 0, 3, 5, None),
        (0, 0, 0, 3, 5, None),
    ],
)
def test_break_even(price: float, storage: float, wait: float, save: float, restore: float, even: float | None) -> None:
    policy = Policy(int(price * NANO), int(storage * NANO), int(wait * NANO), save, restore)
    assert policy.break_even_seconds == (None if even is None else pytest.approx(even, rel=1e-4))


def test_what_saves_nothing_is_never_released() -> None:
    for verdict in (Idle(0.0), Uncertain("gpu", "x")):
        decision = decide(Policy(NANO, NANO, deadline_seconds=1), verdict, Facts(0.0, uncertain_since=0.0))
        assert decision.save_at is None and decision.release_at is None
        assert decision.reason.startswith("never")


def test_busy_is_never_released_whatever_the_deadline() -> None:
    decision = decide(Policy(NANO, deadline_seconds=0), Busy("kernel", "run 3"), Facts(0.0, uncertain_since=0.0))
    assert decision == Decision(None, None, 8.0, "busy: kernel: run 3")


@given(since=gaps, kept=st.none() | gaps)
def test_unknown_is_released_by_its_deadline_alone(since: float, kept: float | None) -> None:
    verdict = Uncertain("gpu", "NVML failed")
    facts = Facts(0.0, kept_until=kept, uncertain_since=since)
    assert decide(Policy(NANO), verdict, facts).save_at is None
    assert decide(Policy(NANO, deadline_seconds=60), verdict, Facts(0.0)).save_at is None
    save_at, release_at = released(Policy(NANO, deadline_seconds=3600), verdict, facts)
    assert save_at == max(since + 3600, kept or 0.0) and release_at == save_at + 3.0


@given(floor=st.floats(0, 10**4), save=seconds, restore=seconds, since=gaps)
def test_no_release_before_the_floor_and_the_save_starts_a_save_earlier(
    floor: float, save: float, restore: float, since: float
) -> None:
    policy = Policy(NANO, checkpoint_seconds=save, restore_seconds=restore, floor_seconds=floor)
    save_at, release_at = released(policy, Idle(since), Facts(0.0))
    assert release_at == pytest.approx(since + max(floor, save + restore))
    assert save_at == pytest.approx(release_at - save) and save_at >= since


@given(since=gaps, kept=gaps)
def test_keep_postpones_and_never_hastens(since: float, kept: float) -> None:
    policy = Policy(NANO)
    plain, _ = released(policy, Idle(since), Facts(0.0))
    save_at, _ = released(policy, Idle(since), Facts(0.0, kept_until=kept))
    assert save_at == max(plain, kept)
    assert ("kept" in decide(policy, Idle(since), Facts(0.0, kept_until=kept)).reason) == (kept > plain)


@given(
    unit=st.sampled_from([1, 60, 3600]),
    minimum=st.sampled_from([0, 60, 600]),
    save=st.floats(0.01, 300),
    since=st.floats(0, 10**5),
    kept=st.none() | st.floats(0, 10**5),
)
def test_postponing_to_the_end_of_the_paid_time_costs_nothing(
    unit: int, minimum: int, save: float, since: float, kept: float | None
) -> None:
    facts = Facts(0.0, kept_until=kept)
    plain = Policy(NANO, checkpoint_seconds=save, restore_seconds=5, floor_seconds=60)
    policy = Policy(
        NANO, checkpoint_seconds=save, restore_seconds=5, floor_seconds=60, unit_seconds=unit, minimum_seconds=minimum
    )
    _, early = released(plain, Idle(since), facts)
    _, release_at = released(policy, Idle(since), facts)

    def bill(moment: float) -> int:
        return cost(HOUR_MS, math.floor(moment * 1000), unit_ms=unit * 1000, minimum_ms=minimum * 1000)

    assert release_at >= early * (1 - 1e-9)
    assert bill(release_at - 0.001) <= bill(early)
    if release_at > early + 0.001:  # postponed: what is left unused is no more than the time to stop in
        left = max(minimum, math.ceil(release_at / unit - 1e-9) * unit) - release_at
        assert left <= min(save + 5, unit / 10) + 1e-6 if unit > 1 else left <= 1


def test_an_hour_is_used_up_but_not_to_its_last_second() -> None:
    hourly = Policy(NANO, unit_seconds=3600, checkpoint_seconds=10, restore_seconds=20, floor_seconds=0)
    _, release_at = released(hourly, Idle(100.0), Facts(0.0))
    assert release_at == pytest.approx(3600 - 15)
    assert "paid anyway" in decide(hourly, Idle(100.0), Facts(0.0)).reason
    assert released(hourly, Idle(3560.0), Facts(0.0))[1] == pytest.approx(3590)
    assert released(hourly, Idle(3580.0), Facts(0.0))[1] == pytest.approx(7200 - 15)


def test_a_minimum_is_used_up_once() -> None:
    minimum = Policy(NANO, minimum_seconds=600, checkpoint_seconds=10, restore_seconds=20, floor_seconds=0)
    assert released(minimum, Idle(100.0), Facts(0.0))[1] == pytest.approx(600)
    assert released(minimum, Idle(1000.0), Facts(0.0))[1] == pytest.approx(1030)


@given(resumes=st.integers(0, 10**4), runs=st.integers(0, 10**4), limit=st.integers(0, 100))
def test_the_cap_on_resumes_never_hastens_and_still_ends(resumes: int, runs: int, limit: int) -> None:
    facts = Facts(0.0, resumes=resumes, runs=runs)
    _, plain = released(Policy(NANO), Idle(0.0), facts)
    capped = Policy(NANO, max_resumes_per_100=limit)
    _, wide = released(capped, Idle(0.0), facts)
    assert plain <= wide <= max(plain, 86400 + 1e-6)
    assert ("the cap is" in decide(capped, Idle(0.0), facts).reason) == (wide > plain)
    _, more = released(capped, Idle(0.0), Facts(0.0, resumes=resumes + 70, runs=runs))
    assert more >= (min(1.99 * wide, 86400 - 1e-6) if wide > plain and limit else wide)


@given(
    limit=st.integers(1, 20),
    gaps=st.lists(st.floats(1, 86399), min_size=1, max_size=12),
    rounds=st.integers(1, 100),
)
def test_the_cap_holds_whatever_the_gaps(limit: int, gaps: list[float], rounds: int) -> None:
    """Gaps below a day, of any kind and order: resumes stay below the cap's share plus a constant."""
    policy = Policy(NANO, max_resumes_per_100=limit)
    resumes = 0
    for runs, gap in enumerate(gaps * rounds, 1):
        _, release_at = released(policy, Idle(0.0), Facts(0.0, resumes=resumes, runs=runs))
        resumes += gap > release_at
        usual = math.exp(3.81 + 1.86 * NormalDist().inv_cdf(1 - limit / 100))
        assert resumes <= limit * runs / 100 + math.log(86400 / usual) / 0.01 + 1


@pytest.mark.parametrize(
    "bad",
    [
        {"price_nano_per_hour": -1},
        {"checkpoint_seconds": float("nan")},
        {"restore_seconds": -1.0},
        {"floor_seconds": float("inf")},
        {"unit_seconds": 0},
        {"minimum_seconds": -1},
        {"deadline_seconds": float("nan")},
        {"deadline_seconds": -1.0},
        {"max_resumes_per_100": -1},
    ],
    ids=lambda bad: str(bad),
)
def test_policies_of_nonsense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Policy(**{"price_nano_per_hour": NANO, **bad})  # type: ignore[arg-type]
