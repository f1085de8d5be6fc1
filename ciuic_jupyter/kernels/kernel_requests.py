"""What a kernel does for its agent between two cells: save, restore, push, pull, names."""

from __future__ import annotations

import json
import signal
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import CiuicError, ProtocolError, UnknownName, UsageError
from ciuic_jupyter.kernels import kernel_state, variables


class Requests:
    """The requests of one kernel; each runs in its main thread, with nothing of ours in the user's namespace."""

    def __init__(self, shell: Any) -> None:
        """Serve the namespace of `shell`, an InteractiveShell."""
        self._shell = shell
        self._watch = kernel_state.Watch()
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
        except KeyboardInterrupt:
            return {"status": "error", "type": "UsageError", "message": f"{op} was interrupted; ask again"}
        except BaseException as error:  # noqa: BLE001 - a reducer of the user's may raise anything, even SystemExit
            return {"status": "error", "type": "CiuicError", "message": f"{op} failed: {type(error).__name__}: {error}"}

    def save(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Write the namespace into the store; answer with the manifest's body, which the agent signs.

        `placeholders` are variables to leave out, with the reason: they did not load again last time. The body goes to
        the file `body_path` where the request names one, else into the answer.
        """
        from ciuic_jupyter.checkpoint.namespace import capture  # noqa: PLC0415 - only a kernel that is saved needs it
        from ciuic_jupyter.checkpoint.store import Store  # noqa: PLC0415

        with _undisturbed():
            body = capture(
                self._shell.user_ns,
                Store(Path(request["store"])),
                hidden=kernel_state.hidden_names(self._shell),
                state=kernel_state.session_state(self._shell),
                force_placeholders=request.get("placeholders") or {},
            )
        running = self._watch.running()
        body["placeholders"] += [{"name": "", "path": "", "reason": what} for what in running]
        if path := request.get("body_path"):
            variables.write_file([json.dumps(body).encode()], Path(path))
            return {"body_path": path, "running": running}
        return {"body": body, "running": running}

    def restore(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Fill the namespace, which stays the same dict, from a body (or `body_path`) that the agent has verified."""
        from ciuic_jupyter.checkpoint.namespace import restore  # noqa: PLC0415 - only a kernel that is resumed needs it
        from ciuic_jupyter.checkpoint.store import Store  # noqa: PLC0415

        body = request["body"] if "body" in request else json.loads(Path(request["body_path"]).read_bytes())
        with _undisturbed():
            restored = restore(body, Store(Path(request["store"])), self._shell.user_ns)
            if restored.state:
                kernel_state.apply_session_state(self._shell, restored.state)
        return {
            "names": list(restored.names),
            "placeholders": list(restored.placeholders),
            "warnings": list(restored.warnings),
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
