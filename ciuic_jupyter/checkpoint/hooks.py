"""Functions of the notebook that others call: hooks, signal handlers, what it put into builtins and libraries."""

from __future__ import annotations

import builtins
import signal
import sys
import threading
import types
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from ciuic_jupyter.checkpoint.placeholder import Placeholder
from ciuic_jupyter.checkpoint.shell import is_own

_STREAMS = ("stdout", "stderr", "stdin")
_HOOKS = ((sys, "excepthook"), (sys, "unraisablehook"), (sys, "displayhook"), (threading, "excepthook"))
_WRAPPERS = {classmethod: "__func__", staticmethod: "__func__", property: "fget"}
_ACCESSORS = ("Accessor", "CachedAccessor")  # of pandas
_NOT_OURS = frozenset({signal.SIGINT})  # the kernel's own

_began: dict[str, Any] = {}


def remember_start() -> None:
    """Take the names in builtins and the streams of now as those that every process has."""
    _began["builtins"] = dict(vars(builtins))
    _began["streams"] = {name: getattr(sys, name) for name in _STREAMS}


def record(words: Collection[str]) -> dict[str, Any] | None:
    """Return the hooks of the notebook, None if there are none; a library that no word names is passed over."""
    hooks = {(owner.__name__, name): getattr(owner, name) for owner, name in _HOOKS}
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals() - _NOT_OURS}
    before = _began.get("builtins", vars(builtins))
    found: dict[str, Any] = {
        "hooks": {place: hook for place, hook in hooks.items() if is_own(hook)},
        "streams": own_streams(),
        "signals": {int(number): handler for number, handler in handlers.items() if is_own(handler)},
        "builtins": {name: value for name, value in vars(builtins).items() if _is_new(name, value, before)},
    }
    found |= {"patches": _patches(words), "patchers": list(_patchers()), "progress": _progress()}
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


def _patches(words: Collection[str]) -> dict[tuple[str, str], Any]:
    """Return what the notebook put into modules and classes of libraries, by module and path."""
    found: dict[tuple[str, str], Any] = {}
    mock = getattr(sys.modules.get("unittest.mock"), "NonCallableMock", None)
    main = sys.modules.get("__main__")
    for module_name, module in list(sys.modules.items()):
        names = getattr(module, "__dict__", None)
        if module is main or not isinstance(names, dict):
            continue
        if words and module_name.partition(".")[0] not in words:
            continue
        for name, value in list(names.items()):
            if _is_patch(value) or (mock is not None and issubclass(type(value), mock)):
                found[module_name, name] = value
            elif issubclass(type(value), type):  # isinstance would ask the object, and old names answer with warnings
                inside = type.__getattribute__(value, "__dict__")
                if inside.get("__module__") == module_name:
                    own = {key: member for key, member in list(inside.items()) if _is_patch(member)}
                    found |= {(module_name, f"{name}.{key}"): member for key, member in own.items()}
    return found


def _is_patch(value: Any) -> bool:
    """Tell whether a member of a library's module or class is code of the notebook; asked of everything there is."""
    kind = type(value)
    if kind is types.FunctionType:
        return bool(value.__module__ == "__main__")
    if kind not in _WRAPPERS and kind.__name__ not in _ACCESSORS:
        return False
    inside = getattr(value, _WRAPPERS.get(kind, "_accessor"), None)
    return getattr(inside, "__module__", None) == "__main__"


def _set_patches(patches: Mapping[tuple[str, str], Any]) -> None:
    for (module, path), value in patches.items():
        *owners, name = path.split(".")
        holder: Any = sys.modules.get(module)
        for owner in owners:
            holder = getattr(holder, owner, None)
        if holder is not None and type(value) is not Placeholder:
            setattr(holder, name, value)
            if type(value).__name__ in _ACCESSORS and hasattr(holder, "_accessors"):
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
