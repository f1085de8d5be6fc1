"""What `ciuic simulate` says, the control plane's ledger says, to the nano-dollar, for the same cells."""

from __future__ import annotations

import asyncio
import gzip
import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ciuic_jupyter.control.cli import app
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.idle import Policy
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State
from ciuic_jupyter.core.simulate import Cell, by_rule, play
from ciuic_jupyter.core.trace import read_trace
from ciuic_jupyter.providers.base import Intent, Machine, Offer
from tests.control.conftest import Cloud, reach, until

DATA = Path(__file__).resolve().parents[1] / "data"
SAVE, RESTORE = 30.0, 90.0


class Driver:
    """Lives a session of a trace on the plane, the clock turned to each moment at which something happens."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.began = cloud.clock.wall()
        self.agent = cloud.agent
        self.agent.save_seconds, self.agent.restore_seconds = SAVE, RESTORE
        start = cloud.provider.start

        async def slow(intent: Intent) -> Machine:
            made = await start(intent)
            if intent.agent_config["checkpoint"] is not None:
                cloud.clock.turn(RESTORE)
            return made

        cloud.provider.start = slow  # type: ignore[method-assign]

    @property
    def now_ms(self) -> int:
        return round((self.cloud.clock.wall() - self.began) * 1000)

    def turn_to(self, at_ms: int) -> None:
        self.cloud.clock.turn(at_ms / 1000 + self.began - self.cloud.clock.wall())

    async def cell(self, runner: Runner, number: int, cell: Cell) -> None:
        await runner.submit(f"c{number}", "hang", None)
        await until(lambda: self.agent.current == f"c{number}")
        self.cloud.clock.turn(cell.busy_ms / 1000)
        await self.agent.finish()
        await until(lambda: runner.current is None)

    async def gap(self, runner: Runner, back_ms: int, number: int) -> None:
        """Be idle until the next cell comes; look as the plane does, at the moment the rule has named."""
        clock, since = self.cloud.clock, self.cloud.clock.boot()
        await self._quiet(runner, since)
        idle = runner.view()["idle"]
        save_ms = math.ceil((idle["release_at"] - SAVE - self.began) * 1000 - 0.01)
        if save_ms >= back_ms:
            self.turn_to(back_ms)
            return
        self.agent.hold_save = asyncio.Event()
        saves = self.agent.saves
        self.turn_to(save_ms)
        clock.turn(1e-6)  # what a float of the wall clock can't tell apart
        await self._quiet(runner, since)
        await runner.tick()  # the plane's own look may have come first
        await until(lambda: self.agent.saves > saves)
        clock.turn(-1e-6)
        if save_ms + round(SAVE * 1000) > back_ms:
            self.turn_to(back_ms)
            await runner.submit(f"c{number}", "hang", None)
        self.turn_to(save_ms + round(SAVE * 1000))
        self.agent.hold_save.set()
        await reach(runner, State.PAUSED, State.RUNNING)
        self.turn_to(max(back_ms, self.now_ms))

    async def _quiet(self, runner: Runner, since: float) -> None:
        now = self.cloud.clock.boot()
        await self.agent.sample(now, quiet_since=since)
        await until(lambda: runner.usage is not None and runner.usage["now"] == now)


@pytest.mark.parametrize(("unit", "minimum", "cap"), [(1, 60, None), (60, 0, None), (1, 60, 5), (3600, 0, None)])
async def test_a_simulated_bill_is_the_ledgers_bill(cloud: Cloud, unit: int, minimum: int, cap: int | None) -> None:
    offer = Offer("fake.1", "fake", 5 * NANO // 2, unit_seconds=unit, minimum_seconds=minimum)
    cloud.provider._offers = [offer]
    await cloud.plane.close()
    cloud.settings = cloud.settings.model_copy(
        update={
            "storage_price_per_hour": "0.01",
            "wait_value_per_hour": "0",
            "checkpoint_seconds": SAVE,
            "restore_seconds": RESTORE,
            "idle_floor_seconds": 1.0,
            "max_resumes_per_100": cap,
        }
    )
    await cloud.begin()
    with gzip.open(DATA / "replay_colab_cells.csv.gz", "rt") as lines:
        sessions = read_trace(lines)
    cells = [cell for one in list(sessions.values())[5:25] for cell in one if cell.gap_ms is not None][:40]
    cells += [Cell(20_000, 100_000), Cell(20_000, 119_500), Cell(5_000, None)]  # back in the middle of a save
    terms = Policy(offer.price_nano_per_hour, NANO // 100, 0, SAVE, RESTORE, unit, minimum, 1.0)
    terms = replace(terms, max_resumes_per_100=cap)
    expected = play(cells, terms, by_rule(terms))

    driver = Driver(cloud)
    runner = await cloud.session()
    for number, cell in enumerate(cells):
        await driver.cell(runner, number, cell)
        if cell.gap_ms is not None:
            await driver.gap(runner, driver.now_ms + cell.gap_ms, number + 1)
    now_ms = cloud.plane.context.now_ms()
    origin = round(driver.began * 1000)
    stays = [(s.opened_ms - origin, s.closed_ms - origin) for s in runner.book.segments if s.closed_ms is not None]
    assert stays == [(stay.opened_ms, stay.closed_ms) for stay in expected.stays[:-1]]
    assert len(expected.stays) > (1 if cap is None else 0)
    assert runner.book.compute_nano(now_ms) == expected.compute_nano == cloud.provider.bill()
    assert runner.book.storage_nano(now_ms) == expected.storage_nano
    assert runner.book.spent_nano(now_ms) == expected.bill_nano


def test_the_shell_prints_the_table_and_names_the_line_that_is_wrong(tmp_path: Path) -> None:
    def simulate(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["simulate", *arguments])

    good = tmp_path / "good.csv"
    good.write_text("session,busy_s,gap_after_s\na,10,100000\na,10,\n")
    said = simulate(str(good), "--price", "3.60", "--storage", "0", "--save", "3", "--restore", "5", "--minimum", "0")
    assert said.exit_code == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == "2 cells in 1 sessions, 0.0 h busy"
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "the rule",
        "never",
        "60 min",
        "30 min",
        "10 min",
        "5 min",
        "optimum",
    ]
    assert "$100.02" in lines[3]  # 100,020 s always on at 1 milli-dollar a second
    bad = tmp_path / "bad.csv"
    bad.write_text("session,busy_s,gap_after_s\na,10,1\na,ten,\n")
    for arguments, told in (
        ((str(bad),), "line 3 of the trace: busy_s is 'ten'"),
        ((str(tmp_path / "none.csv"),), "can't be read"),
        ((str(good), "--price", "-1"), "'-1' is not an amount of money"),
        ((str(good), "--save", "nan"), "an idle policy needs finite numbers"),
        ((str(good), "--shut-after-hours", "0"), "--shut-after-hours 0.0 is not"),
    ):
        said = simulate(*arguments)
        assert said.exit_code == 2, said
        assert told in said.stderr
        assert len(said.stderr.splitlines()) == 1
