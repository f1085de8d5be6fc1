"""Functions of the notebook that others call: hooks, signal handlers, what it put into builtins and libraries."""

from __future__ import annotations

import builtins
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ciuic_jupyter.checkpoint import survey
from ciuic_jupyter.checkpoint.placeholder import Placeholder
from ciuic_jupyter.checkpoint.shell import is_own

_STREAMS = ("stdout", "stderr", "stdin")
_HOOKS = ((sys, "excepthook"), (sys, "unraisablehook"), (sys, "displayhook"), (threading, "excepthook"))
_NOT_OURS = frozenset({signal.SIGINT})  # the kernel's own

_began: dict[str, Any] = {}


def remember_start() -> None:
    """Take the names in builtins and the streams of now as those that every process has."""
    _began["builtins"] = dict(vars(builtins))
    _began["streams"] = {name: getattr(sys, name) for name in _STREAMS}


def record(seen: Iterable[survey.Found]) -> dict[str, Any] | None:
    """Return the hooks of the notebook and what it put into the modules that were `seen`; None if there is nothing."""
    hooks = {(owner.__name__, name): getattr(owner, name) for owner, name in _HOOKS}
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() - _NOT_OURS}
    before = _began.get("builtins", vars(builtins))
    found: dict[str, Any] = {
        "hooks": {place: hook for place, hook in hooks.items() if is_own(hook)},
        "streams": own_streams(),
        "signals": {int(number): handler for number, handler in handlers.items() if is_own(handler)},
        "builtins": {name: value for name, value in vars(builtins).items() if _is_new(name, value, before)},
    }
    found |= {"patches": survey.patches(seen), "patchers": list(_patchers()), "progress": _progress()}
    return found if any(found.values()) else None


def own_streams() -> dict[str, Any]:
    """Return the standard streams that the notebook has put its own in the place of."""
    began = _began.get("streams", {})
    return {name: getattr(sys, name) for name in began if getattr(sys, name) is not began[name]}


def _patchers() -> list[Any]:
    """Return the list of patches that unittest.mock has to undo; a copy of none where it is not loaded."""
    kind = getattr(sys.modules.get("unittest.mock"), "_patch", None)
    return getattr(kind, "_active_patches", [])


def _progress() -> list[tuple[Any, dict[str, Any]]]:
    """Return what tqdm's `pandas` was called on and with: it gives the frames of pandas a progress_apply."""
    frame = getattr(sys.modules.get("pandas"), "DataFrame", None)
    function = getattr(frame, "progress_apply", None)
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(function, "__closure__", None) or (), strict=True))
    if not {"cls", "tqdm_kwargs"} <= cells.keys():
        return []
    return [(cells["cls"].cell_contents, cells["tqdm_kwargs"].cell_contents)]


def _set_patches(patches: Mapping[tuple[str, str], Any]) -> None:
    for (module, path), value in patches.items():
        *owners, name = path.split(".")
        holder: Any = sys.modules.get(module)
        for owner in owners:
            holder = getattr(holder, owner, None)
        if holder is not None and type(value) is not Placeholder:
            setattr(holder, name, value)
            if type(value).__name__ in survey.ACCESSORS and hasattr(holder, "_accessors"):
                holder._accessors.add(name)  # noqa: SLF001 - as pandas does


def _is_new(name: str, value: object, before: Mapping[str, Any]) -> bool:
    return name != "_" and (name not in before or before[name] is not value)


def apply(value: Mapping[str, Any]) -> None:
    """Set them again."""
    for (module, name), hook in value["hooks"].items():
        if type(hook) is not Placeholder:
            setattr(sys.modules[module], name, hook)
    for name, stream in value["streams"].items():
        if type(stream) is not Placeholder:
            setattr(sys, name, stream)
    for number, handler in value["signals"].items():
        if type(handler) is not Placeholder:
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, handler)
    vars(builtins).update(value["builtins"])
    _set_patches(value["patches"])
    _patchers().extend(value["patchers"])
    for bar, options in value["progress"]:
        bar.pandas(**options)
