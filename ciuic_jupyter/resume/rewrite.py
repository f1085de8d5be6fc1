"""The user's code with hooks: each loop passes by us, and every line and column stays where it was.

    for x in E:        for x in SITE.loop(E):
    while T:           while (SITE.calm or SITE.tick()) and T:
    with E as v:       with SITE.manager(E) as v:

SITE stands in the tree as a text constant, since no tree may hold an object; `patch` puts the object in its place.
Functions with variables shared with others get a first statement that makes their cells reachable. Generator
functions, lambdas, comprehensions, class bodies and asynchronous code get no loop hooks.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, TypeVar

SITE = "\0ciuic site "
FRAME = "\0ciuic frame "
CELLS = "__ciuic_cells__"

_LOOKS = frozenset({"locals", "vars", "dir", "eval", "exec"})
_Node = TypeVar("_Node", bound=ast.AST)
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


class Unit:
    """One cell's tree as its author wrote it, known by its content."""

    def __init__(self, tree: ast.Module) -> None:
        """Keep a copy of `tree`."""
        self.tree: ast.Module = copy.deepcopy(tree)
        dumped = ast.dump(self.tree, include_attributes=True)
        self.name = hashlib.sha256(dumped.encode("utf-8", "surrogatepass")).hexdigest()[:24]
        self.functions = dict(_functions(self.tree))
        self.shared = _shared_names(self.tree)

    def dump(self) -> bytes:
        """Return the tree as bytes, for `load`."""
        return pickle.dumps(self.tree, protocol=5)

    @classmethod
    def load(cls, data: bytes) -> Unit:
        """Return the unit that `dump` wrote; the bytes come from a checkpoint whose signature was checked."""
        return cls(pickle.loads(data))

    def function(self, code: CodeType) -> tuple[ast.FunctionDef, str | None] | None:
        """Return the definition `code` was compiled from and the class around it; None if it is not known for sure."""
        found = self.functions.get((code.co_firstlineno, code.co_name), [])
        return found[0] if len(found) == 1 else None

    def cells(self, node: ast.FunctionDef) -> tuple[str, ...]:
        """Return the variables that the function of `node` shares with functions inside or around it."""
        return self.shared.get((first_line(node), node.name), ())

    def declared_global(self) -> set[str]:
        """Return the names some function here may set in the namespace."""
        return {name for node in ast.walk(self.tree) if isinstance(node, ast.Global) for name in node.names}

    def set_as_attributes(self) -> set[str]:
        """Return the names that are set or deleted as attributes of something, which may be a module."""
        return {
            node.attr
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load)
        }


def first_line(node: ast.FunctionDef) -> int:
    """Return the line where the compiler lets the function begin."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _functions(tree: ast.Module) -> Iterator[tuple[tuple[int, str], list[tuple[ast.FunctionDef, str | None]]]]:
    found: dict[tuple[int, str], list[tuple[ast.FunctionDef, str | None]]] = {}

    def look(node: ast.AST, inside: str | None) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                found.setdefault((first_line(child), child.name), []).append((child, inside))
            look(child, child.name if isinstance(child, ast.ClassDef) else inside)

    look(tree, None)
    yield from found.items()


def _shared_names(tree: ast.Module) -> dict[tuple[int, str], tuple[str, ...]]:
    found: dict[tuple[int, str], tuple[str, ...]] = {}

    def look(code: CodeType) -> None:
        found[code.co_firstlineno, code.co_name] = (*code.co_cellvars, *code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                look(constant)

    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    look(compile(tree, "<cell>", "exec", flags, dont_inherit=True))
    return found


def key_of(node: ast.stmt) -> str:
    """Return what names a statement in its unit."""
    return f"{node.lineno}:{node.col_offset}"


def is_generator(function: _Function) -> bool:
    """Tell whether `function` makes a generator or a coroutine."""
    return isinstance(function, ast.AsyncFunctionDef) or any(
        isinstance(node, ast.Yield | ast.YieldFrom | ast.Await) for node in _own(function)
    )


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in `node` but not in functions and classes inside it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, _SCOPES):
            yield from _own(child)


def has_boundary(tree: ast.AST) -> bool:
    """Tell whether a loop of its own runs when `tree` does."""
    return any(isinstance(node, ast.For | ast.While) for node in _own(tree))


def path_to(scope: ast.AST, wanted: Callable[[ast.AST], bool]) -> tuple[ast.AST, ...]:
    """Return the nodes below `scope` down to the first that is wanted; none in functions and classes inside."""
    for child in ast.iter_child_nodes(scope):
        if wanted(child):
            return (child,)
        if not isinstance(child, _SCOPES):
            below = path_to(child, wanted)
            if below:
                return (child, *below)
    return ()


def steps(scope: ast.AST, path: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, str, ast.AST]]:
    """Yield (parent, the field of it the child is in, child) from `scope` down `path`."""
    parent = scope
    for child in path:
        for field, value in ast.iter_fields(parent):
            if value is child or (isinstance(value, list) and any(one is child for one in value)):
                yield parent, field, child
        parent = child


# small trees, at the place of the node they stand for


def at(node: ast.AST, made: _Node) -> _Node:
    """Give `made` and all in it that has no place yet the place of `node`."""
    place = {name: getattr(node, name) for name in ("lineno", "col_offset", "end_lineno", "end_col_offset")}
    for part in ast.walk(made):
        if "lineno" in type(part)._attributes and not hasattr(part, "lineno"):
            for name, value in place.items():
                setattr(part, name, value)
    return made


def constant(text: str) -> ast.expr:
    """Return the text that `patch` replaces."""
    return ast.Constant(value=text)


def attribute(text: str, name: str, *, store: bool = False) -> ast.expr:
    """Return `TEXT.name`."""
    return ast.Attribute(value=constant(text), attr=name, ctx=ast.Store() if store else ast.Load())


def call(text: str, name: str, *arguments: ast.expr) -> ast.expr:
    """Return `TEXT.name(arguments)`."""
    return ast.Call(func=attribute(text, name), args=list(arguments), keywords=[])


class Rewriter(ast.NodeTransformer):
    """Puts the hooks into a copy of a unit's tree."""

    def __init__(self, unit: Unit) -> None:
        """Rewrite trees of `unit`."""
        self.unit = unit
        self._hooked = [True]

    def rewritten(self) -> ast.Module:
        """Return the whole unit with hooks."""
        tree: ast.Module = self.visit(copy.deepcopy(self.unit.tree))
        return tree

    def site(self, node: ast.stmt) -> str:
        """Return the text that stands for the hook of `node`."""
        return f"{SITE}{self.unit.name} {key_of(node)}"

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        if self._hooked[-1]:
            node.iter = at(node.iter, call(self.site(node), "loop", node.iter))
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        self.generic_visit(node)
        if self._hooked[-1]:
            node.test = at(node.test, ast.BoolOp(op=ast.And(), values=[self.ticking(node), node.test]))
        return node

    def ticking(self, node: ast.While) -> ast.expr:
        """Return the hook of a `while`, which is true."""
        site = self.site(node)
        return at(node.test, ast.BoolOp(op=ast.Or(), values=[attribute(site, "calm"), call(site, "tick")]))

    def visit_With(self, node: ast.With) -> ast.AST:
        self.generic_visit(node)
        if not self._hooked[-1]:
            return node
        for number, item in enumerate(node.items):
            number_of = ast.Constant(value=number)
            held = call(self.site(node), "manager", item.context_expr, number_of)
            item.context_expr = at(item.context_expr, held)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._inside(node, hooked=not is_generator(node))
        if not is_generator(node):
            self.reach_cells(node, self.unit.cells(node))
        return node

    def reach_cells(self, node: ast.FunctionDef, names: Sequence[str]) -> None:
        """Let a frame of the function show its cells, those of the variables `names`."""
        if not names or any(isinstance(one, ast.Name) and one.id in _LOOKS for one in _own(node)):
            return  # nobody shares, or the function looks at its own variables and must not find ours
        elements: list[ast.expr] = [ast.Name(id=name, ctx=ast.Load()) for name in names]
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        shown = ast.Lambda(args=nothing, body=ast.Tuple(elts=elements, ctx=ast.Load()))
        first = node.body[0]
        assign = at(first, ast.Assign(targets=[ast.Name(id=CELLS, ctx=ast.Store())], value=shown))
        node.body.insert(int(_is_docstring(first)), assign)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, hooked=False)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        return node

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return node

    def _inside(self, node: _Node, *, hooked: bool) -> _Node:
        self._hooked.append(hooked)
        try:
            self.generic_visit(node)
        finally:
            self._hooked.pop()
        return node


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def patch(code: CodeType, put: Callable[[str], Any]) -> CodeType:
    """Return `code` with what `put` gives in the place of every text that stands for an object."""
    constants = tuple(_patched(value, put) for value in code.co_consts)
    if all(new is old for new, old in zip(constants, code.co_consts, strict=True)):
        return code
    return code.replace(co_consts=constants)


def _patched(value: Any, put: Callable[[str], Any]) -> Any:
    if isinstance(value, CodeType):
        return patch(value, put)
    if isinstance(value, str) and value.startswith((SITE, FRAME)):
        return put(value)
    return value
