"""The one object graph of a save: a pickler with one memo for all variables, that never loses an object silently."""

from __future__ import annotations

import builtins
import copyreg
import pickle
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cloudpickle

from ciuic_jupyter.checkpoint import (
    arrays,
    code,
    containers,
    context,
    figures,
    frames,
    library,
    paths,
    resources,
    singletons,
    tensors,
)
from ciuic_jupyter.checkpoint.placeholder import Placeholder, describe

_LONG_SEARCHES = 20  # paths looked for with full patience
_FAMILIES = tuple(room.handler_for for room in (resources, library, code, arrays, tensors, frames, figures))

_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class that Python code made
_STAND_INS = (arrays.Block, arrays.Plain, tensors.Storage)

Handler = Callable[["Graph", Any], Any]


class Restart(Exception):  # not an error: the walk starts again, knowing more
    """The walk met something that it should have known from the start; `Plan` knows it now."""


@dataclass
class Plan:
    """What one walk learns for the next."""

    refused: dict[int, tuple[object, str]] = field(default_factory=dict)  # id -> object, reason
    given_up: dict[str, str] = field(default_factory=dict)  # whole variables -> reason
    roots: list[Any] = field(default_factory=list)  # arrays that must be known before memory inside them

    def refuse(self, obj: object, reason: str) -> None:
        """Have the next walk put a placeholder where `obj` is."""
        self.refused[id(obj)] = (obj, reason)


class _Stream(list[bytes]):
    """A file for the pickler."""

    size = 0

    def write(self, data: bytes) -> int:
        self.append(data)
        self.size += len(data)
        return len(data)


class _SeedOf:
    """Stands for an object that exists in every process: found there, not saved."""

    def __init__(self, finder: Callable[..., Any], *args: str) -> None:
        self.reduced = (finder, args)

    def __reduce__(self) -> Any:
        return self.reduced


class Graph(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """One walk over the namespace; `segment` for each variable, in order."""

    def __init__(self, namespace: dict[str, Any], plan: Plan) -> None:
        self.stream = _Stream()
        self.buffers: list[memoryview] = []
        self.loose: list[int] = []  # those that pickle itself asks for, in its order
        self._kept: list[object] = []
        keep = _keeper(self.buffers, self.loose, self._kept)
        super().__init__(self.stream, protocol=5, buffer_callback=keep)
        self.namespace = namespace
        self.plan = plan
        self.memory = arrays.Memory(plan.roots)
        self.report: list[dict[str, str]] = []
        self.packages: set[str] = set()
        self.sources: set[str] = set()
        self.hashed: list[Any] = []  # objects with a __hash__ of the notebook's
        self._storages: dict[int, tensors.Storage] = {}
        self._handlers: dict[int, Handler] = {}
        self._named = singletons.table()
        self._name = ""
        self._root: object = None
        self._last: Any = None
        self._searches = 0
        self._sow()

    def _sow(self) -> None:
        """Give the namespace and a few dicts and lists of the interpreter their places in the memo of both ends."""
        seeds = [
            (self.namespace, _SeedOf(context.namespace)),
            (vars(builtins), _SeedOf(context.named, "builtins", "__dict__")),
            (sys.modules, _SeedOf(context.named, "sys", "modules")),
            (sys.path, _SeedOf(context.named, "sys", "path")),
        ]
        self.dump([stand_in for _, stand_in in seeds])
        memo: dict[int, tuple[int, object]] = self.memo.copy()  # type: ignore[has-type]
        for value, stand_in in seeds:
            index, _ = memo.pop(id(stand_in))
            memo[id(value)] = (index, value)
        self.memo = memo
        self._kept.append(seeds)

    def segment(self, name: str, value: object) -> int:
        """Append `value`; return where it starts. Restart if the plan has grown; RecursionError if it is too deep."""
        start = self.stream.size
        self._name, self._root, self._last = name, value, None
        try:
            self.dump(value)
        except (Restart, KeyboardInterrupt):
            raise
        except Exception as error:
            if _is_recursion(error):
                raise RecursionError(f"{name} is nested too deeply to be saved") from error
            last = self._last
            if last is None or id(last) in self.plan.refused or _is_found(last):
                self.plan.given_up[name] = _words(value, error)  # nothing smaller is to blame for sure
            else:
                self.plan.refuse(last, _words(last, error))
            raise Restart from error
        return start

    # what reducers call

    def reducer_override(self, obj: Any) -> Any:
        """Return how `obj` is made again; called for everything but the plainest types."""
        address = id(obj)
        if address in self._named:
            return context.named, self._named[address]
        kind = type(obj)
        handler = self._handlers.get(id(kind)) or self._choose(obj, kind)
        if address in self.plan.refused:
            return self.refuse(obj, self.plan.refused[address][1])
        self._last = obj
        return handler(self, obj)

    def refuse(self, obj: object, reason: str) -> tuple[Any, ...]:
        """Return the reduction to a placeholder for `obj`, and report it."""
        path = self.path(obj)
        self.report.append(context.entry(path, reason))
        return context.put_placeholder, (path, reason)

    def note(self, obj: object, reason: str) -> None:
        """Report that a part of `obj` is not saved."""
        self.report.append(context.entry(self.path(obj), reason))

    def path(self, obj: object) -> str:
        """Return where `obj` is in the variable that is being saved."""
        self._searches += 1
        limit = 100_000 if self._searches <= _LONG_SEARCHES else 2_000
        return paths.find(obj, self._name, self._root, limit)

    def keep(self, obj: Any) -> Any:
        """Have `obj`, made for this walk, live as long as the memo that knows its id."""
        self._kept.append(obj)
        return obj

    def buffer(self, view: memoryview) -> int:
        """Take `view` (bytes) out of band; return its number."""
        self.buffers.append(view)
        return len(self.buffers) - 1

    def storage(self, storage: Any) -> tensors.Storage:
        """Return the one object that stands for `storage`, of which torch may hand out many wrappers."""
        return self._storages.setdefault(storage._cdata, tensors.Storage(storage))  # noqa: SLF001 - its only identity

    def uses(self, module: str | None) -> None:
        """Remember that the top package of `module` is needed."""
        if module:
            self.packages.add(module.partition(".")[0])

    def default(self, obj: Any) -> Any:
        """Return what pickle would do, tried here so that a failure costs this object alone."""
        kind = type(obj)
        reduce = self.dispatch_table.get(kind)
        try:
            reduced = _with_items(reduce(obj) if reduce is not None else obj.__reduce_ex__(5))
        except RecursionError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a reducer of the user's may raise anything
            return self.refuse(obj, _words(obj, error))
        if isinstance(reduced, str):
            return self._global(obj, reduced)
        return reduced

    # inside

    def _choose(self, obj: Any, kind: type) -> Handler:
        handler = self._find_handler(obj, kind)
        if kind.__module__ == "__main__" and isinstance(kind.__hash__, types.FunctionType):
            handler = self._remembering(handler)
        self._handlers[id(kind)] = handler
        self._kept.append(kind)
        return handler

    def _remembering(self, handler: Handler) -> Handler:
        """Have each object in `hashed`, too: in a cycle it is hashed before it is whole, which a restore sets right."""

        def remember(graph: Graph, obj: Any) -> Any:
            graph.hashed.append(obj)
            return handler(graph, obj)

        return remember

    def _find_handler(self, obj: Any, kind: type) -> Handler:
        if kind is Placeholder:
            return _placeholder
        if kind in _STAND_INS:
            return _stand_in
        container = containers.handler_for(kind)
        if container is not None and kind not in self.dispatch_table:
            return container
        for family in _FAMILIES:
            handler: Handler | None = family(kind)
            if handler is not None:
                return handler
        if _reduces_plainly(kind) and kind not in self.dispatch_table:
            try:
                obj.__reduce_ex__(5)
            except Exception:  # noqa: BLE001 - whatever it is, it is reported for each object
                return Graph.default
            return _unasked if _answers_all(kind) else _leave
        return _unasked if _answers_all(kind) else Graph.default

    def _global(self, obj: Any, name: str) -> Any:
        module_name = getattr(obj, "__module__", None) or pickle.whichmodule(obj, name)  # type: ignore[attr-defined]
        found: Any = sys.modules.get(module_name)
        try:
            for part in name.split("."):
                found = getattr(found, part)
        except AttributeError:
            found = None
        if module_name == "__main__" and not isinstance(obj, type) and type(obj).__flags__ & _HEAP_TYPE:
            return copyreg.__newobj__, (type(obj),), getattr(obj, "__dict__", None)  # type: ignore[attr-defined]
        if found is not obj:
            return self.refuse(obj, f"it calls itself {module_name}.{name}, which is something else")
        self.uses(module_name)
        return name


def _keeper(buffers: list[memoryview], loose: list[int], kept: list[object]) -> Callable[[pickle.PickleBuffer], bool]:
    """Return what takes large buffers out of band; it does not know the walk, which goes as soon as it is done with."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < arrays.SMALL:
            return True
        buffers.append(view)
        loose.append(len(buffers) - 1)
        kept.append(buffer)
        return False

    return keep


def _answers_all(kind: type) -> bool:
    return hasattr(kind, "__getattr__") and not hasattr(kind, "__setstate__")


def _unasked(graph: Graph, obj: Any) -> Any:
    """Reduce an object whose class has a __getattr__, which may fail before the state is there: pickle would ask it."""
    reduced = graph.default(obj)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or any(part is not None for part in reduced[3:]):
        return reduced
    return *reduced[:3], None, None, _fill


def _fill(obj: Any, state: Any) -> None:
    plain, slots = state if isinstance(state, tuple) else (state, None)
    if plain:
        object.__getattribute__(obj, "__dict__").update(plain)
    for name, value in (slots or {}).items():
        object.__setattr__(obj, name, value)


def _stand_in(graph: Graph, obj: Any) -> Any:
    return obj.__reduce_graph__(graph)


def _leave(_: Graph, __: Any) -> Any:
    return NotImplemented


def _placeholder(graph: Graph, obj: Placeholder) -> Any:
    path, reason = describe(obj)
    graph.report.append(context.entry(path, reason))
    return context.put_placeholder, (path, reason)


def _with_items(reduced: Any) -> Any:
    """Check a reduction as pickle would and run its iterators: what fails there fails here, where it has a name."""
    if isinstance(reduced, str):
        return reduced
    good = isinstance(reduced, tuple) and 2 <= len(reduced) <= 6
    if not good or not callable(reduced[0]) or not isinstance(reduced[1], tuple):
        raise pickle.PicklingError("its __reduce__ returns something else than pickle wants")
    function, args, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
    if items is None and pairs is None:
        return reduced
    ready = None if items is None else iter(list(items))
    mapped = None if pairs is None else iter([(key, value) for key, value in pairs])
    return function, args, state, ready, mapped, setter


def _is_found(obj: object) -> bool:
    """Tell whether `obj` is a class or function that its module has under its name: such a one never fails."""
    if not isinstance(obj, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
        return False
    found: Any = sys.modules.get(getattr(obj, "__module__", None) or obj.__name__)
    for part in getattr(obj, "__qualname__", "").split("."):
        found = getattr(found, part, None) if part else found
    return found is obj


def _reduces_plainly(kind: Any) -> bool:
    return (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and getattr(kind, "__getstate__", None) is object.__getstate__
        and not issubclass(kind, (list, dict))  # their __iter__ and items may be the notebook's
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
    )


def _is_recursion(error: BaseException) -> bool:
    return isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError)


def _name(kind: type) -> str:
    known = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"


def _words(obj: object, error: BaseException) -> str:
    kind = _name(type(obj))
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    return f"{article} {kind} can't be saved ({type(error).__name__}: {str(error)[:300]})"
