"""Code specialised to one position: it goes the way down again without doing anything, and is live from there.

`FRAME.on` is true until the loop at the bottom goes on. Until then statements before the way are passed over, branches
that were taken are entered, loops go on with the iterators they had, and a call under way enters the function's own
specialised code instead of being made.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Generator, Mapping
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from ciuic_jupyter.resume import flops, iterators, modes, randomness, runtime
from ciuic_jupyter.resume.rewrite import (
    FRAME,
    SITE,
    Rewriter,
    Unit,
    at,
    attribute,
    call,
    key_of,
    patch,
    path_to,
    steps,
)

_FIRST = "__ciuic_first__"
_FACTORY = "__ciuic_factory__"
_MADE = "__ciuic_made__"

NamesOf = Callable[[Mapping[str, Any]], tuple[dict[str, Any], str]]


class Frame:
    """What the specialised code of one frame asks."""

    def __init__(self, way: Way, number: int, recorded: Mapping[str, Any]) -> None:
        """Answer for the frame `number` of `way`."""
        self._way = way
        self._number = number
        self._recorded = recorded
        self.values: Mapping[str, Any] = recorded.get("values", {})
        self.on = True
        self.item: Any = None
        self.entered: Any = None

    def loop(self, key: str) -> Generator[Any, None, None]:
        """Go on with a loop around the way: its first item is the one it is inside of."""
        return self._resumed(key, inside=True)

    def arrive_loop(self, key: str) -> Generator[Any, None, None]:
        """Go on with the loop at the bottom."""
        return self._resumed(key, inside=False)

    def _resumed(self, key: str, *, inside: bool) -> Generator[Any, None, None]:
        iterator = iterators.thaw(self._recorded["loops"][key])
        if not inside:
            self._way.arrived()
        return runtime.site(self._recorded["unit"], key).turns(iterator, inside=inside)

    def arrive(self) -> bool:
        """Go on with the `while` at the bottom."""
        self._way.arrived()
        return True

    def manager(self, key: str, number: int) -> runtime.Manager:
        """Return a context manager that was entered; what holds state of the process is entered again."""
        manager, again = self._recorded["managers"][key][number]
        # the block belongs to the frame that runs this
        caller = runtime.caller_id()
        if again:
            modes.before(manager)
        return runtime.Manager(manager, (caller, runtime.site(self._recorded["unit"], key), number), again=again)

    def enter(self) -> Any:
        """Be the call under way."""
        return self._way.enter(self._number + 1)


class Way:
    """The way from a cell down to its boundary, gone once."""

    def __init__(self, position: Mapping[str, Any], units: Mapping[str, Unit], names_of: NamesOf) -> None:
        """Make the code of all frames but the cell's own; `names_of(frame)` are its live globals, and its file."""
        self._position = position
        self._recorded: list[dict[str, Any]] = list(position["frames"])
        self._names_of = names_of
        self._units = units
        self._frames = [Frame(self, number, one) for number, one in enumerate(self._recorded)]
        self._functions: dict[int, Callable[..., Any]] = {}
        for number, one in enumerate(self._recorded):
            if number and "unit" in one:
                self._functions[number] = self._function(number, one)

    @property
    def unit(self) -> Unit:
        """The unit of the cell."""
        return self._units[self._recorded[0]["unit"]]

    def cell(self) -> ast.Module:
        """Return the cell from the statement under way on."""
        unit = Unit(self.unit.tree)
        return Specialiser(unit, unit.tree, self._recorded[0], 0).module()

    def begin(self) -> dict[str, Any]:
        """Set the modes the cell began with, and return them."""
        began: dict[str, Any] = self._position["began"]
        modes.put(began)
        return began

    def put(self, text: str) -> Any:
        """Return the object a text stands for."""
        if text.startswith(FRAME):
            return self._frames[int(text.removeprefix(FRAME))]
        return put_site(text)

    def arrived(self, *, inside: bool = True) -> None:
        """Be live from here; not `inside`: at the call of a library, which sets its modes by itself."""
        for frame in self._frames:
            frame.on = False
        for recorded in self._recorded:  # what was kept for the way must not stay alive with it
            for part in ("values", "cells", "loops", "managers"):
                recorded.get(part, {}).clear()
        if inside:
            modes.put(self._position["modes"])
        flops.put(self._position.get("flops"))  # older positions have none
        randomness.put(self._position["random"])

    def enter(self, number: int) -> Any:
        """Go on in frame `number`."""
        recorded = self._recorded[number]
        if "wrapper" in recorded:
            return in_context(recorded["wrapper"], lambda: self.enter(number + 1))
        if "resumer" in recorded:
            go_on = recorded.pop("resumer")
            self.arrived(inside=False)
            return go_on()
        first = recorded["first"]
        if first is None:
            return self._functions[number]()
        values, cells = recorded["values"], recorded["cells"]
        value = cells[first].cell_contents if first in cells else values.get(first)
        returned = self._functions[number](value)
        return returned if recorded["result"] == "returned" else value

    def _function(self, number: int, recorded: Mapping[str, Any]) -> Callable[..., Any]:
        names, file = self._names_of(recorded)
        unit = Unit(self._units[recorded["unit"]].tree)
        line, name, qualified = recorded["function"]
        (node, inside), *_ = unit.functions[line, name]
        cells: Mapping[str, CellType] = recorded["cells"]
        made = Specialiser(unit, node, recorded, number).function(inside)
        code = compile(made, file, "exec", recorded["flags"], dont_inherit=True)
        inner = patch(_find(code), self.put).replace(co_name=name, co_qualname=qualified, co_firstlineno=line)
        if recorded["module"] is not None:
            inner = runtime.mark(inner, recorded["unit"])
        closure = tuple(cells[free] for free in inner.co_freevars)
        return FunctionType(inner, names, name, None, closure)


def _find(code: CodeType) -> CodeType:
    for one in code.co_consts:
        if isinstance(one, CodeType):
            if one.co_name == _MADE:
                return one
            if one.co_name == _FACTORY or code.co_name == "<module>":
                return _find(one)
    raise LookupError(_MADE)


def put_site(text: str) -> runtime.Site:
    """Return the hook a text stands for."""
    unit, _, key = text.removeprefix(SITE).partition(" ")
    return runtime.site(unit, key)


def in_context(factory: Callable[[], Any], go_on: Callable[[], Any]) -> Any:
    """Call `go_on` as a library's decorator does."""
    with factory():
        return go_on()


def result_of(machinery: FrameType) -> str:
    """Return what the call that our frame stands for gives."""
    return str(machinery.f_locals["recorded"]["result"]) if "recorded" in machinery.f_locals else "returned"


def is_machinery(frame: FrameType) -> bool:
    """Tell whether `frame` is ours, between two frames of the user's."""
    return frame.f_globals is globals() and frame.f_code is not in_context.__code__


class Specialiser(Rewriter):
    """Rewrites one function or cell for a way that leads to a loop or a call in it."""

    def __init__(self, unit: Unit, scope: ast.AST, recorded: Mapping[str, Any], number: int) -> None:
        """Specialise `scope`, a node of `unit` that is not used for anything else."""
        super().__init__(unit)
        self._scope = scope
        self._recorded = recorded
        self._frame = f"{FRAME}{number}"
        kind, where = recorded["target"]
        path = path_to(scope, lambda node: _is_at(node, kind, where))
        if not path:
            raise LookupError(f"the place {where} is not in the code")
        self._target = path[-1]
        self._steps = {id(parent): (field, child) for parent, field, child in steps(scope, path)}

    def module(self) -> ast.Module:
        """Return the cell from the statement under way on."""
        assert isinstance(self._scope, ast.Module)
        _, child = self._steps[id(self._scope)]
        body = self._scope.body
        start = next(i for i, one in enumerate(body) if one is child)
        self._scope.body = [self.visit(one) for one in body[start:]]
        return self._scope

    def function(self, inside: str | None) -> ast.Module:
        """Return a module that defines the function inside what stands for its surroundings."""
        node = self._scope
        assert isinstance(node, ast.FunctionDef)
        shared = self.unit.cells(node)
        _, child = self._steps[id(node)]
        body = self._block(node.body, child)
        restored: list[ast.stmt] = [
            ast.Assign(
                targets=[ast.Name(id=name, ctx=ast.Store())],
                value=ast.Subscript(
                    value=attribute(self._frame, "values"), slice=ast.Constant(value=name), ctx=ast.Load()
                ),
            )
            for name in self._recorded["values"]
        ]
        outer = [name for name in shared if name != "__class__"]
        if outer:
            restored.insert(0, ast.Nonlocal(names=outer))
        first = self._recorded["first"]
        parameters = [ast.arg(arg=_FIRST if first in shared else first)] if first is not None else []
        node.name, node.args = _MADE, _arguments(parameters)
        node.decorator_list, node.returns = [], None
        node.body = [at(node, one) for one in restored] + body
        self.reach_cells(node, shared)
        if outer:  # the declaration has to be first
            declaration = next(one for one in node.body if isinstance(one, ast.Nonlocal))
            node.body.remove(declaration)
            node.body.insert(0, declaration)
        factory = ast.FunctionDef(
            name=_FACTORY, args=_arguments([ast.arg(arg=name) for name in shared]), body=[node], decorator_list=[]
        )
        _no_type_parameters(factory)
        made: ast.stmt = factory
        if inside is not None:
            made = ast.ClassDef(name=inside, bases=[], keywords=[], body=[factory], decorator_list=[])
            _no_type_parameters(made)
        return ast.Module(body=[at(node, made)], type_ignores=[])

    def _on(self) -> ast.expr:
        return attribute(self._frame, "on")

    def _off(self) -> ast.expr:
        return ast.UnaryOp(op=ast.Not(), operand=self._on())

    def _either(self, node: ast.AST, resumed: ast.expr, live: ast.expr) -> ast.expr:
        return at(node, ast.IfExp(test=self._on(), body=resumed, orelse=live))

    def _block(self, body: list[ast.stmt], child: ast.AST) -> list[ast.stmt]:
        """Return the statements of a block on the way: those before are passed over."""
        start = next(i for i, one in enumerate(body) if one is child)
        visited: list[ast.stmt] = [self.visit(one) for one in body]
        if not start:
            return visited
        return [at(body[0], ast.If(test=self._off(), body=visited[:start], orelse=[])), *visited[start:]]

    def _blocks(self, node: Any, *fields: str) -> None:
        """Visit the blocks of `node`, the one on the way in its own manner."""
        on_way, child = self._steps[id(node)]
        for field in fields:
            body = getattr(node, field)
            setattr(node, field, self._block(body, child) if field == on_way else [self.visit(one) for one in body])

    def visit_Call(self, node: ast.Call) -> ast.AST:
        is_target = node is self._target
        self.generic_visit(node)
        return self._either(node, call(self._frame, "enter"), node) if is_target else node

    def visit_For(self, node: ast.For) -> ast.AST:
        key = ast.Constant(value=key_of(node))
        if node is self._target:
            super().visit_For(node)
            node.iter = self._either(node.iter, call(self._frame, "arrive_loop", key), node.iter)
            return node
        if id(node) not in self._steps:
            return super().visit_For(node)
        field, _ = self._steps[id(node)]
        live = at(node.iter, call(self.site(node), "loop", self.visit(node.iter)))
        self._blocks(node, "body", "orelse")
        if field == "orelse":
            node.iter = self._either(node.iter, ast.Tuple(elts=[], ctx=ast.Load()), live)
            return node
        node.iter = self._either(node.iter, call(self._frame, "loop", key), live)
        taken = ast.Assign(targets=[node.target], value=attribute(self._frame, "item"))
        node.body.insert(0, at(node.target, ast.If(test=self._off(), body=[taken], orelse=[])))
        node.target = at(node.target, attribute(self._frame, "item", store=True))
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        if node is self._target:
            arriving = self._either(node.test, call(self._frame, "arrive"), self.ticking(node))
            self.generic_visit(node)
            node.test = at(node.test, ast.BoolOp(op=ast.And(), values=[arriving, node.test]))
            return node
        if id(node) not in self._steps:
            return super().visit_While(node)
        field, _ = self._steps[id(node)]
        ticking, test = self.ticking(node), self.visit(node.test)
        self._blocks(node, "body", "orelse")
        values: list[ast.expr]
        if field == "test":
            values = [ast.BoolOp(op=ast.Or(), values=[self._on(), ticking]), test]
            node.test = at(test, ast.BoolOp(op=ast.And(), values=values))
        elif field == "body":
            live = ast.BoolOp(op=ast.And(), values=[ticking, test])
            node.test = at(test, ast.BoolOp(op=ast.Or(), values=[self._on(), live]))
        else:
            node.test = at(test, ast.BoolOp(op=ast.And(), values=[self._off(), ticking, test]))
        return node

    def visit_If(self, node: ast.If) -> ast.AST:
        if id(node) not in self._steps or self._steps[id(node)][0] == "test":
            return self.generic_visit(node)
        field, _ = self._steps[id(node)]
        test = self.visit(node.test)
        self._blocks(node, "body", "orelse")
        if field == "body":
            node.test = at(test, ast.BoolOp(op=ast.Or(), values=[self._on(), test]))
        else:
            node.test = at(test, ast.BoolOp(op=ast.And(), values=[self._off(), test]))
        return node

    def visit_Try(self, node: ast.Try) -> ast.AST:
        if id(node) not in self._steps:
            return self.generic_visit(node)
        field, _ = self._steps[id(node)]
        self._blocks(node, "body", "orelse", "handlers", "finalbody")
        if field == "orelse":
            node.body = [at(node.body[0], ast.If(test=self._off(), body=node.body, orelse=[]))]
        return node

    def visit_With(self, node: ast.With) -> ast.AST:
        if id(node) not in self._steps:
            return super().visit_With(node)
        key = key_of(node)
        site = self.site(node)
        self._blocks(node, "body")
        body = node.body
        for number in reversed(range(len(node.items))):
            item = node.items[number]
            asked = call(self._frame, "manager", ast.Constant(value=key), ast.Constant(value=number))
            live = call(site, "manager", self.visit(item.context_expr), ast.Constant(value=number))
            name = None
            if item.optional_vars is not None:
                taken = ast.Assign(targets=[item.optional_vars], value=attribute(self._frame, "entered"))
                body = [at(item.optional_vars, ast.If(test=self._off(), body=[taken], orelse=[])), *body]
                name = at(item.optional_vars, attribute(self._frame, "entered", store=True))
            held = ast.withitem(context_expr=self._either(item.context_expr, asked, live), optional_vars=name)
            body = [at(node, ast.With(items=[held], body=body))]
        return body[0]

    def visit_Match(self, node: ast.Match) -> ast.AST:
        if id(node) not in self._steps:
            return self.generic_visit(node)
        _, case = self._steps[id(node)]
        assert isinstance(case, ast.match_case)
        live = Rewriter(self.unit).visit(copy.deepcopy(node))
        self._blocks(case, "body")
        return at(node, ast.If(test=self._on(), body=case.body, orelse=[live]))


def _arguments(parameters: list[ast.arg]) -> ast.arguments:
    return ast.arguments(posonlyargs=[], args=parameters, kwonlyargs=[], kw_defaults=[], defaults=[])


def _no_type_parameters(node: ast.AST) -> None:
    if "type_params" in node._fields:  # from Python 3.12 on
        node.type_params = []  # type: ignore[attr-defined]


def _is_at(node: ast.AST, kind: str, where: Any) -> bool:
    if kind == "loop":
        return isinstance(node, ast.For | ast.While) and key_of(node) == where
    return isinstance(node, ast.Call) and (node.end_lineno, node.end_col_offset) == tuple(where)
