"""The agent's list of stages that ended since the newest checkpoint: what a plane still has to have saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ciuic_jupyter.kernels.runs import Run
from ciuic_jupyter.resume import stages

_MOST = 32  # that are known at a time; of more the oldest are forgotten, as each checkpoint holds all before it


class Stages:
    """Stages by run and name; an event numbers each, so that a checkpoint is known to be from behind it or not."""

    def __init__(self, emit: Callable[[Mapping[str, Any]], None], newest_event: Callable[[], int]) -> None:
        self._emit = emit
        self._newest_event = newest_event
        self._pending: dict[tuple[str, str], int] = {}
        self._captured = 0

    def heard(self, run: Run | None, content: Mapping[str, Any]) -> None:
        """The kernel says that a stage of the run under way ends; user code can say so past `train.stage`, too."""
        try:
            name = stages.checked(content.get("name"))
        except (TypeError, ValueError):
            return
        if run is None or self._pending.get((run.run, name), -1) >= self._captured:
            return  # what comes next will be from behind both ends
        self._emit({"kind": "stage", "run": run.run, "name": name})
        self._pending.pop((run.run, name), None)
        self._pending[run.run, name] = self._newest_event()
        while len(self._pending) > _MOST:
            del self._pending[next(iter(self._pending))]

    def captured(self) -> None:
        """A save was taken of the cell that holds, here: what is marked again is marked behind it."""
        self._captured = self._newest_event() + 1

    def committed(self, seq: int | None) -> None:
        """There is a checkpoint of a cell held behind event `seq`; None: of one between cells."""
        self._pending = {key: at for key, at in self._pending.items() if seq is not None and at > seq}

    def pending(self) -> list[list[Any]]:
        """Return [run, name, number of its event] of each, for a plane that was not there."""
        return [[*key, at] for key, at in self._pending.items()]
