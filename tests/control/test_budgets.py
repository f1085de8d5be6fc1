"""Budgets of a cell, a session, a day, a month and the user: told of, never crossed, also by a plane that is away."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from typer.testing import CliRunner

from ciuic_jupyter.control import alerts
from ciuic_jupyter.control.cli import app
from ciuic_jupyter.control.purse import STOP_SECONDS
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import BudgetExceeded, UsageError
from ciuic_jupyter.providers.base import Offer
from ciuic_jupyter.sdk.monitor import CostMonitor
from ciuic_jupyter.settings import Settings
from tests.control.conftest import Cloud, reach, until

SECOND = NANO // 1000  # the fake machine costs a milli-dollar a second


async def under(cloud: Cloud, **settings: Any) -> None:
    """Begin anew under other settings."""
    await cloud.plane.close()
    cloud.settings = cloud.settings.model_copy(update=settings)
    await cloud.begin()


async def until_paused(cloud: Cloud, runner: Runner, seconds: int) -> None:
    """Let time pass second by second, as the plane looks, until the machine is gone."""
    for _ in range(seconds):
        if not runner.live:
            return
        await cloud.turn(1)
        if runner.pause_pending or runner.book.state is not State.RUNNING:
            await asyncio.sleep(0.02)  # holds, interrupts and saves go on beside the look
    await reach(runner, State.PAUSED)


async def busy(cloud: Cloud, runner: Runner, run: str, code: str = "hang", **options: Any) -> None:
    await runner.submit(run, code, None, **options)
    await until(lambda: cloud.agent.current == run)


def told(runner: Runner) -> list[dict[str, Any]]:
    return [header["alert"] for _, header in runner.headers(0) if header.get("alert")]


@pytest.mark.parametrize("code", ["hang", "loop"])
@pytest.mark.parametrize("scope", ["run", "session", "day", "month", "user"])
async def test_no_budget_is_crossed_and_each_mark_is_told_once(cloud: Cloud, scope: str, code: str) -> None:
    names = {"day": "budget_per_day", "month": "budget_per_month", "user": "budget_total"}
    await under(cloud, **({names[scope]: "1"} if scope in names else {}))
    runner = await cloud.session(budget_nano=NANO if scope == "session" else None)
    await busy(cloud, runner, "r", code, **({"budget_nano": NANO} if scope == "run" else {}))
    cloud.clock.turn(400)
    for seconds in (90, 20, 290, 10, 150):
        await cloud.turn(seconds)
    await until_paused(cloud, runner, 60)
    spent = runner.book.spent_nano(cloud.plane.context.now_ms())
    slack = (5 * 10 if code == "hang" else 20) + STOP_SECONDS + 5
    assert NANO - slack * SECOND <= spent <= NANO
    await until(lambda: len(told(runner)) >= 3)
    assert [(one["scope"], one["mark"]) for one in told(runner)] == [(scope, mark) for mark in (50, 80, 100)]
    with pytest.raises(BudgetExceeded):
        if scope == "run" and code == "hang":  # the cell was interrupted, another has a budget of its own
            raise BudgetExceeded
        await runner.ensure()


async def test_a_monitor_hears_every_mark_of_every_budget_once(cloud: Cloud) -> None:
    await under(cloud, budget_per_day="2", budget_total="0.8")
    runner = await cloud.session(budget_nano=NANO)
    job: Any = SimpleNamespace(alert_nano=NANO // 4, watched=[])
    monitor, heard, plain = CostMonitor(job), [], []
    monitor._handlers += [lambda cost, alert: heard.append((alert.scope, alert.percent)), plain.append]
    for seconds in (100, 200, 150, 200, 145):  # 0.1, 0.3, 0.45, 0.65, 0.795
        await cloud.turn(seconds)
        for _ in range(2):
            job.view = runner.view()
            monitor.look()
    marks = [("cost_alert", 100), ("user", 50), ("user", 80), ("session", 50), ("user", 100)]
    assert heard == marks
    assert len(plain) == 1, "who takes no alert is told of the cost alone"
    await reach(runner, State.PAUSED)


async def test_the_tightest_budget_comes_first(cloud: Cloud) -> None:
    await under(cloud, budget_per_day="10", budget_per_month="3")
    runner, other = await cloud.session(budget_nano=2 * NANO), await cloud.session("b")
    await cloud.turn(100)
    view = runner.view()
    assert [one["scope"] for one in view["budgets"]] == ["month", "session", "day"], "two eat of what they share"
    assert [one["rate_nano_per_hour"] for one in view["budgets"]] == [7200 * SECOND, 3600 * SECOND, 7200 * SECOND]
    assert [one["spent_nano"] for one in view["budgets"]] == [200 * SECOND, 100 * SECOND, 200 * SECOND]
    await other.pause()
    await reach(other, State.PAUSED)
    assert [one["scope"] for one in runner.view()["budgets"]] == ["session", "month", "day"]
    await busy(cloud, runner, "r", "loop", budget_nano=NANO // 2)
    assert runner.view()["budgets"][0]["key"] == "run:r"


async def test_a_cell_at_its_budget_goes_on_with_another_or_is_left(cloud: Cloud) -> None:
    await under(cloud, budget_per_run="0.1")
    runner = await cloud.session()
    await busy(cloud, runner, "r", "loop")
    await until_paused(cloud, runner, 110)
    assert runner.book.suspended is not None
    with pytest.raises(BudgetExceeded, match="--run-budget"):
        await runner.ensure()
    await runner.set_run_budget(NANO)
    await runner.ensure()
    await reach(runner, State.RUNNING)
    await until(lambda: cloud.agent.resumed)
    await cloud.turn(50)
    assert runner.book.state is State.RUNNING
    with pytest.raises(UsageError, match="no cell under way"):
        await (await cloud.session("other")).set_run_budget(NANO)


async def test_a_shared_budget_counts_every_session_and_a_restart_forgets_nothing(cloud: Cloud) -> None:
    await under(cloud, budget_total="1")
    first = await cloud.session("a")
    await cloud.turn(300)
    await first.pause()
    await first.let_go()
    second = await cloud.session("b")
    await cloud.turn(250)
    await until(lambda: len(told(second)) == 1)
    assert told(second)[0]["mark"] == 50
    await cloud.restart()
    second = cloud.plane.runner("b")
    await until(lambda: second.hand.link is not None and second.hand.link.up)
    await until_paused(cloud, second, 460)
    lives = cloud.plane.context.books.lives
    spent = sum(book.spent_nano(cloud.plane.context.now_ms()) for book in lives)
    assert NANO - 10 * SECOND <= spent <= NANO
    assert [one["mark"] for one in told(second)] == [50, 80, 100]
    with pytest.raises(BudgetExceeded, match="CIUIC_BUDGET_TOTAL"):
        await cloud.plane.create("c", instance=None, budget_nano=None, cwd=None)


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25", "2026-02-28", "2026-12-31"])
async def test_a_day_is_the_wall_clocks_own(cloud: Cloud, day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Berlin the first has 23 hours and the second 25; the others end a month, and a year."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        zone = ZoneInfo("Europe/Berlin")
        noon = datetime.fromisoformat(f"{day}T22:00").replace(tzinfo=zone).timestamp()
        cloud.clock.turn(0, wall=noon - cloud.clock.wall())
        await under(cloud, budget_per_day="8", budget_per_month="20")  # 8,000 s
        runner = await cloud.session()
        await cloud.turn(7190)  # 10 s before midnight
        day_used, month_used = (limit.spent_nano for limit in runner.cap.limits(hold=False))
        assert day_used == month_used == 7190 * SECOND
        await cloud.turn(20)
        day_used, month_used = (limit.spent_nano for limit in runner.cap.limits(hold=False))
        assert day_used == 10 * SECOND
        assert month_used == (10 if day in ("2026-02-28", "2026-12-31") else 7210) * SECOND
        cloud.clock.turn(0, wall=-3600.0)  # somebody sets the clock back into yesterday: yesterday's budget counts
        assert all(limit.spent_nano >= 0 for limit in runner.cap.limits(hold=False))
        cloud.clock.turn(0, wall=3600.0)
    finally:
        monkeypatch.undo()
        time.tzset()


async def test_a_new_day_lets_cells_go_on_where_the_save_at_the_cap_failed(cloud: Cloud) -> None:
    await under(cloud, budget_per_day="1")
    runner = await cloud.session()
    cloud.agent.save_error = "the disk is full"
    await cloud.turn(996)
    await until(lambda: runner.cap.reached)
    await cloud.turn(86400)
    assert runner.cap.reached == (runner.cap.limits(hold=True)[0].near)


async def test_a_currency_that_the_budgets_can_not_count_starts_nothing(cloud: Cloud) -> None:
    await under(cloud, budget_per_month="5")
    cloud.provider._offers[0] = Offer("fake.1", "fake", NANO, currency="CNY")
    with pytest.raises(UsageError, match="paid in CNY and your budgets are in USD"):
        await cloud.plane.create("s", instance=None, budget_nano=None, cwd=None)
    assert cloud.provider.started == 0


@pytest.mark.parametrize("bad", ["0", "-1", "nan", "inf", "1e400", "100000001", "a lot"])
@pytest.mark.parametrize("name", ["BUDGET_PER_RUN", "BUDGET_PER_DAY", "BUDGET_PER_MONTH", "BUDGET_TOTAL"])
def test_budgets_of_nonsense_are_refused(name: str, bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CIUIC_{name}", bad)
    with pytest.raises(UsageError, match=rf"CIUIC_{name}='{bad}' can't be used: .*nothing was started"):
        Settings()


@pytest.mark.parametrize(
    ("code", "says"),
    [("RMB", "ISO 4217"), ("usd", "did you mean USD"), ("XXX", "ISO 4217"), ("", "ISO 4217"), ("US\x1bD", "ISO 4217")],
)
def test_a_currency_nobody_knows_is_refused_with_what_to_write(
    code: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIUIC_CURRENCY", code)
    with pytest.raises(UsageError, match=f"CIUIC_CURRENCY=.*{says}") as told:
        Settings()
    assert str(told.value).isprintable()
    shown = CliRunner().invoke(app, ["machines", "list"])
    assert shown.exit_code == 1 and "CIUIC_CURRENCY" in shown.stderr and "Traceback" not in shown.output


@pytest.mark.parametrize("price", ["-0.01", "nan", "inf", "100001", "1e400", "much"])
def test_prices_of_nonsense_are_refused(price: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIUIC_PRICE_PER_HOUR", price)
    monkeypatch.setenv("CIUIC_STORAGE_PRICE_PER_HOUR", price)
    with pytest.raises(UsageError, match=r"CIUIC_PRICE_PER_HOUR=.*CIUIC_STORAGE_PRICE_PER_HOUR="):
        Settings()


async def test_the_machine_is_told_how_long_it_may_go_on_unheard(cloud: Cloud) -> None:
    cloud.provider._offers[0] = Offer("fake.1", "fake", 3_600_000_000, unit_seconds=60)
    await under(cloud, budget_per_day="1.000")
    runner = await cloud.session(budget_nano=2 * NANO)
    await cloud.turn(100)
    await until(lambda: cloud.agent.deadlines)
    # 120 s are paid, 880 s are left: 14 units of 60 s, the last begun one included, less stop, silence, wait and save
    assert cloud.agent.deadlines[-1] == pytest.approx(120 + 840 - 100 - 3 - 6 - 20 - 3)
    assert runner.context.intent(runner.book, 1).agent_config["deadline"] == pytest.approx(cloud.agent.deadlines[-1])


@contextmanager
def listener(status: int, hang: threading.Event | None = None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A real HTTP server on loopback that keeps what is posted to it; with `hang` it answers once that is set."""
    taken: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if hang is not None:
                hang.wait(60)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/secret", taken
    finally:
        if hang is not None:
            hang.set()
        server.shutdown()
        thread.join()
        server.server_close()


async def test_alerts_reach_a_webhook_and_its_failure_is_told_without_its_address(cloud: Cloud) -> None:
    with listener(200) as (url, taken):
        await under(cloud, alert_webhook=Settings(alert_webhook=url).alert_webhook)
        runner = await cloud.session(budget_nano=NANO)
        await cloud.turn(600)
        await until(lambda: taken)
        assert taken[0]["mark"] == 50
        assert (taken[0]["session"], taken[0]["scope"], taken[0]["budget_nano"]) == ("s", "session", NANO)
    await cloud.turn(210)  # nobody listens any more
    await until(lambda: any("passed on" in text for text in notes(runner)))
    assert not any("secret" in text for text in notes(runner))


def notes(runner: Runner) -> list[str]:
    return [str(header["text"]) for _, header in runner.headers(0) if header["kind"] == "note"]


async def test_a_webhook_that_never_answers_and_a_desktop_that_is_not_there_hold_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "_SECONDS", 0.3)
    with listener(200, threading.Event()) as (url, taken):
        said = await alerts.post(url, {"mark": 50})
        assert said is not None and "secret" not in said
        assert taken == [{"mark": 50}]
    with listener(500) as (url, _):
        assert await alerts.post(url, {}) == "127.0.0.1 answered 500"
    assert "can't be started" in str(await alerts.notify("x", str(tmp_path / "none")))
    for body, wanted in (("exit 0", None), ("exit 3", "ended with 3"), ("exec sleep 60", "did not end")):
        program = tmp_path / "notify"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o700)
        said = await alerts.notify("50 % is spent", str(program))
        assert said is None if wanted is None else wanted in str(said)
    with pytest.raises(UsageError, match="no address of http"):
        alerts.check_webhook("file:///etc/passwd")
