"""Plain modules the user names, with hooks in their loops: put in when they are imported, or where they are already.

A module's code is not saved: the next process imports its file again, and goes on only if the source is the same.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.resume.iterators import NotResumable
from ciuic_jupyter.resume.replay import put_site
from ciuic_jupyter.resume.rewrite import Rewriter, Unit, patch
from ciuic_jupyter.resume.runtime import mark


class HookedLoader(SourceFileLoader):
    """Loads a module's source with hooks; no compiled file is read or written."""

    def __init__(self, name: str, path: str, tell: Callable[[HookedLoader], None]) -> None:
        """`tell` is called each time the source was read."""
        super().__init__(name, path)
        self._tell = tell
        self.unit: Unit | None = None
        self._digest = b""

    def __reduce__(self) -> Any:
        return SourceFileLoader, (self.name, self.path)

    def get_code(self, fullname: str) -> CodeType:
        """Return the module's code with hooks."""
        return self._compiled(self.get_data(self.path))[1]

    def _compiled(self, source: bytes) -> tuple[CodeType, CodeType]:
        """Return the code without and with hooks."""
        plain = compile(source, self.path, "exec", dont_inherit=True)
        unit = Unit(ast.parse(source, self.path))
        code = compile(_InFunctions(unit).rewritten(), self.path, "exec", dont_inherit=True)
        self.unit, self._digest = unit, hashlib.sha256(source).digest()
        self._tell(self)
        return plain, mark(patch(code, put_site), unit.name)

    def edited(self) -> bool:
        """Tell whether the file is not what the module was made of."""
        try:
            return hashlib.sha256(Path(self.path).read_bytes()).digest() != self._digest
        except OSError:
            return True

    def adopt(self, module: ModuleType) -> None:
        """Put hooks into the functions of a module that was imported without; UsageError if its file changed since."""
        plain, hooked = self._compiled(self.get_data(self.path))
        before, after = _by_place(plain), _by_place(hooked)
        changes: list[tuple[FunctionType, CodeType]] = []
        for function in [one for one in gc.get_objects() if type(one) is FunctionType]:
            code = function.__code__
            if function.__globals__ is not vars(module) or code.co_filename != self.path:
                continue
            place = _place(code)
            if code not in before.get(place, ()):
                raise UsageError(
                    f"--trace-modules {self.name}: {self.path} was edited since it was imported; "
                    "import it again with importlib.reload, or in a new session"
                )
            if len(before[place]) == 1 == len(after[place]) and after[place][0].co_freevars == code.co_freevars:
                changes.append((function, after[place][0]))
        for function, code in changes:
            function.__code__ = code
        module.__loader__ = self
        if module.__spec__ is not None:
            module.__spec__.loader = self


class _InFunctions(Rewriter):
    """Puts hooks into functions alone: a module's own statements run while it is imported."""

    def __init__(self, unit: Unit) -> None:
        super().__init__(unit)
        self._hooked = [False]


def _place(code: CodeType) -> tuple[int, str]:
    return code.co_firstlineno, code.co_qualname


def _by_place(code: CodeType) -> dict[tuple[int, str], list[CodeType]]:
    found: dict[tuple[int, str], list[CodeType]] = {}
    waiting = [code]
    while waiting:
        one = waiting.pop()
        found.setdefault(_place(one), []).append(one)
        waiting += [part for part in one.co_consts if isinstance(part, CodeType)]
    return found


class Traced:
    """The named modules of one process, and a finder of the import system for them."""

    def __init__(self, add: Callable[[Unit], None]) -> None:
        """`add(unit)` is called with each source that is read."""
        self._add = add
        self.names: list[str] = []
        self._loaders: dict[str, HookedLoader] = {}

    def trace(self, names: Sequence[str]) -> None:
        """Have the modules `names`, and those inside them, resumed in their loops; all that were named before stay.

        UsageError for a module that is there without a source of its own, or was edited since its import.
        """
        self.names += [name for name in names if name not in self.names]
        if self.names and self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        for name, module in list(sys.modules.items()):
            if self._is_named(name) and isinstance(module, ModuleType) and name not in self._loaders:
                self._adopt(name, module, asked=name in names)

    def _adopt(self, name: str, module: ModuleType, *, asked: bool) -> None:
        loader = getattr(module.__spec__, "loader", None)
        if type(loader) is SourceFileLoader:
            HookedLoader(name, loader.path, self._tell).adopt(module)
        elif asked:
            self.names.remove(name)
            raise UsageError(f"--trace-modules {name}: it was not made from a .py file, so it has no loops to pause in")

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        """Return how to import a named module with hooks; asked by the import system."""
        if not self._is_named(name):
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if finder is not self and find is not None else None
            if spec is not None:
                if type(spec.loader) is SourceFileLoader:
                    spec.loader = HookedLoader(name, spec.loader.path, self._tell)
                return spec
        return None

    def _is_named(self, name: str) -> bool:
        return any(name == one or name.startswith(one + ".") for one in self.names)

    def _tell(self, loader: HookedLoader) -> None:
        assert loader.unit is not None
        self._loaders[loader.name] = loader
        self._add(loader.unit)

    def units(self) -> set[str]:
        """Return the names of the units of all modules that have hooks."""
        return {loader.unit.name for loader in self._loaders.values() if loader.unit is not None}

    def module_of(self, frame: FrameType, unit: Unit) -> str | None:
        """Return the named module whose function runs in `frame`; NotResumable if its file is not `unit` any more."""
        name = str(frame.f_globals.get("__name__"))
        loader = self._loaders.get(name)
        if loader is None or vars(sys.modules.get(name, loader)) is not frame.f_globals:
            return None
        if loader.unit is None or loader.unit.name != unit.name or loader.edited():
            raise NotResumable(f"{loader.path} was edited since it was imported")
        if frame.f_code.co_name == "<module>":
            raise NotResumable(f"the module {name} is being imported")
        return name

    def at(self, name: str, unit: str) -> tuple[dict[str, Any], str]:
        """Return a module's globals and file, imported if need be; LookupError if its source is not that of `unit`."""
        module = importlib.import_module(name)
        loader = self._loaders.get(name)
        if loader is None or loader.unit is None:
            raise LookupError(f"the module {name} is not the plain .py file here that it was before the pause")
        if loader.unit.name != unit or loader.edited():
            raise LookupError(
                f"{loader.path} was changed since the pause, in the middle of a function of it; "
                "put the file back as it was, or run the cell again"
            )
        return vars(module), loader.path
