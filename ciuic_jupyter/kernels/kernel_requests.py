"""What a kernel does for its agent between two cells, or at a boundary of one: save, restore, push, pull, names."""

from __future__ import annotations

import json
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import CiuicError, ProtocolError, UnknownName, UsageError
from ciuic_jupyter.kernels import kernel_state, share, variables
from ciuic_jupyter.kernels.hold import Cell, Refused
from ciuic_jupyter.kernels.later import Later
from ciuic_jupyter.kernels.pause import is_position
from ciuic_jupyter.resume.engine import Engine


@dataclass(frozen=True)
class Suspended:
    """A cell that a checkpoint holds in its middle: where it is, and how it was run."""

    position: Any
    count: int
    store_history: bool
    allow_stdin: bool

    def state(self) -> dict[str, Any]:
        """Return the parts of a saved state that say all this."""
        how = {"count": self.count, "store_history": self.store_history, "allow_stdin": self.allow_stdin}
        return {"position": self.position, "cell": how}


class Requests:
    """The requests of one kernel; each runs in its main thread, with nothing of ours in the user's namespace."""

    def __init__(self, shell: Any, engine: Engine) -> None:
        """Serve the namespace of `shell`, an InteractiveShell, whose cells run with the hooks of `engine`."""
        self.suspended: Suspended | None = None  # restored, and neither resumed nor dropped
        self._shell = shell
        self._engine = engine
        self._watch = kernel_state.Watch()
        self._later: Later | None = None  # a save whose bytes may still be on their way
        self._own_modules = frozenset(sys.modules)  # of the kernel itself, before any cell
        self._ops: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "save": self.save,
            "restore": self.restore,
            "push": self.push,
            "pull": self.pull,
            "names": self.names,
            "modules": self.modules,
        }

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return {status: ok, ...} or {status: error, type: a class of errors.py, message}; raise nothing."""
        op = str(request.get("op"))
        try:
            operation = self._ops.get(op)
            if operation is None:
                raise ProtocolError(f"the kernel knows no request {op!r}; it knows {', '.join(self._ops)}")
            return {**operation(request), "status": "ok"}
        except CiuicError as error:
            return {"status": "error", "type": type(error).__name__, "message": str(error)}
        except Refused as refused:
            message = f"the paused cell can't be saved anew: {refused.path}: {refused.reason}; resume it first"
            return {"status": "error", "type": "SaveFailed", "message": message}
        except KeyboardInterrupt:
            return {"status": "error", "type": "UsageError", "message": f"{op} was interrupted; ask again"}
        except BaseException as error:  # noqa: BLE001 - a reducer of the user's may raise anything, even SystemExit
            return {"status": "error", "type": "CiuicError", "message": f"{op} failed: {type(error).__name__}: {error}"}

    def save(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write the namespace into the store; answer with the manifest's body, which the agent signs.

        `placeholders` are variables to leave out, with the reason: they did not load again last time. The body goes to
        the file `body_path` where the request names one, else into the answer. A restored cell that can go on is saved
        with it, but for `cell` None: then it was dropped.
        """
        if not request.get("cell", True):  # what was paused in its middle is not gone on with
            self.suspended = None
        with _undisturbed():
            return self._save(request, self.suspended, kernel_state.session_state(self._shell))

    def save_held(self, request: Mapping[str, Any], cell: Cell, position: Any) -> dict[str, Any]:
        """Do the same in the middle of `cell`, and tell the modules; Refused if its position can't be saved.

        With `later` in the request the cell may go on at once: the body, or what failed, is told in `body_path` when
        the bytes are durable.
        """
        suspended = Suspended(position, cell.count, cell.store_history, cell.allow_stdin)
        held = cell.count if cell.store_history else None
        with kernel_state.between_cells(self._shell):
            saved = self._save(request, suspended, kernel_state.session_state(self._shell, held))
        return {**saved, **self.modules(request)}

    def _save(self, request: Mapping[str, Any], suspended: Suspended | None, state: dict[str, Any]) -> dict[str, Any]:
        from ciuic_jupyter.checkpoint.namespace import capture  # noqa: PLC0415 - only a kernel that is saved needs it
        from ciuic_jupyter.checkpoint.store import Store  # noqa: PLC0415

        if self._later is not None:
            self._later.join()
        placeholders = kernel_state.give_up(state, request.get("placeholders") or {})
        if suspended is not None:
            _check_position(placeholders)
        parts: dict[str, Any] = {
            "hidden": kernel_state.hidden_names(self._shell),
            "state": {**state, "resume": self._engine.state(), **(suspended.state() if suspended else {})},
            "force_placeholders": placeholders,
        }
        if request.get("later"):
            return self._save_later(request, parts)
        with share.telling(request.get("share_path")) as tell:
            body = capture(self._shell.user_ns, Store(Path(request["store"])), **parts, tell=tell)
        if suspended is not None:
            _check_position({line["path"]: line["reason"] for line in body["placeholders"]})
        body["trace"] = self._engine.traced_names()
        running = self._watch.running()
        body["placeholders"] += [{"name": "", "path": "", "reason": what} for what in running]
        if path := request.get("body_path"):
            variables.write_file([json.dumps(body).encode()], Path(path))
            return {"body_path": path, "running": running}
        return {"body": body, "running": running}

    def _save_later(self, request: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
        from ciuic_jupyter.checkpoint.snapshot import snapshot  # noqa: PLC0415 - see capture
        from ciuic_jupyter.checkpoint.store import Store  # noqa: PLC0415

        self._later = later = Later(Path(request["body_path"]))
        running = self._watch.running()
        try:
            pending = snapshot(self._shell.user_ns, Store(Path(request["store"])), "arena", **parts)
            try:
                _check_position({line["path"]: line["reason"] for line in pending.head["placeholders"]})
            except Refused:
                with suppress(CiuicError):
                    pending.body()  # or it would still be written when the next save begins
                raise
        except BaseException:
            later.drop()
            raise
        lines = [{"name": "", "path": "", "reason": what} for what in running]
        later.start(pending, {"trace": self._engine.traced_names(), "placeholders": lines})
        return {"body_path": request["body_path"], "later": True, "running": running}

    def restore(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Fill the namespace, which stays the same dict, from a body (or `body_path`) that the agent has verified.

        `run` in the answer is what the body says of the cell it was saved in, None if there is none to go on with.
        """
        from ciuic_jupyter.checkpoint.namespace import restore  # noqa: PLC0415 - only a kernel that is resumed needs it
        from ciuic_jupyter.checkpoint.store import Store  # noqa: PLC0415

        body = request["body"] if "body" in request else json.loads(Path(request["body_path"]).read_bytes())
        with _undisturbed():
            self._engine.trace(body.get("trace", ()))
            restored = restore(body, Store(Path(request["store"])), self._shell.user_ns)
            state = restored.state or {}
            if state:
                kernel_state.apply_session_state(self._shell, state)
            if "resume" in state:
                self._engine.apply(state["resume"])
        self.suspended, lost = _suspended(state, restored.placeholders) if body.get("run") else (None, [])
        return {
            "names": list(restored.names),
            "placeholders": list(restored.placeholders),
            "warnings": [*restored.warnings, *lost],
            "run": body["run"] if self.suspended is not None else None,
        }

    def push(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Set the variables of the file `path`; all of `names`, or those `names` where it lists some."""
        values = variables.load(Path(request["path"]))
        names = request.get("names") or list(values)
        if missing := [name for name in names if name not in values]:
            raise UnknownName(f"{', '.join(missing)} did not come with what was sent; send them again")
        if bad := [name for name in names if not name.isidentifier()]:
            raise UsageError(f"{', '.join(bad)} can't be a variable's name; choose another")
        self._shell.push({name: values[name] for name in names})
        return {"names": {name: type_name(values[name]) for name in names}}

    def pull(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write the variables `names` to the file `path`: all of them or none."""
        user = self._shell.user_ns
        names = list(dict.fromkeys(request["names"]))
        if missing := [name for name in names if name not in user]:
            raise UnknownName(f"there is no {', '.join(missing)} in this kernel; ask for its names first")
        size = variables.write_file(variables.dump({name: user[name] for name in names}), Path(request["path"]))
        return {"size": size, "names": {name: type_name(user[name]) for name in names}}

    def names(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Tell the user's variables and their types."""
        user = self._shell.user_ns
        hidden = kernel_state.hidden_names(self._shell)
        return {"names": {name: type_name(value) for name, value in list(user.items()) if name not in hidden}}

    def modules(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Tell the modules of installed packages that the user's cells have loaded, in the order they were."""
        installed = tuple({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
        found = []
        for name, module in list(sys.modules.items()):
            origin = getattr(getattr(module, "__spec__", None), "origin", None)
            if name not in self._own_modules and isinstance(origin, str) and origin.startswith(installed):
                found.append(name)
        return {"modules": found}


def _check_position(placeholders: Mapping[str, str]) -> None:
    for path, reason in placeholders.items():
        if is_position(path):
            raise Refused(path, reason)


def _suspended(state: Mapping[str, Any], placeholders: list[dict[str, str]]) -> tuple[Suspended | None, list[str]]:
    """Return the cell that `state` was saved in, or None and a warning that says why it can't go on."""
    try:
        _check_position({line["path"]: line["reason"] for line in placeholders})
        how = state["cell"]
        return Suspended(state["position"], int(how["count"]), bool(how["store_history"]), bool(how["allow_stdin"])), []
    except Refused as refused:
        why = f"{refused.path}: {refused.reason}"
    except (KeyError, TypeError, ValueError, CiuicError) as error:
        why = f"its state is not whole ({type(error).__name__}: {error})"
    return None, [f"the cell that was paused can't go on here ({why}); the variables are as they stood, run it again"]


def type_name(value: object) -> str:
    """Return the class of `value` as a reader knows it: builtins and the notebook's own without their module."""
    kind = type(value)
    known = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no Ctrl-C through: one that was meant for the cell before would leave a namespace half saved or filled."""
    with suppress(ValueError):  # not in the main thread
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        with suppress(ValueError):
            signal.signal(signal.SIGINT, before)
