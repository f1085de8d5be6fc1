"""Where a cell is: each frame from the boundary up to the cell, what it is inside of, and its variables."""

from __future__ import annotations
import __future__

import ast
import dis
import functools
import inspect
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, Protocol

from ciuic_jupyter.resume import calls, replay
from ciuic_jupyter.resume.iterators import NotResumable, freeze
from ciuic_jupyter.resume.rewrite import CELLS, Unit, key_of, path_to, steps
from ciuic_jupyter.resume.runtime import LOOPS, MANAGERS, Library, Site, site

_SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
_CALLS = ("CALL", "CALL_KW", "CALL_FUNCTION_EX")
_FUTURE = functools.reduce(
    int.__or__, (getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
)
_PLAIN = (int, float, complex, str, bytes, bool, type(None))
# context managers by module: those whose effect is a mode of torch are entered again; those that keep all they did in
# themselves, or in what a checkpoint holds of the process, are not
_AGAIN = ("torch.autograd.grad_mode", "torch.amp.autocast_mode", "torch.cuda.amp.autocast_mode")
_KEPT = (
    "__main__",
    "contextlib",
    "_thread",
    "threading",
    "_io",
    "io",
    "tempfile",
    "warnings",
    "sqlite3",
    "tqdm",
    "ciuic_jupyter",
)
_UNKNOWN = ("ExitStack", "AsyncExitStack")


class Units(Protocol):
    """Knows which unit a code object belongs to."""

    namespace: dict[str, Any]

    def unit_of(self, code: CodeType) -> Unit | None:
        """Return the unit `code` was compiled from, if it has hooks."""

    def declared_global(self, *, outside: bool) -> set[str]:
        """Return the names that some function of any unit may set; `outside` with those set as attributes."""

    def module_of(self, frame: FrameType, unit: Unit) -> str | None:
        """Return the user's module that `frame` runs a function of; NotResumable if it can't be gone on with."""


@dataclass
class Level:
    """One frame on the way: user's code, or a library's wrapper that only enters a context manager around the next."""

    frame: FrameType
    unit: Unit | None = None
    function: ast.FunctionDef | None = None
    path: tuple[ast.AST, ...] = ()  # from the function's statement down to the loop or call under way
    wrapper: Any = None
    module: str | None = None  # of the user's, beside the notebook
    library: Library | None = None  # goes on by itself, at the bottom
    result: str = "returned"  # what the call of this frame gives: what it returns, or its first argument


def locate(frame: FrameType, place: Site | Library, units: Units) -> list[Level]:
    """Return the levels from the cell down to `place`, a loop; NotResumable if code can't be made for one."""
    levels: list[Level] = []
    current: FrameType | None = frame
    target: Site | None = place if isinstance(place, Site) else None
    again: FrameType | None = None  # our own frame between the one that called and the one that was called
    if isinstance(place, Library):
        place.called, outer = _called(frame, units)
        levels.append(Level(outer, library=place))
        current = outer.f_back
    while current is not None:
        if replay.is_machinery(current):
            again = again or current
            current = current.f_back
            continue
        level = _level(current, target, units)
        if levels:
            below = levels[-1]
            below.result = replay.result_of(again) if again is not None else calls.result_of(level, below.frame)
        levels.append(level)
        if level.unit is not None and current.f_code.co_name == "<module>":
            return levels[::-1]
        target, again = None, None
        current = current.f_back
    raise NotResumable("it runs outside of a cell")


def _called(frame: FrameType, units: Units) -> tuple[FrameType, FrameType]:
    """Return the frame of the library that the user's code called, and the outermost one below the user's."""
    chain = [frame]
    while (up := chain[-1].f_back) is not None and units.unit_of(up.f_code) is None and not replay.is_machinery(up):
        chain.append(up)
    if up is None:
        raise NotResumable("it runs outside of a cell")
    return next((one for one in reversed(chain) if not _goes_on(one)), frame), chain[-1]


def _goes_on(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("ciuic_jupyter.train.")


def _level(frame: FrameType, place: Site | None, units: Units) -> Level:
    code = frame.f_code
    if (wrapper := _wrapper(frame)) is not None:
        return Level(frame, wrapper=wrapper)
    if code.co_flags & _SUSPENDED:
        raise NotResumable(f"{code.co_qualname} is a generator or asynchronous")
    unit = units.unit_of(code)
    if unit is None:
        raise NotResumable(f"{code.co_qualname} of {_short(code)} is under way, which is not the notebook's code")
    module = units.module_of(frame, unit)
    if frame.f_globals is not units.namespace and module is None:
        raise NotResumable(f"{code.co_qualname} has a namespace of its own")
    function: ast.FunctionDef | None = None
    scope: ast.AST = unit.tree
    if code.co_name != "<module>":
        known = unit.function(code)
        if known is None:
            raise NotResumable(f"{code.co_qualname} is under way, which can't be entered again")
        function = scope = known[0]
    if place is not None:
        path = path_to(scope, lambda node: isinstance(node, ast.For | ast.While) and key_of(node) == place.key)
    else:
        path = _path_of_call(frame, scope)
    if not path:
        raise NotResumable(f"the place in {code.co_qualname} is not known")
    _Check(frame, unit, function, units.declared_global(outside=module is not None)).check(scope, path)
    return Level(frame, unit, function, path, module=module)


def _short(code: CodeType) -> str:
    return "/".join(code.co_filename.split("/")[-2:])


def _wrapper(frame: FrameType) -> Any:
    """Return what makes the context manager of a library's decorator, if `frame` runs one."""
    code = frame.f_code
    if code.co_name == "decorate_context" and code.co_filename.endswith("torch/utils/_contextlib.py"):
        return _known(frame.f_locals["ctx_factory"], frame)
    if code.co_qualname == "ContextDecorator.__call__.<locals>.inner" and code.co_filename.endswith("contextlib.py"):
        return _known(frame.f_locals["self"]._recreate_cm, frame)
    if code is replay.in_context.__code__:
        return frame.f_locals["factory"]
    return None


def _known(factory: Any, frame: FrameType) -> Any:
    manager = getattr(factory, "__self__", None)
    if manager is None or not _enter_again(manager, frame.f_lineno):
        raise NotResumable(f"a decorator enters a {type(manager).__qualname__} around {frame.f_code.co_qualname}")
    return factory


def _path_of_call(frame: FrameType, scope: ast.AST) -> tuple[ast.AST, ...]:
    code, at = frame.f_code.co_code, frame.f_lasti
    while dis.opname[code[at]] == "CACHE":  # a call stands at the end of its instruction
        at -= 2
    if dis.opname[code[at]] not in _CALLS:
        raise NotResumable(f"line {frame.f_lineno} calls something without saying so (an operator, a property)")
    positions = list(frame.f_code.co_positions())[frame.f_lasti // 2]
    end = positions[1], positions[3]
    return path_to(scope, lambda node: isinstance(node, ast.Call) and (node.end_lineno, node.end_col_offset) == end)


_BLOCKS = {
    ast.Module: ("body",),
    ast.FunctionDef: ("body",),
    ast.For: ("body", "orelse"),
    ast.While: ("body", "orelse", "test"),
    ast.If: ("body", "orelse", "test"),
    ast.With: ("body",),
    ast.Try: ("body", "orelse"),
    ast.Match: ("cases",),
    ast.match_case: ("body",),
    ast.Expr: ("value",),
    ast.Assign: ("value",),
    ast.AnnAssign: ("value",),
    ast.AugAssign: ("value",),
    ast.Return: ("value",),
    ast.Assert: ("test",),
}
_ORDER = {  # the fields of expressions in the order they are evaluated
    ast.Call: ("func", "args", "keywords"),
    ast.BinOp: ("left", "right"),
    ast.Compare: ("left", "comparators"),
    ast.BoolOp: ("values",),
    ast.IfExp: ("test", "body", "orelse"),
    ast.Tuple: ("elts",),
    ast.List: ("elts",),
    ast.Set: ("elts",),
    ast.Subscript: ("value", "slice"),
    ast.Attribute: ("value",),
    ast.Starred: ("value",),
    ast.keyword: ("value",),
    ast.UnaryOp: ("operand",),
    ast.NamedExpr: ("value",),
    ast.JoinedStr: ("values",),
    ast.FormattedValue: ("value",),
}


class _Check:
    """Whether the way down a frame can be gone again without doing anything twice."""

    def __init__(self, frame: FrameType, unit: Unit, function: ast.FunctionDef | None, set_: set[str]) -> None:
        self._frame = frame
        self._unit = unit
        self._function = function
        self._shared = set(unit.cells(function)) if function is not None else set()
        self._set = set_

    def check(self, scope: ast.AST, path: tuple[ast.AST, ...]) -> None:
        for parent, field, child in steps(scope, path):
            if type(parent) in _BLOCKS:
                self._block(parent, field)
            elif type(parent) in _ORDER:
                self._before(parent, child)
            else:
                raise NotResumable(f"it is inside a {type(parent).__name__}, line {getattr(parent, 'lineno', '?')}")

    def _block(self, parent: ast.AST, field: str) -> None:
        if field not in _BLOCKS[type(parent)]:
            where = {"handlers": "an except block", "finalbody": "a finally block"}.get(field, f"the {field} part")
            line = getattr(parent, "lineno", "?")
            raise NotResumable(f"it is inside {where} of the {type(parent).__name__.lower()} statement of line {line}")
        if isinstance(parent, ast.AugAssign) and not self._pure(parent.target):
            raise NotResumable(f"the old value of what line {parent.lineno} adds to was read already")

    def _before(self, parent: ast.AST, child: ast.AST) -> None:
        for name in _ORDER[type(parent)]:
            value = getattr(parent, name)
            for one in value if isinstance(value, list) else [value]:
                if one is child:
                    return
                if not self._pure(one, called=isinstance(parent, ast.Call) and name == "func"):
                    line = getattr(one, "lineno", "?")
                    raise NotResumable(f"in line {line} something was computed before the call under way")

    def _pure(self, node: ast.AST, *, called: bool = False) -> bool:
        """Tell whether evaluating `node` again gives what it gave before and does nothing else."""
        if isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.Name):
            return self._unchanged(node.id)
        if isinstance(node, ast.Attribute):
            return called and self._pure(node.value, called=True)
        if isinstance(node, ast.Tuple | ast.List | ast.JoinedStr):
            return all(self._pure(one) for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr))
        if isinstance(node, ast.UnaryOp | ast.BinOp | ast.Compare | ast.BoolOp | ast.FormattedValue | ast.keyword):
            leaves = [one for one in ast.iter_child_nodes(node) if isinstance(one, ast.expr)]
            return all(self._pure(one) and self._plain(one) for one in leaves)
        return False

    def _unchanged(self, name: str) -> bool:
        if name in self._shared:
            return False
        return (self._function is not None and name in self._frame.f_code.co_varnames) or name not in self._set

    def _plain(self, node: ast.AST) -> bool:
        if not isinstance(node, ast.Name):
            return True
        names = self._frame.f_locals if node.id in self._frame.f_locals else self._frame.f_globals
        return type(names.get(node.id)) in _PLAIN


def describe(levels: list[Level]) -> str:
    """Return where that is, for people."""
    inner = levels[-1]
    if inner.library is not None:
        return inner.library.where
    line = getattr(inner.path[-1], "lineno", "?")
    if inner.function is None:
        return f"the loop in line {line}"
    return f"the loop in line {line}, in {inner.function.name}()"


def record(levels: list[Level]) -> list[dict[str, Any]]:
    """Return what makes the way back: live objects, for the same graph as the namespace."""
    return [_record(level) for level in levels]


def _record(level: Level) -> dict[str, Any]:
    if level.library is not None:
        return {"resumer": level.library.resumer, "result": level.result}
    if level.unit is None:
        return {"wrapper": level.wrapper}
    frame, unit = level.frame, level.unit
    scope: ast.AST = level.function if level.function is not None else unit.tree
    found: dict[str, Any] = {
        "unit": unit.name,
        "file": frame.f_code.co_filename,
        "module": level.module,
        "flags": frame.f_code.co_flags & _FUTURE,
        "target": _target(level.path[-1]),
        "loops": {},
        "managers": {},
    }
    for parent, field, _ in [*steps(scope, level.path), (level.path[-1], "body", None)]:
        if isinstance(parent, ast.For) and field == "body":
            iterator = LOOPS.get((id(frame), site(unit.name, key_of(parent))))
            if iterator is None:
                raise NotResumable(f"the iterator of line {parent.lineno} is not known")
            found["loops"][key_of(parent)] = freeze(iterator)
        elif isinstance(parent, ast.With) and field == "body":
            found["managers"][key_of(parent)] = [_manager(frame, unit, parent, i) for i in range(len(parent.items))]
    if level.function is not None:
        found |= _variables(frame, unit, level.function, level.result)
    return found


def _target(node: ast.AST) -> tuple[str, Any]:
    if isinstance(node, ast.Call):
        return "call", (node.end_lineno, node.end_col_offset)
    assert isinstance(node, ast.stmt)
    return "loop", key_of(node)


def _manager(frame: FrameType, unit: Unit, node: ast.With, number: int) -> tuple[Any, bool]:
    known = MANAGERS.get((id(frame), site(unit.name, key_of(node)), number))
    if known is None:
        raise NotResumable(f"the context manager of line {node.lineno} is not known")
    return known.manager, _enter_again(known.manager, node.lineno)


def _enter_again(manager: Any, line: int) -> bool:
    """Tell whether a manager is entered again on the way back; NotResumable if that is not known."""
    kind = type(manager)
    if kind.__module__ == "contextlib" and kind.__name__.endswith("_GeneratorContextManager"):
        raise NotResumable(f"the context manager of line {line} is a generator, whose place can't be saved")
    if kind.__module__ in _AGAIN or kind.__module__.endswith(".autocast_mode"):
        return True
    if kind.__module__.partition(".")[0] in _KEPT and kind.__name__ not in _UNKNOWN:
        return False
    raise NotResumable(f"what the {kind.__module__}.{kind.__name__} of line {line} did to the process is not known")


def _variables(frame: FrameType, unit: Unit, function: ast.FunctionDef, result: str) -> dict[str, Any]:
    names = dict(frame.f_locals)
    shown = names.pop(CELLS, None)
    shared = unit.cells(function)
    cells: dict[str, Any] = {}
    if shared:
        if shown is None:
            raise NotResumable(f"{function.name}() shares variables that can't be reached")
        cells = dict(zip(shown.__code__.co_freevars, shown.__closure__ or (), strict=True))
    values = {name: value for name, value in names.items() if name not in cells and name.isidentifier()}
    code = frame.f_code
    first = code.co_varnames[0] if code.co_argcount else None
    return {
        "function": (code.co_firstlineno, code.co_name, code.co_qualname),
        "first": first,
        "values": values,
        "cells": cells,
        "result": result,
    }
