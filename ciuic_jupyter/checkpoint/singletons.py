"""Objects of which each process has its own: a save names them, a restore finds them."""

from __future__ import annotations

import sys
import threading
from typing import Any

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
    for module, name in _PLACES:
        value = getattr(sys.modules.get(module), name, None)
        if value is not None:
            found.setdefault(id(value), (module, name))
    found[id(threading.main_thread())] = ("ciuic_jupyter.checkpoint.singletons", "MAIN_THREAD")
    shell = getattr(sys.modules.get("IPython.core.getipython"), "get_ipython", lambda: None)()
    if shell is not None:
        found[id(shell)] = ("ciuic_jupyter.checkpoint.singletons", "SHELL")
    return found


def sentinel(obj: object) -> tuple[str, str] | None:
    """Return the module and the name of a bare `object()` or the like that a library keeps as a global."""
    kind = type(obj)
    modules = list(sys.modules.items()) if kind is object else [(kind.__module__, sys.modules.get(kind.__module__))]
    for module, holder in modules:
        if module == "__main__":
            continue
        for name, value in list(getattr(holder, "__dict__", {}).items()):
            if value is obj:
                return module, name
    return None


def __getattr__(name: str) -> Any:
    if name == "MAIN_THREAD":
        return threading.main_thread()
    if name == "SHELL":
        shell = getattr(sys.modules.get("IPython.core.getipython"), "get_ipython", lambda: None)()
        if shell is not None:
            return shell
    raise AttributeError(name)
