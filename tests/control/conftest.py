"""A plane over the fake cloud, with a turned clock; the ledger and the bill are compared when each test ends."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.control.clock import Clock, FakeClock
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.control.projections import Books
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from ciuic_jupyter.providers.fake import FakeProvider
from ciuic_jupyter.settings import Settings
from tests.control.agent_double import AgentDouble


class Cloud:
    """What a test holds: plane, provider, agent, clock; `restart` kills the plane without a word."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.settings = Settings(
            state_dir=directory, runtime_dir=runtime, instance="fake.1", warm_start=False, reconcile_seconds=3600
        )
        self.clock = FakeClock()
        self.agent = AgentDouble(runtime)
        self.provider = FakeProvider(self.clock.wall, self.agent.socket)
        self.provider.on_start = self.agent.start
        self.provider.on_stop = self.agent.end
        self.plane: Plane

    async def begin(self) -> None:
        self.plane = Plane(self.settings, clock=self.clock, providers={"fake": self.provider})
        await self.plane.start()

    async def restart(self) -> None:
        await self.plane.close()
        await self.begin()

    async def session(self, name: str = "s", budget_nano: int | None = None) -> Runner:
        runner = await self.plane.create(name, instance=None, budget_nano=budget_nano, cwd=None)
        await reach(runner, State.RUNNING)
        return runner

    async def turn(self, seconds: float) -> None:
        """Let time pass, and the plane look once."""
        self.clock.turn(seconds)
        for runner in list(self.plane.runners.values()):
            await runner.tick()

    def books(self) -> Books:
        """Fold the ledger anew from disk."""
        ledger = Ledger(self.settings.state_dir / "ledger.db", Clock())
        try:
            return Books(ledger.replay())
        finally:
            ledger.close()


async def reach(runner: Runner, *states: State) -> None:
    """Wait until the session is in one of `states`."""
    async with asyncio.timeout(20):
        await runner.until(lambda: runner.book.state in states)


async def until(reached: Callable[[], Any]) -> None:
    """Wait until something that no one announces is so."""
    async with asyncio.timeout(20):
        while not reached():  # noqa: ASYNC110 - what no one announces has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    runtime = Path(tempfile.mkdtemp(prefix="ciuic-c-"))
    made = Cloud(tmp_path / "state", runtime)
    await made.agent.serve()
    await made.begin()
    yield made
    await made.plane.close()
    await made.agent.close()
    shutil.rmtree(runtime, ignore_errors=True)
    books = made.books()
    now_ms = round(made.clock.wall() * 1000)
    assert sum(book.compute_nano(now_ms) for book in books.lives) == made.provider.bill(), "ledger and bill differ"
    opened = [segment.machine for book in books.lives for segment in book.segments if segment.closed_ms is None]
    assert sorted(opened) == sorted(made.provider.alive), "open segments are not the living machines"
