"""The ledger as Prometheus reads it: a collector without a state of its own, and no id in a label unless asked for.

Amounts and times are integers until the last line; floats are for display, the ledger is the truth. All of a page is
about one moment, a second ago: what happened until then is known by now, so a counter need not be taken back. Of a
machine that is being released it is ten seconds ago, for its end is known from the provider alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import fsum
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ciuic_jupyter.control.daemon import VERSION
from ciuic_jupyter.control.kinds import KINDS, Course
from ciuic_jupyter.control.marks import Marks
from ciuic_jupyter.control.purse import run_cost, run_under_way
from ciuic_jupyter.control.reconcile import ORPHANS
from ciuic_jupyter.control.spending import always_on_until
from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import State

if TYPE_CHECKING:
    from ciuic_jupyter.control.plane import Plane
    from ciuic_jupyter.control.projections import Book, Segment

SETTLED_MS = 1000  # rows are durable, and machines' ends are told, in less
SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # of a save or a restore
_ENDS = ("ok", "error", "aborted", "died")
_WAITING = ("queued", "running", "suspended")
_LONGEST = 100  # characters of a label's value

Key = tuple[str, ...]


@dataclass
class _Known:
    """What a book says that stays so until its next entry."""

    changes: int
    course: Course
    opened: list[Segment] = field(default_factory=list)  # of machines that are there
    nano: Counter[Key] = field(default_factory=Counter)  # of machines that are gone, by (currency, kind, machine type)
    ms: Counter[Key] = field(default_factory=Counter)  # by (kind, machine type)
    runs: Counter[str] = field(default_factory=Counter)  # by status


class Counts:
    """Families of counters, whose values never fall."""

    def __init__(self, marks: Marks) -> None:
        self._marks = marks

    def family(
        self, name: str, words: str, labels: Sequence[str], values: Iterable[tuple[Key, int]], unit: int
    ) -> Metric:
        """Return a counter of `values` by label values; each is shown divided by `unit`."""
        found = CounterMetricFamily(name, words, labels=labels)
        for key, value in sorted(values):
            found.add_metric(key, self._marks.at_least("|".join((name, *key)), value) / unit)
        return found


class LedgerCollector(Collector):
    """Reads a plane's books, in whatever thread asks; one at a time."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._context = plane.context
        self._marks = Marks(plane.settings.state_dir / "metrics-marks.json")
        self._counts = Counts(self._marks)
        self._known: dict[str, _Known] = {}

    def collect(self) -> Iterable[Metric]:
        """Return every family."""
        context = self._context
        at_ms = context.now_ms() - SETTLED_MS
        lives = context.books.lives
        self._known = {book.life: self._of(book) for book in lives}
        self._marks.begin(lives[0].life if lives else "")
        found = [
            _gauge("ciuic_build_info", "The version that runs, as a label.", ["version"], [((VERSION,), 1)]),
            _gauge("ciuic_as_of_timestamp_seconds", "Unix time that this page is about.", [], [((), at_ms / 1000)]),
            *self._now(lives),
            *self._totals(lives, at_ms),
            *self._times(lives),
            *self._budgets(at_ms),
        ]
        if context.settings.metrics_sessions:
            found += self._sessions(lives, at_ms)
        self._marks.keep()
        return found

    def _of(self, book: Book) -> _Known:
        known = self._known.get(book.life)
        changes = book.changes
        if known is None or known.changes != changes:
            known = _Known(changes, Course(book))
            for segment in list(book.segments):
                if segment.closed_ms is not None:
                    _add_parts(known.course, segment, segment.closed_ms, known.nano, known.ms)
                else:
                    known.opened.append(segment)
            known.runs.update(run.status for run in list(book.runs.values()))
        return known

    def _now(self, lives: Sequence[Book]) -> Iterator[Metric]:
        states = Counter(str(book.state or State.REQUESTED) for book in _named(self._plane))
        words = "Sessions, by state; closed ones until their name is used again."
        yield _gauge("ciuic_sessions", words, ["state"], [((str(one),), states[str(one)]) for one in State])
        machines = Counter(one.instance for book in lives for one in list(book.segments) if one.closed_ms is None)
        words = "Machines that are billed now, by machine type."
        yield _gauge("ciuic_machines", words, ["machine_type"], [((_label(name),), n) for name, n in machines.items()])
        rates: Counter[Key] = Counter({(self._context.settings.currency, "machine"): 0})
        for book in lives:
            currency = str(book.offer["currency"])
            rates[currency, "machine"] += book.rate
            if book.storage_since_ms is not None and book.closed_ms is None:
                rates[currency, "storage"] += book.storage_rate
        words = "Money that flows now, an hour: for machines, and for kept checkpoints."
        yield _gauge("ciuic_cost_per_hour", words, ["currency", "kind"], _money(rates))

    def _totals(self, lives: Sequence[Book], at_ms: int) -> Iterator[Metric]:
        nano: Counter[Key] = Counter()
        ms: Counter[Key] = Counter()
        always: Counter[Key] = Counter()
        kept = unbilled = 0
        for book in lives:
            known = self._known[book.life]
            nano.update(known.nano)
            ms.update(known.ms)
            for segment in known.opened:
                _add_parts(known.course, segment, known.course.told_until(at_ms), nano, ms)
            currency = str(book.offer["currency"])
            nano[currency, "storage", ""] += book.storage_nano(at_ms)
            if book.segments:
                always[(currency,)] += always_on_until(book, at_ms)
            if book.storage_since_ms is not None:
                kept += max(0, book.end_ms(at_ms) - book.storage_since_ms)
            unbilled += book.unbilled_ms(_without_machine_until(book, at_ms))
        family = self._counts.family
        words = "Money spent, by what it went to: starting, running, idle, saving, releasing, orphan, storage."
        yield family("ciuic_cost_total", words, ["currency", "kind", "machine_type"], nano.items(), NANO)
        words = "Machine time that is billed, in whole billing units, by what it went to."
        yield family("ciuic_billed_seconds_total", words, ["kind", "machine_type"], ms.items(), 1000)
        words = "Time without a machine between a session's first machine and its close."
        yield family("ciuic_unbilled_seconds_total", words, [], [((), unbilled)], 1000)
        words = "Time for which sessions had checkpoints kept."
        yield family("ciuic_kept_seconds_total", words, [], [((), kept)], 1000)
        words = "What the same sessions had cost if nobody had ever paused them."
        yield family("ciuic_always_on_cost_total", words, ["currency"], always.items(), NANO)

    def _times(self, lives: Sequence[Book]) -> Iterator[Metric]:
        words = "Time of a save, from its begin until it was read back."
        yield self._histogram("ciuic_save_seconds", words, [one for book in lives for one in list(book.save_seconds)])
        words = "Time of a restore, in the kernel."
        restores = [one for book in lives for one in list(book.restore_seconds)]
        yield self._histogram("ciuic_restore_seconds", words, restores)
        runs: Counter[str] = Counter()
        for book in lives:
            runs.update(self._known[book.life].runs)
        words = "Cells that wait, run, or are suspended in a checkpoint."
        yield _gauge("ciuic_runs", words, ["state"], [((one,), runs[one]) for one in _WAITING])
        words = "Cells that ended, by how."
        ended = [((one,), runs[one]) for one in _ENDS]
        yield self._counts.family("ciuic_runs_ended_total", words, ["status"], ended, 1)

    def _histogram(self, name: str, words: str, seconds: list[float]) -> Metric:
        counts = [0] * (len(SECONDS) + 1)
        for one in seconds:
            counts[bisect_left(SECONDS, one)] += 1
        bounds = [*(repr(bound) for bound in SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
        return HistogramMetricFamily(name, words, buckets=buckets, sum_value=fsum(seconds))

    def _budgets(self, at_ms: int) -> Iterator[Metric]:
        found: dict[Key, list[tuple[int, int]]] = {}

        def add(scope: str, currency: str, limit: int, spent: int) -> None:
            found.setdefault((currency, scope), []).append((limit, spent))

        context = self._context
        assert context.purse is not None
        for window, spent in context.purse.spent(at_ms):
            add(window.scope, context.settings.currency, window.budget_nano, spent)
        for book in _named(self._plane):
            currency = str(book.offer["currency"])
            if book.budget_nano is not None and book.state is not State.CLOSED:
                add("session", currency, book.budget_nano, book.spent_nano(at_ms))
            runner = self._plane.runners.get(book.name)
            run = run_under_way(book, runner.current) if runner is not None else None
            if run is not None and run.budget_nano is not None:
                add("run", currency, run.budget_nano, run_cost(book, run, at_ms))
        labels = ["currency", "scope"]
        sums = {key: (sum(one for one, _ in each), sum(one for _, one in each)) for key, each in found.items()}
        words = "Budgets in force: of this day, this month, the user; of open sessions and cells under way, their sum."
        yield _gauge("ciuic_budget_limit", words, labels, _money({key: one[0] for key, one in sums.items()}))
        words = "What is spent of these budgets."
        yield _gauge("ciuic_budget_spent", words, labels, _money({key: one[1] for key, one in sums.items()}))
        words = "The share that is spent of the budget of this scope of which most is."
        most = [(key, max(spent / limit for limit, spent in each)) for key, each in found.items()]
        yield _gauge("ciuic_budget_used_ratio", words, labels, most)

    def _sessions(self, lives: Sequence[Book], at_ms: int) -> Iterator[Metric]:
        """Session by session: those that are open before those that are closed, newest first, up to the cap."""
        named = sorted(_named(self._plane), key=lambda book: (book.state is State.CLOSED, -book.created_ms, book.name))
        shown = named[: self._context.settings.metrics_sessions_limit]
        names = {book.name for book in shown}
        nano: Counter[Key] = Counter()
        ms: Counter[Key] = Counter()
        for book in lives:
            if book.name in names:
                told = self._known[book.life].course.told_until(at_ms)
                nano[book.name, str(book.offer["currency"])] += book.compute_nano(told) + book.storage_nano(at_ms)
                ms[(book.name,)] += book.billed_ms(told)
        family = self._counts.family
        words = "Money spent by a session, over all its lives."
        yield family("ciuic_session_cost_total", words, ["session", "currency"], nano.items(), NANO)
        words = "Machine time of a session that is billed."
        yield family("ciuic_session_billed_seconds_total", words, ["session"], ms.items(), 1000)
        states = [((book.name, str(book.state or State.REQUESTED)), 1) for book in shown]
        yield _gauge("ciuic_session_state", "1 for the state that a session is in.", ["session", "state"], states)
        words = "Sessions that are not shown one by one, because CIUIC_METRICS_SESSIONS_LIMIT are."
        yield _gauge("ciuic_sessions_left_out", words, [], [((), len(named) - len(shown))])


def _named(plane: Plane) -> list[Book]:
    """Return the newest life of each session, without the one that only pays for machines nobody asked for."""
    return [book for book in list(plane.context.books.sessions.values()) if book.name != ORPHANS]


def _add_parts(course: Course, segment: Segment, at_ms: int, nano: Counter[Key], ms: Counter[Key]) -> None:
    name = _label(segment.instance)
    for kind in KINDS:  # a counter that begins at 0 loses nothing to who asks for its increase
        nano[segment.currency, kind, name] += 0
        ms[kind, name] += 0
    for part in course.parts(segment, at_ms):
        nano[segment.currency, part.kind, name] += part.nano
        ms[part.kind, name] += part.billed_ms


def _without_machine_until(book: Book, at_ms: int) -> int:
    """Return until when a session surely had no machine: one that is asked for may be there, and not told yet."""
    return min(at_ms, book.moments[-1][0]) if book.state is State.REQUESTED and book.moments else at_ms


def _label(text: str) -> str:
    return text[:_LONGEST]


def _gauge(name: str, words: str, labels: Sequence[str], values: Iterable[tuple[Key, float]]) -> Metric:
    found = GaugeMetricFamily(name, words, labels=labels)
    for key, value in sorted(values):
        found.add_metric(key, value)
    return found


def _money(amounts: Mapping[Key, int]) -> Iterator[tuple[Key, float]]:
    return ((key, nano / NANO) for key, nano in amounts.items())
