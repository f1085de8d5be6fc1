"""Money: whole numbers only, never less than what was used, and no odd text taken for a price."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.money import HOUR_MS, NANO, billed_ms, cost, format_change, format_money, parse_usd
from ciuic_jupyter.errors import UsageError

rates = st.integers(0, 10**15)
lengths = st.integers(0, 10 * 366 * 24 * HOUR_MS)
units = st.sampled_from([1, 100, 1000, 60_000, HOUR_MS]) | st.integers(1, HOUR_MS)
minimums = st.sampled_from([0, 1000, 60_000, 600_000]) | st.integers(0, HOUR_MS)


@pytest.mark.parametrize(
    ("rate", "ms", "unit", "minimum", "nano"),
    [
        (3600 * NANO, 1000, 1000, 0, NANO),
        (3600 * NANO, 1, 1000, 0, NANO),
        (3600 * NANO, 1001, 1000, 0, 2 * NANO),
        (3600 * NANO, 0, 1000, 0, 0),
        (3600 * NANO, 0, 1000, 60_000, 60 * NANO),
        (3600 * NANO, 59_001, 1000, 60_000, 60 * NANO),
        (3600 * NANO, 60_001, 1000, 60_000, 61 * NANO),
        (3600 * NANO, 10_000, 60_000, 90_000, 90 * NANO),  # a minimum need not be a number of units
        (2_500_000_000, 1000, 1000, 0, 694_445),
        (1_234_000_000, 30 * 24 * HOUR_MS, 1000, 0, 888_480_000_000),  # 29.616 a day, where floats give ...1745
        (1, 1, 1, 0, 1),
        (0, HOUR_MS, 1000, 60_000, 0),
        (2_500_000_000, HOUR_MS + 1, HOUR_MS, 0, 5_000_000_000),
    ],
)
def test_prices_of_segments(rate: int, ms: int, unit: int, minimum: int, nano: int) -> None:
    assert cost(rate, ms, unit_ms=unit, minimum_ms=minimum) == nano


@given(rates, lengths, units, minimums)
def test_a_price_is_a_whole_number_that_never_under_bills(rate: int, ms: int, unit: int, minimum: int) -> None:
    nano = cost(rate, ms, unit_ms=unit, minimum_ms=minimum)
    exact = Fraction(rate * max(ms, minimum), HOUR_MS)
    assert type(nano) is int
    assert exact <= nano < exact + Fraction(rate * unit, HOUR_MS) + 1


@given(rates, lengths, units, minimums)
def test_a_price_is_that_of_the_billed_time(rate: int, ms: int, unit: int, minimum: int) -> None:
    billed = billed_ms(ms, unit_ms=unit, minimum_ms=minimum)
    assert billed >= minimum and billed >= ms and (billed == minimum or billed % unit == 0)
    assert cost(rate, ms, unit_ms=unit, minimum_ms=minimum) == cost(rate, billed, unit_ms=1)


@given(rates, lengths, lengths, units, minimums)
def test_more_time_never_costs_less(rate: int, one: int, other: int, unit: int, minimum: int) -> None:
    short, long = sorted((one, other))
    assert cost(rate, short, unit_ms=unit, minimum_ms=minimum) <= cost(rate, long, unit_ms=unit, minimum_ms=minimum)


@given(rates, rates, lengths, units, minimums)
def test_a_higher_price_or_a_longer_minimum_never_costs_less(
    one: int, other: int, ms: int, unit: int, minimum: int
) -> None:
    low, high = sorted((one, other))
    assert cost(low, ms, unit_ms=unit, minimum_ms=minimum) <= cost(high, ms, unit_ms=unit, minimum_ms=minimum)
    assert cost(low, ms, unit_ms=unit) <= cost(low, ms, unit_ms=unit, minimum_ms=minimum)


@given(rates, lengths, lengths, units, minimums)
def test_two_segments_never_cost_less_than_one_of_both_lengths(
    rate: int, one: int, other: int, unit: int, minimum: int
) -> None:
    def price(ms: int) -> int:
        return cost(rate, ms, unit_ms=unit, minimum_ms=minimum)

    assert price(one + other) <= price(one) + price(other)


@pytest.mark.parametrize(
    "bad",
    [{"rate": -1}, {"ms": -1}, {"unit": 0}, {"minimum": -1}],
    ids=lambda bad: next(iter(bad)),
)
def test_nothing_below_zero_is_priced(bad: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        cost(bad.get("rate", 1), bad.get("ms", 1), unit_ms=bad.get("unit", 1), minimum_ms=bad.get("minimum", 0))


@pytest.mark.parametrize(
    ("text", "nano"),
    [
        ("5", 5 * NANO),
        ("0", 0),
        ("0.25", NANO // 4),
        ("0.000000001", 1),
        ("007", 7 * NANO),
        ("999999999.999999999", 10**18 - 1),
        (5, 5 * NANO),
        (0, 0),
        (Decimal("0.90"), 900_000_000),
        (Decimal("1E+1"), 10 * NANO),
        (Decimal("1E-9"), 1),
    ],
)
def test_amounts(text: str | int | Decimal, nano: int) -> None:
    assert parse_usd(text) == nano


@pytest.mark.parametrize(
    "text",
    [
        *("NaN", "nan", "sNaN", "Infinity", "-Infinity", "inf", "True", "None", "", " ", "--"),
        *("１２", "٣", "1.٣", "²", "1_000", "1,5", "1,000", "1e9", "1E9", "1e-3", "0x10", "$5", "5$", "5USD"),
        *("+1", "-1", "-0", "1.", ".5", "1..2", "1.2.3", " 1", "1 ", "1\n", "\n1", "1\x00"),
        *("1234567890", "0.1234567890", "1" * 10**6),
    ],
    ids=lambda text: repr(text[:12]),
)
def test_odd_text_is_no_amount(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_usd(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "amount",
    [-1, 10**9, 10**5000, -(10**5000), True, False, 0.5, 1e400, float("nan"), None, b"5", [5]]
    + [Decimal(text) for text in ("NaN", "sNaN", "Infinity", "-1", "1E+1000000", "1E-1000000", "0.1234567891")],
    ids=lambda amount: type(amount).__name__,
)
def test_odd_objects_are_no_amount(amount: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse_usd(amount)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@given(st.text(max_size=20))
def test_any_text_is_an_amount_or_refused(text: str) -> None:
    try:
        nano = parse_usd(text)
    except UsageError:
        return
    assert nano >= 0 and Decimal(nano) == Decimal(text) * NANO


@given(st.integers(0, 10**18 - 1))
def test_an_amount_comes_back_from_its_own_text(nano: int) -> None:
    assert parse_usd(f"{nano // NANO}.{nano % NANO:09d}") == nano
    assert parse_usd(Decimal(nano).scaleb(-9)) == nano


@pytest.mark.parametrize(
    ("nano", "currency", "places", "text"),
    [
        (13_200_000, "USD", None, "$0.0132"),
        (0, "USD", None, "$0.00"),
        (900_000_000, "USD", None, "$0.9000"),
        (10**9 * NANO, "USD", None, "$1,000,000,000.00"),
        (1, "USD", None, "$0.000000001"),
        (694_445, "USD", None, "$0.000694"),
        (1_234_567_890_123, "USD", None, "$1,234.57"),
        (5 * NANO, "CNY", 2, "¥5.00"),
        (5 * NANO, "CHF", 0, "CHF 5"),
        (-13_200_000, "USD", None, "-$0.0132"),
        (-1, "USD", 2, "$0.00"),
        (995_000_000, "USD", 2, "$1.00"),
        (1_999_999_999, "USD", 9, "$1.999999999"),
    ],
)
def test_money_as_people_read_it(nano: int, currency: str, places: int | None, text: str) -> None:
    assert format_money(nano, currency, places) == text


@pytest.mark.parametrize(
    ("nano", "base", "text"),
    [(112, 100, "+$0.000000012 (112 %)"), (NANO, 2 * NANO, "-$1.0000 (50 %)"), (NANO, NANO, "$0.00 (100 %)")],
)
def test_a_change_has_its_sign_and_its_share(nano: int, base: int, text: str) -> None:
    assert format_change(nano, base) == text


@given(st.integers(1, 10**17))
def test_a_cost_is_never_shown_as_nothing_nor_off_by_more_than_half_its_last_digit(nano: int) -> None:
    text = format_money(nano)
    shown = Decimal(text.removeprefix("$").replace(",", ""))
    places = len(text.partition(".")[2])
    assert shown > 0 and abs(shown * NANO - nano) * 2 <= 10 ** (9 - places)


@pytest.mark.parametrize("places", [-1, 10])
def test_places_that_money_does_not_have(places: int) -> None:
    with pytest.raises(UsageError):
        format_money(1, places=places)
