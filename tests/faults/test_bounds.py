"""How long a mistake can cost money at most: each bound of docs/operations.md, on turned time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ciuic_jupyter.core.session import State
from tests.faults.doubles import MemoryLedger
from tests.faults.history import History

Story = Callable[[History], Awaitable[None]]
LATENCY = 1.0  # of the requests of one round, at most


class Told(History):
    """A world in which a test tells what happens; the laws are checked at its end, as for any history."""

    def __init__(self, place: Path, story: Story) -> None:
        super().__init__(1, place, ())
        self.story = story
        self.settings = self.settings.model_copy(update={"reconcile_seconds": 60})

    async def _settle(self) -> None:
        await self.story(self)
        await super()._settle()

    async def reach(self, name: str, *states: State) -> None:
        assert self.plane is not None
        runner = self.plane.runner(name)
        await runner.until(lambda: runner.book.state in states)

    async def session(self) -> None:
        await self._ask("create", "s")
        await self.reach("s", State.RUNNING)

    def suspend(self, seconds: float, step: float) -> None:
        """Nothing of the plane runs for so long, the cloud does; then the wall clock is another by `step`."""
        self.time.now += seconds
        self.clock.skew += step


def tell(place: Path, story: Story) -> Told:
    state = place / "state"
    state.mkdir(mode=0o700)
    MemoryLedger.disk.clear()
    told = Told(state, story)
    told.played()
    return told


@pytest.mark.parametrize("after", [0.0, 13.0, 59.0, 60.2, 100.0])
def test_an_orphan_is_found_within_one_round_billed_from_its_birth_and_released(place: Path, after: float) -> None:
    async def story(world: History) -> None:
        assert world.plane is not None
        await asyncio.sleep(after)
        world.cloud.foreign("lost", world.plane.context.owner)
        await asyncio.sleep(60 + LATENCY)
        assert world.cloud.alive == ()

    tell(place, story)


def test_a_machine_that_can_not_be_stopped_is_tried_for_ever(place: Path) -> None:
    """Twelve hours of refusals: no minute in which it is not tried, and then it is gone within one more."""
    tries: list[float] = []

    async def story(world: History) -> None:
        assert world.plane is not None
        stop = world.cloud.stop

        async def refused(machine: str) -> None:
            tries.append(world.time.now)
            await stop(machine)

        world.cloud.stop = refused  # type: ignore[method-assign]
        world.cloud.foreign("lost", world.plane.context.owner)
        world.cloud.faults.stop_error = 10**9
        await asyncio.sleep(12 * 3600)
        assert world.cloud.alive == ("lost",)
        assert world.plane.context.books.sessions["orphans"].rate > 0
        world.cloud.faults.stop_error = 0
        await asyncio.sleep(60 + LATENCY)
        assert world.cloud.alive == ()

    tell(place, story)
    assert max(later - sooner for sooner, later in itertools.pairwise(tries)) <= 60 + LATENCY


def test_a_session_s_stop_is_tried_every_ten_seconds_billed_and_told(place: Path) -> None:
    tries: list[float] = []

    async def story(world: History) -> None:
        assert isinstance(world, Told) and world.plane is not None
        await world.session()
        stop = world.cloud.stop

        async def refused(machine: str) -> None:
            tries.append(world.time.now)
            await stop(machine)

        world.cloud.stop = refused  # type: ignore[method-assign]
        world.cloud.faults.stop_error = 10**9
        await world._ask("pause", "s")
        await asyncio.sleep(3600)
        runner = world.plane.runner("s")
        assert "still billed" in runner.message
        assert runner.view()["rate_nano_per_hour"] > 0
        world.cloud.faults.stop_error = 0
        await asyncio.sleep(10 + LATENCY)
        assert world.cloud.alive == ()

    tell(place, story)
    assert max(later - sooner for sooner, later in itertools.pairwise(tries)) <= 10 + LATENCY


@pytest.mark.parametrize("step", [0.0, 3600.0, -3600.0])
@pytest.mark.parametrize("state", ["starting", "running", "saving", "stopping", "gone meanwhile"])
def test_a_laptop_that_slept_finds_everything_as_it_is(place: Path, state: str, step: float) -> None:
    async def story(world: History) -> None:
        assert isinstance(world, Told) and world.plane is not None
        if state == "starting":
            await world._ask("create", "s")
        else:
            await world.session()
        if state in ("saving", "stopping"):
            world.cloud.faults.stop_seconds = 30
            await world._ask("pause", "s")
            await world.reach("s", State.SAVING if state == "saving" else State.STOPPING)
        if state == "gone meanwhile":
            world.time.later(200, lambda: world.cloud.vanish(world.cloud.alive[0]))
        before = world.cloud.started
        world.suspend(600, step)
        await asyncio.sleep(60)
        runner = world.plane.runner("s")
        wanted = {"starting": State.RUNNING, "running": State.RUNNING, "gone meanwhile": State.FAILED}
        assert runner.book.state is wanted.get(state, State.PAUSED)
        assert world.cloud.started == max(before, 1)

    tell(place, story)


def test_after_the_plane_was_killed_its_next_start_takes_everything_up_at_once(place: Path) -> None:
    """What a killed plane costs: nothing but the time until the next one; a stop that was under way goes on."""

    async def story(world: History) -> None:
        assert isinstance(world, Told) and world.plane is not None
        await world.session()
        world.cloud.faults.stop_seconds = 0
        await world._ask("pause", "s")
        await world.reach("s", State.SAVING)
        await world.plane.close()
        await asyncio.sleep(300)
        for mirror in world.mirrors:
            mirror.close()
        world.mirrors.clear()
        world.plane = type(world.plane)(world.settings, clock=world.clock, providers={"fake": world.channel})
        await world.plane.start()
        await asyncio.sleep(5)
        assert world.plane.runner("s").book.state is State.PAUSED
        assert world.cloud.alive == ()

    tell(place, story)
