"""Cells played, as they are or saved at boundaries and gone on with; run in processes that `player` forks."""

from __future__ import annotations

import ast
import contextlib
import io
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.resume.engine import Boundary, Engine
from tests.resume.player import Answer, answer_and_die


class Shell:
    """Compiles and runs cells as IPython does: a tree through the transformer, then statement by statement."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.user_ns = namespace
        self.ast_transformers: list[Any] = []
        self.compile = Compiler()

    def run(self, cell: str, name: str) -> None:
        tree = ast.parse(cell, name)
        for transformer in self.ast_transformers:
            tree = transformer.visit(tree)
        for node in tree.body:
            exec(self.compile(ast.Module([node], []), name, "exec"), self.user_ns)


class Compiler:
    def __call__(self, tree: ast.Module, name: str, mode: str) -> Any:
        return compile(tree, name, mode, dont_inherit=True)


def world(trace: Sequence[str]) -> tuple[Engine, Shell]:
    main = sys.modules["__main__"]
    names = vars(main)
    for name in [name for name in names if not name.startswith("__")]:
        del names[name]
    engine = Engine()
    shell = Shell(names)
    engine.install(shell)
    engine.trace(trace)
    return engine, shell


def names_of(shell: Shell) -> dict[str, Any]:
    return {name: value for name, value in shell.user_ns.items() if not name.startswith("__")}


def plain(value: Any) -> Any:
    """Return what can be compared between processes."""
    torch = sys.modules.get("torch")
    numpy = sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    if torch is not None and hasattr(value, "state_dict") and not isinstance(value, type):
        return plain(value.state_dict())
    if numpy is not None and isinstance(value, numpy.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(plain(key), plain(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value).__name__, [plain(item) for item in value]
    if isinstance(value, set):
        return sorted(map(repr, value))
    if isinstance(value, int | float | str | bytes | bool | None):
        return repr(value)
    kind = type(value)
    if kind.__module__ == "__main__" and hasattr(value, "__dict__"):
        return kind.__name__, plain(vars(value))
    return kind.__name__


def finish(shell: Shell, printed: io.StringIO, **more: Any) -> Answer:
    kept = {name: plain(value) for name, value in names_of(shell).items()}
    return {"names": kept, "printed": printed.getvalue(), **more}


def whole(cells: Sequence[str], trace: Sequence[str] = ()) -> Answer:
    """Play the cells; return what they leave, and what boundaries the last one offered and skipped."""
    engine, shell = world(trace)
    printed = io.StringIO()
    offered: list[str] = []
    with contextlib.redirect_stdout(printed):
        for number, cell in enumerate(cells):
            if number == len(cells) - 1:
                engine.serve = lambda boundary: offered.append(boundary.where)
                engine.ask()
            shell.run(cell, f"<ipython-input-{number}-abc>")
    engine.withdraw()
    return finish(shell, printed, offered=offered, skipped=engine.skipped)


class _Saver:
    """Serves boundaries: saves at each, or at one only, where the process answers and dies."""

    def __init__(self, shell: Shell, engine: Engine, store: Path, printed: io.StringIO, at: int | None) -> None:
        self._shell, self._engine, self._store, self._printed, self._at = shell, engine, store, printed, at
        self.saved: list[Answer] = []
        self._seen = 0
        engine.serve = self.serve
        engine.ask()

    def serve(self, boundary: Boundary) -> None:
        seen, self._seen = self._seen, self._seen + 1
        if self._at is None:
            self.saved.append(self._save(boundary))
        elif seen == self._at:
            self._engine.withdraw()
            answer_and_die(self._save(boundary))

    def _save(self, boundary: Boundary) -> Answer:
        state = {"position": boundary.record(), "resume": self._engine.state()}
        hidden = {name for name in self._shell.user_ns if name.startswith("__")}
        body = capture(self._shell.user_ns, Store(self._store), hidden=hidden, state=state)
        gone = [line for line in body["placeholders"] if line["path"].startswith("state['position']")]
        return {
            "printed": self._printed.getvalue(),
            "where": boundary.where,
            "gone": gone,
            "body": pickle.dumps(body),
        }


def until(cells: Sequence[str], store: Path, at: int | None, trace: Sequence[str] = ()) -> Answer:
    """Play the cells to boundary `at` of the last one, save there, and let the process die.

    With None save at each boundary and go on: `saved` lists what dying there would have answered.
    """
    engine, shell = world(trace)
    printed = io.StringIO()
    saver: _Saver | None = None
    with contextlib.redirect_stdout(printed):
        for number, cell in enumerate(cells):
            if number == len(cells) - 1:
                saver = _Saver(shell, engine, store, printed, at)
            shell.run(cell, f"<ipython-input-{number}-abc>")
    engine.withdraw()
    assert saver is not None
    return finish(shell, printed, saved=saver.saved)


def onward(cells: Sequence[str], store: Path, body: bytes, at: int | None = None, trace: Sequence[str] = ()) -> Answer:
    """Go on from what is saved, to the end or to another boundary."""
    engine, shell = world(trace)
    restored = restore(pickle.loads(body), Store(store), shell.user_ns)
    assert restored.state is not None
    engine.apply(restored.state["resume"])
    engine.arm(restored.state["position"])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if at is not None:
            _Saver(shell, engine, store, printed, at)
        shell.run(cells[-1], f"<ipython-input-{len(cells)}-def>")
    return finish(shell, printed)
