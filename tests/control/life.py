"""A scripted life of sessions on a file-backed cloud, killed at random moments by test_crash.py.

The cloud (a fake one whose rows are files, so that it outlives us) appends each birth and death of a machine to its own
log before it answers: that log is the bill the ledger is held against.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.plane import Plane
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.providers.base import Endpoint, Intent, Machine, MachineState, Offer
from ciuic_jupyter.settings import Settings
from tests.control.agent_double import AgentDouble

OFFER = Offer("file.1", "file", 3_600_000_000)


class FileCloud:
    """A provider whose machines are lines of a file."""

    name = "file"

    def __init__(self, directory: Path, agent: AgentDouble) -> None:
        self.directory = directory
        self.agent = agent

    def rows(self) -> dict[str, Machine]:
        found: dict[str, Machine] = {}
        path = self.directory / "cloud.log"
        for line in path.read_text().splitlines() if path.exists() else []:
            kind, machine, tag, at = json.loads(line)
            if kind == "born":
                found[machine] = Machine(machine, machine, tag, MachineState.RUNNING, at)
            else:
                old = found[machine]
                found[machine] = Machine(machine, machine, old.tag, MachineState.STOPPED, old.created_at, at)
        return found

    def _write(self, *row: object) -> None:
        descriptor = os.open(self.directory / "cloud.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, (json.dumps(row) + "\n").encode())
        os.close(descriptor)

    async def offers(self) -> list[Offer]:
        return [OFFER]

    async def start(self, intent: Intent) -> Machine:
        await asyncio.sleep(0.002)
        if intent.id not in self.rows():
            self._write("born", intent.id, intent.tag, time.time())
            await asyncio.sleep(0.002)
        if self.rows()[intent.id].state is MachineState.RUNNING:
            self.agent.start(intent)
        return self.rows()[intent.id]

    async def look(self, machine: str) -> Machine | None:
        await asyncio.sleep(0.001)
        return self.rows().get(machine)

    async def list(self, tag: str) -> Sequence[Machine]:
        return [m for m in self.rows().values() if m.tag == tag and m.state is MachineState.RUNNING]

    async def stop(self, machine: str) -> None:
        await asyncio.sleep(0.002)
        found = self.rows().get(machine)
        if found is not None and found.state is MachineState.RUNNING:
            self._write("dead", machine, found.tag, time.time())
            self.agent.end(machine)

    async def connect(self, machine: str) -> Endpoint:
        return Endpoint(self.agent.socket)


async def take_up(plane: Plane, agent: AgentDouble) -> None:
    """Give the double the machine that lives, as if it had never gone."""
    for runner in plane.runners.values():
        book = runner.book
        if book.intent is not None and runner.live and not agent.alive:
            agent.start(plane.context.intent(book, runner.mirror.last_seq + 1))


async def settled(runner: Runner) -> None:
    try:
        async with asyncio.timeout(20):
            await runner.until(lambda: runner.book.state in (State.RUNNING, State.PAUSED, State.FAILED, State.CLOSED))
    except TimeoutError:
        _say(f"never settled: {runner.book}")
        raise


async def live(plane: Plane) -> None:
    """Create, run, pause in the middle of a cell, resume, run, close, for ever."""
    while True:
        runner = await plane.create("s", instance=None, budget_nano=None, cwd=None)
        for step in range(2):
            await settled(runner)
            await runner.submit(uuid.uuid4().hex, "ok", None)
            await settled(runner)
            if step == 0:
                await runner.submit(uuid.uuid4().hex, "loop", None, checkpoint_every=0.001)
                await settled(runner)
            if runner.live and step == 0:
                await runner.pause()
            elif runner.live:
                await runner.pause(now=True)  # the cell that goes on has no end of its own
                await runner.let_go()
                await runner.end()
            await runner.let_go()
            _say("step")


async def end(plane: Plane) -> None:
    """Let everything come to rest: no machine left that no one wants."""
    runner = plane.runners.get("s")
    if runner is not None and runner.book.state is not None:  # None: killed before a machine was asked for
        await settled(runner)
        if runner.live:
            await runner.pause()
        await runner.let_go()
    await plane.reconcile()


async def main(directory: Path, runtime: Path, mode: str) -> None:
    agent = AgentDouble(runtime)
    agent.socket.unlink(missing_ok=True)
    await agent.serve()
    settings = Settings(
        state_dir=directory, runtime_dir=runtime, instance="file.1", warm_start=False, reconcile_seconds=0.05
    )
    cloud = FileCloud(directory, agent)
    plane = Plane(settings, providers={"file": cloud})
    for book in plane.context.books.sessions.values():
        if book.intent is not None and book.state is not None and book.open_segment is not None:
            context = plane.context
            agent.start(context.intent(book, last_seq(context, book.name) + 1))
            agent.held = agent.current is not None and book.state is State.SAVING
    await plane.start()
    try:
        await (live(plane) if mode == "live" else end(plane))
    except CiuicError as error:
        _say(f"error {error}")
    await plane.close()
    await agent.close()


def last_seq(context: Context, name: str) -> int:
    log = EventLog(context.session_directory(name) / "events")
    seq = log.last_seq
    log.close()
    return seq


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def serve(directory: Path, runtime: Path) -> None:
    """Fork a life for each line of stdin, which is its mode; the life says its pid first, this process how it ended."""
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _say(f"pid {os.getpid()}")
            asyncio.run(main(directory, runtime, line.strip()))
            os._exit(0)
        _say(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
