"""Cells played in processes of their own: as they are, or saved at a boundary and gone on with in another process."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.resume.engine import Boundary, Engine

Answer = dict[str, Any]


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


def in_child(work: Callable[[], Answer]) -> Answer:
    """Return what `work` returns in a forked process."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            answer = work()
        except BaseException:  # noqa: BLE001 - told in the parent
            answer = {"error": traceback.format_exc()}
        with os.fdopen(writing, "wb") as file:
            pickle.dump(answer, file)
        sys.stdout.flush()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = pickle.load(file)
    os.waitpid(pid, 0)
    return answer


def world() -> tuple[Engine, Shell]:
    main = sys.modules["__main__"]
    names = vars(main)
    for name in [name for name in names if not name.startswith("__")]:
        del names[name]
    engine = Engine()
    shell = Shell(names)
    engine.install(shell)
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


def whole(cells: Sequence[str]) -> Answer:
    """Play the cells; return what they leave, and how many boundaries the last one offered and skipped."""

    def work() -> Answer:
        engine, shell = world()
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

    return in_child(work)


class Paused(BaseException):
    pass


def _pause_at(engine: Engine, shell: Shell, store: Path, at: int, printed: io.StringIO) -> Callable[[], Answer | None]:
    seen = [0]
    answer: list[Answer] = []

    def serve(boundary: Boundary) -> None:
        if seen[0] == at:
            engine.withdraw()
            state = {"position": boundary.record(), "resume": engine.state()}
            hidden = {name for name in shell.user_ns if name.startswith("__")}
            body = capture(shell.user_ns, Store(store), hidden=hidden, state=state)
            gone = [line for line in body["placeholders"] if line["path"].startswith("state['position']")]
            (store / "body").write_bytes(pickle.dumps(body))
            answer.append({"printed": printed.getvalue(), "where": boundary.where, "gone": gone})
            with os.fdopen(_answers[-1], "wb") as file:
                pickle.dump(answer[0], file)
            os._exit(0)
        seen[0] += 1

    engine.serve = serve
    engine.ask()
    return lambda: None


_answers: list[int] = []


def in_child_until_pause(work: Callable[[], Answer]) -> Answer:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _answers.append(writing)
        try:
            answer = work()
        except BaseException:  # noqa: BLE001 - told in the parent
            answer = {"error": traceback.format_exc()}
        with os.fdopen(writing, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        answer = pickle.load(file)
    os.waitpid(pid, 0)
    return answer


def until(cells: Sequence[str], store: Path, at: int) -> Answer:
    """Play the cells to boundary `at` of the last one, save there, and let the process die."""

    def work() -> Answer:
        engine, shell = world()
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for number, cell in enumerate(cells):
                if number == len(cells) - 1:
                    _pause_at(engine, shell, store, at, printed)
                shell.run(cell, f"<ipython-input-{number}-abc>")
        return finish(shell, printed)

    return in_child_until_pause(work)


def onward(cells: Sequence[str], store: Path, at: int | None = None) -> Answer:
    """Go on from what is saved, to the end or to another boundary."""

    def work() -> Answer:
        engine, shell = world()
        body = pickle.loads((store / "body").read_bytes())
        restored = restore(body, Store(store), shell.user_ns)
        assert restored.state is not None
        engine.apply(restored.state["resume"])
        engine.arm(restored.state["position"])
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            if at is not None:
                _pause_at(engine, shell, store, at, printed)
            shell.run(cells[-1], f"<ipython-input-{len(cells)}-def>")
        return finish(shell, printed)

    return in_child_until_pause(work)
