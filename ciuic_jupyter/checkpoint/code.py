"""Functions and modules: by name where a module has them, else by value on the live namespace, cells shared."""

from __future__ import annotations

import enum
import functools
import importlib
import logging
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

from ciuic_jupyter.checkpoint import caches, classes, context, modules

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph

_SLOTS = ("__defaults__", "__kwdefaults__", "__annotations__", "__doc__", "__module__", "__qualname__")
_EXCEPTION_REDUCERS = (BaseException.__reduce__, OSError.__reduce__)
_LRU = type(functools.lru_cache(lambda: None))


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if it is code."""
    if issubclass(kind, type):
        return classes.reduce_class
    if kind in _HANDLERS:
        return _HANDLERS[kind]
    if issubclass(kind, enum.Enum):
        return classes.reduce_member
    if issubclass(kind, BaseException):
        return _exception
    if issubclass(kind, types.ModuleType):
        return _module
    return None


# functions


def _function(graph: Graph, function: types.FunctionType) -> Any:
    classes.load_home(function)
    if cloudpickle._should_pickle_by_reference(function):  # noqa: SLF001 - the question cloudpickle answers best
        graph.uses(function.__module__)
        return NotImplemented
    graph.sources.add(function.__code__.co_filename)
    made = (function.__code__, _globals(graph, function), function.__name__, function.__closure__)
    state = {name: getattr(function, name) for name in _SLOTS}
    return _make_function, made, (state, function.__dict__, _submodules(function)), None, None, _fill_function


def _globals(graph: Graph, function: types.FunctionType) -> Any:
    """Return the function's globals: the live namespace, the live dict of a module, or a dict of its own."""
    names = function.__globals__
    if names is graph.namespace:
        return names
    module = names.get("__name__")
    holder = sys.modules.get(module) if isinstance(module, str) else None
    if holder is not None and module != "__main__" and vars(holder) is names:
        if modules.is_whole(holder):
            return graph.keep(_NamesOf(holder))
        graph.uses(module)
        return graph.keep(_ModuleNames(str(module)))
    return names


class _ModuleNames:
    """Stands for the dict of a module that can be imported."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return _module_names, (self.module,)


class _NamesOf:
    """Stands for the dict of a module that is saved with its code."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return vars, (self.module,)


def _module_names(module: str) -> dict[str, Any]:
    return vars(importlib.import_module(module))


def _submodules(function: types.FunctionType) -> list[str]:
    """Return submodules that the code reaches through a package (concurrent.futures): nothing else loads them."""
    names = cloudpickle._extract_code_globals(function.__code__)  # noqa: SLF001 - cloudpickle's own way
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    for cell in function.__closure__ or ():
        with suppress(ValueError):
            values.append(cell.cell_contents)
    modules = [value for value in values if type(value) is types.ModuleType]
    if not modules:
        return []
    found = cloudpickle._find_imported_submodules(function.__code__, modules)  # noqa: SLF001
    return [module.__name__ for module in found if isinstance(module, types.ModuleType)]


def _make_function(
    code: types.CodeType, names: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    names.setdefault("__builtins__", __builtins__)
    return types.FunctionType(code, names, name, None, closure)


def _fill_function(function: types.FunctionType, state: tuple[dict[str, Any], dict[str, Any], list[str]]) -> None:
    slots, attributes, submodules = state
    for name, value in slots.items():
        setattr(function, name, value)
    function.__dict__.update(attributes)
    for module in submodules:
        with suppress(ImportError):
            importlib.import_module(module)


def _cell(_: Graph, cell: types.CellType) -> Any:
    try:
        contents = (cell.cell_contents,)
    except ValueError:
        return types.CellType, ()
    # made empty, filled when it is in the memo: a function may be its own contents
    return types.CellType, (), contents, None, None, _fill_cell


def _fill_cell(cell: types.CellType, contents: tuple[Any]) -> None:
    cell.cell_contents = contents[0]


def _lru(graph: Graph, function: Any) -> Any:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if _is_global(function, module, name):
        return graph.default(function)
    contents = caches.read(function)
    if contents is None:
        held = function.cache_info().currsize
        graph.note(function, f"the {held} results in its lru_cache are dropped; the function is kept and starts empty")
    parameters = function.cache_parameters()
    made = (function.__wrapped__, parameters["maxsize"], parameters["typed"])
    return _make_lru, made, (dict(vars(function)), contents), None, None, _fill_lru


def _make_lru(function: Any, maxsize: int | None, typed: bool) -> Any:
    return functools.lru_cache(maxsize=maxsize, typed=typed)(function)


def _fill_lru(function: Any, state: tuple[dict[str, Any], Any]) -> None:
    attributes, contents = state
    vars(function).update(attributes)
    if contents is not None:
        context.current().afterwards(lambda: caches.write(function, contents))  # arguments are hashed


def _fill_dict(obj: Any, state: dict[str, Any]) -> None:
    vars(obj).update(state)


def _is_global(obj: object, module: str | None, name: str) -> bool:
    found: Any = sys.modules.get(module or "")
    if found is None or module == "__main__":
        return False
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


def _method(_: Graph, method: types.MethodType) -> Any:
    return types.MethodType, (method.__func__, method.__self__)


def _builtin(graph: Graph, function: types.BuiltinFunctionType) -> Any:
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType):
        return graph.default(function)
    return getattr, (owner, function.__name__)


def _exception(graph: Graph, error: BaseException) -> Any:
    reduced = graph.default(error)
    if not isinstance(reduced, tuple) or reduced[0] is context.put_placeholder or len(reduced) > 3:
        return reduced
    chain = (error.__cause__, error.__context__, error.__suppress_context__)
    if error.__traceback__ is not None:
        graph.note(error, "the exception is kept, its traceback is not")
    state = (reduced[2] if len(reduced) == 3 else None, chain)
    function, args = reduced[:2]
    if function is type(error) and type(error).__reduce__ in _EXCEPTION_REDUCERS:
        function, args = _make_exception, (function, *args)
    return function, args, state, None, None, _fill_exception


def _make_exception(kind: type[BaseException], *args: Any) -> BaseException:
    """Return an exception; an __init__ of the user's, which may want other arguments, does not run again."""
    base: Any = next(each for each in kind.__mro__ if each.__module__ == "builtins")
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)
    return error


def _fill_exception(error: BaseException, state: tuple[Any, tuple[Any, Any, bool]]) -> None:
    attributes, chain = state
    if attributes is not None:
        error.__setstate__(attributes)
    error.__cause__, error.__context__, error.__suppress_context__ = chain


# modules and loggers


def _module(graph: Graph, module: types.ModuleType) -> Any:
    if module is sys.modules.get("__main__"):
        return context.main_module, ()
    known = sys.modules.get(module.__name__) is module
    if known and not modules.is_whole(module):
        graph.uses(module.__name__)
        return importlib.import_module, (module.__name__,)
    names = {key: value for key, value in vars(module).items() if key != "__builtins__"}
    return modules.make, (type(module), module.__name__, known), names, None, None, _fill_dict


def _logger(graph: Graph, logger: logging.Logger) -> Any:
    state = {key: vars(logger)[key] for key in ("level", "propagate", "disabled", "handlers", "filters")}
    return _get_logger, (logger.name,), state, None, None, _fill_logger


def _get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)


def _fill_logger(logger: logging.Logger, state: dict[str, Any]) -> None:
    def apply() -> None:
        logger.setLevel(state["level"])
        logger.propagate, logger.disabled = state["propagate"], state["disabled"]
        logger.handlers[:] = state["handlers"]
        logger.filters[:] = state["filters"]

    context.current().afterwards(apply)


_HANDLERS: dict[type, Callable[[Graph, Any], Any]] = {
    types.FunctionType: _function,
    types.CellType: _cell,
    types.MethodType: _method,
    types.BuiltinFunctionType: _builtin,
    types.ModuleType: _module,
    logging.Logger: _logger,
    _LRU: _lru,
}
