"""Idleness and the break-even rule: unknown is never idle, and no gap costs more than the proved bound."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.idle import Busy, Facts, Idle, Policy, Reading, Uncertain, Unknown, decide, judge
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.errors import UsageError

QUIET, LOUD, DARK = Reading(True, 10.0), Reading(False, 20.0, "training"), Unknown("no driver")


def test_only_three_quiet_witnesses_are_idle() -> None:
    for said in itertools.product((QUIET, LOUD, DARK), repeat=3):
        verdict = judge(*said, now=100.0)
        if LOUD in said:
            assert isinstance(verdict, Busy)
        elif DARK in said:
            assert isinstance(verdict, Uncertain)
        else:
            assert verdict == Idle(10.0)


def test_idle_counts_from_the_last_to_fall_quiet() -> None:
    assert judge(Reading(True, 5.0), Reading(True, 50.0), Reading(True, 0.0), now=60.0) == Idle(50.0)


def test_unknown_is_never_released_without_a_deadline() -> None:
    policy = Policy(NANO)
    assert decide(policy, Uncertain("gpu", "no driver"), Facts(0.0, uncertain_since=0.0)).save_at is None
    bounded = Policy(NANO, deadline_seconds=3600)
    assert decide(bounded, Uncertain("gpu", "no driver"), Facts(0.0, uncertain_since=5.0)).save_at == 3605.0


def test_busy_and_a_price_that_saves_nothing_are_never_released() -> None:
    assert decide(Policy(NANO), Busy("kernel", "a cell"), Facts(0.0)).save_at is None
    never = decide(Policy(NANO, storage_nano_per_hour=NANO), Idle(0.0), Facts(0.0))
    assert never.save_at is None
    assert "never" in never.reason


@given(
    price=st.integers(1, 10**4).map(lambda cents: cents * 10**7),
    save=st.floats(0.1, 300),
    restore=st.floats(0.1, 600),
    gap=st.floats(0, 10**6),
)
def test_no_gap_costs_more_than_twice_what_a_prophet_pays(price: int, save: float, restore: float, gap: float) -> None:
    """Waiting unpriced: total <= (1 + R/(C+R) + C/(C+R)) x optimum, the ski-rental bound with the save inside B."""
    policy = Policy(price, checkpoint_seconds=save, restore_seconds=restore, floor_seconds=0)
    decision = decide(policy, Idle(0.0), Facts(0.0))
    assert decision.save_at is not None
    assert decision.release_at is not None
    paid = gap if gap <= decision.save_at else decision.release_at + restore
    best = min(gap, save + restore)
    assert paid <= 2 * best * (1 + 1e-9) + save * (gap <= decision.release_at)


def test_the_price_of_waiting_postpones() -> None:
    plain = Policy(900_000_000, checkpoint_seconds=30, restore_seconds=90, floor_seconds=0)
    dear = Policy(900_000_000, 0, 30 * NANO, checkpoint_seconds=30, restore_seconds=90, floor_seconds=0)
    assert plain.break_even_seconds == pytest.approx(120)
    assert dear.break_even_seconds == pytest.approx(120 + 3000)


def test_a_paid_minimum_and_hour_are_used_up() -> None:
    hourly = Policy(NANO, unit_seconds=3600, checkpoint_seconds=10, restore_seconds=20, floor_seconds=0)
    decision = decide(hourly, Idle(100.0), Facts(segment_started=0.0))
    assert decision.release_at == pytest.approx(3600)
    minimum = Policy(NANO, minimum_seconds=600, checkpoint_seconds=10, restore_seconds=20, floor_seconds=0)
    assert decide(minimum, Idle(100.0), Facts(0.0)).release_at == pytest.approx(600)
    assert decide(minimum, Idle(1000.0), Facts(0.0)).release_at == pytest.approx(1030)


def test_keep_postpones_and_the_floor_holds() -> None:
    policy = Policy(NANO, checkpoint_seconds=1, restore_seconds=1, floor_seconds=60)
    assert decide(policy, Idle(0.0), Facts(0.0)).release_at == pytest.approx(60)
    kept = decide(policy, Idle(0.0), Facts(0.0, kept_until=5000.0))
    assert kept.save_at == 5000.0
    assert kept.reason == "kept on request"
    assert decide(policy, Idle(6000.0), Facts(0.0, kept_until=5000.0)).save_at == pytest.approx(6059)


def test_the_cap_on_resumes_bounds_annoyance() -> None:
    policy = Policy(NANO, max_resumes_per_100=5, floor_seconds=0)
    assert decide(policy, Idle(0.0), Facts(0.0, resumes=5, runs=100)).save_at is None
    assert decide(policy, Idle(0.0), Facts(0.0, resumes=4, runs=100)).save_at is not None


def test_policies_of_nonsense_are_refused() -> None:
    for bad in ({"checkpoint_seconds": float("nan")}, {"restore_seconds": -1.0}, {"unit_seconds": 0}):
        with pytest.raises(UsageError):
            Policy(NANO, **bad)  # type: ignore[arg-type]
