"""A suspended run goes on: on the machine that was restored in the middle of it, before any cell that waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control import rows
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.projections import Run
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import CiuicError, UsageError
from ciuic_jupyter.kernels.protocol import MAX_HEADER, decode

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

Header = dict[str, Any]

_MOST_SHOWN = MAX_HEADER // 2  # bytes of outputs the agent compares with; what is behind them is shown again


class Continuation:
    """Knows what the kernel was restored with; sends `resume` once the agent's own events prove that none was sent."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._behind = 0  # the newest event the agent had when it said hello

    def hello(self, last_seq: int) -> None:
        """The agent has events up to `last_seq`: one of them may say that the run goes on already."""
        self._behind = last_seq

    def caught_up(self, seq: int) -> bool:
        """Tell whether event `seq` is the last of those that were waited for."""
        return seq == self._behind

    def of_restored(self, restored: Header) -> list[Row]:
        """Return the rows that make the restored run, and no other, the one that goes on."""
        runner = self._runner
        book, held, at_ms = runner.book, restored.get("run"), runner.context.now_ms()
        found = []
        for run in book.runs.values():
            if run.status == "suspended" and (held is None or held["run"] != run.run):
                text = "the restored state knows nothing of this cell: it can't go on; its variables stand as saved"
                found.append(runner.runs.end_row(run.run, "aborted", None))
                runner.tell({"kind": "note", "run": run.run, "text": text, "level": "error"})
                runner.runs.tell_end(run.run)
        if held is not None and book.checkpoint is not None:
            known = book.runs.get(str(held["run"]))
            if known is not None and known.status == "ok":
                text = "this cell had ended, but the last checkpoint is from the middle of it: its rest runs again"
                runner.tell({"kind": "note", "run": known.run, "text": text, "level": "warning"})
            saved = {"seq": book.checkpoint["seq"], "report": {"run": held}}
            found += rows.suspend(runner, saved, at_ms, ended=True)
        return found

    def go_on(self, run: Run) -> asyncio.Task[Any] | None:
        """Have the kernel go on with a suspended run; None as long as the agent may be doing it already."""
        runner = self._runner
        if runner.mirror.last_seq < self._behind:
            return None
        run.status, runner.current = "running", run.run
        return runner.spawn(self._send(run))

    async def _send(self, run: Run) -> None:
        runner = self._runner
        try:
            await runner.ask("resume", run=run.run, shown=self._shown(run))
        except CiuicError as error:
            if runner.current == run.run and run.status == "running" and runner.live:
                run.status, runner.current = "suspended", None
                runner.message = f"the cell can't go on: {error}; it is tried again. Resume without the cell to drop it"
                runner.changed()

    def _shown(self, run: Run) -> list[Header]:
        """Return the outputs of a run behind its checkpoint, oldest first: they come again, and are shown once."""
        mirror = self._runner.mirror
        after = run.boundary["after"] if run.boundary is not None else mirror.last_seq
        found, size = [], 0
        for _, frame in mirror.read(max(after, mirror.first_seq - 1)):
            header = decode(frame).header
            if header.get("kind") == "output" and header.get("run") == run.run:
                size += len(frame)
                if size > _MOST_SHOWN:
                    break
                found.append(header)
        return found

    async def drop(self) -> None:
        """End the suspended run where it stands, and the cells that wait behind it: its variables are kept."""
        runner = self._runner
        run = runner.book.suspended
        if run is None:
            if runner.book.state is State.RUNNING and runner.current is not None:
                raise UsageError(f"the cell of session {runner.book.name} runs already; interrupt it instead")
            return
        runner.runs.end_here(run.run)
        await runner.flush()
