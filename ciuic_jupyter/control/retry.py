"""Saves that fail: tried again while nobody works on, for a bounded time, then what the user chose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ciuic_jupyter.core.session import Event, State
from ciuic_jupyter.errors import CiuicError

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_AGAIN_SECONDS = 60.0


class SaveRetry:
    """Counts from the first failure; whoever runs another cell, or resumes, calls it off."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.error: CiuicError | None = None
        self._goal = ""
        self._since: float | None = None
        self._saving_since: float | None = None
        self._again_at = 0.0

    def call_off(self) -> None:
        """The session is used again, or its machine is gone."""
        self.error, self._since, self._saving_since = None, None, None

    def begun(self) -> None:
        """A save begins."""
        self._saving_since = self._runner.context.clock.boot()

    def failed(self, error: CiuicError, goal: str) -> None:
        """A save failed; `goal` is what it was for."""
        now = self._runner.context.clock.boot()
        self.error, self._goal, self._saving_since = error, goal, None
        self._since = self._since if self._since is not None else now
        self._again_at = now + _AGAIN_SECONDS
        self._runner.watch.failed(self._again_at)

    async def tick(self) -> None:
        """Save again when it is time; past the limit do what the settings choose."""
        runner = self._runner
        now, settings = runner.context.clock.boot(), runner.context.settings
        if runner.book.state is State.SAVING:
            if self._saving_since is not None and self._late(self._saving_since, now):
                await self._give_up(Event.SAVE_GAVE_UP, "the save did not end")
            return
        if self._since is None or runner.pause_pending or runner.current is not None:
            return
        if self._late(self._since, now):
            await self._give_up(Event.DISCARD, "no save succeeded")
        elif now - self._since <= settings.save_failure_limit_seconds and now >= self._again_at:
            await runner.pause(goal=self._goal, message=f"saving again after: {self.error}")

    def _late(self, since: float, now: float) -> bool:
        settings = self._runner.context.settings
        return settings.last_resort == "discard" and now - since > settings.save_failure_limit_seconds

    async def _give_up(self, event: Event, what: str) -> None:
        limit = self._runner.context.settings.save_failure_limit_seconds
        text = f"{what} for {limit:.0f} s: released without one, as you chose"
        self._runner.note(text, "error")
        await self._runner.offer(event, message=text, goal="discarded")
