"""Where an object sits in the namespace, in the words of the person who made it: `cfg['db']`, `model._lock`."""

from __future__ import annotations

import ast
import types
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

_LIMIT = 100_000  # objects looked at; a path is a help, not worth more
SOMEWHERE = " ..."  # behind the name of a variable: the path was not found
_ATOMS = (str, bytes, bytearray, int, float, complex, bool, type(None), types.ModuleType, types.CodeType)
_KEYS = (str, int, float, bool, bytes, type(None))


def find(target: object, name: str, root: object, limit: int = _LIMIT) -> str:
    """Return the shortest path from the variable `name`, whose value is `root`, to `target`; else `name` and dots."""
    if target is root:
        return name
    seen = {id(root)}
    kept = [root]  # a __dict__ made on the fly must not give its id to the next
    todo = deque([(name, root)])
    while todo and len(seen) < limit:
        path, value = todo.popleft()
        for step, child in _children(value):
            if child is target:
                return path + step
            if id(child) not in seen and not isinstance(child, _ATOMS):
                seen.add(id(child))
                kept.append(child)
                todo.append((path + step, child))
    return name + SOMEWHERE


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    if issubclass(kind, dict):
        for key, child in list(dict.items(value)):
            yield f"[{_key(key)}]", child
            if not isinstance(key, _ATOMS):
                yield f" (key {_key(key)})", key
    elif issubclass(kind, (list, tuple, deque)):
        yield from ((f"[{index}]", child) for index, child in enumerate(value))
    elif issubclass(kind, (set, frozenset)):
        yield from ((" (an element)", child) for child in list(value))
    elif kind is types.FunctionType:
        yield from _function_parts(value)
    elif kind is types.MethodType:
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif kind is types.CellType:
        with suppress(ValueError):
            yield "", value.cell_contents
    elif issubclass(kind, BaseException):
        yield ".__cause__", value.__cause__
        yield ".__context__", value.__context__
    yield from _attributes(value)


def _key(key: object) -> str:
    return repr(key) if isinstance(key, _KEYS) else f"a {type(key).__name__}"


def _function_parts(value: types.FunctionType) -> Iterator[tuple[str, Any]]:
    for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
        with suppress(ValueError):
            yield f" (its variable {name})", cell.cell_contents
    for index, child in enumerate(value.__defaults__ or ()):
        yield f" (its default {index})", child
    for key, child in (value.__kwdefaults__ or {}).items():
        yield f" (its default {key})", child


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    with suppress(Exception):  # a proxy may refuse; then there is no path through it
        own = object.__getattribute__(value, "__dict__")
        if isinstance(own, (dict, types.MappingProxyType)):
            for key, child in list(own.items()):
                yield f".{key}", child
    for base in kind.__mro__:
        for slot, member in list(vars(base).items()):
            if isinstance(member, types.MemberDescriptorType):
                with suppress(Exception):
                    yield f".{slot}", member.__get__(value, kind)
    with suppress(Exception):
        if kind.__name__ == "partial":
            yield ".func", value.func
            yield ".args", value.args
            yield ".keywords", value.keywords
        elif kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.hasobject:
            yield from ((f".flat[{index}]", child) for index, child in enumerate(value.flat))


def resolve(path: str, values: Mapping[str, Any]) -> tuple[str, object]:
    """Return the variable `path` starts with and the object it leads to; KeyError if it leads nowhere.

    Only items and attributes that are there are followed, so that no code of the user's runs.
    """
    try:
        node = ast.parse(path, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise KeyError(path) from error
    steps: list[tuple[str, Any]] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            steps.append(("attribute", node.attr))
            node = node.value
        elif isinstance(node, ast.Subscript):
            try:
                steps.append(("item", ast.literal_eval(node.slice)))
            except ValueError as error:
                raise KeyError(path) from error
            node = node.value
        else:
            raise KeyError(path)
    value: Any = values[node.id]
    for how, key in reversed(steps):
        value = _step(value, how, key)
    return node.id, value


def _step(value: Any, how: str, key: Any) -> Any:
    if how == "attribute":
        for step, child in _attributes(value):
            if step == f".{key}":
                return child
    elif isinstance(value, dict):
        return dict.__getitem__(value, key)
    elif isinstance(value, (list, tuple, deque)) and isinstance(key, int) and 0 <= key < len(value):
        return value[key]
    raise KeyError(key)
