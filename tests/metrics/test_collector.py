"""What the ledger's page says: exact amounts by kind, names by convention, no ids, counters that never fall."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ciuic_jupyter.control.kinds import KINDS
from ciuic_jupyter.control.ledger import Entry, Row
from ciuic_jupyter.control.marks import Marks
from ciuic_jupyter.control.metrics import LedgerCollector
from ciuic_jupyter.control.projections import Books, Segment
from ciuic_jupyter.control.purse import Purse
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.providers.base import Offer
from ciuic_jupyter.settings import Settings
from tests.control.conftest import Cloud, reach, until
from tests.control.test_spending import HOUR, book
from tests.metrics.pages import by, families, one, series, text


def page(cloud: Cloud) -> str:
    return text(LedgerCollector(cloud.plane))


async def a_life(cloud: Cloud) -> None:
    """60 s idle, 30 s of a cell, 10 s idle, paused for an hour, resumed for 20 s."""
    runner = await cloud.session()
    await cloud.turn(60)
    await runner.submit("r", "hang", None)
    await until(lambda: runner.current == "r" and runner.book.changes and runner.book.runs["r"].started_ms)
    cloud.clock.turn(30)
    await cloud.agent.finish()
    await until(lambda: runner.book.runs["r"].ended_ms)
    await cloud.turn(10)
    await runner.pause()
    await reach(runner, State.PAUSED)
    cloud.clock.turn(3600)
    await runner.ensure()
    await reach(runner, State.RUNNING)
    cloud.clock.turn(21)  # the page is about a second ago


async def test_seconds_and_money_by_kind_are_exactly_what_happened(cloud: Cloud) -> None:
    await a_life(cloud)
    read = page(cloud)
    assert by(read, "ciuic_billed_seconds_total", "kind") == {"idle": 90, "running": 30}
    assert by(read, "ciuic_cost_total", "kind") == {"idle": 0.09, "running": 0.03}
    assert one(read, "ciuic_unbilled_seconds_total") == 3600
    assert series(read, "ciuic_always_on_cost_total") == {(("currency", "USD"),): 3.72}
    assert by(read, "ciuic_sessions", "state") == {"running": 1}
    assert by(read, "ciuic_machines", "machine_type") == {"fake.1": 1}
    assert by(read, "ciuic_cost_per_hour", "kind") == {"machine": 3.6}
    assert by(read, "ciuic_runs_ended_total", "status") == {"ok": 1}
    assert one(read, "ciuic_save_seconds_count") == one(read, "ciuic_restore_seconds_count") == 1
    buckets = {dict(labels)["le"]: value for labels, value in series(read, "ciuic_save_seconds_bucket").items()}
    assert (buckets["0.5"], buckets["1.0"], buckets["+Inf"]) == (0, 1, 1)  # it took a second, by the agent's report
    assert one(read, "ciuic_as_of_timestamp_seconds") == cloud.clock.wall() - 1


async def test_a_collector_that_remembers_says_what_a_new_one_says(cloud: Cloud) -> None:
    kept = LedgerCollector(cloud.plane)
    runner = await cloud.session()
    for _ in range(2):
        cloud.clock.turn(10)
        assert text(kept) == page(cloud)
        await runner.pause()
        await reach(runner, State.PAUSED)
        cloud.clock.turn(10)
        assert text(kept) == page(cloud)
        await runner.ensure()
        await reach(runner, State.RUNNING)
    for name, more in (("ciuic_cost_total", {"storage"}), ("ciuic_billed_seconds_total", set())):
        kinds = {dict(labels)["kind"] for labels in series(text(kept), name)}
        assert kinds == {*KINDS, *more}  # from 0 on, so that an increase has a beginning


async def test_a_page_after_a_restart_is_the_page_before_it(cloud: Cloud) -> None:
    await a_life(cloud)
    before = page(cloud)
    await cloud.restart()
    await reach(cloud.plane.runner("s"), State.RUNNING)
    assert page(cloud) == before


async def correct(cloud: Cloud, machine: str, body: dict[str, Any]) -> None:
    context = cloud.plane.context
    context.books.apply(await context.ledger.append(Row("segment_correct", body, "s", machine)))


async def test_a_bill_that_is_corrected_lowers_no_counter_and_the_ledger_catches_up(cloud: Cloud) -> None:
    runner = await cloud.session()
    cloud.clock.turn(101)
    assert by(page(cloud), "ciuic_cost_total", "kind") == {"idle": 0.1}
    machine = runner.book.open_segment
    assert machine is not None
    end = {"at_ms": machine.opened_ms + 40_000, "reason": "corrected", "estimated": False}
    await correct(cloud, machine.machine, end)
    assert runner.book.compute_nano(10**15) == 40 * NANO // 1000
    assert by(page(cloud), "ciuic_cost_total", "kind") == {"idle": 0.1}
    await cloud.restart()
    assert by(page(cloud), "ciuic_cost_total", "kind") == {"idle": 0.1}
    await correct(cloud, machine.machine, {**end, "at_ms": None})
    cloud.clock.turn(50)
    assert by(page(cloud), "ciuic_cost_total", "kind") == {"idle": 0.15}


async def test_an_end_that_is_told_late_takes_nothing_back(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud says after seconds that a machine ended: no counter counted it meanwhile, none has to stand still."""
    runner = await cloud.session()
    monkeypatch.setattr(runner.hand, "_stop_wait", 0.01)
    cloud.clock.turn(100)
    cloud.provider.faults.look_error = 10**9
    task = asyncio.create_task(runner.pause())
    await reach(runner, State.STOPPING)
    shown = []
    for _ in range(3):
        cloud.clock.turn(3)
        shown.append(sum(series(page(cloud), "ciuic_billed_seconds_total").values()))
    assert shown == [100, 100, 100]
    cloud.provider.faults.look_error = 0
    await reach(runner, State.PAUSED)
    await task
    cloud.clock.turn(5)
    total = sum(series(page(cloud), "ciuic_billed_seconds_total").values())
    assert total * 1000 == runner.book.billed_ms(10**15)


async def test_a_clock_that_is_put_back_lowers_no_counter(cloud: Cloud) -> None:
    await cloud.session()
    cloud.clock.turn(101)
    before = page(cloud)
    cloud.clock.turn(0, wall=-50)
    for name in ("ciuic_cost_total", "ciuic_billed_seconds_total", "ciuic_always_on_cost_total"):
        assert series(page(cloud), name) == series(before, name)
    cloud.clock.turn(0, wall=50)


def test_marks_are_of_one_ledger_private_and_may_be_lost(tmp_path: Path) -> None:
    path = tmp_path / "marks.json"

    def show(of: str, value: int) -> int:
        marks = Marks(path)
        marks.begin(of)
        shown = marks.at_least("a|b", value)
        marks.keep()
        return shown

    assert [show("x", 10**18 + 1), show("x", 5), show("y", 5)] == [10**18 + 1, 10**18 + 1, 5]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for damaged in ("", "[]", '{"marks": {"a|b": "x"}}', '{"marks": null, "of": "y"}', json.dumps({"marks": 3})):
        path.write_text(damaged)
        assert show("y", 4) == 4
    path.unlink()
    path.mkdir()  # it can't be written
    assert show("y", 3) == 3


UNITS = ("seconds", "bytes", "ratio", "celsius", "joules")


def check_names(read: str, labels_allowed: set[str]) -> set[str]:
    """Check every family of a page against Prometheus' conventions, and return the names."""
    found = set()
    for family in families(read):
        found.add(family.name)
        assert family.documentation.endswith("."), family.name
        for bad in ("_ms", "_minutes", "_hours", "_nano", "_percent", "_mib", "_count", "_sum", "_bucket", "_dollars"):
            assert not family.name.lower().endswith(bad), family.name
        for sample in family.samples:
            assert (sample.name.endswith("_total")) == (family.type == "counter"), sample
            assert set(sample.labels) <= labels_allowed, sample
            assert sample.value >= 0
    assert all(name == name.lower() and name.startswith("ciuic_") for name in found if not name.startswith("DCGM_"))
    return found


PLAIN = {"version", "state", "machine_type", "currency", "kind", "le", "status", "scope"}


async def test_names_help_and_labels_are_by_convention_and_name_nobody(cloud: Cloud) -> None:
    await a_life(cloud)
    read = page(cloud)
    found = check_names(read, PLAIN)
    assert len(found) >= 15
    ids = [cloud.plane.runner("s").book.life, str(cloud.plane.context.owner)]
    assert not [each for each in ids if each in read] and '="s"' not in read


async def test_sessions_are_named_only_if_asked_for_and_only_so_many(cloud: Cloud) -> None:
    for name in ("old", "mid", "new"):
        runner = await cloud.session(name)
        cloud.clock.turn(10)
        if name == "new":
            break
        await runner.pause()
        await reach(runner, State.PAUSED)
    await cloud.plane.runner("mid").end()
    await reach(cloud.plane.runner("mid"), State.CLOSED)
    assert "ciuic_session_" not in page(cloud) and '"old"' not in page(cloud)
    settings = cloud.plane.context.settings.model_copy(update={"metrics_sessions": True, "metrics_sessions_limit": 2})
    cloud.plane.context.settings = settings
    read = page(cloud)
    assert series(read, "ciuic_session_state") == {
        (("session", "new"), ("state", "running")): 1,
        (("session", "old"), ("state", "paused")): 1,
    }
    assert one(read, "ciuic_sessions_left_out") == 1
    assert by(read, "ciuic_session_cost_total", "session")["old"] == pytest.approx(0.01)
    check_names(read, PLAIN | {"session"})
    assert Settings().metrics_sessions is False and Settings().metrics_sessions_limit == 200


async def test_a_session_that_begins_again_goes_on_counting(cloud: Cloud) -> None:
    cloud.plane.context.settings = cloud.plane.context.settings.model_copy(update={"metrics_sessions": True})
    seen = []
    for _ in range(2):
        runner = await cloud.session()
        cloud.clock.turn(10)
        await runner.pause()
        await reach(runner, State.PAUSED)
        await runner.end()
        await reach(runner, State.CLOSED)
        cloud.clock.turn(2)
        seen.append(by(page(cloud), "ciuic_session_billed_seconds_total", "session")["s"])
    assert seen == [10, 20]


NASTY = 'a"b\\c\nciuic_cost_total{kind="x"} 9\n#' + "z" * 300


async def test_a_label_can_not_leave_its_quotes(cloud: Cloud) -> None:
    cloud.provider._offers.append(Offer(NASTY, "fake", 3_600_000_000))
    runner = await cloud.plane.create("s", instance=NASTY, budget_nano=None, cwd=None)
    await reach(runner, State.RUNNING)
    cloud.clock.turn(11)
    read = page(cloud)
    assert by(read, "ciuic_cost_total", "machine_type") == {NASTY[:100]: 0.01}
    assert by(read, "ciuic_cost_total", "kind") == {"idle": 0.01}


def plane_of(books: Any, tmp_path: Path, now_ms: int, **settings: Any) -> Any:
    made = Settings(state_dir=tmp_path, runtime_dir=tmp_path, warm_start=False, **settings)
    context: Any = SimpleNamespace(settings=made, books=books, now_ms=lambda: now_ms)
    context.purse = Purse(context, {})
    return SimpleNamespace(settings=made, context=context, runners={})


def test_huge_and_tiny_amounts_are_shown_as_near_as_a_float_can(tmp_path: Path) -> None:
    begin = 1_800_000_000_000
    made = book((begin, begin + HOUR), rate=123_456_789_123_456_789)
    books = Books()
    books.sessions["s"] = made
    read = text(LedgerCollector(plane_of(books, tmp_path, begin + 2 * HOUR)))
    assert sum(series(read, "ciuic_cost_total").values()) == float(Decimal("123456789.123456789"))
    marks = json.loads((tmp_path / "metrics-marks.json").read_text())["marks"]
    assert 123_456_789_123_456_789 in marks.values()  # kept as an integer


def test_a_machine_that_comes_is_not_counted_as_none_before_it_is_told(tmp_path: Path) -> None:
    begin = 1_800_000_000_000
    made, books = book((begin, begin + HOUR)), Books()
    books.sessions["s"] = made
    asked = begin + 2 * HOUR
    made.moments, made.state = [(asked, State.REQUESTED)], State.REQUESTED

    def unbilled(now: int) -> float:
        return one(text(LedgerCollector(plane_of(books, tmp_path, now + 1000))), "ciuic_unbilled_seconds_total")

    assert unbilled(asked - 60_000) == 3540
    assert unbilled(asked + 8000) == 3600
    made.segments.append(Segment("m2", asked + 1000, 1, "USD", 1000, 0))  # told at last, backdated to its birth
    made.state = State.STARTING
    assert unbilled(asked + 9000) == 3601


def test_pages_are_made_while_the_books_change(tmp_path: Path) -> None:
    """A thread reads, another writes: no page fails, no counter falls, and the last page is the ledger's."""
    begin, books, pages = 1_800_000_000_000, Books(), threading.Semaphore(0)
    made = plane_of(books, tmp_path, begin + 10**9)
    collector = LedgerCollector(made)

    def read() -> None:
        before: dict[Any, float] = {}
        for _ in range(15):
            pages.release(20)  # so many lives meanwhile
            now = series(text(collector), "ciuic_cost_total")
            assert all(now[key] >= value for key, value in before.items())
            before = now

    reader = ThreadPoolExecutor(1).submit(read)
    offer = {"price_nano_per_hour": 10**9, "currency": "USD", "instance": "x", "provider": "local"}
    number = 0

    def write(kind: str, session: str, machine: str = "", **body: Any) -> None:
        nonlocal number
        number += 1
        said = {"at_ms": begin + number * 1000, **body}
        books.apply(Entry(number, kind, 0.0, "", 0.0, session, machine, str(number), said, ""))

    for life in range(15 * 20):
        assert pages.acquire(timeout=60), reader.result()
        name, machine = f"s{life % 40}", f"m{life}"
        write("session", name, life=str(life), offer=offer, budget_nano=10**9, cwd=None)
        write("state", name, to="running", event="kernel_ready")
        write("segment_open", name, machine, rate=10**9, currency="USD", unit_ms=1000, minimum_ms=0)
        write("run", name, run="r", code="1", cell_id=None)
        write("run_start", name, run="r", first_seq=1)
        write("run_end", name, run="r", status="ok", last_seq=2)
        write("checkpoint", name, seq=1, report={"seconds": {"total": 1.0}}, storage_rate=5)
        write("segment_close", name, machine, reason="pause", estimated=False)
        write("state", name, to="closed", event="stopped_closed")
    reader.result(60)
    last = text(LedgerCollector(plane_of(books, tmp_path / "new", begin + 10**9)))
    assert sum(round(one * NANO) for one in series(last, "ciuic_cost_total").values()) == sum(
        one.spent_nano(begin + 10**9) for one in books.lives
    )
    assert sum(one.compute_nano(0) for one in books.lives) > 0


def test_an_empty_ledger_has_a_page(tmp_path: Path) -> None:
    read = text(LedgerCollector(plane_of(Books(), tmp_path, 1_800_000_000_000)))
    check_names(read, PLAIN)
    assert sum(series(read, "ciuic_sessions").values()) == 0


def test_currencies_are_never_added(tmp_path: Path) -> None:
    begin = 1_800_000_000_000
    books = Books()
    for name, currency in (("a", "USD"), ("b", "CNY")):
        made = book((begin, begin + HOUR))
        made.name, made.life, made.offer["currency"], made.segments[0].currency = name, name, currency, currency
        books.sessions[name] = made
    read = text(LedgerCollector(plane_of(books, tmp_path, begin + 2 * HOUR)))
    assert by(read, "ciuic_cost_total", "currency") == {"USD": 0.9, "CNY": 0.9}


@pytest.mark.parametrize("month", [3, 11])  # a day of 23 hours, one of 25
def test_only_budgets_know_what_day_it_is(month: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks that change do nothing to a counter; a day's budget counts from that day's midnight."""
    zone = ZoneInfo("America/New_York")
    day = {3: 8, 11: 1}[month]
    midnight = round(datetime(2026, month, day, tzinfo=zone).timestamp() * 1000)
    now = round(datetime(2026, month, day, 6, tzinfo=zone).timestamp() * 1000)
    hours = {3: 5, 11: 7}[month]  # from midnight to six
    books = Books()
    books.sessions["s"] = book((midnight - HOUR, None))
    read = {}
    for name in ("UTC", "America/New_York"):
        monkeypatch.setenv("TZ", name)
        time.tzset()
        made = plane_of(books, tmp_path / name.replace("/", "-"), now + 1000, budget_per_day=Decimal(100))
        made.settings.state_dir.mkdir()
        read[name] = text(LedgerCollector(made))
    monkeypatch.undo()
    time.tzset()
    assert by(read["America/New_York"], "ciuic_budget_spent", "scope") == {"day": pytest.approx(0.9 * hours)}
    rest = {name: [line for line in each.splitlines() if "ciuic_budget" not in line] for name, each in read.items()}
    assert rest["UTC"] == rest["America/New_York"]
    assert sum(series(read["UTC"], "ciuic_billed_seconds_total").values()) == 3600 * (hours + 1)


async def test_budgets_of_a_session_and_its_cell(cloud: Cloud) -> None:
    await cloud.session(budget_nano=2 * NANO)
    other = await cloud.plane.create("t", instance=None, budget_nano=NANO, cwd=None)
    await reach(other, State.RUNNING)
    cloud.clock.turn(101)
    read = page(cloud)
    assert by(read, "ciuic_budget_limit", "scope") == {"session": 3}
    assert by(read, "ciuic_budget_spent", "scope") == pytest.approx({"session": 0.2})
    assert by(read, "ciuic_budget_used_ratio", "scope") == pytest.approx({"session": 0.1})  # of the smaller one
