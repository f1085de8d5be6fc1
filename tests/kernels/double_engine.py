"""A double of the resume engine: test cells call its hook themselves, at the turns of a loop.

`install()` puts it in the engine's place, before the kernel is imported.
"""

from __future__ import annotations

import ast
import importlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

MODULE = "ciuic_jupyter.resume.engine"
INSTALL = "from tests.kernels import double_engine; double_engine.install()"


class Boundary:
    """The top of one turn."""

    def __init__(self, engine: Engine, turn: int, extra: Any) -> None:
        self._engine, self._turn, self._extra = engine, turn, extra
        self.where = f"turn {turn}"

    def record(self) -> dict[str, Any]:
        return {"turn": self._turn, "extra": self._extra}

    def refuse(self, reason: str) -> None:
        self._engine.skipped.append(f"{self.where}: {reason}")


class Engine:
    """What the kernel calls, and what a test cell looks at."""

    now: Engine

    def __init__(self) -> None:
        self.serve: Callable[[Boundary], None] = lambda boundary: None
        self.asked = False
        self.skipped: list[str] = []
        self.armed: Any = None
        self.applied: Any = None
        Engine.now = self

    def install(self, shell: Any) -> None:
        """Take a place among the shell's transformers."""
        self.transformer = ast.NodeTransformer()
        shell.ast_transformers.append(self.transformer)

    def trace(self, names: Any) -> None:
        assert not names

    def traced_names(self) -> list[str]:
        return []

    def ask(self) -> None:
        if not self.asked:
            self.skipped = []
        self.asked = True

    def withdraw(self) -> None:
        self.asked = False

    def state(self) -> dict[str, Any]:
        return {"double": True}

    def apply(self, state: Any) -> None:
        self.applied = state

    def arm(self, position: Any) -> None:
        self.armed = position

    def has_loops(self, source: str) -> bool:
        compile(source, "<cell>", "exec")
        return "turns(" in source


def hook(turn: int, extra: Any = None) -> None:
    """Be the top of a turn."""
    if Engine.now.asked:
        Engine.now.serve(Boundary(Engine.now, turn, extra))


def turns(count: int, extra: Any = None) -> Iterator[int]:
    """Be a loop: from the turn where the cell was saved, if it goes on."""
    position, Engine.now.armed = Engine.now.armed, None
    for turn in range(0 if position is None else position["turn"], count):
        hook(turn, extra)
        yield turn


def resumed() -> bool:
    """Whether the cell goes on: what stands before its loop is not for it."""
    return Engine.now.armed is not None


def install() -> None:
    """Take the engine's place in this process and its children."""
    module = types.ModuleType(MODULE)
    module.Engine, module.Boundary = Engine, Boundary  # type: ignore[attr-defined]
    importlib.import_module(MODULE.rpartition(".")[0])  # the rest of that room is the real one
    sys.modules[MODULE] = module
