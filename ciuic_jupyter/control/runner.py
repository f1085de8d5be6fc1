"""One session under way: feeds events to the table, writes what they mean, then does what it commands."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from ciuic_jupyter.control import rows
from ciuic_jupyter.control.cap import Cap
from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.continuing import Continuation
from ciuic_jupyter.control.feed import Feed
from ciuic_jupyter.control.forecasting import Forecaster
from ciuic_jupyter.control.holding import Hold
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.link import AgentLink
from ciuic_jupyter.control.machine import MachineHand
from ciuic_jupyter.control.panel import UsageTrace
from ciuic_jupyter.control.projections import Book, Run
from ciuic_jupyter.control.purse import run_under_way
from ciuic_jupyter.control.retry import SaveRetry
from ciuic_jupyter.control.runs import Runs
from ciuic_jupyter.control.teller import Teller
from ciuic_jupyter.control.views import session_view
from ciuic_jupyter.control.watch import IdleWatch
from ciuic_jupyter.core.carbon import EnergyMeter
from ciuic_jupyter.core.session import Command, Event, State, is_live, step
from ciuic_jupyter.core.usage import Tally
from ciuic_jupyter.errors import AgentUnavailable, CiuicError, IllegalTransition, SaveFailed, UsageError
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import decode

_log = logging.getLogger(__name__)

_PAUSING = {
    "paused": "pausing at the next loop boundary of the cell that runs, or at its end",
    "closed": "closing when the cell that runs has ended",
}
_TOGETHER = 0.02  # seconds in which rows that can wait are gathered

Header = dict[str, Any]


class Runner:
    """The only one who changes a session: everything asked of it ends in `feed`, one event at a time."""

    def __init__(self, context: Context, book: Book) -> None:
        self.context = context
        self.book = book
        self.mirror = EventLog(context.session_directory(book.name) / "events")
        self.feed_viewers = Feed(self.mirror, self.view)
        self.hand = MachineHand(self)
        self.watch = IdleWatch(context.settings)
        self.current: str | None = None  # the run at the agent
        self.pause_pending = False
        self.by_rule = False  # the pause under way is the idle rule's
        self._readied: str | None = None  # the machine whose kernel was heard to be ready
        self.step_text = ""
        self.message = ""
        self.usage: Header | None = None
        self.energy = EnergyMeter()  # of the machine there is
        self.tally = Tally()  # of the run under way, or of the time since the one before
        self.trace = UsageTrace()
        self.saved_share: float | None = None  # of a save under way, where the kernel tells
        self.cap = Cap(self)
        self.retry = SaveRetry(self)
        self.hold = Hold(self)
        self.continuing = Continuation(self)
        self.runs = Runs(self)
        self.forecast = Forecaster(self)
        self._teller = Teller(self)
        self._looking: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._waiters: set[asyncio.Event] = set()
        self._later: list[Row] = []
        self._flushing = asyncio.Lock()
        self._writing: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    # -- the table

    async def feed(self, event: Event, *, message: str = "", goal: str | None = None, **facts: Any) -> None:
        """Take one event: its rows become durable, then its commands are done. IllegalTransition if it does not fit."""
        async with self._lock:
            taken = step(self.book.state, event)
            if Command.CLOSE_SEGMENT in taken.commands:
                await self.flush()  # what its runs did stands before what became of them
            written = rows.of_step(self, event, taken, goal, facts)
            if written:
                for entry in await self.context.ledger.append_all(written):
                    self.context.books.apply(entry)
            if message or event is Event.PAUSE:  # a pause without words leaves none of an earlier step behind
                self.message = message
            _log.info("%s: %s -> %s %s", self.book.name, event.value, taken.state.value, message)
            for command in taken.commands:
                self._do(command)
            if taken.state is State.CLOSED and self.book.suspended is not None:
                self.runs.lost(self.book.suspended.run)
        self.changed()

    def _do(self, command: Command) -> None:
        if command is Command.START_MACHINE:
            self.step_text = "starting a machine"
            self.spawn(self.hand.start())
        elif command is Command.CONNECT:
            self.step_text = "starting the kernel"
            self.hand.connect()
        elif command is Command.WAIT_QUIET:
            self.pause_pending = True
        elif command is Command.SAVE:
            self.step_text, self.saved_share = "saving", None
            self.retry.begun()
            self.spawn(self.hand.save())
        elif command is Command.STOP_MACHINE:
            self.step_text = "releasing"
            self.spawn(self.hand.stop())
        elif command is Command.CLOSE_SEGMENT:
            self._machine_gone()

    def _machine_gone(self) -> None:
        self.step_text = ""
        self.pause_pending = False
        self.usage = None
        if self.book.intent is not None:
            self.context.devices.gone(str(self.book.intent["id"]))
        self.energy = EnergyMeter()
        self.trace.clear()
        self.cap.reset()
        self.hold.reset()
        self.watch.reset()
        self.retry.call_off()
        if self.current is not None:
            self.runs.lost(self.current)
        self.tally = Tally()
        self.spawn(self.hand.disconnect())

    async def offer(self, event: Event, **facts: Any) -> bool:
        """Feed an event that may have come too late: False if the session has moved on."""
        try:
            await self.feed(event, **facts)
        except IllegalTransition as error:
            _log.info("%s: too late: %s", self.book.name, error)
            return False
        return True

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run `work` beside the rest; a failure is told and written to the log."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s: a step failed", self.book.name, exc_info=error)
            self.message = f"{type(error).__name__}: {error}"
            self.changed()

    def changed(self, *, soon: bool = False) -> None:
        """Tell viewers and waiters that something is different now; viewers may learn it a moment later if `soon`."""
        self.feed_viewers.status(soon=soon)
        if self.context.watched is not None:
            self.context.watched.changed(self.book.name, soon=soon)
        for waiter in self._waiters:
            waiter.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return once `reached()`; it is looked at after each change."""
        waiter = asyncio.Event()
        self._waiters.add(waiter)
        try:
            while not reached():
                await waiter.wait()
                waiter.clear()
        finally:
            self._waiters.discard(waiter)

    async def close(self) -> None:
        """Let go of everything here; the machine and its runs go on."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._later:
            await self.write(*self._later)
        await self.hand.disconnect()
        self.feed_viewers.close()
        self.mirror.close()

    def view(self) -> Header:
        """Return the session as JSON for people and panels."""
        return session_view(self)

    @property
    def live(self) -> bool:
        """Tell whether a machine may exist."""
        return self.book.state is not None and is_live(self.book.state)

    @property
    def wanted_again(self) -> bool:
        """Tell whether a cell came while the idle rule, not a person, was letting the machine go."""
        return self.by_rule and self.book.goal == "paused" and bool(self.book.queued)

    # -- what people ask

    async def ensure(self) -> None:
        """See to it that a machine comes, if there is none and none is under way."""
        state = self.book.state
        if state is State.RUNNING and not self.cap.reached:
            self.retry.call_off()
        if state in (None, State.PAUSED, State.FAILED):
            self.cap.check()
            event = Event.CREATE if state is None or self.book.checkpoint is None else Event.RESUME
            if state is State.PAUSED:
                event = Event.RESUME
            self.message = ""
            await self.feed(event, goal="")

    async def submit(  # noqa: PLR0913 - what a cell is, and what it asks for
        self,
        run: str,
        code: str,
        cell_id: str | None,
        *,
        checkpoint_every: float | None = None,
        grace: float | None = None,
        trace: tuple[str, ...] = (),
        budget_nano: int | None = None,
        flops: bool = False,
    ) -> None:
        """Queue a cell, once; return when the ledger has it, or the agent, who tells of it after a restart of ours.

        `checkpoint_every`: seconds between checkpoints of it; `grace`: seconds a pause waits for it to hold, unasked;
        `trace`: modules to pause inside, too; `flops`: count them.
        """
        if run in self.book.runs:
            return
        self.cap.check()
        self.retry.call_off()
        at_ms = self.context.now_ms()
        self.book.runs[run] = Run(
            run, code, cell_id, at_ms, checkpoint_every=checkpoint_every, grace=grace, trace=trace
        )
        if budget_nano is None and self.context.purse is not None:
            budget_nano = self.context.purse.per_run
        self.book.runs[run].budget_nano, self.book.runs[run].count_flops = budget_nano, flops
        options = {
            "checkpoint_every": checkpoint_every,
            "grace": grace,
            "trace": list(trace),
            "budget_nano": budget_nano,
            **({"flops": True} if flops else {}),
        }
        body = {"run": run, "code": code, "cell_id": cell_id, "at_ms": at_ms, **options}
        sending = self.pump()
        writing = self.write_soon(Row("run", body, session=self.book.name, idem=f"run:{self.book.life}:{run}"))
        if sending is not None and self.current == run:
            await asyncio.wait({sending, writing}, return_when=asyncio.FIRST_COMPLETED)
        if self.book.runs[run].status == "queued":
            await writing
            await self.ensure()

    async def write(self, *written: Row) -> None:
        """Write rows that no state hangs on, and fold them in."""
        for entry in await self.context.ledger.append_all(written):
            self.context.books.apply(entry)
        self.changed(soon=True)

    def write_soon(self, *written: Row) -> asyncio.Task[Any]:
        """Write rows that a restart would find again (in the mirror, or at the agent) with those of the next moment."""
        self._later += written
        if self._writing is None or self._writing.done():
            self._writing = self.spawn(self._write_later())
        return self._writing

    async def _write_later(self) -> None:
        await asyncio.sleep(_TOGETHER)
        await self.flush()

    async def flush(self) -> None:
        """Write now what waits for the next moment."""
        async with self._flushing:
            while self._later:
                written, self._later = self._later, []
                await self.write(*written)

    async def pause(self, goal: str = "paused", message: str = "", *, now: bool = False, by_rule: bool = False) -> None:
        """Have the session saved and released at the cell's next loop boundary, or its end; once is enough.

        `now`: wait for neither. The session goes back to a checkpoint of the cell, or the cell is interrupted.
        `by_rule`: nobody asked, so that a cell that comes meanwhile has the machine back.
        """
        state = self.book.state
        if state in (None, State.FAILED, State.CLOSED):
            raise UsageError(f"session {self.book.name} is {state or 'not started'}: there is nothing to pause")
        self.retry.error = None
        self.by_rule = by_rule
        if state is State.RUNNING:
            if self.current is not None and not self.pause_pending:
                self.note(message or _PAUSING.get(goal, _PAUSING["paused"]))
            if not self.pause_pending or goal == "closed" != self.book.goal:
                await self.feed(Event.PAUSE, goal=goal, message=message)
                if goal == "closed" and self.current is not None:
                    self.spawn(self.hold.go())  # a pause may have asked for a hold before
            if now:
                await self.hold.now()
        else:
            await self._wish(goal)
        await self.settle()

    async def _wish(self, goal: str) -> None:
        """Remember, durably, what is to come of a session that is in the middle of something."""
        async with self._lock:
            state = self.book.state
            starting = state in (State.REQUESTED, State.STARTING)
            if starting or (self.live and goal == "closed" != self.book.goal):
                entry = await self.context.ledger.append(rows.wish(self, goal))
                self.context.books.apply(entry)
                self.pause_pending = starting
        self.changed()

    async def let_go(self) -> None:
        """Wait until the machine is gone; SaveFailed with the reason if it has to stay."""
        await self.until(lambda: not self.live or (self.book.state is State.RUNNING and not self.pause_pending))
        if self.live and self.retry.error is not None:
            raise SaveFailed(str(self.retry.error))

    async def release(self, *, discard: bool) -> None:
        """Stop what runs now and give the machine back; saved first, unless `discard`."""
        if not self.live:
            return
        if discard:
            if self.book.state is not State.STOPPING:
                await self.offer(Event.DISCARD, goal="discarded", message="released without saving")
            return
        if self.current is not None:
            await self.interrupt(self.current)
        await self.pause()

    async def end(self) -> None:
        """Save, release, and close the session for good; its checkpoint is kept."""
        if self.book.state in (State.PAUSED, State.FAILED):
            await self.feed(Event.CLOSE, message="closed; its checkpoint is kept")
        elif self.live:
            await self.pause(goal="closed")

    async def keep(self, seconds: float) -> None:
        """Let no idle rule release the machine for so long."""
        limit = self.context.settings.keep_limit_seconds
        if not 0 <= seconds <= limit:
            raise UsageError(f"a machine can be kept for up to {limit:.0f} s, not {seconds:.0f}; nothing was changed")
        until = self.context.clock.wall() + seconds
        await self.write(Row("keep", {"until": until}, session=self.book.name))

    async def interrupt(self, run: str | None) -> bool:
        """Send the kernel what Ctrl-C sends; a run that still waits leaves the queue."""
        waiting = self.book.runs.get(run) if run is not None else None
        if waiting is not None and waiting.status == "queued":
            self.runs.abort([waiting])
            return True
        if self.hand.link is None or self.current is None:
            return False
        return bool((await self.hand.link.request("interrupt", run=run)).get("interrupted"))

    async def ready_link(self) -> AgentLink:
        """Return the line to a kernel that is ready, resumed first if need be; AgentUnavailable if none comes."""
        await self.ensure()
        settled = (State.RUNNING, State.PAUSED, State.FAILED, State.CLOSED)
        await self.until(lambda: self.book.state in settled)
        if self.book.state is not State.RUNNING or self.hand.link is None:
            raise AgentUnavailable(f"session {self.book.name} has no machine: {self.message or self.book.state}")
        return self.hand.link

    async def ask(self, operation: str, **fields: Any) -> Header:
        """Ask the kernel's agent for something small."""
        if self.hand.link is None:
            raise AgentUnavailable(f"session {self.book.name} is {self.book.state}: no machine to ask; resume it first")
        return await self.hand.link.request(operation, **fields)

    async def set_budget(self, budget_nano: int) -> None:
        """Replace the session's budget."""
        await self.write(Row("budget", {"budget_nano": budget_nano}, session=self.book.name))

    async def set_run_budget(self, budget_nano: int) -> None:
        """Replace the budget of the run under way, or suspended; UsageError if there is none."""
        run = run_under_way(self.book, self.current)
        if run is None:
            raise UsageError(f"session {self.book.name} has no cell under way that a budget could be for")
        body = {"run": run.run, "budget_nano": budget_nano}
        await self.write(Row("run_budget", body, session=self.book.name))

    # -- cells

    def pump(self) -> asyncio.Task[Any] | None:
        """Send the next cell if the kernel can take one; the task ends when the agent has answered."""
        if self.book.state is not State.RUNNING or self.current is not None or self.pause_pending or self.cap.reached:
            return None
        queue, suspended = self.book.queued, self.book.suspended
        link = self.hand.link
        if link is None or not link.up or not (queue or suspended):  # before its hello nobody knows what runs there
            return None
        if self.hold.keeps_kernel:
            return None
        if suspended is not None:
            return self.continuing.go_on(suspended)
        queue[0].status = "running"
        self.current = queue[0].run
        return self.spawn(self._send(queue[0]))

    async def _send(self, run: Run) -> None:
        assert self.hand.link is not None
        try:
            cell: dict[str, Any] = {
                "code": run.code,
                "cell_id": run.cell_id,
                **({"trace": list(run.trace)} if run.trace else {}),
                **({"flops": True} if run.count_flops else {}),
            }
            await self.hand.link.request("run", run=run.run, allow_stdin=True, **cell)
        except CiuicError as error:
            if run.status == "running" and self.live and (self.current == run.run or run.started_ms is None):
                run.status = "queued"
                if self.current == run.run:
                    self.current = None
                self.message = f"the cell waits: {error}"
                self.changed()

    async def settle(self) -> None:
        """Save if a pause waits and nothing runs, have the cell that runs held; else send the next cell."""
        if self.pause_pending and self.book.state is State.RUNNING:
            if self.current is not None:
                self.hold.ask()
            elif self.book.suspended is not None:  # it did not go on yet: its checkpoint is as good as a new one
                text = "released again before the cell went on; it is where it was"
                await self.offer(Event.DISCARD, goal=self.book.goal, message=text)
            else:
                await self.offer(Event.QUIET)
        self.hold.save_stages()
        self.pump()

    def headers(self, after: int) -> Iterator[tuple[int, Header]]:
        """Yield number and header of the session's events after `after`, from the mirror."""
        for seq, frame in self.mirror.read(after):
            yield seq, decode(frame).header

    def note(self, text: str, level: str = "info") -> None:
        """Tell everyone who reads the session's events."""
        self.tell({"kind": "note", "run": self.current, "text": text, "level": level})

    def tell(self, header: Header) -> None:
        """Put an event of ours among the session's, for everyone who reads them."""
        self._teller.tell(header)

    # -- what the line brings

    def line_changed(self, up: bool) -> None:
        """The line to the agent is up or down."""
        if up:
            self.hand.heard()
        self.changed()

    def hello(self, header: Header) -> None:
        """The agent is there: it may be ready, failed, dead, or in the middle of a run."""
        run = header.get("run")
        self.continuing.hello(int(header["last_seq"]))
        self.hand.hello(int(header.get("checkpoint") or 0))
        if run is not None:
            known = self.book.runs.get(run)
            if self.current != run:  # it began, or went on, where we did not hear of it
                self.tally = Tally(known.usage if known is not None else None)
            self.current = str(run)
            if known is not None:
                known.status = "running"
        self._kernel(str(header.get("kernel")), header.get("restored"), str(header.get("error") or ""))
        self.hold.hello(bool(header.get("held")), header.get("stages"))
        self.spawn(self.settle())  # a cell or a pause may wait since before we were restarted

    def _kernel(self, kernel: str, restored: Header | None, error: str) -> None:
        state = self.book.state
        if kernel in ("ready", "restored") and state is State.STARTING:
            machine = self.book.intent["id"] if self.book.intent is not None else None
            if machine != self._readied:  # the agent's greeting and its event may both say so
                self._readied = machine
                self.spawn(self._ready(restored))
        elif kernel == "failed" and state is State.STARTING:
            text = f"the checkpoint could not be restored: {error}; it is kept"
            self.spawn(self.offer(Event.RESTORE_FAILED, message=text, goal="restore_failed"))
        elif kernel == "dead" and state in (State.STARTING, State.RUNNING, State.SAVING):
            text = f"{error or 'the kernel died'}; resume goes back to the last checkpoint"
            self.spawn(self.offer(Event.KERNEL_DIED, message=text, goal="died"))

    async def _ready(self, restored: Header | None) -> None:
        words = "ready"
        if restored is not None:
            seconds = float(restored.get("seconds", {}).get("total", 0.0))
            words = f"restored in {seconds:.1f} s"
            row = Row("restored", {"seconds": seconds}, session=self.book.name)
            await self.write(row, *self.continuing.of_restored(restored))
        self.step_text = ""
        if await self.offer(Event.KERNEL_READY, message=words):
            await self.settle()

    def event(self, header: Header, seq: int, frame: bytes) -> None:
        """A numbered event of the agent's; it stands in the mirror already."""
        kind = header.get("kind")
        self.runs.fold(header, seq)
        if kind in ("run_started", "run_resumed"):
            self.changed(soon=True)
        elif kind == "run_ended":
            self.spawn(self.settle())
            self.changed()
        elif kind == "stage":
            self.hold.stage(header, seq)
        if self.continuing.caught_up(seq):
            self.spawn(self.settle())
        self.feed_viewers.event(seq, frame)  # behind the state it made: who saw a run end has seen the state after it
        if kind == "kernel":
            how = header.get("signal") or header.get("exit_code")
            error = str(header.get("error") or f"the kernel's process ended ({how})")
            self._kernel(str(header.get("state")), header.get("report"), error)

    def late_event(self, header: Header, seq: int, frame: bytes, *, suspended: str) -> None:
        """An event of an agent that is gone: it is shown, and it counts for its run; nothing is done about it.

        The run `suspended` goes on from a checkpoint: that it died with its machine is not its end.
        """
        if (header.get("status"), header.get("run")) != ("died", suspended):
            self.runs.fold(header, seq)
        self.feed_viewers.event(seq, frame)

    def sample(self, header: Header) -> None:
        """Usage of the machine and the witnesses of idleness."""
        self.usage = {key: value for key, value in header.items() if key not in ("type", "buffers", "look")}
        self.forecast.take(header.get("look"))
        self.watch.take(header, self.context.clock.boot())
        self.trace.take(header, self.context.clock.boot())
        self.energy.take(header, self.context.clock.boot())
        if self.live and self.book.intent is not None:
            machine, of = str(self.book.intent["id"]), str(self.book.offer["instance"])
            self.context.devices.take(machine, of, header, self.context.clock.boot())
        self.tally.take(header, self.context.clock.boot())
        if self.context.watched is not None:
            self.context.watched.sampled(self.book.name, self.current is not None)
        if self.current is not None:
            self.feed_viewers.status(soon=True)  # meters draw the use of a machine while a cell runs, twice a second

    def progress(self, header: Header) -> None:
        """A step of a save, and how much of its bytes is written where the agent knows."""
        if self.book.state is State.SAVING:
            share = header.get("share")
            self.step_text = str(header.get("step"))
            self.saved_share = min(1.0, max(0.0, float(share))) if isinstance(share, int | float) else None
            self.changed()

    # -- what time brings

    def begin_tick(self) -> None:
        """Look at everything beside the other sessions; what still looks, because nobody answers it, is let be."""
        for name, look in (("rules", self._rules), ("hand", self.hand.tick)):
            if name not in self._looking or self._looking[name].done():
                self._looking[name] = self.spawn(look())

    async def tick(self) -> None:
        """Look once a second: the cap, the idle rule, a save that keeps failing, a machine that went silent."""
        await self._rules()
        await self.hand.tick()

    async def _rules(self) -> None:
        if self.live:
            await self.cap.tick()
            await self.retry.tick()
            self.hold.tick()
            self.pump()  # a cell the agent refused for a moment goes again
        if self.book.state is State.RUNNING and not self.pause_pending:
            now = self.context.clock.boot()
            if self.watch.due(self, now):
                await self.pause(message="idle: saved and released by the break-even rule", by_rule=True)
