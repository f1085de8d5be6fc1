"""The agent's side of a pause inside a cell: asks the kernel to hold, and hears what comes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import CiuicError, KernelDied, UsageError, by_name
from ciuic_jupyter.kernels.kernel_link import KernelLink
from ciuic_jupyter.kernels.later import read_body
from ciuic_jupyter.kernels.pause import HOLD
from ciuic_jupyter.kernels.runs import Run, Runs
from ciuic_jupyter.kernels.stages import Stages

_POLL_SECONDS = 0.02
_LOOK_SECONDS = 2.0  # a kernel whose cell is deep in a library answers late


@dataclass
class _Hold:
    """One hold of one run, from its request to its end."""

    number: int
    run: Run
    asked_at: float = field(default_factory=time.monotonic)
    kept: bool = False  # until it is let go by name, not only for the length of a checkpoint
    held: bool = False
    leaving: bool = False
    over: str = ""  # went | ended
    where: str = ""
    captured: int | None = None  # the last event before it was
    safe: bool = False  # a checkpoint of this very boundary is there
    saved: asyncio.Future[dict[str, Any] | None] | None = None


class Holds:
    """Holds the cell under way for whoever asks; several that ask at once share one hold."""

    def __init__(self, runs: Runs, newest_event: Callable[[], int], stages: Stages) -> None:
        """`newest_event` is the number of the last event that was made; `stages` hears of theirs."""
        self._runs = runs
        self._stages = stages
        self._newest_event = newest_event
        self._link: KernelLink | None = None
        self._now: _Hold | None = None
        self._number = 0
        self._dead: str | None = None
        self._changed = asyncio.Event()
        runs.on_hold = self._heard
        runs.on_end = self._run_ended

    def attach(self, link: KernelLink) -> None:
        """Give the kernel whose cells are held."""
        self._link = link

    @property
    def held(self) -> bool:
        """Whether the cell under way holds, and nobody let it go."""
        return self._now is not None and self._now.held and not self._now.leaving

    @property
    def safe(self) -> bool:
        """Whether the cell under way holds where the newest checkpoint has it: no work is lost with this machine."""
        return self._now is not None and self.held and self._now.safe

    def committed(self, run: Mapping[str, Any] | None) -> None:
        """A checkpoint was made of `run`, what `capture` told of it."""
        hold = self._now
        if hold is not None and run is not None and run["run"] == hold.run.run:
            hold.safe = hold.captured == run["seq"]

    async def hold(self, *, keep: bool = True) -> dict[str, Any]:
        """Wait until the cell under way holds, however long: {held, run, where}; held is False if it ended first.

        `keep`: only `go` ends it; else `release` does, unless somebody else keeps it. KernelDied if the kernel ends.
        """
        while (run := self._runs.current) is not None:
            hold = self._now or self._begin(run)
            if hold.leaving:
                await self._until(lambda hold=hold: bool(hold.over))  # type: ignore[misc]
                continue
            hold.kept = hold.kept or keep
            await self._until(lambda hold=hold: hold.held or bool(hold.over))  # type: ignore[misc]
            if hold.over:
                return {"held": False, "run": hold.run.run}
            return {"held": True, "run": hold.run.run, "where": hold.where}
        return {"held": False, "run": None}

    async def go(self) -> bool:
        """Let the cell go on, or no longer ask it to hold; False if no hold was on or the cell ended first."""
        hold = self._now
        if hold is None:
            return False
        hold.kept = False
        if not hold.leaving:
            hold.leaving = True
            self._ask(hold, "go")
        await self._until(lambda: bool(hold.over))
        return hold.over == "went"

    async def release(self) -> None:
        """Let the cell go on unless somebody keeps the hold; quiet when the kernel is gone."""
        if self._now is not None and not self._now.kept:
            with suppress(KernelDied):
                await self.go()

    async def settled(self) -> None:
        """Wait until no cell runs, or the one that runs holds: then a save can be taken. KernelDied if it ends."""
        await self._until(lambda: self._runs.current is None or self.held)

    async def capture(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Save the cell that holds: the answer with its `run`; None if it could not be saved here or went on.

        KernelDied if the kernel ends; what the save raised.
        """
        hold = self._now
        if hold is None or not hold.held or hold.leaving:
            return None
        hold.saved = asyncio.get_running_loop().create_future()
        self._ask(hold, "save", **request)
        try:
            return await hold.saved
        finally:
            hold.saved = None

    async def written(self, path: Path) -> dict[str, Any]:
        """Wait for the body of a save `later`, which the kernel tells in `path`; KernelDied if it ends before."""
        while (body := await asyncio.to_thread(read_body, path)) is None:
            if self._dead is not None:
                raise KernelDied(self._dead)
            with suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._changed.wait()
        return body

    async def look(self) -> dict[str, Any]:
        """Tell how the hold stands: {run, held, asked_seconds, skipped, has_loops}."""
        run, hold = self._runs.current, self._now
        told: dict[str, Any] = {"skipped": [], "has_loops": False}
        if run is not None and self._link is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    told = await self._link.request_control(HOLD, {"op": "look"})
        return {
            "run": run.run if run is not None else None,
            "held": self.held,
            "asked_seconds": round(time.monotonic() - hold.asked_at, 3) if hold is not None else None,
            "skipped": list(told["skipped"]),
            "has_loops": bool(told["has_loops"]),
        }

    async def never(self) -> bool:
        """Tell whether the cell under way surely has no boundary; False where its kernel does not answer."""
        if self._runs.current is None or self._link is None:
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                return not (await self._link.request_control(HOLD, {"op": "look"}))["has_loops"]
        return False

    def died(self, reason: str) -> None:
        """The kernel's process ended: so does everything that waits for it, with KernelDied."""
        self._dead = reason
        hold, self._now = self._now, None
        if hold is not None:
            hold.over = hold.over or "ended"
            if hold.saved is not None and not hold.saved.done():
                hold.saved.set_exception(KernelDied(reason))
        self._change()

    def _begin(self, run: Run) -> _Hold:
        self._number += 1
        self._now = _Hold(self._number, run)
        try:
            self._ask(self._now, "hold", cell=run.request)
        except CiuicError:
            self._now = None
            raise
        return self._now

    def _ask(self, hold: _Hold, op: str, **content: Any) -> None:
        if self._link is None:
            raise UsageError("the kernel is not ready yet; wait for its ready event")
        self._link.control(HOLD, {"op": op, "hold": hold.number, **content})

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            if self._dead is not None:
                raise KernelDied(self._dead)
            await self._changed.wait()
        if self._dead is not None:
            raise KernelDied(self._dead)

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _heard(self, content: Mapping[str, Any]) -> None:
        """Take what the kernel says of a hold or a stage; what the cell printed before it is in the log already."""
        if content.get("state") == "stage":
            self._stages.heard(self._runs.current, content)
            return
        hold = self._now
        if hold is None or content.get("hold") != hold.number:
            return
        state = str(content.get("state"))
        if state == "held":
            hold.held, hold.where = True, str(content.get("where", ""))
        elif state == "saved":
            self._answer(hold, {**content, "run": self._run_of(hold, content.get("flops"))})
        elif state == "failed":
            message = str(content.get("message", "the save failed"))
            self._answer(hold, by_name(str(content.get("type")))(message))
        elif state == "refused":
            hold.held = hold.safe = False
            self._answer(hold, None)
        elif state == "went" or hold.run is not self._runs.current:  # else its run ends in a moment, and says so
            self._finish(hold, state)
        self._change()

    def _run_of(self, hold: _Hold, flops: Mapping[str, Any] | None) -> dict[str, Any]:
        run, hold.captured = hold.run, self._newest_event()
        self._stages.captured()
        about = {"run": run.run, "code": run.code, "cell_id": run.cell_id, "count": run.count}
        counted = {"flops": dict(flops)} if flops is not None else {}
        return {**about, "seq": hold.captured, "where": hold.where, **counted}

    def _answer(self, hold: _Hold, answer: dict[str, Any] | Exception | None) -> None:
        if hold.saved is None or hold.saved.done():
            return
        if isinstance(answer, Exception):
            hold.saved.set_exception(answer)
        else:
            hold.saved.set_result(answer)

    def _finish(self, hold: _Hold, how: str) -> None:
        hold.held, hold.over = False, how
        self._now = None
        self._answer(hold, None)

    def _run_ended(self) -> None:
        if self._now is not None:
            self._finish(self._now, "ended")
        self._change()
