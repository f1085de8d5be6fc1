"""Costs by day, session, run and machine add up to the bill; files of the history say what the ledger says."""

from __future__ import annotations

import csv
import io
from contextlib import redirect_stdout
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import fastparquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.control import export, money, report, spending
from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.control.say import table
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.notebook import report as shown
from tests.control.test_spending import HOUR, NEW_YORK, RATE, book, context, ms


def rows_of(books: list[Book], by: str, now: int, **more: Any) -> list[dict[str, Any]]:
    return list(report.report(books, context(now), by, zone=NEW_YORK, **more)["rows"])


def with_run(made: Book, name: str, begin: int, end: int | None, **more: Any) -> Book:
    run = Run(
        name, more.get("code", "fit()"), more.get("cell", "c"), begin, "ok" if end else "running", 1, None, begin, end
    )
    made.runs[name] = run
    return made


@pytest.mark.parametrize(
    ("first", "hours"),
    [
        ((2026, 3, 7), [24, 23, 24]),
        ((2026, 10, 31), [24, 25, 24]),
        ((2026, 2, 27), [24, 24, 24]),
        ((2024, 2, 28), [24] * 3),
    ],
)
def test_days_around_clock_changes_and_month_ends(first: tuple[int, int, int], hours: list[int]) -> None:
    begin = ms(*first)
    end = begin + sum(hours) * HOUR
    rows = rows_of([book((begin, end))], "day", end + 5 * HOUR)
    assert [row["spent_nano"] for row in rows[:3]] == [count * RATE for count in hours]
    assert [row["machine_seconds"] for row in rows[:3]] == [count * 3600 for count in hours]
    days = [row["key"] for row in rows[:3]]
    assert days[0] == f"{first[0]}-{first[1]:02d}-{first[2]:02d}"
    assert days == sorted(set(days))
    assert rows[3]["spent_nano"] == 0 and rows[3]["always_on_nano"] == 5 * RATE  # nobody closed it: on, elsewhere


@pytest.mark.parametrize(
    ("night", "before", "after"),
    [
        ((2026, 3, 7, 22), 2, 2),  # clocks go forward at 2: an hour is missing
        ((2026, 3, 8, 22), 2, 3),
        ((2026, 10, 31, 22), 2, 4),  # and back: one comes twice
        ((2026, 2, 28, 20), 4, 3),  # a month's end
        ((2024, 2, 29, 23), 1, 3),
        ((2026, 12, 31, 23), 1, 3),  # a year's
    ],
)
def test_a_run_over_midnight_is_one_run_and_two_days(night: tuple[int, int, int, int], before: int, after: int) -> None:
    begin = ms(*night)
    until = datetime(*night[:3], tzinfo=NEW_YORK) + timedelta(days=1, hours=3)  # 3 o'clock by the wall
    end = round(until.timestamp() * 1000)
    hours = (end - begin) // HOUR
    made = with_run(book((begin, end)), "r", begin, end)
    made.closed_ms = end
    (run,) = rows_of([made], "run", end + HOUR)
    assert (run["spent_nano"], run["machine_seconds"]) == (hours * RATE, hours * 3600)
    days = rows_of([made], "day", end + HOUR)
    assert [row["spent_nano"] // RATE for row in days] == [before, hours - before]
    assert hours - before == after
    assert [row["key"] for row in days] == [str(date(*night[:3])), str(date(*night[:3]) + timedelta(days=1))]
    totals = spending.total_now([made], context(end), NEW_YORK)
    assert totals["today_nano"] == (hours - before) * RATE
    assert totals["month_nano"] == (hours - before if until.day == 1 else hours) * RATE


def test_months_end_where_they_end() -> None:
    begin = ms(2024, 2, 28, 22)
    rows = rows_of([book((begin, begin + 28 * HOUR))], "day", begin + 28 * HOUR)
    assert [(row["key"], row["spent_nano"]) for row in rows] == [
        ("2024-02-28", 2 * RATE),
        ("2024-02-29", 24 * RATE),
        ("2024-03-01", 2 * RATE),
    ]


def test_a_session_that_moved_is_billed_to_each_of_its_machine_types() -> None:
    begin = ms(2026, 11, 25, 8)
    made = book((begin, begin + HOUR), (begin + 2 * HOUR, begin + 4 * HOUR))
    made.segments[0].instance = "small"
    made.storage_since_ms, made.storage_rate, made.closed_ms = begin + HOUR, 1000, begin + 4 * HOUR
    rows = {row["key"]: row for row in rows_of([made], "machine", begin + 4 * HOUR)}
    assert {key: row["spent_nano"] for key, row in rows.items()} == {
        "x": 2 * RATE,
        "small": RATE,
        "kept checkpoints": 3000,
    }
    assert (rows["small"]["always_on_nano"], rows["x"]["always_on_nano"]) == (2 * RATE, 2 * RATE)


piece = st.tuples(st.integers(0, 30 * HOUR), st.integers(1, 30 * HOUR))


@given(st.lists(st.lists(piece, min_size=1, max_size=3), min_size=1, max_size=3), st.sampled_from([1000, HOUR]))
def test_every_way_to_look_at_it_adds_up_to_the_bill(lives: list[list[tuple[int, int]]], unit_ms: int) -> None:
    books, now = [], 0
    for number, gaps in enumerate(lives):
        at, stretches = ms(2026, 10, 30, number), []
        for pause, length in gaps:
            stretches.append((at + pause, at + pause + length))
            at += pause + length
        books.append(book(*stretches, unit_ms=unit_ms, minimum_ms=60_000))
        books[-1].name = f"s{number % 2}"
        books[-1].offer["instance"] = f"m{number // 2}"
        now = max(now, at + HOUR)
    for by in ("day", "session", "machine"):
        rows = rows_of(books, by, now)
        assert sum(row["spent_nano"] for row in rows) == sum(one.spent_nano(now) for one in books)
        assert sum(row["always_on_nano"] for row in rows) == sum(spending.always_on_until(one, now) for one in books)
        on_ms = sum(segment.length_ms(now) for one in books for segment in one.segments)
        assert sum(row["machine_seconds"] for row in rows) == pytest.approx(on_ms / 1000)


def test_a_run_through_a_pause_costs_its_machines_and_always_on_the_time_between_too() -> None:
    begin = ms(2026, 11, 25, 8)
    made = with_run(book((begin, begin + HOUR), (begin + 5 * HOUR, begin + 6 * HOUR)), "r", begin, begin + 6 * HOUR)
    (row,) = rows_of([made], "run", begin + 9 * HOUR)
    assert (row["spent_nano"], row["always_on_nano"], row["machine_seconds"]) == (2 * RATE, 6 * RATE, 7200)
    (same,) = spending.history([made], context(begin + 9 * HOUR), session=None, limit=5, zone=NEW_YORK)["rows"]
    assert (same["cost_nano"], same["always_on_nano"]) == (2 * RATE, 6 * RATE)


def test_one_session_alone_and_currencies_apart() -> None:
    begin = ms(2026, 11, 25, 8)
    dollars, yuan = book((begin, begin + HOUR)), book((begin, begin + HOUR))
    yuan.name, yuan.offer["currency"] = "t", "CNY"
    rows = rows_of([dollars, yuan], "day", begin + HOUR)
    assert [(row["currency"], row["spent_nano"]) for row in rows] == [("CNY", RATE), ("USD", RATE)]
    assert [row["key"] for row in rows_of([dollars, yuan], "session", begin + HOUR, session="t")] == ["t"]
    assert rows_of([], "day", begin) == []
    with pytest.raises(UsageError, match="choose one of day, session, run, machine"):
        rows_of([dollars], "hour", begin)


def test_runs_of_one_cell_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    begin = ms(2026, 11, 25, 8)
    one = with_run(book((begin, begin + 4 * HOUR)), "a", begin, begin + 4 * HOUR)
    one.runs["other"] = Run("other", "fit()", "d", begin, "ok", 1, 2, begin, begin + HOUR)
    two = with_run(book((begin + 9 * HOUR, begin + 11 * HOUR)), "b", begin + 9 * HOUR, begin + 11 * HOUR, code="fit(2)")
    found = report.same_cell([two, one], context(begin + 20 * HOUR), "b")
    assert [row["key"] for row in found["rows"]] == ["a", "b"]
    money.show_same(found, 4, table)
    lines = capsys.readouterr().out.splitlines()
    assert "$0.9000" in lines[2] and "100 %" in lines[2]  # of $3.60, four epochs
    assert "$0.4500" in lines[3] and "-$1.8000 (50 %)" in lines[3]
    assert "done, edited" in lines[2] and "edited" not in lines[3]
    money.show_same(found, None, table)
    assert "unknown" in capsys.readouterr().out
    found["rows"][0]["per_turn_nano"] = 36_000_000
    text = shown.same_cell(found).text()
    for part in ("$0.0360 a loop turn", "-$1.8000 (50 %)", "$0.00 (100 %)", "edited"):
        assert part in text
    copy = with_run(book((begin, begin + HOUR)), "copied", begin, begin + HOUR, code="other()")
    copy.name = "copy"  # of the notebook: its cells have the same ids
    assert [row["key"] for row in report.same_cell([one, two, copy], context(begin), "b")["rows"]] == ["a", "b"]
    copy.runs["copied"].code = "\n fit(2)\n"
    assert len(report.same_cell([one, two, copy], context(begin), "b")["rows"]) == 3
    with pytest.raises(UsageError, match="no run 'z'"):
        report.same_cell([one], context(begin), "z")
    for each in (one, two):
        each.runs = {name: Run(name, run.code, None, *list(vars(run).values())[3:9]) for name, run in each.runs.items()}
    assert [row["key"] for row in report.same_cell([one, two], context(begin), "a")["rows"]] == ["a", "other"]


def history(begin: int) -> list[dict[str, Any]]:
    made = with_run(book((begin, begin + 1)), "r", begin, begin + 1, code="=1+1")
    made.receipts.append(
        {
            "at": begin / 1000,
            "segment_seconds": 1.0,
            "segment_nano": 250_001,
            "currency": "USD",
            "machine": "m0",
            "reason": "pause",
        }
    )
    return list(spending.history([made], context(begin + HOUR), session=None, limit=9, zone=NEW_YORK)["rows"])


def test_csv_keeps_every_nano_and_opens_no_formula(tmp_path: Path) -> None:
    begin = ms(2026, 11, 1, 1)
    path = tmp_path / "h.csv"
    export.to_csv(history(begin), path)
    rows = {row["kind"]: row for row in csv.DictReader(io.StringIO(path.read_text()))}
    assert rows["pause"]["cost"] == "0.000250001"
    assert rows["run"]["text"] == "'=1+1"
    assert datetime.fromisoformat(rows["run"]["started"]) == datetime.fromtimestamp(begin / 1000, UTC)
    assert [part.name for part in tmp_path.iterdir()] == ["h.csv"]
    export.to_csv([], path)
    assert path.read_text().splitlines() == [",".join(export.COLUMNS)]
    with pytest.raises(UsageError, match="can't be written"):
        export.to_csv([], tmp_path / "nowhere" / "h.csv")


def test_parquet_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    rows = history(ms(2026, 11, 1, 1))
    export.to_parquet(rows, path)
    with path.open("rb") as file:
        table = fastparquet.ParquetFile(file).to_pandas()
    assert list(table.columns) == list(export.COLUMNS)
    assert [int(nano) for nano in table["cost_nano"]] == [row["cost_nano"] for row in rows]
    assert list(table["kind"]) == [row["kind"] for row in rows]


def test_reports_say_what_was_saved_in_a_shell_and_in_a_notebook() -> None:
    begin = ms(2026, 11, 25, 8)
    made = book((begin, begin + HOUR), (begin + 5 * HOUR, begin + 6 * HOUR))
    view = report.report([made], context(begin + 6 * HOUR), "machine", zone=NEW_YORK)
    printed = io.StringIO()
    with redirect_stdout(printed):
        money.show_report(view, table)
    assert "$1.8000  $5.4000    $3.6000" in printed.getvalue()
    text = shown.spent(view).text()
    assert "$1.8000" in text and "$3.6000 saved" in text
    assert "Nothing was spent" in shown.spent({"by": "day", "rows": []}).text()
