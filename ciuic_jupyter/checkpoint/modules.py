"""Modules of the user's own, beside the notebook: what their globals hold by now, and whether their files changed.

A restore imports them again, which gives the code; what cells changed in them since comes from here. A module whose
file is gone or was edited after the import is saved with the code that it ran with.
"""

from __future__ import annotations

import enum
import functools
import importlib
import os
import struct
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cloudpickle import cloudpickle

from ciuic_jupyter.checkpoint import caches, context, survey
from ciuic_jupyter.checkpoint.placeholder import Placeholder

_LRU = type(functools.lru_cache(lambda: None))
_CODE = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, _LRU)
_STAMP = struct.Struct("<4xIII")  # of a .pyc: flags, time and size of the source

_began: dict[str, Any] = {"modules": frozenset(), "folder": None}


def remember_start() -> None:
    """Take the modules of now for those of the kernel itself, and the folder of now for the notebook's."""
    _began.update(modules=frozenset(sys.modules), folder=_folder())


def _folder() -> str | None:
    with suppress(OSError):
        return os.getcwd()
    return None


def own(added: Iterable[str], seen: Iterable[survey.Found]) -> list[types.ModuleType]:
    """Return those `seen` whose file is below the notebook's folder or an entry in `added`, and in no environment."""
    roots = {os.path.abspath(root) for root in (*added, _folder(), _began["folder"]) if root}
    roots -= {"/", *(entry for entry in (sys.prefix, sys.base_prefix, sys.exec_prefix))}
    mine = []
    for found in seen:
        if (found.installed and not found.traced) or found.name in _began["modules"]:
            continue
        file = getattr(found.module, "__file__", None)
        path = file if isinstance(file, str) and os.path.isabs(file) else ""
        below = any(path.startswith(root + os.sep) for root in roots)
        if (path.endswith(".py") and below and not survey.is_library(path)) or found.traced:
            mine.append(found.module)
    return mine


def record(mine: Iterable[types.ModuleType]) -> dict[str, Any] | None:
    """Return what the globals, classes and caches of modules of the user's hold; None if there are none."""
    return {module.__name__: _state(module) for module in mine if not is_whole(module)} or None


def _state(module: types.ModuleType) -> dict[str, Any]:
    names = {name: value for name, value in vars(module).items() if not _is_dunder(name)}
    classes = {name: value for name, value in names.items() if isinstance(value, type) and _is_of(module, value)}
    plain = {name: kind for name, kind in classes.items() if not issubclass(kind, enum.Enum)}
    cached = {name: value for name, value in names.items() if isinstance(value, _LRU) and _is_of(module, value)}
    return {
        "globals": {name: value for name, value in names.items() if not _is_code(module, value)},
        "attributes": {name: _attributes(kind) for name, kind in plain.items()},
        "caches": {name: caches.read(value) for name, value in cached.items()},
    }


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def _is_of(module: types.ModuleType, value: Any) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _is_code(module: types.ModuleType, value: Any) -> bool:
    """Tell whether importing gives `value` again: code, but for what the notebook put there."""
    return isinstance(value, _CODE) and getattr(value, "__module__", module.__name__) != "__main__"


def _attributes(kind: type) -> dict[str, Any]:
    """Return what a class holds beside methods and descriptors."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not _is_dunder(name) and name != "_abc_impl" and not callable(value) and not hasattr(type(value), "__get__")
    }


def apply(value: Mapping[str, Any]) -> None:
    """Import the modules and put back what they held; what could not be saved stays as the import made it."""
    for name, state in value.items():
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - a module of the user's may raise anything when it is run
            context.current().warn(f"import {name} failed here: {type(error).__name__}: {error}")
            continue
        for key, item in state["globals"].items():
            if type(item) is not Placeholder:
                vars(module)[key] = item
        for key, attributes in state["attributes"].items():
            _set_attributes(vars(module).get(key), attributes)
        for key, contents in state["caches"].items():
            function = vars(module).get(key)
            if contents is not None and isinstance(function, _LRU):
                caches.write(function, contents)


def _set_attributes(kind: Any, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if isinstance(kind, type) and vars(kind).get(name, attributes) is not value and type(value) is not Placeholder:
            with suppress(AttributeError, TypeError):  # its metaclass forbids it
                setattr(kind, name, value)


# modules that go whole


@contextmanager
def saved_whole(mine: Iterable[types.ModuleType], seen: Iterable[survey.Found]) -> Iterator[list[types.ModuleType]]:
    """Have those of `mine` whose file is gone or edited since saved with their code, and yield them.

    So are modules that were made by hand, where something refers to them.
    """
    changed = [module for module in mine if _is_changed(module)]
    made = [found.module for found in seen if not found.installed and _is_made(found.module)]  # also some of libraries
    for module in (*changed, *made):
        cloudpickle.register_pickle_by_value(module)
    try:
        yield changed
    finally:
        for module in (*changed, *made):
            cloudpickle.unregister_pickle_by_value(module)


def is_whole(module: types.ModuleType) -> bool:
    """Tell whether `module` is saved with its code: the notebook made it, or its file is not what it was made of."""
    return bool(cloudpickle._is_registered_pickle_by_value(module))  # noqa: SLF001 - nothing public asks


def _register(name: str, module: types.ModuleType | None) -> None:
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _is_made(module: types.ModuleType) -> bool:
    known = module is sys.modules.get("__main__") or module.__name__ in _began["modules"] or "." in module.__name__
    return (
        type(module) is types.ModuleType and module.__spec__ is None and not hasattr(module, "__file__") and not known
    )


def make(kind: type[types.ModuleType], name: str, known: bool) -> types.ModuleType:
    """Return a module to be filled; `known`: an import finds it."""
    module = kind(name)
    if known:
        before = sys.modules.get(name)
        context.current().undo.append(lambda: _register(name, before))
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], last, module)
    return module


def _is_changed(module: types.ModuleType) -> bool:
    path = Path(str(module.__file__))
    return not path.exists() or _is_edited(module, path)


def _is_edited(module: types.ModuleType, path: Path) -> bool:
    """Compare with the compiled file, written at the import; where there is none, the code of the functions."""
    if survey.is_traced(vars(module)):
        return bool(module.__loader__.edited())  # type: ignore[union-attr]  # its code has hooks, the file has none
    with suppress(OSError, struct.error, TypeError):
        flags, time, size = _STAMP.unpack_from(Path(str(module.__cached__)).read_bytes())
        now = path.stat()
        if flags == 0 and (time, size) != (int(now.st_mtime) & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF):
            return True
    try:
        now_code = _compiled(str(path), path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    return any(now_code.get(name) != code for name, code in _own_codes(module))


@functools.lru_cache(maxsize=256)  # a save asks again, and hardly any file has changed since the one before
def _compiled(path: str, source: bytes) -> dict[str, types.CodeType]:
    """Return the code that is in a source, by qualified names."""
    return {code.co_qualname: code for code in _codes(compile(source, path, "exec", dont_inherit=True))}


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for part in code.co_consts:
        if isinstance(part, types.CodeType):
            yield from _codes(part)


def _own_codes(module: types.ModuleType) -> Iterator[tuple[str, types.CodeType]]:
    """Yield the code of functions and methods that the module's file defines."""
    holders = [module, *(value for value in vars(module).values() if isinstance(value, type) and _is_of(module, value))]
    for holder in holders:
        for value in list(vars(holder).values()):
            function = getattr(value, "__func__", value)
            if isinstance(function, types.FunctionType) and function.__code__.co_filename == module.__file__:
                yield function.__code__.co_qualname, function.__code__
