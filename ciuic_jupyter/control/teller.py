"""What the plane itself says among a session's events: numbered by the agent while there is one, else here.

While a machine is on its way nothing may be numbered here: its agent has been told which number comes next.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.errors import AgentUnavailable, CiuicError

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_log = logging.getLogger(__name__)


class Teller:
    """Takes events in order and never loses one to a machine that goes: what no agent numbered is numbered here."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: deque[dict[str, Any]] = deque()
        self._sending = False

    def tell(self, header: dict[str, Any]) -> None:
        """Put an event (a note, or the end of a run) behind those that wait; return at once."""
        self._waiting.append(header)
        if not self._sending:
            self._sending = True
            self._runner.spawn(self._send())

    async def _send(self) -> None:
        try:
            while self._waiting:
                await self._send_first()
        finally:
            self._sending = False

    async def _send_first(self) -> None:
        runner, link = self._runner, self._runner.hand.link
        if link is not None:
            try:
                await link.request("emit", event=self._waiting[0])
            except AgentUnavailable:  # the machine went: said again, without it
                await runner.until(lambda: runner.hand.link is not link)
                return
            except CiuicError as error:
                _log.error("%s: could not tell %s: %s", runner.book.name, self._waiting[0], error)
            self._waiting.popleft()
        elif runner.live:
            await runner.until(lambda: runner.hand.link is not None or not runner.live)
        else:
            self._number_here(self._waiting.popleft())

    def _number_here(self, header: dict[str, Any]) -> None:
        mirror = self._runner.mirror
        seq = mirror.append(header)
        for number, frame in mirror.read(seq - 1):
            self._runner.feed_viewers.event(number, frame)
