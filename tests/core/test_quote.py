"""Quotes: medians of what was measured, other types by an assumption that is told, prices by unit and minimum."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.money import cost
from ciuic_jupyter.core.quote import Past, Spread, quote, reference

SECOND = 1_000_000  # nano-units, at $3.60 an hour


@dataclass(frozen=True)
class Machine:
    instance: str
    price_nano_per_hour: int = 3_600_000_000
    currency: str = "USD"
    unit_seconds: int = 1
    minimum_seconds: int = 0


def past(instance: str, seconds: float, currency: str = "USD") -> Past:
    return Past(instance, round(seconds * 1000), round(seconds * SECOND), currency)


def test_runs_on_a_type_are_its_measure_and_its_start_is_paid_too() -> None:
    runs = [past("a", 100), past("a", 300), past("b", 9999), past("a", 120)]
    found = quote(Machine("a"), runs, {"a": [40_000, 20_000, 30_000], "b": [1]})
    assert (found.runs, found.like, found.start_measured, found.start_ms) == (3, None, True, 30_000)
    assert found.cost == Spread(130 * SECOND, 150 * SECOND, 330 * SECOND)
    assert found.billed == Spread(100 * SECOND, 120 * SECOND, 300 * SECOND)


def test_another_type_takes_the_times_of_the_one_with_most_runs() -> None:
    runs = [past("b", 50), past("a", 100), past("a", 300)]
    found = quote(Machine("c", 7_200_000_000), runs, {"a": [10_000], "b": [30_000]})
    assert (found.runs, found.billed, found.like, found.start_measured) == (0, None, "a", False)
    assert found.start_ms == 20_000
    assert found.cost == Spread(2 * 120 * SECOND, 2 * 220 * SECOND, 2 * 320 * SECOND)
    assert reference([past("a", 1), past("b", 2)]) == "b", "the latest of equals"
    assert reference([]) is None


def test_units_and_minimums_are_the_offers_own() -> None:
    hourly = quote(Machine("a", unit_seconds=3600), [past("a", 100)], {})
    assert hourly.cost == Spread(*[3600 * SECOND] * 3)
    minute = quote(Machine("a", minimum_seconds=60), [past("a", 10)], {})
    assert minute.cost == Spread(*[60 * SECOND] * 3)
    assert (minute.start_ms, minute.hour_nano) == (None, 3600 * SECOND)


def test_on_a_machine_that_runs_only_what_comes_on_top_is_paid() -> None:
    machine = Machine("a", unit_seconds=60, minimum_seconds=120)
    runs, starts = [past("a", 50)], {"a": [40_000]}
    for lived, more in ((0, 0), (60, 0), (80, 60), (175, 60), (190, 0)):
        found = quote(machine, runs, starts, paid_ms=lived * 1000)
        assert found.cost == Spread(*[more * SECOND] * 3), lived


def test_a_part_of_a_second_on_top_is_no_gift() -> None:
    for lived in (0, 300, 999):
        assert quote(Machine("a"), [past("a", 0.2)], {}, paid_ms=5000 + lived).cost == Spread(*[SECOND] * 3)


def test_amounts_of_another_currency_are_no_measure_but_times_are() -> None:
    found = quote(Machine("a"), [past("a", 10, "CNY"), past("a", 20)], {})
    assert found.billed == Spread(*[20 * SECOND] * 3)
    assert found.cost == Spread(10 * SECOND, 15 * SECOND, 20 * SECOND)


def test_without_history_there_is_a_price_and_no_cost() -> None:
    found = quote(Machine("a"), [], {})
    assert (found.cost, found.ms, found.billed, found.like, found.runs) == (None, None, None, None, 0)


@given(st.lists(st.integers(0, 10**9), min_size=1), st.integers(1, 7200), st.integers(0, 7200), st.integers(0, 10**7))
def test_a_quote_is_what_the_ledger_would_bill(times: list[int], unit: int, minimum: int, start: int) -> None:
    machine = Machine("a", unit_seconds=unit, minimum_seconds=minimum)
    found = quote(machine, [Past("a", ms, 0, "USD") for ms in times], {"a": [start]})
    assert found.cost is not None and found.ms is not None
    assert found.cost.least <= found.cost.median <= found.cost.most
    for ms, nano in ((found.ms.least, found.cost.least), (found.ms.median, found.cost.median)):
        assert nano == cost(3_600_000_000, start + ms, unit_ms=unit * 1000, minimum_ms=minimum * 1000)


@pytest.mark.parametrize(("values", "median"), [([5], 5), ([1, 4], 2), ([9, 1, 5], 5), ([1, 2, 4, 9], 3)])
def test_medians_are_whole_numbers(values: list[int], median: int) -> None:
    found = Spread.of(values)
    assert found is not None and found.median == median
