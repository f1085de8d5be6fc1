"""Holding the cell under way at a loop boundary: for a pause, and for checkpoints that a run or its code asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control import rows
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.link import AgentLink
from ciuic_jupyter.control.projections import Run
from ciuic_jupyter.control.stages import Stages
from ciuic_jupyter.core.money import NANO, cost
from ciuic_jupyter.core.session import Event, State
from ciuic_jupyter.errors import AgentUnavailable, CiuicError

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_log = logging.getLogger(__name__)

_STAGE_AGAIN_MS = 60_000  # behind a checkpoint for a stage that failed


class Hold:
    """Asks the agent to hold the cell, and knows how long it has been asked; a cell that ends first needs no hold."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.where = ""  # the cell is held, in words
        self._asking: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._saving: asyncio.Task[None] | None = None
        self._unable: AgentLink | None = None  # an agent that knows no hold
        self._skipped: list[str] = []
        self._tried_ms = 0
        self._stages = Stages(runner)
        self._stages_after_ms = 0  # when one that failed is tried again

    def reset(self) -> None:
        """Forget a machine that is gone."""
        self.where, self._unable, self._skipped, self._tried_ms = "", None, [], 0
        self._stages_after_ms = 0
        self._stages.clear()

    def _run(self) -> Run | None:
        """Return the run that a pause waits for, if it is to be held: who closes a session lets its cell end."""
        runner = self._runner
        pausing = runner.pause_pending and runner.book.state is State.RUNNING and runner.book.goal != "closed"
        return runner.book.runs.get(runner.current) if pausing and runner.current is not None else None

    # -- a pause

    def ask(self) -> None:
        """Have the cell hold at its next boundary, if a pause waits for it and it was not asked yet."""
        link = self._runner.hand.link
        if self._run() is None or link is None or link is self._unable or _under_way(self._asking):
            return
        self._asking = self._runner.spawn(self._ask(link))

    async def _ask(self, link: AgentLink) -> None:
        runner = self._runner
        try:
            reply = await link.request("hold")
        except AgentUnavailable:  # the machine went first
            return
        except CiuicError as error:
            _log.warning("%s: its cell can't be held, the pause waits for its end: %s", runner.book.name, error)
            self._unable = link
            return
        if not reply.get("held"):
            await runner.settle()
        elif self._run() is None:
            await self.go()
        else:
            self.where = str(reply.get("where") or "")
            await runner.offer(Event.QUIET)

    async def go(self) -> None:
        """Let a held cell go on, and withdraw a hold that was only asked for."""
        self.where = ""
        if self._runner.hand.link is not None:
            with suppress(CiuicError):  # without its agent no cell goes anywhere
                await self._runner.hand.link.request("go")

    async def now(self) -> None:
        """Wait no longer: go back to the checkpoint that holds the cell; without one, interrupt it."""
        runner = self._runner
        if runner.current is None or runner.book.state is not State.RUNNING:
            return
        if runner.book.holds(runner.current):
            text = "released without a save; resume goes on from the cell's last checkpoint"
            await runner.offer(Event.DISCARD, goal=runner.book.goal, message=text)
        else:
            await runner.interrupt(runner.current)

    def hello(self, held: bool, stages: Sequence[Sequence[Any]] | None) -> None:
        """A cell that nobody wants to hold any more goes on: we were restarted between a failed save and our word."""
        runner = self._runner
        if stages is not None:
            self._stages.hello(stages)
        if held and runner.book.state is State.RUNNING and not runner.pause_pending and not _under_way(self._saving):
            runner.spawn(self.go())

    def view(self) -> dict[str, Any] | None:
        """Return what people choose from when no boundary came within the grace; None before that."""
        runner, run = self._runner, self._run()
        if run is None:
            return None
        book, now_ms = runner.book, runner.context.now_ms()
        waiting = (now_ms - max(book.pausing_ms, run.resumed_ms or run.started_ms or 0)) / 1000
        grace = run.grace if run.grace is not None else runner.context.settings.pause_grace_seconds
        if waiting < grace:
            return None
        lose_ms = max(0, now_ms - self._kept_ms(run))
        lose_nano = cost(book.rate, lose_ms)
        return {
            "waiting_seconds": waiting,
            "skipped": list(self._skipped),
            "choices": ["wait", "now"],
            "goes_back": book.holds(run.run),
            "lose_seconds": lose_ms / 1000,
            "lose_nano": lose_nano,
            "lose_usd": lose_nano / NANO,
        }

    def _kept_ms(self, run: Run) -> int:
        """Return since when the work of a run stands in no checkpoint."""
        book = self._runner.book
        begun = run.resumed_ms or run.started_ms or self._runner.context.now_ms()
        held = int(book.checkpoint["at_ms"]) if book.checkpoint is not None and book.holds(run.run) else 0
        return max(begun, held)

    # -- what time brings

    def tick(self) -> None:
        """Look once a second: ask again, learn why no boundary was good, take the checkpoints a run asked for."""
        runner = self._runner
        self.ask()
        if self.view() is None:
            self._skipped = []
        elif not _under_way(self._looking):
            self._looking = runner.spawn(self._look())
        if self._checkpoint_due() and not _under_way(self._saving):
            self._saving = runner.spawn(self._take())
        self.save_stages()

    async def every(self, seconds: float) -> None:
        """Let the run under way be saved so often from now on; without one nothing is changed."""
        runner = self._runner
        if runner.current is not None:
            await runner.write(Row("run_every", {"run": runner.current, "seconds": seconds}, session=runner.book.name))

    async def _look(self) -> None:
        with suppress(CiuicError):
            self._skipped = list((await self._runner.ask("boundary")).get("skipped") or ())
        self._runner.changed(soon=True)

    def _checkpoint_due(self) -> bool:
        runner = self._runner
        run = runner.book.runs.get(runner.current) if runner.current is not None else None
        if run is None or run.checkpoint_every is None or run.started_ms is None or runner.pause_pending:
            return False
        if runner.book.state is not State.RUNNING or run.status != "running":
            return False
        return runner.context.now_ms() - max(self._kept_ms(run), self._tried_ms) >= run.checkpoint_every * 1000

    # -- stages

    def stage(self, header: Mapping[str, Any], seq: int) -> None:
        """The cell's code marked the end of a stage: a checkpoint is taken at the next boundary, or behind the cell."""
        self._stages.mark(header, seq)
        self.save_stages()

    def saved(self, report: Mapping[str, Any]) -> None:
        """A checkpoint is there, for whatever reason: it holds the stages that ended before it."""
        self._stages.saved(report.get("run"))

    def save_stages(self) -> None:
        """Take a checkpoint if a stage waits for one; with one under way, the next look sees what that left out."""
        if self._stage_due() and not _under_way(self._saving):
            self._saving = self._runner.spawn(self._take())

    def _stage_due(self) -> bool:
        runner = self._runner
        if not self._stages or runner.hand.link is None or runner.book.state is not State.RUNNING:
            return False
        if runner.pause_pending:  # its save is from behind the stage, too, and says so
            return False
        if runner.current is None and runner.book.suspended is not None:
            return False
        return runner.context.now_ms() >= self._stages_after_ms

    @property
    def keeps_kernel(self) -> bool:
        """Whether the next cell waits: the last one marked a stage that no boundary came behind, it is saved first."""
        return self._runner.current is None and self._stage_due()

    # -- the checkpoint itself

    async def _take(self) -> None:
        """Take a checkpoint, and more for stages that it left out; a cell may have waited for that."""
        await self._checkpoint()
        while self._stage_due() and await self._checkpoint():
            pass
        self._runner.pump()

    async def _checkpoint(self) -> bool:
        """Save in the middle of the cell, which then goes on; for a stage also behind it. A failure is told."""
        runner, run = self._runner, self._runner.current
        self._tried_ms = runner.context.now_ms()
        try:
            reply = await runner.ask("checkpoint", behind=bool(self._stages))
            await runner.hand.bring(int(reply["seq"]))
        except AgentUnavailable:
            return False
        except CiuicError as error:
            if runner.current == run:
                runner.note(f"no checkpoint was taken, the cell goes on and it is tried again: {error}", "warning")
            self._stages_after_ms = runner.context.now_ms() + _STAGE_AGAIN_MS
            return False
        finally:
            self._tried_ms = max(self._tried_ms, runner.context.now_ms() if runner.live else 0)
        known = runner.book.checkpoint["seq"] if runner.book.checkpoint is not None else 0
        if reply["seq"] > known:
            await runner.write(rows.checkpoint(runner, reply, runner.context.now_ms()))
        self.saved(reply["report"])
        return True


def _under_way(task: asyncio.Task[None] | None) -> bool:
    return task is not None and not task.done()
