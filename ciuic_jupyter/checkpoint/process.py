"""The state of the process beside its variables: folder, environment, options, and the random generators, set last."""

from __future__ import annotations

import ast
import dataclasses
import gc
import importlib.metadata
import linecache
import locale
import logging
import os
import platform
import random
import re
import socket
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint import figures, hooks, library, modules, registries, shell, survey
from ciuic_jupyter.checkpoint.context import Loading

_SECRET = re.compile(
    r"(?i)(secret|passw|passphrase|passwd|token|credential|cookie|private|api_?key|access_?key|auth|dsn|_key$|^key_|_pat$|_pw$)"
)
_MACHINE = re.compile(
    r"^(CIUIC_.*|JPY_.*|CUDA_VISIBLE_DEVICES|NVIDIA_.*|HOSTNAME|PWD|OLDPWD|SHLVL|_|TMPDIR|XDG_RUNTIME_DIR|SSH_.*|MPLBACKEND"
    r"|PYDEVD_.*|KERNEL_.*|LS_COLORS|TERM|COLORTERM|COLUMNS|LINES|PAGER|GIT_PAGER|CLICOLOR(_FORCE)?|FORCE_COLOR)$"
)
_LOCALES = (locale.LC_CTYPE, locale.LC_COLLATE, locale.LC_TIME, locale.LC_MONETARY, locale.LC_NUMERIC)
_SOURCES = 4 << 20  # characters of cells kept for tracebacks

_began: dict[str, Any] | None = None


def remember_start() -> None:
    """Take the environment, search path and log handlers of now as those that every machine has by itself.

    A kernel calls it once before its first cell; without it the environment this process was started with counts.
    """
    global _began
    _began = {"environ": dict(os.environ), "path": list(sys.path), "loggers": _handlers()}
    hooks.remember_start()
    modules.remember_start()
    shell.remember_start()


def _start() -> dict[str, Any]:
    if _began is not None:
        return _began
    environ = {}
    with suppress(OSError):
        for item in Path("/proc/self/environ").read_bytes().split(b"\0"):
            name, mark, value = os.fsdecode(item).partition("=")
            if mark:
                environ[name] = value
    prefixes = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return {"environ": environ, "path": [entry for entry in sys.path if entry.startswith(prefixes)], "loggers": {}}


def _handlers() -> dict[str, list[Any]]:
    loggers = {name: each for name, each in logging.Logger.manager.loggerDict.items() if hasattr(each, "handlers")}
    return {name: list(each.handlers) for name, each in {"": logging.root, **loggers}.items()}


def packages(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of `names` that have one; code of a module that makes one when asked is not run."""
    found = {}
    for name in sorted(names):
        known = getattr(sys.modules.get(name), "__dict__", {})
        version = known.get("__version__")
        if version is None and "__getattr__" in known:
            version = _installed(name)
        if isinstance(version, str):
            found[name] = version
    return found


@cache
def _installed(name: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def place() -> dict[str, str]:
    """Return what must or should be the same where a checkpoint is loaded."""
    return {
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "platform": f"{sys.platform}-{platform.machine()}",
    }


# plain part: applied before anything is loaded


def plain_record(report: list[dict[str, str]], inputs: Iterable[str]) -> dict[str, Any]:
    """Return the part that JSON can say; names of variables that look like secrets go into `report` instead."""
    began = _start()
    kept: dict[str, str | None] = {}
    for name in sorted(os.environ.keys() | began["environ"].keys()):
        value = os.environ.get(name)
        if value == began["environ"].get(name) or _MACHINE.match(name):
            continue
        if _SECRET.search(name):
            text = f"os.environ[{name!r}]"
            reason = "it looks like a secret, which is not saved; set it again"
            report.append({"name": "os", "path": text, "reason": reason})
        else:
            kept[name] = value
    for module, name, what in registries.UNSEEN:
        if _calls(inputs, module, name):
            report.append({"name": module, "path": f"{module}.{name}", "reason": f"{what}; register it again"})
    added = [(index, entry) for index, entry in enumerate(sys.path) if entry not in began["path"]]
    removed = [entry for entry in began["path"] if entry not in sys.path]
    try:
        cwd = os.getcwd()
    except FileNotFoundError:
        cwd = None
        report.append({"name": "os", "path": "os.getcwd()", "reason": "the folder it worked in was deleted"})
    return {"cwd": cwd, "environ": kept, "sys_path": added, "off_path": removed, "imports": _dotted_imports(inputs)}


def _calls(inputs: Iterable[str], module: str, name: str) -> bool:
    return any(
        module in text and re.search(rf"\b{module}\.{name}\b|from {module} import .*{name}", text) for text in inputs
    )


def added_path() -> list[str]:
    """Return the entries of the search path that were not there at the start."""
    return [entry for entry in sys.path if entry not in _start()["path"]]


def apply_plain(record: Mapping[str, Any], state: Loading) -> None:
    """Set folder, environment and search path."""
    if record.get("cwd") is not None:
        try:
            os.chdir(record["cwd"])
        except OSError as error:
            state.warn(f"the folder {record['cwd']} is not here ({error.strerror}); this is {os.getcwd()}")
    for name, value in record.get("environ", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for index, entry in record.get("sys_path", ()):
        if entry not in sys.path:
            sys.path.insert(index, entry)
    sys.path[:] = [entry for entry in sys.path if entry not in record.get("off_path", ())]


@contextmanager
def plain_or_before() -> Iterator[None]:
    """Undo what `apply_plain` did if the block raises."""
    environ, path = dict(os.environ), list(sys.path)
    try:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # it has no name if it was deleted
    except OSError:
        folder = -1
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.fchdir(folder)
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)
        sys.path[:] = path
        raise
    finally:
        with suppress(OSError):
            os.close(folder)


def import_again(record: Mapping[str, Any], state: Loading) -> None:
    """Import what cells imported with a dotted name: the variable alone, the package, does not bring it."""
    for name in record.get("imports", ()):
        try:
            __import__(name)
        except Exception as error:  # noqa: BLE001 - a module of the user's may raise anything when it is run
            state.warn(f"import {name} failed here: {type(error).__name__}: {error}")


def _dotted_imports(inputs: Iterable[str]) -> list[str]:
    found = set()
    for text in inputs:
        if "import" not in text or "." not in text:
            continue
        with suppress(SyntaxError, ValueError):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names if "." in alias.name}
    return sorted(name for name in found if name in sys.modules)


# parts that go into the graph


def records(
    report: list[dict[str, str]], seen: Sequence[survey.Found], mine: Sequence[types.ModuleType]
) -> dict[str, Any]:
    """Return the options of the process and its random generators, by part; one that can't be read is in `report`.

    `seen` is what the modules hold: the parts in _OF_MODULES ask it. `mine` are the modules of the user's.
    """
    found: dict[str, Any] = {}
    asked = {**dict.fromkeys(_OF_MODULES, (seen,)), "modules": (mine,)}
    for name, (read, _) in _PARTS.items():
        try:
            found[name] = read(*asked.get(name, ()))
        except Exception as error:  # noqa: BLE001 - an object of the user's may be in the way; the variables count more
            reason = f"the state of {name} can't be saved ({type(error).__name__}: {error})"
            report.append({"name": name, "path": name, "reason": reason})
    return {name: value for name, value in found.items() if value is not None}


def words(inputs: Iterable[str]) -> set[str]:
    """Return the words of the cells: a library that none of them names is not looked into."""
    return {word for text in inputs for word in re.findall(r"\w+", text)}


def needed(found: Mapping[str, Any], used: Iterable[str], inputs: Iterable[str]) -> dict[str, Any]:
    """Leave out the state of libraries that only the kernel loaded: no variable needs them and no cell names them."""
    named = set(used) | words(inputs)
    return {name: value for name, value in found.items() if name not in _LIBRARY_OF or _LIBRARY_OF[name] in named}


def apply(name: str, value: Any) -> None:
    """Set the part `name` of the process, one of ORDER, to `value`."""
    if name == "sources":
        _set_sources(value)
    else:
        _PARTS[name][1](value)


def sources(names: Iterable[str]) -> dict[str, str]:
    """Return the text of cells whose functions are saved, so that tracebacks and inspect still show it."""
    found: dict[str, str] = {}
    room = _SOURCES
    for name in sorted(names):
        kept = linecache.cache.get(name)
        if kept is not None and len(kept) == 4 and kept[1] is None and room > kept[0]:
            found[name] = "".join(kept[2])
            room -= kept[0]
    return found


def _set_sources(value: Mapping[str, str]) -> None:
    for name, text in value.items():
        linecache.cache.setdefault(name, (len(text), None, text.splitlines(keepends=True), name))


def _numpy_options() -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return None
    return {"print": numpy.get_printoptions(), "errors": numpy.geterr(), "call": numpy.geterrcall()}


def _set_numpy_options(value: Any) -> None:
    import numpy as np  # noqa: PLC0415 - it was loaded there

    np.set_printoptions(**{key: item for key, item in value["print"].items() if key != "override_repr"})
    np.seterr(**value["errors"])
    np.seterrcall(value["call"])


def _pandas_options() -> Any:
    config = sys.modules.get("pandas._config.config")
    if config is None or "pandas" not in sys.modules:
        return None
    changed = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for key, option in config._registered_options.items():  # noqa: SLF001 - nothing public lists them
            value = config.get_option(key)
            if value != option.defval:
                changed[key] = value
    return changed or None


def _set_pandas_options(value: Any) -> None:
    import pandas as pd  # noqa: PLC0415 - it was loaded there

    for key, item in value.items():
        pd.set_option(key, item)


def _learn_options() -> Any:
    sklearn = sys.modules.get("sklearn")
    return None if sklearn is None else sklearn.get_config()


def _set_learn_options(value: Any) -> None:
    import sklearn  # noqa: PLC0415 - it was loaded there

    sklearn.set_config(**value)


def _warning_filters() -> Any:
    """Return the filters; a library's category by name, so that a restore loads no library for it."""
    found = []
    for action, message, category, module, line in warnings.filters:
        named: Any = category
        if isinstance(category, type) and category.__module__ not in ("builtins", "__main__"):
            named = (category.__module__, category.__qualname__)
        found.append((action, message, named, module, line))
    return found


def _set_warning_filters(value: Any) -> None:
    filters = []
    for action, message, category, module, line in value:
        if isinstance(category, tuple) and isinstance(category[0], str):
            category = getattr(sys.modules.get(category[0]), category[1], None)
        if category is not None:  # else its library sets it when it is loaded
            filters.append((action, message, category, module, line))
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # noqa: SLF001 - else old answers stay in caches


def _logging_state() -> Any:
    """Return levels, and of loggers that somebody changed since the start the rest; root is called ""."""
    began = _start()["loggers"]
    found = {"": logging.root} | {
        name: logger for name, logger in logging.Logger.manager.loggerDict.items() if isinstance(logger, logging.Logger)
    }
    levels = {name: logger.level for name, logger in found.items() if logger.level}
    handlers = {}
    for name, logger in found.items():
        own = [each for each in logger.handlers if each not in began.get(name, ()) and not _is_library(each, name)]
        if own or logger.filters or logger.disabled or not logger.propagate:
            filters = [each for each in logger.filters if not _is_library(each, name)]
            handlers[name] = (own, filters, logger.propagate, logger.disabled)
    return {"handlers": handlers, "levels": levels, "off": logging.root.manager.disable}


def _is_library(part: object, logger: str) -> bool:
    """Tell whether a package made `part` for its own logger: it does so again when it is imported."""
    package = type(part).__module__.partition(".")[0]
    return package == logger.partition(".")[0] or isinstance(part, logging.NullHandler)


def _set_logging_state(value: Any) -> None:
    for name, (handlers, filters, propagate, disabled) in value["handlers"].items():
        logger = logging.getLogger(name or None)
        for handler in handlers:
            logger.addHandler(handler)
        for each in filters:
            logger.addFilter(each)
        logger.propagate, logger.disabled = propagate, disabled
    for name, number in value["levels"].items():
        logging.getLogger(name or None).setLevel(number)
    logging.disable(value["off"])


def _decimal() -> Any:
    decimal = sys.modules.get("decimal")
    return None if decimal is None else decimal.getcontext()


def _set_decimal(value: Any) -> None:
    import decimal  # noqa: PLC0415 - it was loaded there

    decimal.setcontext(value)


def _interpreter() -> Any:
    return {
        "recursion": sys.getrecursionlimit(),
        "digits": sys.get_int_max_str_digits(),
        "switch": sys.getswitchinterval(),
        "gc": (gc.isenabled(), gc.get_threshold()),
        "umask": _umask(),
        "start": getattr(sys.modules.get("multiprocessing"), "get_start_method", lambda **_: None)(allow_none=True),
        "timeout": socket.getdefaulttimeout(),
        "locale": {number: locale.setlocale(number) for number in _LOCALES},
        "zone": time.tzname,
    }


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _set_interpreter(value: Any) -> None:
    sys.setrecursionlimit(max(value["recursion"], sys.getrecursionlimit()))
    sys.set_int_max_str_digits(value["digits"])
    sys.setswitchinterval(value["switch"])
    gc.set_threshold(*value["gc"][1])
    os.umask(value["umask"])
    if value["start"] is not None:
        import multiprocessing  # noqa: PLC0415 - it was loaded there

        multiprocessing.set_start_method(value["start"], force=True)
    socket.setdefaulttimeout(value["timeout"])
    if value["zone"] != time.tzname and "TZ" in os.environ:
        time.tzset()
    for number, name in value["locale"].items():
        if locale.setlocale(number) != name:
            locale.setlocale(number, name)


def collects(records: object) -> bool:
    """Tell whether the collector was on in the process whose `records` these are."""
    return not isinstance(records, Mapping) or bool(records.get("interpreter", {}).get("gc", (True,))[0])


_CUDNN = ("enabled", "benchmark", "deterministic")


def _torch_options() -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return None
    backends = torch.backends
    return {
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        "matmul": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
        "cudnn": tuple(getattr(backends.cudnn, name) for name in _CUDNN),
        "handles": torch.utils.hooks.RemovableHandle.next_id,
        "print": dataclasses.asdict(sys.modules["torch._tensor_str"].PRINT_OPTS),
    }


def _set_torch_options(value: Any) -> None:
    import torch  # noqa: PLC0415 - it was loaded there

    here = _torch_options()
    changed = {key: item for key, item in value.items() if here[key] != item}  # some setters load half of torch

    def set_cudnn(item: tuple[bool, ...]) -> None:
        for name, setting in zip(_CUDNN, item, strict=True):
            setattr(torch.backends.cudnn, name, setting)

    def set_handles(item: int) -> None:  # a number given twice would take another hook's place
        handle = torch.utils.hooks.RemovableHandle
        handle.next_id = max(handle.next_id, item)

    def set_print(item: dict[str, Any]) -> None:
        for name, setting in item.items():
            setattr(sys.modules["torch._tensor_str"].PRINT_OPTS, name, setting)

    setters: dict[str, Callable[[Any], Any]] = {
        "dtype": torch.set_default_dtype,
        "threads": torch.set_num_threads,
        "grad": torch.set_grad_enabled,
        "deterministic": lambda item: torch.use_deterministic_algorithms(item[0], warn_only=item[1]),
        "matmul": torch.set_float32_matmul_precision,
        "anomaly": torch.autograd.set_detect_anomaly,
        "cudnn": set_cudnn,
        "print": set_print,
        "handles": set_handles,
    }
    for key, item in changed.items():
        setters[key](item)


def _random() -> Any:
    return random.getstate()


def _numpy_random() -> Any:
    if "numpy.random" not in sys.modules:
        return None
    return sys.modules["numpy"].random.get_state(legacy=False)


def _set_numpy_random(value: Any) -> None:
    import numpy as np  # noqa: PLC0415 - it was loaded there

    np.random.set_state(value)


def _torch_random() -> Any:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_rng_state"):
        return None
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": _bytes(torch.get_rng_state()), "cuda": [_bytes(state) for state in cuda]}


def _bytes(tensor: Any) -> bytes:
    return bytes(tensor.numpy().tobytes())


def _set_torch_random(value: Any) -> None:
    import torch  # noqa: PLC0415 - it was loaded there

    def state(data: bytes) -> Any:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    torch.set_rng_state(state(value["cpu"]))
    if value["cuda"] and torch.cuda.is_available():
        for device, data in enumerate(value["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state(data), device)


# in the order in which they are set; random generators last, because anything before may draw from them
_PARTS: dict[str, tuple[Callable[..., Any], Callable[[Any], None]]] = {
    "interpreter": (_interpreter, _set_interpreter),
    "logging": (_logging_state, _set_logging_state),
    "decimal": (_decimal, _set_decimal),
    "modules": (modules.record, modules.apply),
    "hooks": (hooks.record, hooks.apply),
    "registries": (registries.record, registries.apply),
    "shell": (shell.record, shell.apply),
    "context": (library.own_values, library.set_values),
    "numpy": (_numpy_options, _set_numpy_options),
    "pandas": (_pandas_options, _set_pandas_options),
    "matplotlib": (figures.options, figures.set_options),
    "sklearn": (_learn_options, _set_learn_options),
    "torch": (_torch_options, _set_torch_options),
    "warnings": (_warning_filters, _set_warning_filters),
    "numpy_random": (_numpy_random, _set_numpy_random),
    "torch_random": (_torch_random, _set_torch_random),
    "random": (_random, random.setstate),
}
_OF_MODULES = frozenset({"hooks", "registries", "context"})
ORDER = ("sources", *_PARTS)
_LIBRARY_OF = {name: name for name in ("torch", "pandas", "matplotlib", "sklearn")} | {"torch_random": "torch"}
