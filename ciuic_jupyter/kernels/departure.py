"""How a machine leaves by itself, unheard or preempted: its cell holds or ends, its state is saved, then it stops."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.kernels.agent_config import AgentConfig
from ciuic_jupyter.kernels.lease import boottime

if TYPE_CHECKING:
    from ciuic_jupyter.kernels.agent_core import Agent

_log = logging.getLogger(__name__)

INTERRUPT_GRACE = 30.0  # seconds an overdue cell has to end after its interrupt
SAVE_AGAIN = 30.0  # seconds between two saves that fail
_ASKED = "stopped"  # a file in the machine's directory: its provider was asked to stop it, and nothing is left to save


class Departure:
    """Leaves when the lease has lapsed; a plane that comes back in between finds the machine as it was."""

    def __init__(self, agent: Agent, config: AgentConfig) -> None:
        self._agent = agent
        self._config = config
        self._under_way = False
        self._not_before = 0.0
        self._failing_since: float | None = None
        self._preempted = False

    def due(self, lapsed: bool) -> bool:
        """Whether a step should be taken now."""
        if not lapsed:
            self._failing_since = None
        return lapsed and not self._under_way and boottime() >= self._not_before

    async def go(self) -> None:
        """Take one step: wait for the cell, or interrupt an overdue one, or save and leave."""
        self._under_way = True
        try:
            await self._step()
        finally:
            self._under_way = False

    async def _step(self) -> None:
        agent = self._agent
        if agent.kernel != "ready":
            agent.leave(f"lease: the kernel is {agent.kernel}")
        elif agent.runs.current is not None and not agent.holds.held:
            await self._end_cell()
        elif not agent.saving:
            await self._save_and_leave()

    async def _end_cell(self) -> None:
        """Let the cell go on; past the deadline save it where it holds, or interrupt it, or leave without its work."""
        agent = self._agent
        if not agent.lease.over(boottime()):
            return
        if not agent.saving and await self._held(self._config.preempt_seconds):
            await self._save_and_leave()
            if not agent.leaving:
                await agent.holds.release()
            return
        agent.runs.interrupt(None)
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_GRACE):
                await agent.runs.idle.wait()
        if agent.runs.current is not None and agent.lease.lapsed(boottime()):
            agent.leave("lease: the deadline passed and the cell could not be interrupted")

    async def _held(self, seconds: float) -> bool:
        """Whether the cell under way holds within `seconds`; else it is no longer asked to."""
        if seconds <= 0:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return bool((await self._agent.holds.hold(keep=False))["held"])
        await self._agent.holds.release()
        return False

    def preempts(self) -> bool:
        """Whether a SIGTERM now comes from somebody who takes the machine away under a cell; true once."""
        agent = self._agent
        if self._preempted or self._config.preempt_seconds <= 0 or (self._config.directory / _ASKED).exists():
            return False
        self._preempted = agent.kernel == "ready" and agent.runs.current is not None
        return self._preempted

    async def preempted(self) -> None:
        """Save the cell under way where it holds, and leave; without it if it does not hold in time."""
        agent = self._agent
        reason = "stopped"
        try:
            async with asyncio.timeout(self._config.preempt_seconds):
                held = await agent.holds.hold()
            if held["held"]:
                if agent.busy:  # somebody saves this cell already
                    await agent.save_over.wait()
                if not agent.holds.safe:
                    await agent.save(sweep=False)
                reason = "preempted: the cell under way is saved"
        except TimeoutError:
            reason = "stopped: the cell under way did not hold in time"
        except CiuicError as error:
            _log.error("the machine is taken away and the save failed: %s", error)
            reason = f"stopped: the cell under way could not be saved: {error}"
        finally:
            agent.leave(reason)

    async def _save_and_leave(self) -> None:
        try:
            if not self._agent.holds.safe:
                await self._agent.save(sweep=False)
        except CiuicError as error:
            self._failed(error)
            with suppress(CiuicError):
                await self._agent.holds.go()  # nobody is there to let it go on
            return
        self._failing_since = None
        if self._agent.lease.lapsed(boottime()) and (self._agent.runs.current is None or self._agent.holds.held):
            self._agent.leave("lease")

    def _failed(self, error: CiuicError) -> None:
        now = boottime()
        self._not_before = now + min(SAVE_AGAIN, self._config.lease_seconds)
        self._failing_since = self._failing_since or now
        _log.error("nobody hears us and the save failed: %s", error)
        text = f"The machine lost its control plane and could not save: {error}"
        self._agent.emit({"kind": "note", "run": None, "text": text, "level": "error"})
        if self._config.last_resort == "discard" and now - self._failing_since >= self._config.save_failure_seconds:
            self._agent.leave("lease: the save kept failing and last_resort is discard")
