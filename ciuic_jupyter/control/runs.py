"""What becomes of runs: by the agent's events, live or from the mirror, and where no agent is left to tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control import rows
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.projections import Run
from ciuic_jupyter.core.flops import told
from ciuic_jupyter.core.losses import Losses
from ciuic_jupyter.core.session import State
from ciuic_jupyter.core.usage import Tally

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

Header = dict[str, Any]


class Runs:
    """Keeps the runs in the session's book, and writes the rows that say so after a restart."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._losses: dict[str, Losses] = {}  # of runs that we saw begin

    def fold(self, header: Header, seq: int) -> None:
        """Take what an event says of a run; twice is as good as once."""
        kind, run, status = header.get("kind"), str(header.get("run")), str(header.get("status"))
        if kind == "output":
            self._printed(run, header)
        elif kind == "run_started":
            self._losses[run] = Losses()
            self._started(run, header, seq)
        elif kind == "run_resumed":
            self._resumed(run, seq)
        elif kind == "run_ended" and not (status == "died" and self._runner.book.holds(run)):  # then it is suspended
            if (known := self._runner.book.runs.get(run)) is not None and "flops" in header:
                known.flops = told(header["flops"])
            self.ended(run, status, seq)

    def _printed(self, run: str, header: Header) -> None:
        content = header.get("content")
        if header.get("msg_type") == "stream" and run in self._losses and isinstance(content, dict):
            self._losses[run].take(str(content.get("text", "")))

    def _started(self, run: str, header: Header, seq: int) -> None:
        runner = self._runner
        book, at_ms = runner.book, runner.context.now_ms()
        written = []
        if run not in book.runs:  # we were killed before its row was durable
            asked = {"run": run, "code": header.get("code", ""), "cell_id": header.get("cell_id"), "at_ms": at_ms}
            book.runs[run] = Run(run, asked["code"], asked["cell_id"], at_ms)
            written.append(Row("run", asked, session=book.name, idem=f"run:{book.life}:{run}"))
        known = book.runs[run]
        if known.first_seq == seq:  # its row stands already
            return
        known.first_seq, known.started_ms = seq, at_ms
        if known.status == "queued":
            known.status, runner.current = "running", run
        body: dict[str, Any] = {"run": run, "first_seq": seq, "at_ms": at_ms, "before": runner.tally.view()}
        known.before, runner.tally = body["before"], Tally()
        written.append(Row("run_start", body, session=book.name, idem=f"run_start:{book.life}:{seq}:{run}"))
        runner.write_soon(*written)

    def _resumed(self, run: str, seq: int) -> None:
        runner = self._runner
        known = runner.book.runs.get(run)
        if known is not None and known.status in ("suspended", "running") and seq > known.resumed_seq:
            known.status, runner.current = "running", run
            known.resumed_seq, known.resumed_ms = seq, runner.context.now_ms()
            runner.tally = Tally(known.usage)
            body = {"run": run, "seq": seq, "at_ms": known.resumed_ms}
            runner.write_soon(Row("run_resume", body, session=runner.book.name))

    def ended(self, run: str, status: str, seq: int | None) -> None:
        """Note how a run ended, once; one that did not end well takes the queue with it."""
        runner = self._runner
        self._left(run)
        known = runner.book.runs.get(run)
        if known is None or known.status not in ("running", "queued", "suspended"):
            return
        known.turns = runner.forecast.turns(run) or known.turns
        if run in self._losses:
            known.loss = self._losses.pop(run).end()
        self._end(known, status, seq)
        if status != "ok":
            self.abort(runner.book.queued)

    def _left(self, run: str) -> None:
        """A run is under way no more: keep what its samples said."""
        runner = self._runner
        if runner.current == run:
            known, seen, runner.current, runner.tally = runner.book.runs.get(run), runner.tally.view(), None, Tally()
            if known is not None and seen is not None:
                known.usage = seen

    def lost(self, run: str) -> None:
        """A run's machine went under it: the newest checkpoint holds it, or nobody else will say that it ended."""
        runner = self._runner
        book = runner.book
        self._left(run)
        if book.state is State.PAUSED and book.checkpoint is not None and book.holds(run):
            runner.write_soon(*rows.suspend(runner, book.checkpoint, runner.context.now_ms()))
        elif book.state is State.CLOSED and book.holds(run):
            self.end_here(run)
        else:
            evalue = runner.message or "the machine is gone"
            self.ended(run, "died", None)
            runner.tell({"kind": "run_ended", "run": run, "status": "died", "ename": "KernelDied", "evalue": evalue})

    def end_here(self, run: str) -> None:
        """End a run that goes no further, and tell its viewers."""
        self.ended(run, "aborted", None)
        self.tell_end(run)

    def abort(self, runs: Sequence[Run]) -> None:
        """Take runs that wait out of the queue."""
        for run in runs:
            self._end(run, "aborted", None)
            self.tell_end(run.run)

    def _end(self, run: Run, status: str, seq: int | None) -> None:
        """Give a run its last state and its moment: what it cost must not grow until the row of both is on the disk."""
        row = self.end_row(run.run, status, seq)
        run.status, run.ended_ms = status, row.body["at_ms"]
        self._runner.write_soon(row)

    def end_row(self, run: str, status: str, seq: int | None) -> Row:
        """The row of a run's end, at event `seq` if the agent told of it."""
        book = self._runner.book
        known, at_ms = book.runs.get(run), self._runner.context.now_ms()
        body: Header = {"run": run, "status": status, "last_seq": seq, "at_ms": at_ms}
        body["usage"] = known.usage if known is not None else None
        for name in ("turns", "loss", "flops"):
            if (value := getattr(known, name, None)) is not None:
                body[name] = value
        idem = f"run_end:{book.life}:{run}:{seq}" if seq is not None else None
        return Row("run_end", body, session=book.name, idem=idem)

    def tell_end(self, run: str) -> None:
        """Tell viewers that a run was aborted: no agent tells of it."""
        self._runner.tell({"kind": "run_ended", "run": run, "status": "aborted", "count": None, "seconds": 0.0})
