"""What a history's plane speaks with: its ledger in memory, the way to the cloud, and agents; all on turned time.

Of the plane itself nothing is replaced: the ledger's own writing and checking runs, on an SQLite database in memory (a
power cut is not the subject here). Only the thread it writes from and the line's socket are not there.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, delete
from sqlalchemy.pool import StaticPool

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.control import ledger as ledger_module
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Entry, Ledger, Row
from ciuic_jupyter.errors import AgentUnavailable, ProviderError, by_name
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import decode, encode
from ciuic_jupyter.providers.base import Endpoint, Intent, Machine, Offer
from ciuic_jupyter.providers.fake import FakeProvider
from tests.faults.loop import Time

Header = dict[str, Any]


class TurnedClock(Clock):
    """The plane's clocks on turned time; `skew` is a wall clock that was stepped."""

    def __init__(self, time: Time) -> None:
        self.boot_id = "turned"
        self._time = time
        self.skew = 0.0

    def wall(self) -> float:
        return 1_800_000_000.0 + self._time.now + self.skew

    def boot(self) -> float:
        return 1000.0 + self._time.now


class Disk:
    """The database file: one in memory for all histories, emptied before each."""

    def __init__(self) -> None:
        engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        ledger_module._metadata.create_all(engine)
        self._engine = engine
        self.connection = engine.connect()

    def clear(self) -> None:
        self.connection.execute(delete(ledger_module._entries))
        self.connection.commit()

    def close(self) -> None:
        self.connection.close()
        self._engine.dispose()


class MemoryLedger(Ledger):
    """The ledger, its writer the loop's next step: a crash before it loses what was not acknowledged."""

    disk: Disk

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._broken = None
        self._last_id, self._last_hash = 0, ledger_module._GENESIS
        self._history: list[Entry] = []
        self._queue: deque[Any] = deque()
        self._verify(self.disk.connection)

    def submit(self, rows: Sequence[Row]) -> Future[list[Entry]]:
        for row in rows:
            ledger_module._text(row.body)
        job = ledger_module._Job(rows, Future())
        job.done.set_running_or_notify_cancel()
        self._queue.append(job)
        asyncio.get_running_loop().call_soon(self._next)
        return job.done

    def _next(self) -> None:
        jobs = list(self._queue)
        self._queue.clear()
        if jobs:
            self._write(self.disk.connection, jobs)

    def close(self) -> None:
        self._next()


@dataclass
class Weather:
    """How the way to the cloud is: chances of one request, seconds of latency."""

    lost: float = 0.0  # the cloud never gets it
    unanswered: float = 0.0  # the cloud does it, the answer times out
    twice: float = 0.0  # the cloud gets it twice
    slow: float = 0.0  # it takes half a minute


class Channel:
    """A plane's way to the fake cloud: each request travels there, and its answer back; a dead plane hears none."""

    name = "fake"

    def __init__(self, cloud: FakeProvider, time: Time, chance: random.Random) -> None:
        self.cloud = cloud
        self.weather = Weather()
        self.stopped: set[str] = set()
        self._time = time
        self._chance = chance

    async def _ask(self, request: Callable[[], Any]) -> Any:
        loop, weather, chance = asyncio.get_running_loop(), self.weather, self._chance
        answer: asyncio.Future[Any] = loop.create_future()
        there = 31.0 if chance.random() < weather.slow else chance.choice((0.01, 0.05, 0.2))
        if chance.random() < weather.lost:
            await asyncio.sleep(there)
            raise ProviderError("the connection was refused; ask again")
        lose, times = chance.random() < weather.unanswered, 1 + (chance.random() < weather.twice)

        def arrive() -> None:
            result: Any = None
            for _ in range(times):
                result = _run(request())
            self._time.later(0.02, lambda: reply(result))

        def reply(result: Any) -> None:
            if loop.is_closed() or answer.done():
                return
            if lose:
                answer.set_exception(ProviderError("the answer timed out; look whether it happened"))
            elif isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)

        self._time.later(there, arrive)
        return await answer

    async def offers(self) -> list[Offer]:
        return await self.cloud.offers()

    async def start(self, intent: Intent) -> Machine:
        found: Machine = await self._ask(lambda: self.cloud.start(intent))
        return found

    async def look(self, machine: str) -> Machine | None:
        found: Machine | None = await self._ask(lambda: self.cloud.look(machine))
        return found

    async def list(self, tag: str) -> list[Machine]:
        found: list[Machine] = await self._ask(lambda: self.cloud.list(tag))
        return found

    async def stop(self, machine: str) -> None:
        self.stopped.add(machine)
        await self._ask(lambda: self.cloud.stop(machine))

    async def connect(self, machine: str) -> Endpoint:
        return await self.cloud.connect(machine)


def _run(coroutine: Any) -> Any:
    """Run what never waits; return its result, or its error."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    except ProviderError as error:
        return error
    raise AssertionError("the fake cloud waited for something")


@dataclass
class Agent:
    """A machine's agent and kernel: it outlives planes. Cells: 'ok' ends at once, 'hang' when it is interrupted."""

    config: Header
    ready_at: float
    time: Time
    frames: list[bytes] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    alive: bool = True
    dead: bool = False  # the kernel
    current: str | None = None
    ran: set[str] = field(default_factory=set)
    save_error: str | None = None
    save_seconds: float = 1.0

    @property
    def first(self) -> int:
        return int(self.config["first_seq"])

    @property
    def kernel(self) -> str:
        return "dead" if self.dead else "ready" if self.time.now >= self.ready_at else "starting"

    @property
    def store(self) -> Store:
        return Store(Path(self.config["store"]))

    def emit(self, **header: Any) -> None:
        seq = self.first + len(self.frames)
        self.frames.append(encode({**header, "type": "event", "seq": seq, "at": 0.0}))
        for line in self.lines:
            line.news.set()

    def end(self) -> None:
        """The machine is gone."""
        self.alive = False
        for line in self.lines:
            line.news.set()

    def die(self) -> None:
        """The kernel is gone, the machine is not."""
        if self.alive and not self.dead and self.time.now >= self.ready_at:
            self.dead = True
            self._finish("died")
            self.emit(kind="kernel", run=None, state="dead", exit_code=None, signal=9)

    def _finish(self, status: str) -> None:
        if self.current is not None:
            run, self.current = self.current, None
            self.emit(kind="run_ended", run=run, status=status, count=1, seconds=0.1)

    def checkpoint(self) -> int:
        """Save something real."""
        with self.store.save() as save:
            body = {"names": {"x": "int"}, "placeholders": [], "blob": save.add(b"content"), "bytes_total": 7}
        return int(self.store.write_manifest({**body, "run": None}, bytes.fromhex(self.config["key_hex"])).seq)

    async def reply(self, op: str, fields: Header) -> Header:
        """Do what is asked; raise what the real one would answer."""
        if op == "run":
            return self._run(fields)
        if op == "interrupt":
            self._finish("error")
        elif op == "emit":
            self.emit(**fields["event"])
        elif op == "hold":
            return {"held": False, "run": self.current, "where": ""}
        elif op == "save":
            return await self._save()
        elif op == "boundary":
            return {"run": self.current, "held": False, "skipped": [], "has_loops": False}
        return {"interrupted": op == "interrupt"}

    def _run(self, fields: Header) -> Header:
        run = fields["run"]
        if run not in self.ran:
            if self.current is not None:
                raise by_name("UsageError")("busy")
            self.ran.add(run)
            self.current = run
            self.emit(kind="run_started", run=run, code=fields["code"], cell_id=None, count=1)
            if fields["code"] != "hang":
                self._finish("ok")
        return {}

    async def _save(self) -> Header:
        await asyncio.sleep(self.save_seconds)
        if not self.alive:
            await asyncio.get_running_loop().create_future()  # nobody is left to answer
        if self.save_error is not None:
            raise by_name("SaveFailed")(self.save_error)
        report = {"bytes_total": 7, "names": ["x"], "seconds": {"total": 1.0}, "run": None}
        return {"seq": self.checkpoint(), "report": report}


class Line:
    """The plane's end of the line, as AgentLink is, to an agent in this process."""

    agents: dict[str, Agent]  # by token

    def __init__(self, connect: Any, token: str, mirror: EventLog, listener: Any) -> None:
        self._connect, self._token, self._mirror, self._listener = connect, token, mirror, listener
        self.news = asyncio.Event()
        self.down_since: float | None = None
        self._up = asyncio.Event()
        self._closed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def up(self) -> bool:
        return self._up.is_set()

    def start(self) -> None:
        self.down_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        self._closed.set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def request(self, op: str, *, buffers: Any = (), **fields: Any) -> Header:
        """Ask the agent; AgentUnavailable once the line is closed."""
        asked = asyncio.ensure_future(self._request(op, fields))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({asked, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                raise AgentUnavailable("the machine was let go; start it again")
            return asked.result()
        finally:
            for task in (asked, closed):
                task.cancel()

    async def _request(self, op: str, fields: Header) -> Header:
        await self._up.wait()
        await asyncio.sleep(0.005)
        return await self.agents[self._token].reply(op, fields)

    async def _keep(self) -> None:
        wait = 0.02
        while True:
            with suppress(ProviderError):
                await self._connect()
                agent = self.agents.get(self._token)
                if agent is not None and agent.alive:
                    await self._serve(agent)
            if self._up.is_set():
                self._up.clear()
                self.down_since = asyncio.get_running_loop().time()
                self._listener.line_changed(False)
            await asyncio.sleep(wait)
            wait = min(2 * wait, 1.0)

    async def _serve(self, agent: Agent) -> None:
        agent.lines = [self]  # a dead plane's line is gone with it
        self._up.set()
        self.down_since = None
        self._listener.line_changed(True)
        last = agent.first + len(agent.frames) - 1
        kernel, newest = agent.kernel, (agent.store.manifests() or [0])[-1]
        said = {"kernel": kernel, "run": agent.current, "last_seq": last, "restored": None, "held": False}
        self._listener.hello({**said, "checkpoint": newest})
        while agent.alive:
            for frame in agent.frames[self._mirror.last_seq + 1 - agent.first :]:
                header = decode(frame).header
                if self._mirror.append_frame(int(header["seq"]), frame):
                    self._listener.event(header, int(header["seq"]), frame)
            if kernel == "starting":
                await asyncio.sleep(max(0.0, agent.ready_at - agent.time.now))
                kernel = "ready"
                agent.emit(kind="kernel", run=None, state=agent.kernel, report=None)
                continue
            self.news.clear()
            await self.news.wait()
