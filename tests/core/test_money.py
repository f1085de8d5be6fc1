"""Money: integers all the way, never a wrong cent."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.money import HOUR_MS, NANO, cost, format_money, parse_usd
from ciuic_jupyter.errors import UsageError

rates = st.integers(0, 10**6 * NANO)
times = st.integers(0, 10**10)


@pytest.mark.parametrize(
    ("text", "nano"),
    [("0.90", 900_000_000), ("5", 5 * NANO), ("0.000000001", 1), ("999999999.999999999", 999_999_999_999_999_999)],
)
def test_amounts_are_read_exactly(text: str, nano: int) -> None:
    assert parse_usd(text) == nano
    assert parse_usd(Decimal(text)) == nano


@pytest.mark.parametrize(
    "bad",
    ["", "NaN", "sNaN", "Infinity", "-1", "+1", "1e9", "1_000", " 1", "1 ", "1\n", "１２", ".5", "5.", "0.0000000001",
     "$5", "1,5", "1234567890", "0x10"],
)  # fmt: skip
def test_what_is_not_a_plain_amount_is_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        parse_usd(bad)


@pytest.mark.parametrize("bad", [Decimal("NaN"), Decimal("Infinity"), Decimal(-1), True, 1.5])
def test_numbers_that_are_no_amounts_are_refused(bad: object) -> None:
    with pytest.raises(UsageError):
        parse_usd(bad)  # type: ignore[arg-type]


@given(rates, times)
def test_a_segment_is_never_under_billed_and_over_by_less_than_a_unit(rate: int, ms: int) -> None:
    exact = Fraction(rate * ms, HOUR_MS)
    billed = cost(rate, ms)
    assert isinstance(billed, int)
    assert exact <= billed < exact + Fraction(rate, 3600) + 1


@given(rates, times, times)
def test_more_time_never_costs_less(rate: int, one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert cost(rate, low) <= cost(rate, high)


@given(rates, times, st.integers(1, 7200), st.integers(0, 7200))
def test_units_and_minimum(rate: int, ms: int, unit: int, minimum: int) -> None:
    billed = cost(rate, ms, unit_ms=unit * 1000, minimum_ms=minimum * 1000)
    units = -(-max(ms, minimum * 1000) // (unit * 1000))
    assert billed == -(-rate * units * unit // 3600)


def test_a_day_at_a_second_rate_is_exact_to_the_nano() -> None:
    assert cost(1_234_000_000, 86_400_000) == 29_616_000_000


def test_what_is_below_zero_is_refused() -> None:
    for rate, ms in ((-1, 1), (1, -1)):
        with pytest.raises(UsageError):
            cost(rate, ms)


@pytest.mark.parametrize(
    ("nano", "text"),
    [(0, "$0.00"), (13_200_000, "$0.0132"), (900_000_000, "$0.9000"), (123_456_789_000, "$123.46"), (1, "$0.000000001"),
     (250_000, "$0.000250"), (-5 * NANO, "-$5.0000"), (10**9 * NANO, "$1,000,000,000.00")],
)  # fmt: skip
def test_people_read_enough_places(nano: int, text: str) -> None:
    assert format_money(nano) == text


def test_places_and_currency_can_be_given() -> None:
    assert format_money(1_995_000_000, "CNY", 2) == "¥2.00"
    assert format_money(5 * NANO, "CHF", 2) == "CHF 5.00"
    assert format_money(-1, places=2) == "$0.00"
