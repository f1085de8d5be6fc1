"""One random history of the plane on a faulty cloud, from a seed: played, settled, held against the cloud's bill."""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from ciuic_jupyter.control import machine as machine_module
from ciuic_jupyter.control import plane as plane_module
from ciuic_jupyter.control import runner as runner_module
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.control.projections import Books
from ciuic_jupyter.control.reconcile import ORPHANS
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.providers.base import Intent, MachineState, Offer
from ciuic_jupyter.providers.fake import FakeProvider, Faults
from ciuic_jupyter.settings import Settings
from tests.faults.doubles import Agent, Channel, Disk, Line, MemoryLedger, TurnedClock, Weather
from tests.faults.loop import Crash, Time, TurnedLoop

OFFERS = (
    Offer("fake.1", "fake", 3_600_000_001),
    Offer("fake.1", "fake", 899_999_999, unit_seconds=60, minimum_seconds=60),
    Offer("fake.1", "fake", 7, unit_seconds=7),
)
Script = Sequence[tuple[str, str, float]]  # what is asked, of which session, and the seconds before the next thing

RESTING = (None, State.PAUSED, State.FAILED, State.CLOSED)
LIES = (MachineState.STOPPED, MachineState.RUNNING, MachineState.UNKNOWN, None)

SETTINGS = Settings(instance="fake.1", warm_start=False, idle_release=False, reconcile_seconds=10)


class Broken(AssertionError):
    """A law that must hold did not."""


class History:
    """A world of one seed; `played` runs it to its end and checks it."""

    def __init__(self, seed: int, directory: Path, script: Script | None = None, crashes: Sequence[int] = ()) -> None:
        """`script` and `crashes` (the step each life ends at) instead of what the seed says; no faults then."""
        self.seed, self.faulty = seed, script is None
        self.chance = random.Random(seed)
        self.time = Time()
        self.clock = TurnedClock(self.time)
        self.agents: dict[str, Agent] = {}
        self.cloud = FakeProvider(TurnedClock(self.time).wall, directory / "none.sock", [self.chance.choice(OFFERS)])
        self.cloud.on_start, self.cloud.on_stop = self._born, self._ended
        self.channel = Channel(self.cloud, self.time, self.chance)
        places = {"state_dir": directory, "runtime_dir": directory / "run"}
        self.settings = SETTINGS.model_copy(update=places)
        self.plane: Plane | None = None
        self.mirrors: list[EventLog] = []
        self.crashes = list(crashes) if script is not None else self._crashes()
        self.script = list(script) if script is not None else list(self._script())
        self.broken: list[str] = []
        self.steps = 0
        self.lied = self.slow = False

    # -- what will happen, from the seed alone

    def _crashes(self) -> list[int]:
        many = self.chance.choice((0, 0, 1, 1, 2, 3))
        return [int(2 ** self.chance.uniform(2, 8.6)) for _ in range(many)]

    def _script(self) -> Iterator[tuple[str, str, float]]:
        chance, asks = self.chance, ("run", "hang", "pause", "pause", "release", "discard", "end", "create", "die")
        names = ("s", "t") if chance.random() < 0.3 else ("s",)
        for name in names:
            yield "create", name, chance.choice((0.0, 3.0))
        for _ in range(chance.randrange(2, 6)):
            wait = chance.choice((0.0, 0.03, 0.4, 3.0, 9.0))
            yield chance.choice(asks), chance.choice(names), wait
            if chance.random() < 0.6:
                yield "fault", "", 0.0

    def _fault(self) -> None:
        """Something goes wrong from now on."""
        chance, faults, alive = self.chance, self.cloud.faults, self.cloud.alive
        kind = chance.randrange(14)
        if kind < 5:
            name = ("no_capacity", "start_error_before", "start_error_after", "stop_error", "stop_ignored")[kind]
            setattr(faults, name, chance.randrange(1, 4))
        elif kind < 7:
            setattr(faults, ("look_error", "list_error")[kind - 5], chance.randrange(1, 6))
        elif kind == 7:
            faults.stop_seconds = chance.choice((0.5, 7.0, 40.0))
        elif kind == 8:
            faults.duplicates = True
            faults.hidden.update(alive)
        elif kind == 9:
            self.lied = True
            faults.lies = [chance.choice(LIES) for _ in range(chance.randrange(1, 4))]
        elif kind == 10 and (asked := [machine for machine in alive if not machine.startswith("lost")]):
            self.cloud.vanish(chance.choice(asked))  # of one that nobody asked for nobody could ever hear
        elif kind == 11 and self.plane is not None:
            self.cloud.foreign(f"lost{self.time.now}", self.plane.context.owner)
        elif kind == 12:
            self.clock.skew += chance.choice((-1800.0, 0.0, 1800.0))
            for agent in self.agents.values():
                agent.save_error = chance.choice((None, "the disk is full"))
        else:
            weather = chance.choice(("lost", "unanswered", "twice", "slow"))
            self.slow |= weather == "slow"
            self.channel.weather = Weather(**{weather: chance.choice((0.2, 0.6))})

    # -- the cloud's side

    def _born(self, intent: Intent) -> None:
        rows = MemoryLedger.disk.connection.exec_driver_sql("select machine from entries where kind='intent'")
        if intent.id not in {row[0] for row in rows}:
            self.broken.append(f"machine {intent.id} was started before its intent was durable")
        config = dict(intent.agent_config)
        self.agents[config["token"]] = Agent(config, self.time.now + self.chance.choice((0.1, 2.0)), self.time)

    def _ended(self, machine: str) -> None:
        for intent in self.cloud.intents:
            if intent.id == machine and intent.agent_config["token"] in self.agents:
                self.agents[intent.agent_config["token"]].end()

    # -- playing

    def played(self) -> History:
        """Play every life, settle, check; Broken says what did not hold."""
        records: list[logging.LogRecord] = []
        with _inside(self, records):
            for crash in [*self.crashes, None]:
                self._life(crash)
        errors = [f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}" for record in records]
        self.broken += [f"an error in the log: {error}" for error in errors]
        if self.broken:
            raise Broken("; ".join(self.broken[:4]))
        return self

    def _life(self, crash: int | None) -> None:
        loop = TurnedLoop(self.time, crash)
        asyncio.set_event_loop(None)
        try:
            loop.run_until_complete(self._act(last=crash is None))
        except Crash:
            pass
        finally:
            self.steps += loop.steps
            for mirror in self.mirrors:
                mirror.close()
            self.mirrors.clear()
            loop.abandon()
            self.broken += loop.failures

    async def _act(self, *, last: bool) -> None:
        self.plane = Plane(self.settings, clock=self.clock, providers={"fake": self.channel})
        await self.plane.start()
        while self.script:
            await self._step(*self.script.pop(0))
        if not last:  # the crash comes while the plane is looking after what is left
            await asyncio.sleep(200.0)
            return
        await self._settle()
        await self.plane.close()
        self._check(self.plane)

    async def _step(self, what: str, name: str, wait: float) -> None:
        assert self.plane is not None
        if what == "fault":
            self._fault()
        else:
            asyncio.get_running_loop().create_task(self._ask(what, name))
        await asyncio.sleep(wait)
        self._honest(self.plane)

    async def _ask(self, what: str, name: str) -> None:
        plane = self.plane
        assert plane is not None
        try:
            if what == "create":
                await plane.create(name, instance=None, budget_nano=None, cwd=None)
            elif what == "die":
                for agent in self.agents.values():
                    agent.die()
            else:
                await self._ask_runner(plane.runner(name), what)
        except CiuicError:
            pass  # what was asked made no sense then, and it was said so

    async def _ask_runner(self, runner: Runner, what: str) -> None:
        if what in ("run", "hang"):
            await runner.submit(uuid.uuid4().hex, "ok" if what == "run" else "hang", None)
        elif what == "discard":
            await runner.release(discard=True)
        elif what == "release":
            await runner.release(discard=False)
        else:
            await getattr(runner, what)()

    async def _settle(self) -> None:
        """The faults are over: let everything come to rest."""
        plane = self.plane
        assert plane is not None
        self.cloud.faults = Faults()
        self.channel.weather = Weather()
        for agent in self.agents.values():
            agent.save_error = None
        for _ in range(180):
            for runner in list(plane.runners.values()):
                if runner.book.state is State.RUNNING:
                    await self._ask("release", runner.book.name)
            await asyncio.sleep(5.0)
            if all(runner.book.state in RESTING for runner in plane.runners.values()):
                break
        else:
            self.broken.append(f"never at rest: {[runner.view() for runner in plane.runners.values()]}")
        await asyncio.sleep(32.0 if self.slow else 0.0)  # what the cloud may still have to get
        for _ in range(100):
            await plane.reconcile()
            segments = [segment for book in plane.context.books.lives for segment in book.segments]
            if not self.cloud.alive and {segment.machine for segment in segments} <= plane.context.confirmed:
                break
            await asyncio.sleep(3.0)

    # -- the laws

    def _honest(self, plane: Plane) -> None:
        """Nobody is shown $0/h of a session of which a machine lives that the ledger knows."""
        for book in plane.context.books.lives:
            living = {segment.machine for segment in book.segments} & set(self.cloud.alive)
            self._law(book.rate > 0 or not living or self.lied, f"session {book.name} shows $0/h, {living} lives")

    def _check(self, plane: Plane) -> None:
        """What must be so when all is settled, whatever happened before."""
        ledger, now_ms = MemoryLedger(Path("again"), self.clock), round(self.clock.wall() * 1000)
        books = Books(ledger.replay())
        held, bill = sum(book.compute_nano(now_ms) for book in books.lives), self.cloud.bill()
        law = self._law
        law(held == bill, f"the ledger says {held}, the cloud bills {bill}")
        law(not self.cloud.alive, f"machines were left on: {self.cloud.alive}")
        segments = [(book, segment) for book in books.lives for segment in book.segments]
        machines = [segment.machine for _, segment in segments]
        law(sorted(machines) == sorted(self.cloud._kept), "segments and machines are not the same")
        law(all(segment.closed_ms is not None for _, segment in segments), "a segment is open")
        law(not any(segment.estimated for _, segment in segments), "an end is estimated that the cloud knows")
        known = {book.name: plane.context.books.sessions.get(book.name) for book in books.sessions.values()}
        for book in books.sessions.values():
            law(book.state in RESTING, f"session {book.name} is {book.state}")
            law(book.state is not State.PAUSED or book.checkpoint is not None, f"{book.name}: nothing to go back to")
            seen = known[book.name]
            law(seen is not None and seen.segments == book.segments, "the ledger and memory differ in segments")
            law(seen is not None and seen.state == book.state, "the ledger and memory differ in a state")
        for book, segment in segments:
            price = self.cloud._kept[segment.machine].offer.price_nano_per_hour
            law(segment.rate == price and book.offer["price_nano_per_hour"] == price, "a price is not the machine's")
        law(all(book.rate == 0 for book in books.sessions.values() if book.name != ORPHANS), "a rate flows")

    def _law(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)


@contextmanager
def _inside(history: History, records: list[logging.LogRecord]) -> Iterator[None]:
    """The doubles where the plane looks for the real ones, and identities from the seed."""
    logger, keeper = logging.getLogger("ciuic_jupyter"), _Keeper(records)
    line = type("Line", (Line,), {"agents": history.agents})
    ids = random.Random(history.seed)

    def mirror(*args: Any) -> EventLog:
        history.mirrors.append(EventLog(*args))
        return history.mirrors[-1]

    logger.addHandler(keeper)
    before, logger.propagate = logger.propagate, False
    try:
        with (
            patch.object(plane_module, "Ledger", MemoryLedger),
            patch.object(plane_module, "_TICK", 2.5),  # fewer looks, more histories
            patch.object(machine_module, "AgentLink", line),
            patch.object(runner_module, "EventLog", mirror),
            patch.object(uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
        ):
            yield
    finally:
        logger.removeHandler(keeper)
        logger.propagate = before


class _Keeper(logging.Handler):
    def __init__(self, records: list[logging.LogRecord]) -> None:
        super().__init__(logging.ERROR)
        self._records = records

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)


def play(seed: int, directory: Path, script: Script | None = None, crashes: Sequence[int] = ()) -> History:
    """Play one history in a directory of its own; Broken says how to play it again."""
    place = directory / f"{seed}"
    place.mkdir(mode=0o700)
    MemoryLedger.disk.clear()
    try:
        return History(seed, place, script, crashes).played()
    except Exception as error:
        again = f"python -m tests.faults {seed}" if script is None else f"crashes at {list(crashes)}"
        raise Broken(f"history {seed} ({again}): {error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def disk() -> Iterator[None]:
    """Have the memory that the ledgers of all histories are in."""
    MemoryLedger.disk = Disk()
    gc.collect()
    gc.freeze()  # all that was imported need not be looked through again and again
    try:
        yield
    finally:
        gc.unfreeze()
        MemoryLedger.disk.close()
