"""Days add up to the bill, whatever the time zone does; always on is what nobody pausing would have cost."""

from __future__ import annotations

from datetime import date, datetime
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.control import spending
from ciuic_jupyter.control.projections import Book, Run, Segment
from ciuic_jupyter.core.session import State

NEW_YORK = ZoneInfo("America/New_York")
HOUR = 3_600_000
RATE = 900_000_000


def ms(year: int, month: int, day: int, hour: int = 0, minute: int = 0, zone: Any = NEW_YORK) -> int:
    return round(datetime(year, month, day, hour, minute, tzinfo=zone).timestamp() * 1000)


def book(*stretches: tuple[int, int | None], rate: int = RATE, unit_ms: int = 1000, minimum_ms: int = 0) -> Book:
    offer = {"price_nano_per_hour": rate, "currency": "USD", "instance": "x", "provider": "fake"}
    made = Book("s", "life", offer, stretches[0][0], state=State.PAUSED)
    for number, (begin, end) in enumerate(stretches):
        made.segments.append(Segment(f"m{number}", begin, rate, "USD", unit_ms, minimum_ms, end))
    return made


def context(now_ms: int) -> Any:
    return SimpleNamespace(now_ms=lambda: now_ms, settings=SimpleNamespace(currency="USD"))


@pytest.mark.parametrize(("day", "hours"), [(date(2026, 3, 8), 23), (date(2026, 11, 1), 25), (date(2026, 7, 1), 24)])
def test_days_are_as_long_as_they_are(day: date, hours: int) -> None:
    begin, end = spending.start_of(day, NEW_YORK), spending.start_of(date(day.year, day.month, day.day + 1), NEW_YORK)
    assert end - begin == hours * HOUR
    on = book((begin - HOUR, end + HOUR))
    (row,) = [
        one
        for one in spending.history([on], context(end + 2 * HOUR), session=None, limit=9, zone=NEW_YORK)["days"]
        if one["day"] == day.isoformat()
    ]
    assert row["spent_nano"] == hours * RATE


def test_a_day_that_begins_at_one_begins_when_the_clocks_are_put_forward() -> None:
    beirut = ZoneInfo("Asia/Beirut")  # midnight of 2026-03-29 does not exist there
    begin = spending.start_of(date(2026, 3, 29), beirut)
    assert datetime.fromtimestamp(begin / 1000, beirut).hour == 1
    assert datetime.fromtimestamp((begin - 1) / 1000, beirut).date() == date(2026, 3, 28)


stretch = st.tuples(st.integers(0, 40 * HOUR), st.integers(0, 40 * HOUR))


@given(
    st.lists(stretch, min_size=1, max_size=6),
    st.sampled_from([1000, 60_000, HOUR]),
    st.sampled_from([0, 60_000]),
    st.integers(1, 10**12),
    st.integers(0, 100 * HOUR),
)
def test_days_add_up_to_the_bill(
    gaps: list[tuple[int, int]], unit_ms: int, minimum_ms: int, rate: int, later: int
) -> None:
    at, stretches = ms(2026, 10, 25), []
    for pause, length in gaps:
        stretches.append((at + pause, at + pause + length))
        at += pause + length
    made = book(*stretches, rate=rate, unit_ms=unit_ms, minimum_ms=minimum_ms)
    made.storage_since_ms, made.storage_rate = stretches[0][1], 1_000
    now = at + later + 1
    days = spending.history([made], context(now), session=None, limit=1, zone=NEW_YORK)["days"]
    assert sum(day["spent_nano"] for day in days) == made.spent_nano(now)
    assert sum(day["always_on_nano"] for day in days) == spending.always_on_until(made, now)
    assert all(day["spent_nano"] >= 0 <= day["always_on_nano"] for day in days)


def test_always_on_is_the_same_machine_from_its_first_second() -> None:
    begin = ms(2026, 11, 25, 8)
    made = book((begin, begin + HOUR), (begin + 5 * HOUR, begin + 6 * HOUR))
    now = begin + 10 * HOUR
    total = spending.total_now([made], context(now), NEW_YORK)
    assert (total["today_nano"], total["today_always_on_nano"]) == (2 * RATE, 10 * RATE)
    assert (total["rate_nano_per_hour"], total["always_on_rate_nano_per_hour"]) == (0, RATE)
    made.closed_ms, made.state = begin + 7 * HOUR, State.CLOSED
    closed = spending.total_now([made], context(now), NEW_YORK)
    assert (closed["today_always_on_nano"], closed["always_on_rate_nano_per_hour"]) == (7 * RATE, 0)


def test_today_begins_at_midnight_and_the_month_on_its_first() -> None:
    begin = ms(2026, 10, 31, 22)
    made = book((begin, None))
    made.state = State.RUNNING
    total = spending.total_now([made], context(ms(2026, 11, 2, 1)), NEW_YORK)
    assert total["today_nano"] == RATE
    assert total["month_nano"] == 26 * RATE  # with the hour that comes twice
    assert total["rate_nano_per_hour"] == RATE


def test_amounts_of_two_currencies_are_not_added() -> None:
    begin = ms(2026, 11, 25, 8)
    dollars, yuan = book((begin, begin + HOUR)), book((begin, begin + HOUR))
    yuan.offer["currency"] = "CNY"
    total = spending.total_now([dollars, yuan], context(begin + HOUR), NEW_YORK)
    assert (total["currency"], total["today_nano"]) == ("USD", RATE)
    assert spending.total_now([yuan], context(begin + HOUR), NEW_YORK)["currency"] == "CNY"


def test_a_budget_is_a_total_only_if_every_open_session_has_one() -> None:
    begin = ms(2026, 11, 25, 8)
    one, other = book((begin, begin + HOUR)), book((begin, begin + HOUR))
    one.budget_nano = 5
    assert spending.total_now([one, other], context(begin), NEW_YORK)["budget_nano"] is None
    other.budget_nano = 7
    assert spending.total_now([one, other], context(begin), NEW_YORK)["budget_nano"] == 12


def test_a_cell_that_was_paused_in_its_middle_costs_what_its_machines_did() -> None:
    begin = ms(2026, 11, 25, 8)
    made = book((begin, begin + HOUR), (begin + 5 * HOUR, begin + 6 * HOUR))
    run = Run("r", "\n  # train\nfit()", "c", begin, "ok", 1, 9, begin + HOUR // 2, begin + 5 * HOUR + HOUR // 2)
    made.runs["r"] = run
    (row,) = spending.history([made], context(begin + 9 * HOUR), session="s", limit=5, zone=NEW_YORK)["rows"]
    assert (row["cost_nano"], row["billed_seconds"], row["seconds"]) == (RATE, 3600, 5 * 3600)
    assert (row["text"], row["reason"], row["machine"]) == ("# train", "done", "m1")
    assert spending.history([made], context(begin), session="other", limit=5, zone=NEW_YORK)["rows"] == []
