"""Resumable cells in one shell: hooks in what it compiles, a stop at a boundary, and the way back."""

from __future__ import annotations

import ast
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FrameType
from typing import Any

from ciuic_jupyter.resume import flops, modes, position, randomness
from ciuic_jupyter.resume.iterators import NotResumable, watch_loaders
from ciuic_jupyter.resume.progress import Looker, bars, forget
from ciuic_jupyter.resume.reach import may_hold
from ciuic_jupyter.resume.replay import Way, put_site
from ciuic_jupyter.resume.rewrite import FRAME, Rewriter, Unit, patch
from ciuic_jupyter.resume.runtime import Library, Site, marked
from ciuic_jupyter.resume.traced import Traced

_log = logging.getLogger(__name__)

_REASONS = 20


class Boundary:
    """A stop at the top of a loop, in the main thread, where the cell can be saved and resumed."""

    def __init__(self, engine: Engine, levels: list[position.Level], place: tuple[Any, ...]) -> None:
        """Made by the engine; good until `serve` returns."""
        self._engine = engine
        self._levels = levels
        self._place = place
        self.where = position.describe(levels)

    def record(self) -> dict[str, Any]:
        """Return the position: live objects, to be saved in one graph with the namespace."""
        return {
            "where": self.where,
            "frames": position.record(self._levels),
            "random": randomness.take(),
            "began": self._engine.began,
            "modes": modes.take(),
            "flops": flops.take(),
        }

    def refuse(self, reason: str) -> None:
        """Never offer this boundary again: something it needs can't be saved."""
        self._engine.refused[self._place] = reason


class Engine:
    """The resumable cells of one process; `serve(boundary)` is called at each boundary while one is asked for."""

    def __init__(self, namespace: dict[str, Any] | None = None) -> None:
        """Serve cells that run in `namespace`, which `install` sets to the shell's."""
        self.namespace: dict[str, Any] = {} if namespace is None else namespace
        self.serve: Callable[[Boundary], None] | None = None
        self.skipped: list[str] = []
        self.refused: dict[tuple[Any, ...], str] = {}
        self._units: dict[str, Unit] = {}
        self._files: dict[str, str] = {}
        self._set: dict[str, set[str]] = {}
        self._outside: dict[str, set[str]] = {}
        self._unit: Unit | None = None
        self.traced = Traced(self._add)
        self.began: dict[str, Any] = {}
        self._armed: Way | None = None
        self._way: Way | None = None
        self._serving = threading.local()
        self.transformer = _Transformer(self)
        self.looker = Looker(self._units.get, lambda: self._unit)

    def install(self, shell: Any) -> None:
        """Hook what `shell`, an InteractiveShell, compiles from now on; magics as %%time are hooked, too."""
        self.namespace = shell.user_ns
        shell.ast_transformers.append(self.transformer)
        kind, engine = type(shell.compile), self

        class Compiler(kind):  # type: ignore[misc, valid-type]  # the shell's own
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return engine.patch(super().__call__(*args, **kwargs))

        Compiler.__name__ = kind.__name__
        shell.compile.__class__ = Compiler
        if hasattr(shell, "showtraceback"):
            shell.showtraceback = _without_hooks(shell.showtraceback)
        Site.stop = self._stop
        Site.bars = bars

    # asked by the kernel

    def trace(self, names: Sequence[str]) -> None:
        """Hook the loops of the modules `names`, and of those inside them, too; UsageError for one that can't be."""
        self.traced.trace(names)

    def traced_names(self) -> list[str]:
        """Return all module names that `trace` was given."""
        return list(self.traced.names)

    def ask(self) -> None:
        """Have `serve` called at the next boundary that can be resumed, and at each one after; from any thread."""
        self.skipped = []
        Site.calm = False

    def withdraw(self) -> None:
        """Have no boundary served any more; from any thread."""
        Site.calm = True

    def has_loops(self, source: str) -> bool:
        """Tell whether a cell may have a boundary: in its own loops, in what it calls by name, or in a library."""
        if Site.library:
            return True
        try:
            return may_hold(ast.parse(source), [unit.tree for unit in list(self._units.values())])
        except (SyntaxError, ValueError):
            return False

    def state(self) -> dict[str, Any]:
        """Return what functions that were saved need, to be resumed later."""
        files = self.traced.units()  # the next process makes them from the modules' files
        units = {name: unit.dump() for name, unit in self._units.items() if name not in files}
        return {"units": units, "files": dict(self._files)}

    def apply(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` of another process returned; its signature was checked."""
        for data in dict(state.get("units", {})).values():
            self._add(Unit.load(data))
        self._files = {**dict(state.get("files", {})), **self._files}

    def arm(self, recorded: Mapping[str, Any]) -> None:
        """Have the next cell go on from a position; LookupError or SyntaxError if there is no code for it."""
        self._armed = Way(recorded, self._units, self._names_of)

    def _names_of(self, recorded: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
        """Return the globals of a recorded frame and the file of its code."""
        if (module := recorded.get("module")) is not None:
            return self.traced.at(module, recorded["unit"])
        return self.namespace, recorded["file"]

    # hooks

    def hook(self, tree: ast.Module) -> ast.Module:
        """Return the tree with hooks, or the rest of the cell that is resumed."""
        watch_loaders()
        Site.library = False
        forget()
        self._unit = None  # whatever goes wrong, no code is taken for another cell's
        way, self._armed = self._armed, None
        if way is not None:
            self._way, self._unit = way, way.unit
            self.began = way.begin()
            return way.cell()
        self._way = None
        self.began = modes.take()
        unit = Unit(tree)
        self._add(unit)
        self._unit = unit
        return Rewriter(unit).rewritten()

    def _add(self, unit: Unit) -> None:
        if unit.name not in self._units:
            self._units[unit.name] = unit
            self._set[unit.name] = unit.declared_global()
            self._outside[unit.name] = unit.set_as_attributes()

    def patch(self, code: Any) -> Any:
        """Put the hooks into compiled code; what has none stays as it is."""
        if not isinstance(code, CodeType):
            return code
        watch_loaders()
        name = code.co_filename
        if self._unit is not None and (not name.startswith("<") or name.startswith("<ipython-input-")):
            self._files.setdefault(name, self._unit.name)
        return patch(code, self._put)

    def _put(self, text: str) -> Any:
        if text.startswith(FRAME) and self._way is not None:
            return self._way.put(text)
        return put_site(text)

    def unit_of(self, code: CodeType) -> Unit | None:
        """Return the unit `code` was compiled from."""
        return self._units.get(marked(code) or self._files.get(code.co_filename, ""))

    def declared_global(self, *, outside: bool) -> set[str]:
        """Return the names that functions may set in the namespace; `outside` with those set as attributes."""
        return set().union(*self._set.values(), *(self._outside.values() if outside else ()))

    def module_of(self, frame: FrameType, unit: Unit) -> str | None:
        """Return the name of the user's module that `frame` runs a function of."""
        return self.traced.module_of(frame, unit)

    def _stop(self, place: Site | Library, frame: FrameType) -> None:
        serve = self.serve
        if serve is None or getattr(self._serving, "on", False):
            return
        self._serving.on = True
        try:
            levels = position.locate(frame, place, self)
            where = tuple((level.frame.f_code.co_name, level.frame.f_lineno) for level in levels)
            if (why := self.refused.get(where)) is not None:
                raise NotResumable(why)
            boundary = Boundary(self, levels, where)
            position.record(levels)  # what can't be saved is found before anybody is told
        except NotResumable as error:
            self._skip(str(error))
            return
        finally:
            self._serving.on = False
        self._serving.on = True
        try:
            serve(boundary)
        finally:
            self._serving.on = False

    def _skip(self, reason: str) -> None:
        if reason not in self.skipped:
            self.skipped = [*self.skipped, reason][-_REASONS:]


class _Transformer(ast.NodeTransformer):
    """What IPython calls with each tree it is about to compile."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def visit(self, node: ast.AST) -> Any:
        if not isinstance(node, ast.Module):
            return node
        try:
            return ast.fix_missing_locations(self._engine.hook(node))
        except (SyntaxError, RecursionError, ValueError, LookupError):
            if self._engine._way is not None:
                raise
            _log.warning("a cell runs without hooks: it can't be paused inside", exc_info=True)
            return node


def _without_hooks(show: Callable[..., Any]) -> Callable[..., Any]:
    """Return a shell's `showtraceback` that shows, and keeps for %debug, the user's frames alone."""

    def showtraceback(*args: Any, **kwargs: Any) -> Any:
        given = args[0] if args else kwargs.get("exc_tuple")
        _unhook(given[1] if given else sys.exc_info()[1], set())
        return show(*args, **kwargs)

    return showtraceback


def _unhook(error: BaseException | None, seen: set[int]) -> None:
    """Take our frames out of the traceback of `error` and of those it came from."""
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        entry = error.__traceback__
        while entry is not None:
            following = entry.tb_next
            while following is not None and _ours(following.tb_frame):
                following = following.tb_next
            entry.tb_next = following
            entry = following
        _unhook(error.__context__, seen)
        error = error.__cause__


def _ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith("ciuic_jupyter.resume.")
