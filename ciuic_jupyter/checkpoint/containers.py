"""Subclasses of dict, list and set: filled as the builtin does it, so that no method of the user's runs again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint import context

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph

# pickle puts things back with these, where a class has its own
_PLAIN_STATE: Any = object.__getstate__
_FILLS: dict[Any, tuple[str, ...]] = {
    dict: ("__setitem__", "items"),
    list: ("append", "extend", "__iter__"),
    set: ("__init__", "__new__", "__iter__"),
}


def handler_for(kind: Any) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if it is a container that pickle would fill through the user's methods."""
    for base, methods in _FILLS.items():
        if base in kind.__mro__[1:]:
            plain = kind.__reduce_ex__ is object.__reduce_ex__ and kind.__reduce__ is base.__reduce__
            bare = not hasattr(kind, "__setstate__") and kind.__getstate__ is _PLAIN_STATE
            own = any(getattr(kind, name) is not getattr(base, name) for name in methods)
            return _container if plain and bare and own else None
    return None


def _container(_: Graph, obj: Any) -> Any:
    base = next(base for base in _FILLS if isinstance(obj, base))
    contents = list(dict.items(obj)) if base is dict else list(base.__iter__(obj))
    return _make, (base, type(obj)), (base, contents, _PLAIN_STATE(obj)), None, None, _fill


def _make(base: Any, kind: type) -> Any:
    return base.__new__(kind)


def _fill(obj: Any, state: tuple[type, list[Any], Any]) -> None:
    base, contents, attributes = state
    plain, slots = attributes if isinstance(attributes, tuple) else (attributes, None)
    if plain:
        vars(obj).update(plain)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)
    try:
        _put(base, obj, contents)
    except Exception:  # noqa: BLE001 - a __hash__ of the user's may need its object whole
        context.current().afterwards(lambda: _put(base, obj, contents))


def _put(base: type, obj: Any, contents: list[Any]) -> None:
    if base is list:
        list.__init__(obj, contents)
    elif base is dict:
        dict.update(obj, contents)
    else:
        set.update(obj, contents)
