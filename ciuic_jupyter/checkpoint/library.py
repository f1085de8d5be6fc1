"""Objects of libraries that pickle refuses, or makes copies of, although nothing keeps them from being made again."""

from __future__ import annotations

import contextvars
import gc
import queue
import struct
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint import context, singletons, survey

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if it is one of them."""
    if kind in _HANDLERS:
        return _HANDLERS[kind]
    if any(base.__name__ == "KerasSaveable" and base.__reduce__ is kind.__reduce__ for base in kind.__mro__[:-1]):
        return _as_it_is
    if kind.__module__ == "keras.src.utils.tracking" and kind.__name__ == "Tracker":
        return _as_it_is
    ctypes = sys.modules.get("ctypes")
    if ctypes is not None and issubclass(kind, ctypes.CDLL):
        return _c_library
    if ctypes is not None and issubclass(kind, ctypes._CFuncPtr):  # noqa: SLF001 - it has no other name
        return _c_function
    return None


def _struct(_: Graph, layout: struct.Struct) -> Any:
    return struct.Struct, (layout.format,)


def _as_it_is(_: Graph, part: Any) -> Any:
    """Reduce a model, layer or optimizer of Keras, whose own way is an archive that shares nothing with the rest."""
    return _bare, (type(part),), dict(vars(part)), None, None, _fill_bare


def _bare(kind: type) -> Any:
    return object.__new__(kind)


def _fill_bare(part: Any, state: dict[str, Any]) -> None:
    object.__getattribute__(part, "__dict__").update(state)
    if "_trainable_variables_indices" in state:  # of an optimizer; it knows its variables by their addresses
        part._trainable_variables_indices = {id(one): number for number, one in enumerate(part._trainable_variables)}  # noqa: SLF001
    if "stored_ids" in state:  # of a tracker
        part.stored_ids = {name: {id(one) for one in stored} for name, (_, stored) in part.config.items()}


def _super(_: Graph, view: Any) -> Any:
    return super, (view.__thisclass__, view.__self__)  # every other attribute is that of the object behind it


def _simple_queue(_: Graph, waiting: queue.SimpleQueue[Any]) -> Any:
    items = []
    while not waiting.empty():
        items.append(waiting.get_nowait())
    for item in items:
        waiting.put(item)
    return queue.SimpleQueue, (), items, None, None, _fill_queue


def _fill_queue(waiting: queue.SimpleQueue[Any], items: list[Any]) -> None:
    for item in items:
        waiting.put(item)


# context variables


def _variable(graph: Graph, variable: contextvars.ContextVar[Any]) -> Any:
    place = singletons.attribute(variable)
    if place is not None:
        graph.uses(place[0])
        return context.named, place
    default = [each for each in gc.get_referents(variable) if each is not variable.name][:1]
    try:
        contextvars.Context().run(variable.get)
    except LookupError:
        return _make_variable, (variable.name,)
    if not default:  # its default is the very string of its name
        default = [variable.name]
    return _make_variable, (variable.name, *default)


def _make_variable(name: str, *default: Any) -> Any:
    return contextvars.ContextVar(name, default=default[0]) if default else contextvars.ContextVar(name)


def own_values(seen: Iterable[survey.Found]) -> dict[contextvars.ContextVar[Any], Any] | None:
    """Return the values here of context variables that none of the modules `seen` keeps; None if there are none."""
    return _own(contextvars.copy_context(), seen) or None


def _own(values: contextvars.Context, seen: Iterable[survey.Found]) -> dict[contextvars.ContextVar[Any], Any]:
    known = {id(each) for found in seen for each in found.variables}
    return {key: value for key, value in values.items() if id(key) not in known and key.name not in _INTERNAL}


def set_values(values: dict[contextvars.ContextVar[Any], Any]) -> None:
    """Set context variables in this context."""
    for variable, value in values.items():
        variable.set(value)


def _context(graph: Graph, values: contextvars.Context) -> Any:
    kept = _own(values, survey.look())
    if len(kept) < len(values):
        graph.note(values, "of a context only the values of the notebook's own variables are kept")
    return contextvars.Context, (), kept, None, None, _fill_context


def _fill_context(made: contextvars.Context, values: dict[contextvars.ContextVar[Any], Any]) -> None:
    made.run(set_values, values)


# shared libraries


def _c_library(_: Graph, library: Any) -> Any:
    own = {name: value for name, value in vars(library).items() if name not in ("_FuncPtr", "_handle", "_name")}
    return _open_library, (type(library), library._name), own, None, None, _fill_library  # noqa: SLF001 - nothing public tells


def _open_library(kind: type, name: str | None) -> Any:
    return kind(name)


def _fill_library(library: Any, own: dict[str, Any]) -> None:
    vars(library).update(own)


def _c_function(graph: Graph, function: Any) -> Any:
    library = next(iter((function._objects or {}).values()), None)  # noqa: SLF001 - nothing public tells
    library = library if hasattr(library, "_handle") else None
    if library is None:
        return graph.refuse(function, "a function of C that is at an address can't be saved")
    state = {name: getattr(function, name) for name in ("argtypes", "restype")}
    return _find_function, (library, function.__name__), state, None, None, _fill_function


def _find_function(library: Any, name: str) -> Any:
    return library[name]


def _fill_function(function: Any, state: dict[str, Any]) -> None:
    for name, value in state.items():
        setattr(function, name, value)


_INTERNAL = frozenset({"decimal_context"})  # restored as the process's state
_HANDLERS: dict[type, Callable[[Graph, Any], Any]] = {
    struct.Struct: _struct,
    super: _super,
    queue.SimpleQueue: _simple_queue,
    contextvars.ContextVar: _variable,
    contextvars.Context: _context,
}
