"""The books: a pure fold of ledger entries into sessions, segments, runs and receipts; balances live nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ciuic_jupyter.control.ledger import Entry
from ciuic_jupyter.core.money import billed_ms, cost
from ciuic_jupyter.core.session import State, meter_open
from ciuic_jupyter.errors import LedgerError

_STARTS = ("machine_started", "kernel_ready")  # a pause that was asked for meanwhile waits on
_FAILURES = ("kernel_died", "machine_lost", "machine_lost_saved")


@dataclass
class Segment:
    """A machine's paid time: unix milliseconds, the price frozen at its start."""

    machine: str
    opened_ms: int
    rate: int
    currency: str
    unit_ms: int
    minimum_ms: int
    closed_ms: int | None = None
    reason: str = ""
    estimated: bool = False
    instance: str = ""  # its machine type; older rows don't say it
    corrected: bool = False  # the provider took back what it had said of its end
    ready_ms: int | None = None  # when a kernel on it was ready

    def length_ms(self, now_ms: int) -> int:
        """Return its length so far, never below zero."""
        return max(0, (self.closed_ms if self.closed_ms is not None else now_ms) - self.opened_ms)

    def billed_ms(self, now_ms: int) -> int:
        """Return the time that is paid for it so far: whole units, and the minimum at least."""
        return billed_ms(self.length_ms(now_ms), unit_ms=self.unit_ms, minimum_ms=self.minimum_ms)

    def cost(self, now_ms: int) -> int:
        """Return what it costs so far, in nano-units: priced once, from its two ends."""
        return cost(self.rate, self.length_ms(now_ms), unit_ms=self.unit_ms, minimum_ms=self.minimum_ms)


@dataclass
class Run:
    """One cell's execution; `status` is queued, running, suspended (a checkpoint holds it), or how it ended."""

    run: str
    code: str
    cell_id: str | None
    asked_ms: int
    status: str = "queued"
    first_seq: int | None = None
    last_seq: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    checkpoint_every: float | None = None  # seconds
    budget_nano: int | None = None
    grace: float | None = None  # seconds a pause waits for it before it asks what to do
    trace: tuple[str, ...] = ()  # modules it can be paused inside, too
    resumed_ms: int | None = None
    resumed_seq: int = 0
    boundary: dict[str, Any] | None = None  # where it last stood suspended: `checkpoint`, `after` (an event), `where`
    turns: dict[str, Any] | None = None  # of its outermost counted loop, as last seen: done, total, seconds_per_turn
    loss: dict[str, float] | None = None  # as printed: `first` and `last`
    seen_seq: int = 0  # events up to here were looked at when it was suspended
    usage: dict[str, Any] | None = None  # what its samples said; rows of before have none
    before: dict[str, Any] | None = None  # what those said between the cell before on the same machine, and it
    count_flops: bool = False
    flops: dict[str, Any] | None = None  # what it computed, as the kernel's `resume.flops` tells, by now or by its end

    @property
    def state(self) -> str:
        """Its status in the words of panels: queued, running, suspended, done, error, aborted or died."""
        return "done" if self.status == "ok" else self.status

    def view(self) -> dict[str, Any]:
        """Return it as JSON; times in unix seconds."""
        return {
            "run": self.run,
            "cell_id": self.cell_id,
            "status": self.status,
            "first_seq": self.first_seq,
            "last_seq": self.last_seq,
            "started": self.started_ms / 1000 if self.started_ms is not None else None,
            "ended": self.ended_ms / 1000 if self.ended_ms is not None else None,
            "where": self.boundary["where"] if self.boundary is not None and self.status == "suspended" else None,
        }


@dataclass
class Book:
    """One life of a session: from its creation to its close."""

    name: str
    life: str
    offer: dict[str, Any]
    created_ms: int
    budget_nano: int | None = None
    cwd: str | None = None
    first_seq: int = 1  # of this life's events
    only_here: bool = True  # no machine of it was ever anywhere but on this computer
    own_key: bool = False  # its checkpoints are signed by a key of this life; older ones by the user's
    state: State | None = None
    goal: str = ""
    pausing: bool = False  # a pause was asked and waits for a quiet moment
    pausing_ms: int = 0  # since when
    intent: dict[str, Any] | None = None
    intents: dict[str, int] = field(default_factory=dict)  # when each machine was asked for
    checkpoint: dict[str, Any] | None = None
    storage_since_ms: int | None = None
    storage_rate: int = 0
    closed_ms: int | None = None
    kept_until: float | None = None
    segments: list[Segment] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)
    receipts: list[dict[str, Any]] = field(default_factory=list)
    save_seconds: list[float] = field(default_factory=list)
    restore_seconds: list[float] = field(default_factory=list)
    moments: list[tuple[int, State]] = field(default_factory=list)  # when each state began
    changes: int = 0  # entries folded in: what is known of so many stays true until there are more
    failures: int = 0  # machines or kernels that went without a word, with what they had not saved

    @property
    def open_segment(self) -> Segment | None:
        """The segment of the machine there is, if any."""
        return next((segment for segment in reversed(self.segments) if segment.closed_ms is None), None)

    @property
    def rate(self) -> int:
        """Nano-units an hour that flow now: 0 unless a machine may exist, be it one that no one wants any more."""
        open_now = {segment.machine: segment.rate for segment in self.segments if segment.closed_ms is None}
        known = self.intent["id"] in open_now if self.intent is not None else bool(open_now)
        awaited = self.state is not None and meter_open(self.state) and not known
        return sum(open_now.values()) + (int(self.offer["price_nano_per_hour"]) if awaited else 0)

    @property
    def flow(self) -> int:
        """Nano-units an hour that are due now: for machines, and for kept checkpoints until the session is closed."""
        return self.rate + (self.storage_rate if self.closed_ms is None else 0)

    @property
    def queued(self) -> list[Run]:
        """Runs that wait for their turn, oldest first."""
        return [run for run in self.runs.values() if run.status == "queued"]

    @property
    def suspended(self) -> Run | None:
        """The run that goes on when the session is resumed, if any."""
        return next((run for run in self.runs.values() if run.status == "suspended"), None)

    def holds(self, run: str | None) -> bool:
        """Tell whether the newest checkpoint was taken in the middle of `run`."""
        held = self.checkpoint["report"].get("run") if self.checkpoint is not None else None
        return held is not None and held["run"] == run

    def compute_nano(self, now_ms: int) -> int:
        """Return what its machines cost so far."""
        return sum(segment.cost(now_ms) for segment in self.segments)

    def storage_nano(self, now_ms: int) -> int:
        """Return what keeping its checkpoints cost so far."""
        if self.storage_since_ms is None:
            return 0
        return cost(self.storage_rate, max(0, self.end_ms(now_ms) - self.storage_since_ms))

    def spent_nano(self, now_ms: int) -> int:
        """Return compute and storage together."""
        return self.compute_nano(now_ms) + self.storage_nano(now_ms)

    def billed_ms(self, now_ms: int) -> int:
        """Return the time machines are paid for, in whole billing units."""
        return sum(segment.billed_ms(now_ms) for segment in self.segments)

    def unbilled_ms(self, now_ms: int) -> int:
        """Return the time since the first machine in which there was none: what stopping saved."""
        if not self.segments:
            return 0
        lived = sum(segment.length_ms(now_ms) for segment in self.segments)
        return max(0, self.end_ms(now_ms) - self.segments[0].opened_ms - lived)

    def unspent_nano(self, now_ms: int) -> int:
        """Return what the unbilled time would have cost at the latest price."""
        return cost(self.segments[-1].rate, self.unbilled_ms(now_ms)) if self.segments else 0

    def end_ms(self, now_ms: int) -> int:
        """Return when this life ended, the end of its last machine included; `now_ms` while it goes on."""
        last = self.segments[-1].closed_ms if self.segments else None
        return max(self.closed_ms, last or 0) if self.closed_ms is not None else now_ms


def born(name: str, body: Mapping[str, Any]) -> Book:
    """Return the book of a life that begins, of the body of its row."""
    return Book(
        name=name,
        life=body["life"],
        offer=body["offer"],
        created_ms=body["at_ms"],
        budget_nano=body["budget_nano"],
        cwd=body["cwd"],
        first_seq=body.get("first_seq", 1),
        own_key=body.get("own_key", False),
        only_here=body["offer"]["provider"] == "local",
    )


class Books:
    """All sessions: the newest life of each by name, and the earlier lives."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.sessions: dict[str, Book] = {}
        self.past: list[Book] = []
        self.machines: dict[str, Book] = {}
        for entry in entries:
            self.apply(entry)

    @property
    def lives(self) -> list[Book]:
        """Every life there was, oldest first."""
        return [*self.past, *self.sessions.values()]

    def apply(self, entry: Entry) -> None:
        """Fold one entry in; LedgerError for one that speaks of what the ledger does not know."""
        if entry.kind == "session":
            self._born(entry)
            return
        book = self.machines.get(entry.machine) if entry.machine else None
        book = book or self.sessions.get(entry.session)
        if book is None:
            raise LedgerError(f"entry {entry.id} ({entry.kind}) is about {entry.session!r}, which no entry created")
        fold = getattr(self, f"_{entry.kind}", None)
        if fold is None:
            raise LedgerError(f"entry {entry.id} is of the unknown kind {entry.kind!r}; a newer version wrote it")
        fold(book, entry)
        book.changes += 1

    def _born(self, entry: Entry) -> None:
        body = entry.body
        if entry.session in self.sessions:
            self.past.append(self.sessions.pop(entry.session))
        self.sessions[entry.session] = born(entry.session, body)

    def _state(self, book: Book, entry: Entry) -> None:
        state = State(entry.body["to"])
        if state is not book.state:
            book.moments.append((entry.body["at_ms"], state))
        book.state = state
        book.goal = entry.body.get("goal", book.goal)
        book.failures += entry.body["event"] in _FAILURES
        if entry.body["event"] not in _STARTS:
            pausing = entry.body["event"] == "pause"
            if pausing and not book.pausing:
                book.pausing_ms = entry.body["at_ms"]
            book.pausing = pausing
        if book.state is State.CLOSED:
            book.closed_ms = entry.body["at_ms"]
        segment = book.open_segment
        if entry.body["event"] == "kernel_ready" and segment is not None:
            segment.ready_ms = entry.body["at_ms"]

    def _intent(self, book: Book, entry: Entry) -> None:
        book.intent = {**entry.body, "id": entry.machine}
        book.intents[entry.machine] = entry.body["at_ms"]
        self.machines[entry.machine] = book

    def _segment_open(self, book: Book, entry: Entry) -> None:
        body = entry.body
        self.machines[entry.machine] = book
        if any(segment.machine == entry.machine for segment in book.segments):
            return
        book.segments.append(
            Segment(
                entry.machine,
                body["at_ms"],
                body["rate"],
                body["currency"],
                body["unit_ms"],
                body["minimum_ms"],
                instance=body.get("instance", str(book.offer["instance"])),
            )
        )

    def _segment_close(self, book: Book, entry: Entry) -> None:
        for segment in book.segments:
            if segment.machine == entry.machine and segment.closed_ms is None:
                segment.closed_ms = max(segment.opened_ms, entry.body["at_ms"])
                segment.reason = entry.body["reason"]
                segment.estimated = entry.body["estimated"]

    def _segment_correct(self, book: Book, entry: Entry) -> None:
        """The provider says otherwise than it did: another end, or (`at_ms` is None) none yet."""
        for segment in book.segments:
            if segment.machine == entry.machine:
                at_ms = entry.body["at_ms"]
                segment.closed_ms = max(segment.opened_ms, at_ms) if at_ms is not None else None
                segment.reason, segment.estimated = entry.body["reason"], entry.body["estimated"]
                segment.corrected = True

    def _checkpoint(self, book: Book, entry: Entry) -> None:
        if book.checkpoint is None or entry.body["seq"] >= book.checkpoint["seq"]:
            book.checkpoint = entry.body
        if book.storage_since_ms is None:
            book.storage_since_ms, book.storage_rate = entry.body["at_ms"], entry.body["storage_rate"]
        seconds = entry.body["report"].get("seconds", {}).get("total")
        if seconds is not None:
            book.save_seconds.append(float(seconds))

    def _restored(self, book: Book, entry: Entry) -> None:
        book.restore_seconds.append(float(entry.body["seconds"]))

    def _run(self, book: Book, entry: Entry) -> None:
        body = entry.body
        run = Run(body["run"], body["code"], body["cell_id"], body["at_ms"])
        run.checkpoint_every, run.grace = body.get("checkpoint_every"), body.get("grace")
        run.trace = tuple(body.get("trace", ()))
        run.budget_nano, run.count_flops = body.get("budget_nano"), body.get("flops", False)
        book.runs.setdefault(body["run"], run)

    def _run_every(self, book: Book, entry: Entry) -> None:
        run = book.runs.get(entry.body["run"])
        if run is not None:
            run.checkpoint_every = entry.body["seconds"]

    def _run_start(self, book: Book, entry: Entry) -> None:
        run = book.runs.get(entry.body["run"])
        if run is not None and run.status == "queued":
            run.status, run.started_ms, run.first_seq = "running", entry.body["at_ms"], entry.body["first_seq"]
            run.before = entry.body.get("before")

    def _run_end(self, book: Book, entry: Entry) -> None:
        run = book.runs.get(entry.body["run"])
        if run is not None:
            run.status, run.ended_ms, run.last_seq = entry.body["status"], entry.body["at_ms"], entry.body["last_seq"]
            run.turns = entry.body.get("turns", run.turns)
            run.loss = entry.body.get("loss")
            run.usage = entry.body.get("usage", run.usage)
            run.flops = entry.body.get("flops", run.flops)

    def _run_suspend(self, book: Book, entry: Entry) -> None:
        run, body = book.runs[entry.body["run"]], entry.body
        run.status, run.seen_seq = "suspended", body["seen"]
        run.ended_ms = run.last_seq = None
        run.usage = body.get("usage", run.usage)
        run.flops = body.get("flops", run.flops)
        if run.boundary is None or run.boundary["checkpoint"] != body["checkpoint"]:
            run.boundary = {name: body[name] for name in ("checkpoint", "after", "where")}

    def _run_resume(self, book: Book, entry: Entry) -> None:
        run = book.runs.get(entry.body["run"])
        if run is not None and run.status in ("suspended", "running"):
            run.status, run.resumed_seq, run.resumed_ms = "running", entry.body["seq"], entry.body["at_ms"]

    def _receipt(self, book: Book, entry: Entry) -> None:
        book.receipts.append(entry.body)

    def _keep(self, book: Book, entry: Entry) -> None:
        book.kept_until = entry.body["until"]

    def _run_budget(self, book: Book, entry: Entry) -> None:
        book.runs[entry.body["run"]].budget_nano = entry.body["budget_nano"]

    def _budget(self, book: Book, entry: Entry) -> None:
        book.budget_nano = entry.body["budget_nano"]

    def _move(self, book: Book, entry: Entry) -> None:
        book.offer = entry.body["offer"]
        book.only_here = book.only_here and book.offer["provider"] == "local"

    def _note(self, book: Book, entry: Entry) -> None:
        """Notes change nothing; they are there to be read."""
