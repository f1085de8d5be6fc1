"""The budget of one session: asked before anything is started, looked at once a second, told of at 50 and 80 %."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.core.money import cost, format_money
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import BudgetExceeded

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_HOLD_SECONDS = 20.0  # a cell under way has so long to come to a loop boundary before it is interrupted...
_HOLD_PERCENT = 5  # ...of which so much of the budget is the most
_STOP_SECONDS = 3.0  # from noticing that the cap is near to the machine's end, without the save
_ALERTS = (50, 80)  # percent


class Cap:
    """Knows what a session will have cost once it is saved and stopped; `reached` holds its cells back."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.reached = False
        self._cut = False  # the cell was interrupted
        self._told = self._percent()  # what was passed before we came was told by who was here then

    def reset(self) -> None:
        """Forget a machine that is gone."""
        self.reached = self._cut = False

    def _money(self, nano: int) -> str:
        return format_money(nano, str(self._runner.book.offer["currency"]))

    def _percent(self) -> int:
        book, now_ms = self._runner.book, self._runner.context.now_ms()
        return book.spent_nano(now_ms) * 100 // book.budget_nano if book.budget_nano else 0

    def in_the_end(self, hold_seconds: float = 0) -> int:
        """Return the nano-units spent once the session is saved and stopped from now on, whole billing units included.

        `hold_seconds`: what the cell under way takes to come to a boundary. Without a machine: the same after a start
        and a restore.
        """
        runner = self._runner
        book, now_ms = runner.book, runner.context.now_ms()
        save, restore = runner.context.timings(book)
        stopping_ms = round((hold_seconds + save + _STOP_SECONDS) * 1000)
        if book.open_segment is not None:
            return book.spent_nano(now_ms + stopping_ms)
        offer = book.offer
        unit, minimum = int(offer["unit_seconds"]) * 1000, int(offer["minimum_seconds"]) * 1000
        length_ms = stopping_ms + round(restore * 1000)
        price = int(offer["price_nano_per_hour"])
        return book.spent_nano(now_ms) + cost(price, length_ms, unit_ms=unit, minimum_ms=minimum)

    def check(self) -> None:
        """Raise BudgetExceeded if starting anything would cross the cap."""
        book = self._runner.book
        if book.budget_nano is None or self.in_the_end() < book.budget_nano:
            return
        spent = self._money(book.spent_nano(self._runner.context.now_ms()))
        raise BudgetExceeded(
            f"session {book.name} has spent {spent} of its budget of {self._money(book.budget_nano)}; "
            "nothing was started. Give it more with --budget"
        )

    async def tick(self) -> None:
        """Tell of the budget's use; near the cap save and release, the cell held or, if it can't be, interrupted."""
        runner = self._runner
        budget = runner.book.budget_nano
        if budget is None or self.in_the_end(self._hold_seconds(budget)) < budget:
            if self.reached:  # it was given more
                self.reached = self._cut = False
                await runner.settle()
            if budget is not None:
                await self._alert(budget)
            return
        if runner.book.state is not State.RUNNING:
            return
        text = f"the budget of {self._money(budget)} is reached: saving and releasing"
        if not self.reached:
            self.reached = True
            runner.note(text, "warning")
            await runner.pause(message=text)
        if runner.current is not None and not self._cut and self.in_the_end() >= budget:
            self._cut = True
            runner.spawn(runner.interrupt(runner.current))  # beside us: the line may be down
            await runner.pause(message=text)

    def _hold_seconds(self, budget: int) -> float:
        runner = self._runner
        if runner.current is None:
            return 0.0
        rate = runner.book.rate
        share = budget * 3600 * _HOLD_PERCENT / (100 * rate) if rate else _HOLD_SECONDS
        return min(_HOLD_SECONDS, share)

    async def _alert(self, budget: int) -> None:
        percent = self._percent()
        passed = max((mark for mark in _ALERTS if self._told < mark <= percent), default=None)
        self._told = percent
        if passed is None:
            return
        runner = self._runner
        text = f"{passed} % of the budget of {self._money(budget)} is spent"
        idem = f"alert:{runner.book.life}:{budget}:{passed}"
        await runner.write(Row("note", {"text": text}, session=runner.book.name, idem=idem))
        runner.message = text
        runner.note(text, "warning")
