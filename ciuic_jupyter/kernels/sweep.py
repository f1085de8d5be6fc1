"""Old checkpoints go behind each save, where saves are made: here, and where checkpoints are kept too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ciuic_jupyter.checkpoint.collect import collect
from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.kernels.agent_config import AgentConfig

_log = logging.getLogger(__name__)

SECONDS = 20.0  # that the answer to a save waits for it; the next save waits until it is done


class Sweeper:
    """Removes all but the newest checkpoints of one store; who saves asks for it while no other save can begin.

    Killed at any moment it leaves every checkpoint it keeps whole. What goes wrong is told, and never fails the save.
    """

    def __init__(self, config: AgentConfig, remote: Remote | None, tell: Callable[[str], None]) -> None:
        """`tell` is given what went wrong, once for the same."""
        self._config = config
        self._store = Store(config.store)
        self._remote = remote
        self._tell = tell
        self._told = ""
        self._under_way: asyncio.Task[dict[str, Any]] | None = None

    async def over(self) -> None:
        """Wait until nothing is removed any more."""
        if self._under_way is not None:
            await asyncio.wait({self._under_way})

    async def sweep(self, seq: int) -> dict[str, Any]:
        """Remove what is older than checkpoint `seq` and those before it that are kept; never raise.

        Return {checkpoints: how many went, bytes: of packs that went here, packs: that went there, problem}.
        """
        self._under_way = asyncio.create_task(asyncio.to_thread(self._sweep, seq))
        await asyncio.wait({self._under_way}, timeout=SECONDS)
        if not self._under_way.done():
            return {**_nothing(), "problem": f"it goes on, it took more than {SECONDS:g} s"}
        swept = self._under_way.result()
        problem, before, self._told = swept["problem"], self._told, swept["problem"]
        if problem and problem != before:
            _log.warning("old checkpoints stay: %s", problem)
            self._tell(f"Old checkpoints could not all be removed, the new one is safe: {problem}")
        return swept

    def _sweep(self, seq: int) -> dict[str, Any]:
        swept, key, keep = _nothing(), self._config.secrets.key, self._config.earlier_checkpoints + 1
        try:
            done = collect(self._store, key, keep=keep, named=[seq])
            swept |= {"checkpoints": len(done.manifests), "bytes": done.freed}
            if self._remote is not None:
                there = self._remote.manifests()[-keep:]
                swept["packs"] = len(self._remote.sweep({*there, seq}, key))
        except Exception as error:  # noqa: BLE001 - the checkpoint is there: whatever happens here, its save is a success
            swept["problem"] = f"{type(error).__name__}: {error}"
        return swept


def _nothing() -> dict[str, Any]:
    return {"checkpoints": 0, "bytes": 0, "packs": 0, "problem": ""}
