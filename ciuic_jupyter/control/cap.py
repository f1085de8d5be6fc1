"""The budgets of a session: asked before anything is started, looked at once a second, told of at 50, 80, 100 %."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.control import alerts, purse
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.purse import STOP_SECONDS, hold_seconds, run_cost, run_under_way
from ciuic_jupyter.core.budget import MARKS, Limit, passed
from ciuic_jupyter.core.money import cost, format_money
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import AgentUnavailable, BudgetExceeded, CiuicError

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_log = logging.getLogger(__name__)

_DEADLINE_SECONDS = 10.0  # how often the machine is told how long it may go on unheard


class Cap:
    """Knows what a session will have cost once it is saved and stopped; `reached` holds its cells back."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.reached = False
        self._cut = False  # the cell was interrupted
        self._deadline_at = 0.0
        self._bounded = False  # the machine was told a deadline
        # what was passed before we came was told by who was here then
        self._told = {
            limit.key: limit.percent for limit in self._own(0.0, run_under_way(runner.book, None) is not None)
        }

    def reset(self) -> None:
        """Forget a machine that is gone."""
        self.reached = self._cut = self._bounded = False
        self._deadline_at = 0.0

    def _money(self, nano: int) -> str:
        return format_money(nano, str(self._runner.book.offer["currency"]))

    def in_the_end(self, hold_seconds: float = 0) -> int:
        """Return the nano-units spent once the session is saved and stopped from now on, whole billing units included.

        `hold_seconds`: what the cell under way takes to come to a boundary. Without a machine: the same after a start
        and a restore.
        """
        runner = self._runner
        book, now_ms = runner.book, runner.context.now_ms()
        save, restore = runner.context.timings(book)
        stopping_ms = round((hold_seconds + save + STOP_SECONDS) * 1000)
        if book.open_segment is not None:
            return book.spent_nano(now_ms + stopping_ms)
        offer = book.offer
        unit, minimum = int(offer["unit_seconds"]) * 1000, int(offer["minimum_seconds"]) * 1000
        length_ms = stopping_ms + round(restore * 1000)
        price = int(offer["price_nano_per_hour"])
        return book.spent_nano(now_ms) + cost(price, length_ms, unit_ms=unit, minimum_ms=minimum)

    def more(self, hold_seconds: float) -> int:
        """Return what is spent from now on until the session is saved and stopped, in nano-units."""
        runner = self._runner
        held = hold_seconds if run_under_way(runner.book, runner.current) is not None else 0.0
        return self.in_the_end(held) - runner.book.spent_nano(runner.context.now_ms())

    def _own(self, share: float, run_too: bool) -> list[Limit]:
        """Return the budgets of this session and of its run; `share` 1: with the wait for the cell, 0: without."""
        runner = self._runner
        book, now_ms, found = runner.book, runner.context.now_ms(), []

        def add(key: str, words: str, budget: int, spent: int, rate: int) -> None:
            end = spent + self.more(share * hold_seconds(budget, book.rate))
            found.append(Limit(key, words, budget, spent, end, rate))

        run = run_under_way(book, runner.current)
        if run_too and run is not None and run.budget_nano is not None:
            add(f"run:{run.run}", "the budget of this cell", run.budget_nano, run_cost(book, run, now_ms), book.rate)
        if book.budget_nano is not None:
            add("session", "the budget", book.budget_nano, book.spent_nano(now_ms), book.flow)
        return found

    def limits(self, *, hold: bool, run_too: bool = True) -> list[Limit]:
        """Return every budget that counts here, the narrowest kind first; `hold`: with the wait for the cell."""
        shared = self._runner.context.purse
        found = self._own(1.0 if hold else 0.0, run_too)
        if shared is not None:
            found += shared.limits(self._runner, lambda one, seconds: one.cap.more(seconds), hold=hold)
        return found

    def tightest(self) -> list[Limit]:
        """Return every budget that counts here, the one that is reached first in front."""
        return sorted(self.limits(hold=True), key=lambda limit: limit.hours_left)

    def check(self) -> None:
        """Raise BudgetExceeded if starting anything would cross a cap."""
        runner = self._runner
        book, shared = runner.book, runner.context.purse
        if shared is not None:
            shared.check_currency(str(book.offer["currency"]))
        for limit in self.limits(hold=not runner.live, run_too=not runner.live):
            if not limit.near:
                continue
            spent, budget = self._money(limit.spent_nano), self._money(limit.budget_nano)
            if limit.key == "session":
                text = f"session {book.name} has spent {spent} of its budget of {budget}; nothing was started. "
                raise BudgetExceeded(text + "Give it more with --budget")
            what = {
                "run": "Give the cell more with `%ciuic_resume --run-budget`, or leave it with --drop-cell",
                "day": "CIUIC_BUDGET_PER_DAY sets it; it begins anew at midnight",
                "month": "CIUIC_BUDGET_PER_MONTH sets it; it begins anew on the first",
                "user": "CIUIC_BUDGET_TOTAL sets it",
            }[limit.key.partition(":")[0]]
            raise BudgetExceeded(f"{limit.words} is {budget}, {spent} of it is spent; nothing was started. {what}")

    async def tick(self) -> None:
        """Tell of budgets' use; near a cap save and release, the cell held or, if it can't be, interrupted."""
        runner = self._runner
        limits = self.limits(hold=True)
        near = [limit for limit in limits if limit.near]
        await self._alert([limit for limit in limits if not limit.near])
        self._tell_deadline()
        if not near:
            if self.reached:  # it was given more, or another day began
                self.reached = self._cut = False
                await runner.settle()
            return
        if runner.book.state is not State.RUNNING:
            return
        text = f"{near[0].words} of {self._money(near[0].budget_nano)} is reached: saving and releasing"
        if not self.reached:
            self.reached = True
            self._send(text, near[0], MARKS[-1])
            await runner.pause(message=text)
        crossed = any(limit.near for limit in self.limits(hold=False))
        if runner.current is not None and not self._cut and crossed:
            self._cut = True
            runner.spawn(runner.interrupt(runner.current))  # beside us: the line may be down
            await runner.pause(message=text)

    async def _alert(self, limits: list[Limit]) -> None:
        runner, shared = self._runner, self._runner.context.purse
        for limit in limits:
            told = (
                self._told if limit.key == "session" or limit.key.startswith("run:") or shared is None else shared.told
            )
            mark = passed(told.get(limit.key, 0), limit.percent)
            told[limit.key] = limit.percent
            if mark is None:
                continue
            text = f"{mark} % of {limit.words} of {self._money(limit.budget_nano)} is spent"
            scope = f"{runner.book.life}:" if told is self._told else ""
            idem = f"alert:{scope}{limit.key}:{limit.budget_nano}:{mark}"
            await runner.write(Row("note", {"text": text}, session=runner.book.name, idem=idem))
            runner.message = text
            self._send(text, limit, mark)
            runner.changed()

    def _send(self, text: str, limit: Limit, mark: int) -> None:
        """Tell everyone who reads the session's events, and who the settings name."""
        runner = self._runner
        currency = str(runner.book.offer["currency"])
        told = alerts.body(runner.book.name, text, percent=mark, limit=purse.view(limit), currency=currency)
        runner.tell({"kind": "note", "run": runner.current, "text": text, "level": "warning", "alert": told})
        settings = runner.context.settings
        if settings.alert_webhook is not None:
            runner.spawn(self._carry(alerts.post(settings.alert_webhook.get_secret_value(), told)))
        if settings.alert_desktop:
            runner.spawn(self._carry(alerts.notify(text)))

    async def _carry(self, sending: Any) -> None:
        failed = await sending
        if failed is not None:
            self._runner.note(f"an alert could not be passed on: {failed}", "warning")

    def _tell_deadline(self) -> None:
        """Keep the machine's own idea of how long it may go on unheard up to date, beside everything else."""
        runner = self._runner
        now, shared = runner.context.clock.boot(), runner.context.purse
        if (
            shared is None
            or now < self._deadline_at
            or runner.book.state is not State.RUNNING
            or runner.hand.link is None
        ):
            return
        seconds = shared.seconds_left(runner.book, runner.current)
        if seconds is None and not self._bounded:
            return
        self._bounded = seconds is not None
        self._deadline_at = now + _DEADLINE_SECONDS
        runner.spawn(self._deadline(seconds))

    async def _deadline(self, seconds: float | None) -> None:
        try:
            await self._runner.ask("lease", seconds=self._runner.context.settings.lease_seconds, deadline=seconds)
        except AgentUnavailable:
            self._deadline_at = 0.0
        except CiuicError as error:  # an agent of before: its start's deadline stands
            _log.info("%s: the machine takes no new deadline: %s", self._runner.book.name, error)
