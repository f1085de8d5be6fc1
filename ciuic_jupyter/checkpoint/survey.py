"""What a notebook may have put into libraries: every module and class is looked at once, and again when it changed.

A notebook has 2,000 modules and 7,000 classes, of which hardly any changes between two saves. CPython counts the
changes of every dict (PEP 509); the count is read from memory, after a check that it is where it is known to be. Where
it is not, as from Python 3.14 on, everything is looked at each time.
"""

from __future__ import annotations

import abc
import contextvars
import ctypes
import gc
import sys
import time
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

ACCESSORS = ("Accessor", "CachedAccessor")  # of pandas
_WRAPPERS = {classmethod: "__func__", staticmethod: "__func__", property: "fget"}
_COUNT = 3 * ctypes.sizeof(ctypes.c_void_p)  # bytes into a dict, behind its references, type and length
_members: Any = type.__dict__["__dict__"].__get__  # isinstance and vars would ask the object
_value = attrgetter("value")


@dataclass
class Found:
    """What one module holds that a save asks for."""

    name: str
    module: Any
    deep: bool  # its classes were looked into
    installed: bool = False  # an import of a package or of the interpreter made it: not the user, nor by hand
    traced: bool = False  # the user named it to be paused inside
    patches: dict[str, Any] = field(default_factory=dict)  # path -> code of the notebook, or a mock
    abstract: list[Any] = field(default_factory=list)  # abstract classes of libraries
    variables: list[contextvars.ContextVar[Any]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # of changes of the dicts below
    words: list[Any] = field(default_factory=list)  # where these counts are
    dicts: list[dict[str, Any]] = field(default_factory=list)  # its own, then those of its classes


_cache: dict[str, Found] = {}


def look(words: Collection[str] = ()) -> list[Found]:
    """Return what each module but `__main__` holds; into classes only of libraries that `words` name, or of all."""
    main = sys.modules.get("__main__")
    with _no_collection():
        found = [_known(name, module, words) for name, module in list(sys.modules.items()) if module is not main]
    for name in _cache.keys() - sys.modules.keys():
        del _cache[name]
    return found


def ahead(words: Collection[str], seconds: float) -> Iterator[None]:
    """Look as `look` will, in slices of `seconds`: what it finds known it only compares."""
    main = sys.modules.get("__main__")
    left = [each for each in sys.modules.items() if each[1] is not main]
    while left:
        ends = time.perf_counter() + seconds
        with _no_collection():
            _known(*left.pop(), words)
            while left and time.perf_counter() < ends:
                _known(*left.pop(), words)
        yield


@contextmanager
def _no_collection() -> Iterator[None]:
    """Spare a look the collections, of everything there is, that its many lists would set off."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def is_known(name: str) -> bool:
    """Tell whether the module `name` is what it was when it was looked at."""
    return name in _cache and _counts(_cache[name]) == _cache[name].counts


def _known(name: str, module: Any, words: Collection[str]) -> Found:
    known, deep = _cache.get(name), not words or name.partition(".")[0] in words
    if known is None or known.module is not module or known.deep < deep or _counts(known) != known.counts:
        known = _seen(name, module, deep)
        _remember(known)
    return known


def patches(found: Iterable[Found]) -> dict[tuple[str, str], Any]:
    """Return what the notebook put into modules and classes of libraries, by module and path."""
    return {(each.name, path): value for each in found for path, value in each.patches.items()}


def _counts(found: Found) -> list[int]:
    return list(map(_value, found.words))


def _remember(found: Found) -> None:
    """Keep it for the next look, unless that must look again: the user may change it, or there is no count."""
    _cache.pop(found.name, None)
    if _COUNTED and found.installed and not found.patches and isinstance(found.module, types.ModuleType):
        found.words = [_word(each) for each in found.dicts]
        found.counts = _counts(found)
        _cache[found.name] = found


def _word(names: dict[str, Any]) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(id(names) + _COUNT)


def _is_counted() -> bool:
    """Tell whether the word is the count, of a module as of a class: it grows with each change and only then."""
    members = gc.get_referents(_members(type("Probe", (), {})))[0]
    return all(type(names) is dict and _grows(names) for names in (vars(types.ModuleType("probe")), members))


def _grows(names: dict[str, Any]) -> bool:
    word, counts = _word(names), []
    for value in (1, 2, 3):
        counts.append(word.value)
        names["probe"] = value
        names.get("probe")
        counts.append(word.value)
    del names["probe"]
    counts.append(word.value)
    before, changed = counts[::2], counts[1::2]
    return all(first < last for first, last in zip(before, changed, strict=False)) and before[1:3] == changed[:2]


# one module


def _seen(name: str, module: Any, deep: bool) -> Found:
    found, names = Found(name, module, deep), None
    with suppress(Exception):  # whatever somebody has put among the modules
        names = module.__dict__
    if not isinstance(names, dict):
        return found
    found.installed, found.traced = _is_installed(name, names), is_traced(names)
    found.dicts.append(names)
    mock = getattr(sys.modules.get("unittest.mock"), "NonCallableMock", None)
    for key, value in list(names.items()):
        kind = type(value)
        if kind is contextvars.ContextVar:
            found.variables.append(value)
        elif deep and (_is_code(value) or (mock is not None and issubclass(kind, mock))):
            found.patches[key] = value
        elif deep and issubclass(kind, type):  # isinstance would ask the object, and old names answer with warnings
            _look_into(found, key, value)
    return found


def _look_into(found: Found, name: str, kind: Any) -> None:
    inside = _members(kind)
    if inside.get("__module__") == found.name:
        found.dicts += gc.get_referents(inside)
        found.patches |= {f"{name}.{key}": member for key, member in list(inside.items()) if _is_code(member)}
    if issubclass(type(kind), abc.ABCMeta) and inside.get("__module__") != "__main__":
        found.abstract.append(kind)


def _is_installed(name: str, names: Mapping[str, Any]) -> bool:
    file, top = names.get("__file__"), name.partition(".")[0]
    if top == __name__.partition(".")[0]:
        return True
    if file is None:
        whole = vars(sys.modules[top]) if top != name and type(sys.modules.get(top)) is types.ModuleType else {}
        return names.get("__spec__") is not None or (bool(whole) and _is_installed(top, whole))
    return isinstance(file, str) and is_library(file)


def is_traced(names: Mapping[str, Any]) -> bool:
    """Tell whether the user named a module to be paused inside: its loader then knows if the file was edited."""
    return hasattr(names.get("__loader__"), "edited")


def is_library(file: str) -> bool:
    """Tell whether `file` belongs to an installed package or to the interpreter."""
    return file.startswith((sys.prefix, sys.base_prefix, sys.exec_prefix)) or "-packages" in file


def _is_code(value: Any) -> bool:
    """Tell whether a member of a library's module or class is code of the notebook; asked of everything there is."""
    kind = type(value)
    if kind is types.FunctionType:
        return bool(value.__module__ == "__main__")
    if kind not in _WRAPPERS and kind.__name__ not in ACCESSORS:
        return False
    inside = getattr(value, _WRAPPERS.get(kind, "_accessor"), None)
    return getattr(inside, "__module__", None) == "__main__"


_COUNTED = _is_counted()
