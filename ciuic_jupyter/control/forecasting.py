"""The forecast of the run under way: from the agent's looks at its loops to time left, money, and the budget's end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control.purse import run_cost
from ciuic_jupyter.core.budget import affordable_ms
from ciuic_jupyter.core.forecast import Forecast, Loop, NoForecast, Progress

if TYPE_CHECKING:
    from ciuic_jupyter.control.projections import Run
    from ciuic_jupyter.control.runner import Runner

_LOOPS = 16
_NO_LOOK = "its loops were not looked at yet"

View = dict[str, Any]


class Forecaster:
    """Keeps what was seen of one run, on one machine after the other; time without a machine is none of it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._run: str | None = None
        self._forget()

    def _forget(self) -> None:
        self._progress = Progress()
        self._machine: str | None = None
        self._before = 0.0  # seconds on machines that are gone
        self._seen_ms = 0
        self._said: Forecast | NoForecast = NoForecast(_NO_LOOK)

    def take(self, look: Any) -> None:
        """Take an agent's look; what is not understood is left out."""
        runner = self._runner
        if not isinstance(look, dict) or look.get("run") != runner.current or runner.current is None:
            return
        ran, loops = look.get("ran"), look.get("loops")
        if not isinstance(ran, int | float) or not isinstance(loops, list):
            return
        if self._run != runner.current:
            self._forget()
            self._run = runner.current
        machine = str(runner.book.intent["id"]) if runner.book.intent is not None else None
        if machine != self._machine:
            if self._machine is not None:
                self._before = self._progress.ran
                self._progress.moved()
            self._machine = machine
        told = [Loop.of(one) for one in loops[:_LOOPS] if isinstance(one, dict)]
        self._progress.see(self._before + ran, told)
        self._said, self._seen_ms = self._progress.forecast(), runner.context.now_ms()

    def turns(self, run: str) -> View | None:
        """Return the turns of the outermost counted loop of a run, as last seen: {done, total, seconds_per_turn}."""
        seen = self._progress.turns() if run == self._run else None
        return None if seen is None else dict(zip(("done", "total", "seconds_per_turn"), seen, strict=True))

    def view(self) -> View | None:
        """Return the forecast as JSON: seconds, nano-units, `ends_at` in unix seconds; None without a run.

        `why` says why there is none. `budget_seconds`: the budget is reached so soon, before the run is over.
        """
        runner = self._runner
        run = runner.book.runs.get(runner.current) if runner.current is not None else None
        if run is None:
            return None
        said = self._said if run.run == self._run else NoForecast(_NO_LOOK)
        empty: View = {"fraction": None, "ends_at": None, "why": None}
        if isinstance(said, NoForecast):
            return {**empty, "why": said.why}
        end_ms = self._seen_ms + round(said.left * 1000)
        seconds = {"left_seconds": said.left, "low_seconds": said.low, "high_seconds": said.high}
        return {
            **empty,
            "fraction": round(said.fraction, 4),
            "ends_at": round(end_ms / 1000, 1),
            **{name: round(value, 1) for name, value in seconds.items()},
            **self._money(run, said),
            "loop": said.name,
            "follow": said.follow,
            "done": said.done,
            "total": said.total,
            "seconds_per_turn": round(said.seconds_per_turn, 3),
            "budget_seconds": self._budget_seconds(end_ms),
        }

    def _money(self, run: Run, said: Forecast) -> View:
        """Return what the run will have cost, in whole billing units of the machine it is on."""
        book = self._runner.book
        ends = {"total_nano": said.left, "low_nano": said.low, "high_nano": said.high}
        return {name: run_cost(book, run, self._seen_ms + round(left * 1000)) for name, left in ends.items()}

    def _budget_seconds(self, end_ms: int) -> float | None:
        """Return in how many seconds the first budget is reached, if that is before the run ends."""
        book, now_ms = self._runner.book, self._runner.context.now_ms()
        segment = book.open_segment
        if segment is None:
            return None
        billed, length = segment.billed_ms(now_ms), segment.length_ms(now_ms)
        lefts = [limit.budget_nano - limit.end_nano for limit in self._runner.cap.limits(hold=False)]
        more = [affordable_ms(left, book.rate, billed, length, segment.unit_ms) for left in lefts]
        soonest = min((one for one in more if one is not None), default=None)
        return soonest / 1000 if soonest is not None and now_ms + soonest < end_ms else None
