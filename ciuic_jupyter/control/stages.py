"""Stages whose ends cells marked: each is held by the first checkpoint behind it, whoever asked for that."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_MOST = 32  # that are told at a time; the agent knows no more, either
_SHOWN = 3  # names in one line


class Stages:
    """Those that no checkpoint holds yet, by run and name, with the number of the event that told of them."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._waiting: dict[tuple[str, str], int] = {}
        self._behind = 0  # the newest event that a checkpoint is from behind of

    def __bool__(self) -> bool:
        """Tell whether one waits."""
        return bool(self._waiting)

    def clear(self) -> None:
        """Forget a machine that is gone: what it did not save runs again, its marks too."""
        self._waiting, self._behind = {}, 0

    def mark(self, header: Mapping[str, Any], seq: int) -> None:
        """Event `seq` says that a stage has ended."""
        key = (str(header.get("run")), str(header.get("name")))
        self._waiting.pop(key, None)
        self._waiting[key] = seq
        if seq <= self._behind:  # the word of that checkpoint was faster
            self.saved({"seq": self._behind})
        while len(self._waiting) > _MOST:
            del self._waiting[next(iter(self._waiting))]

    def hello(self, pending: Sequence[Sequence[Any]]) -> None:
        """Take what the agent still has to have saved; of what is no longer there only the word was lost."""
        before, self._waiting = self._waiting, {(str(run), str(name)): int(at) for run, name, at in pending}
        self._tell([key for key in before if key not in self._waiting])

    def saved(self, run: Mapping[str, Any] | None) -> None:
        """There is a checkpoint of `run`, held behind its event `seq`; None: of what stood between cells."""
        if run is not None:
            self._behind = max(self._behind, int(run["seq"]))
        behind = [key for key, at in self._waiting.items() if run is None or at <= int(run["seq"])]
        for key in behind:
            del self._waiting[key]
        self._tell(behind)

    def _tell(self, saved: Sequence[tuple[str, str]]) -> None:
        at = time.strftime("%H:%M:%S", time.localtime(self._runner.context.clock.wall()))
        for run in dict.fromkeys(run for run, _ in saved):
            names = [name for of, name in saved if of == run]
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            text = f"stage {', '.join(names[-_SHOWN:])}{more} saved at {at}"
            self._runner.tell({"kind": "note", "run": run, "text": text, "level": "info"})
