"""Whether a cell may come to a boundary at all, told from the names it mentions, without running anything.

A name stands for every function of that name: what is said to have no boundary has none, as far as names tell.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from ciuic_jupyter.resume.rewrite import has_boundary, is_generator

_CALLBACK = "callback"


def may_hold(cell: ast.Module, units: Iterable[ast.Module]) -> bool:
    """Tell whether `cell` has a loop, mentions functions or methods of `units` that lead to one, or has callbacks."""
    if has_boundary(cell):
        return True
    looping, mentions = _definitions([cell, *units])
    grown = True
    while grown:
        more = {name for name, said in mentions if name not in looping and said & looping}
        looping |= more
        grown = bool(more)
    said = _said(cell)
    dunder = any(name.startswith("__") and name.endswith("__") for name in looping)  # called without being mentioned
    return bool(said & looping) or dunder or any(_CALLBACK in name.lower() for name in said)


def _definitions(trees: Iterable[ast.Module]) -> tuple[set[str], list[tuple[str, set[str]]]]:
    """Return the functions with loops, and what each function, class and variable mentions."""
    looping: set[str] = set()
    mentions: list[tuple[str, set[str]]] = []
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                mentions.append((node.name, _said(node)))
                if isinstance(node, ast.FunctionDef) and has_boundary(node) and not is_generator(node):
                    looping.add(node.name)
            elif isinstance(node, ast.stmt) and not hasattr(node, "body"):
                said = _said(node)
                mentions += [(name, said) for name in said & _set(node)]
    return looping, mentions


def _said(node: ast.AST) -> set[str]:
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    names |= {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    names |= {part for one in ast.walk(node) if isinstance(one, ast.alias) for part in (one.name, one.asname) if part}
    names |= {one.arg for one in ast.walk(node) if isinstance(one, ast.keyword) and one.arg is not None}
    return names | {one.name for one in ast.walk(node) if isinstance(one, ast.FunctionDef | ast.ClassDef)}


def _set(node: ast.AST) -> set[str]:
    names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    attributes = {
        one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
    }
    aliases = {one.asname for one in ast.walk(node) if isinstance(one, ast.alias) and one.asname is not None}
    return names | attributes | aliases
