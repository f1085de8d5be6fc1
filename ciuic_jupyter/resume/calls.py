"""Whether a call under way is the plain call of the function below it: then what that returns is what the call gives.

Between the two there may be code that no frame shows: `sorted` calls its key, a class its `__init__`.
So what the line calls is looked up again, without running anything, and has to be the function that runs.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
from types import FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.resume.iterators import NotResumable
from ciuic_jupyter.resume.rewrite import CELLS

if TYPE_CHECKING:
    from ciuic_jupyter.resume.position import Level

_NOTHING = object()


def result_of(level: Level, below: FrameType) -> str:
    """Return what the call under way in `level` gives: what `below` "returned", or its "first" argument.

    NotResumable if `below` is not what is called, or that can't be told.
    """
    if level.wrapper is not None:
        called: Any = level.frame.f_locals.get("func", _NOTHING)
        if called is _NOTHING and "go_on" in level.frame.f_locals:
            return "returned"
    else:
        node = level.path[-1]
        assert isinstance(node, ast.Call)
        called = _value(node.func, level.frame)
    result = _runs(called, below)
    if result is None:
        raise NotResumable(f"line {level.frame.f_lineno} calls {below.f_code.co_qualname} through something else")
    return result


def _runs(called: Any, below: FrameType) -> str | None:
    """Return what calling `called` gives if that runs the code of `below` at once; None if it does something else."""
    code = below.f_code
    while isinstance(called, MethodType | functools.partial | staticmethod | classmethod):
        called = called.func if isinstance(called, functools.partial) else called.__func__
    if isinstance(called, FunctionType):
        return "returned" if called.__code__ is code or _same(called, below) else None
    if isinstance(called, type):
        made = inspect.getattr_static(called, "__init__", None)
        plain = inspect.getattr_static(type(called), "__call__", None) is type.__call__
        return "first" if plain and isinstance(made, FunctionType) and _same(made, below) else None
    method = inspect.getattr_static(type(called), "__call__", None)
    return "returned" if isinstance(method, FunctionType) and _same(method, below) else None


def _same(function: FunctionType, below: FrameType) -> bool:
    """Tell whether `below` runs `function`, maybe as code specialised to a position of it."""
    one, other = function.__code__, below.f_code
    return one is other or (
        (one.co_filename, one.co_firstlineno, one.co_name, one.co_qualname)
        == (other.co_filename, other.co_firstlineno, other.co_name, other.co_qualname)
    )


def _value(node: ast.expr, frame: FrameType) -> Any:
    """Return what `node` means now, found without running code; `_NOTHING` if that needs more."""
    if isinstance(node, ast.Name):
        return _named(node.id, frame)
    if isinstance(node, ast.Attribute):
        if _is_super(node.value):
            return _inherited(node.attr, frame)
        owner = _value(node.value, frame)
        return _NOTHING if owner is _NOTHING else _attribute(owner, _mangled(node.attr, frame))
    return _NOTHING


def _named(name: str, frame: FrameType) -> Any:
    for names in (frame.f_locals, frame.f_globals, vars(builtins)):
        if name in names:
            return names[name]
    return _NOTHING


def _attribute(owner: Any, name: str) -> Any:
    found = inspect.getattr_static(owner, name, _NOTHING)
    return _NOTHING if inspect.isdatadescriptor(found) else found


def _mangled(name: str, frame: FrameType) -> str:
    if not name.startswith("__") or name.endswith("__"):
        return name
    owner = frame.f_code.co_qualname.rpartition(".")[0].rpartition(".")[2].lstrip("_")
    return f"_{owner}{name}"


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super" and not node.args


def _inherited(name: str, frame: FrameType) -> Any:
    shown = frame.f_locals.get(CELLS)
    cells = dict(zip(shown.__code__.co_freevars, shown.__closure__ or (), strict=True)) if shown is not None else {}
    here = cells["__class__"].cell_contents if "__class__" in cells else None
    first = frame.f_locals.get(frame.f_code.co_varnames[0], _NOTHING)
    if here is None or first is _NOTHING:
        return _NOTHING
    order = (first if isinstance(first, type) else type(first)).__mro__
    for kind in order[order.index(here) + 1 :] if here in order else ():
        if name in vars(kind):
            return vars(kind)[name]
    return _NOTHING
