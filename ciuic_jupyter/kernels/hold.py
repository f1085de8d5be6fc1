"""The kernel's side of a pause inside a cell: the control thread asks, the main thread holds in a loop's hook."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from IPython.core.inputtransformer2 import TransformerManager

from ciuic_jupyter.errors import CiuicError, ProtocolError
from ciuic_jupyter.resume.engine import Boundary, Engine
from ciuic_jupyter.resume.runtime import Site

_ENDED_KEPT = 64  # cells whose end is remembered, for a hold that comes late
_GO, _INTERRUPT, _SAVE = "go", "interrupt", "save"

Task = tuple[str, Mapping[str, Any]]


@dataclass
class Cell:
    """The cell under way: its execute_request, and how it is run."""

    parent: dict[str, Any]
    count: int = 0
    store_history: bool = True
    allow_stdin: bool = True

    @property
    def message(self) -> str:
        return str(self.parent["header"]["msg_id"])


class Refused(Exception):
    """A boundary can't be saved: what its position needs would become a placeholder."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason


class Outlet(Protocol):
    """What the kernel does for its holder."""

    def flush(self) -> None:
        """Send what the cell printed; called in the main thread before each word about a hold."""

    def say(self, parent: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Publish a word about a hold or a stage as output of the cell `parent`; called in any thread."""

    def save_held(self, request: Mapping[str, Any], cell: Cell, position: Any) -> dict[str, Any]:
        """Save at a boundary, in the main thread; Refused if the position can't be saved."""


class Holder:
    """Holds the cell under way when it is asked to; each hold has a number, which comes with every word about it."""

    def __init__(self, engine: Engine, outlet: Outlet) -> None:
        self.cell: Cell | None = None
        self._engine = engine
        self._outlet = outlet
        self._process = os.getpid()
        self._lock = threading.Lock()  # over everything below; both threads say things in its order
        self._number: int | None = None  # of the hold that is asked for
        self._tasks: SimpleQueue[Task] | None = None  # while it is held
        self._early: tuple[str, int] | None = None  # a hold for a cell that has not begun
        self._ended: deque[dict[str, Any]] = deque(maxlen=_ENDED_KEPT)
        self._operations: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "hold": self._hold,
            "go": self._go,
            "save": self._save,
            "look": self._look,
            "loops": self._loops,
        }
        engine.serve = self.serve
        Site.staged = self.stage

    # the control thread

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take a request, at once; what comes of it is said later. Return {status: ok, ...} or the error."""
        op = str(request.get("op"))
        try:
            operation = self._operations.get(op)
            if operation is None:
                raise ProtocolError(f"a kernel can't {op!r} a cell; it knows {', '.join(self._operations)}")
            return {**operation(request), "status": "ok"}
        except CiuicError as error:
            return {"status": "error", "type": type(error).__name__, "message": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"status": "error", "type": "ProtocolError", "message": f"{op} is not understood: {error!r}"}

    def _hold(self, request: Mapping[str, Any]) -> dict[str, Any]:
        message, number = str(request["cell"]), int(request["hold"])
        with self._lock:
            if self.cell is not None and self.cell.message == message:
                self._ask(number)
                return {}
            for parent in self._ended:
                if parent["header"]["msg_id"] == message:
                    self._outlet.say(parent, {"state": "ended", "hold": number})
                    return {}
            self._early = (message, number)
        return {}

    def _ask(self, number: int) -> None:
        self._number = number
        self._engine.ask()

    def _go(self, request: Mapping[str, Any]) -> dict[str, Any]:
        number = int(request["hold"])
        with self._lock:
            if self._early is not None and self._early[1] == number:
                self._early = None
                self._outlet.say({}, {"state": "went", "hold": number})
            elif self._number != number or self.cell is None:  # over, which was said
                return {}
            elif self._tasks is not None:
                self._tasks.put((_GO, {}))
            else:
                self._finish("went")
        return {}

    def _save(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._number == int(request["hold"]) and self._tasks is not None:
                self._tasks.put((_SAVE, request))
        return {}

    def _look(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            cell, asked = self.cell, self._number is not None
        return {
            "skipped": list(self._engine.skipped) if asked else [],
            "has_loops": cell is not None and self._has_loops(str(cell.parent["content"]["code"])),
        }

    def _loops(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Tell how far the loops of the cell are; nothing of it waits for the cell."""
        with self._lock:
            same = self.cell is not None and self.cell.message == request["cell"]
        return self._engine.looker.look() if same else {}

    def _has_loops(self, code: str) -> bool:
        try:
            # a manager of our own: the shell's belongs to the main thread, and may hold transformers of the user's
            return bool(self._engine.has_loops(TransformerManager().transform_cell(code)))
        except (SyntaxError, ValueError):  # it will not run either
            return False

    # the main thread

    def begin(self, parent: dict[str, Any]) -> None:
        """A cell's request has come; from here on it can be asked to hold."""
        with self._lock:
            self.cell = Cell(parent)
            early, self._early = self._early, None
            if early is not None and early[0] == self.cell.message:
                self._ask(early[1])

    def end(self, message: str) -> None:
        """The cell is over: a hold that was asked for and did not come ends here, and hits no other cell."""
        if os.getpid() != self._process:
            return
        with self._lock:
            if self.cell is None or self.cell.message != message:
                return
            self._ended.append({"header": self.cell.parent["header"]})
            if self._number is not None:
                self._finish("ended")
            self.cell = None

    def _finish(self, state: str) -> None:
        number, self._number, self._tasks = self._number, None, None
        self._engine.withdraw()
        self._say(state, number)

    def _say(self, state: str, number: int | None, **more: Any) -> None:
        if self.cell is not None:
            self._outlet.say(self.cell.parent, {"state": state, "hold": number, **more})

    def stage(self, name: str) -> None:
        """The cell's code says, in any of its threads, that a stage ends here; between cells none does."""
        cell = self.cell  # without the lock, which this thread may hold: a finalizer can run anywhere
        if cell is not None and os.getpid() == self._process:
            self._outlet.say(cell.parent, {"state": "stage", "name": name})

    def serve(self, boundary: Boundary) -> None:
        """Hold at `boundary`: do what is asked, until the cell may go on. KeyboardInterrupt for a Ctrl-C meanwhile."""
        if os.getpid() != self._process:  # a fork of the cell's own
            return
        tasks: SimpleQueue[Task] = SimpleQueue()
        with _interrupts_into(tasks):
            with self._lock:
                if self._number is None or self.cell is None or self._tasks is not None:
                    return
                self._tasks = tasks
                number = self._number
            self._outlet.flush()
            self._say("held", number, where=boundary.where)
            if self._serve_tasks(tasks, boundary, number):
                with self._lock:
                    self._finish("went")

    def _serve_tasks(self, tasks: SimpleQueue[Task], boundary: Boundary, number: int) -> bool:
        """Save as often as asked until the hold ends; False if only this boundary does: the next one holds again."""
        while True:
            op, request = tasks.get()
            if op != _SAVE:
                return True
            if not self._save_here(request, boundary, number):
                with self._lock:  # nothing joins the queue any more
                    self._tasks = None
                return _ends(tasks)

    def _save_here(self, request: Mapping[str, Any], boundary: Boundary, number: int) -> bool:
        """Save and say so; False if this boundary can't be saved."""
        cell = self.cell
        assert cell is not None
        try:
            saved = self._outlet.save_held(request, cell, boundary.record())
        except Refused as refused:
            boundary.refuse(f"{refused.path}: {refused.reason}")
            self._outlet.flush()
            self._say("refused", number, path=refused.path, reason=refused.reason)
            return False
        except CiuicError as error:
            self._failed(number, type(error).__name__, str(error))
        except BaseException as error:  # noqa: BLE001 - a reducer of the user's may raise anything, even SystemExit
            self._failed(number, "CiuicError", f"save failed: {type(error).__name__}: {error}")
        else:
            self._outlet.flush()
            self._say("saved", number, **saved)
        return True

    def _failed(self, number: int, kind: str, message: str) -> None:
        self._outlet.flush()
        self._say("failed", number, type=kind, message=message)


def _ends(tasks: SimpleQueue[Task]) -> bool:
    """Tell whether what ends a hold waits in the queue."""
    with suppress(Empty):
        while tasks.get_nowait()[0] == _SAVE:
            pass
        return True
    return False


@contextmanager
def _interrupts_into(tasks: SimpleQueue[Task]) -> Iterator[None]:
    """Make Ctrl-C a task, so that it tears no save apart; whoever got it before gets it afterwards."""
    came: list[int] = []

    def put_off(number: int, _frame: Any) -> None:
        came.append(number)
        tasks.put((_INTERRUPT, {}))

    before = signal.signal(signal.SIGINT, put_off)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        if came:
            signal.raise_signal(signal.SIGINT)
