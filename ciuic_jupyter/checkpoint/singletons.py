"""Objects of which each process has its own: a save names them, a restore finds them."""

from __future__ import annotations

import sys
import threading
from typing import Any

from ciuic_jupyter.checkpoint import hooks, shell

_PLACES = (
    ("os", "environ"),
    ("sys", "stdout"),
    ("sys", "stderr"),
    ("sys", "stdin"),
    ("sys", "__stdout__"),
    ("sys", "__stderr__"),
    ("sys", "__stdin__"),
    ("random", "_inst"),
    ("numpy.random.mtrand", "_rand"),
    ("torch", "default_generator"),
    ("dataclasses", "MISSING"),
    ("dataclasses", "KW_ONLY"),
    ("dataclasses", "_HAS_DEFAULT_FACTORY"),
    ("logging", "root"),
)


def table() -> dict[int, tuple[str, str]]:
    """Return {id: (module, attribute)} of those that are in this process now."""
    found: dict[int, tuple[str, str]] = {}
    taken = hooks.own_streams()
    for module, name in _PLACES:
        value = getattr(sys.modules.get(module), name, None)
        if value is not None and not (module == "sys" and name in taken):
            found.setdefault(id(value), (module, name))
    found[id(threading.main_thread())] = ("ciuic_jupyter.checkpoint.singletons", "MAIN_THREAD")
    here = shell.running()
    if here is not None:
        found[id(here)] = ("ciuic_jupyter.checkpoint.singletons", "SHELL")
    return found


def sentinel(obj: object) -> tuple[str, str] | None:
    """Return the module and the name of a bare `object()` or the like that a library keeps as a global."""
    kind = type(obj)
    if kind is object:
        return attribute(obj)
    holder = sys.modules.get(kind.__module__) if kind.__module__ != "__main__" else None
    for name, value in list(getattr(holder, "__dict__", {}).items()):
        if value is obj:
            return kind.__module__, name
    return None


def attribute(obj: object) -> tuple[str, str] | None:
    """Return a module that can be imported and the name under which it keeps `obj` itself; None if there is none."""
    for module, holder in list(sys.modules.items()):
        if holder is not sys.modules.get("__main__"):  # multiprocessing gives it another name
            for name, value in list(getattr(holder, "__dict__", {}).items()):
                if value is obj:
                    return module, name
    return None


def __getattr__(name: str) -> Any:
    if name == "MAIN_THREAD":
        return threading.main_thread()
    if name == "SHELL":
        here = shell.running()
        if here is not None:
            return here
    raise AttributeError(name)
