"""What belongs to a process: locks, files and weak references made anew, everything else that runs is refused."""

from __future__ import annotations

import _thread
import collections
import gc
import importlib
import io
import os
import stat
import threading
import types
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint import context, singletons
from ciuic_jupyter.checkpoint.placeholder import Placeholder

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph

_LOCK, _RLOCK = _thread.allocate_lock, type(threading.RLock())
_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}
_VIEWS |= {type(collections.OrderedDict().keys()): "keys", type(collections.OrderedDict().values()): "values"}
_VIEWS |= {type(collections.OrderedDict().items()): "items"}
_NEWLINES = ("", "\n", "\r", "\r\n")
_REREAD = 64 << 20  # bytes; a text file in the middle of an iteration is read again up to this size

# classes whose objects would be saved as empty shells of something that ran in another process
_REFUSED = {
    ("subprocess", "Popen"): "a process can't be saved",
    ("socket", "socket"): "a network connection can't be saved",
    ("multiprocessing.process", "BaseProcess"): "a process can't be saved",
    ("multiprocessing.pool", "Pool"): "a pool of processes or threads can't be saved",
    ("concurrent.futures._base", "Executor"): "a pool of processes or threads can't be saved",
    ("asyncio.events", "AbstractEventLoop"): "an event loop can't be saved",
    ("multiprocessing.shared_memory", "SharedMemory"): "memory shared between processes can't be saved",
    ("weakref", "finalize"): "a finalizer can't be saved",
    ("ipywidgets.widgets.widget", "Widget"): "a widget lives in the browser and can't be saved",
    ("comm.base_comm", "BaseComm"): "a line to the browser can't be saved",
    ("contextlib", "_GeneratorContextManager"): "a context manager made of a generator can't be saved",
}
_RUNNING = {
    types.GeneratorType: "a generator can't be saved",
    types.CoroutineType: "a coroutine can't be saved",
    types.AsyncGeneratorType: "an asynchronous generator can't be saved",
    types.FrameType: "a frame of running code can't be saved",
    types.TracebackType: "a traceback can't be saved",
}


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if the process owns them."""
    if kind in _HANDLERS:
        return _HANDLERS[kind]
    if kind in _RUNNING:
        return _refuse_with(_RUNNING[kind])
    if kind in _VIEWS:
        return _view
    names = {(base.__module__, base.__qualname__) for base in kind.__mro__}
    for name, reason in _REFUSED.items():
        if name in names:
            return _refuse_with(reason)
    if issubclass(kind, threading.Thread):
        return _thread_object
    if issubclass(kind, threading.local):
        return _local
    if issubclass(kind, weakref.ref):
        return _reference
    return None


def _refuse_with(reason: str) -> Callable[[Graph, Any], Any]:
    return lambda graph, obj: graph.refuse(obj, reason)


# locks and threads


def _lock(graph: Graph, lock: Any) -> Any:
    if lock.locked():
        graph.note(lock, "the lock was held; it comes back free")
    return _thread.allocate_lock, ()


def _rlock(graph: Graph, lock: Any) -> Any:
    if "count=0" not in repr(lock):
        graph.note(lock, "the lock was held; it comes back free")
    return threading.RLock, ()


def _thread_object(graph: Graph, thread: threading.Thread) -> Any:
    if thread.is_alive():
        return graph.refuse(thread, "a running thread can't be saved")
    return graph.default(thread)


def _local(_: Graph, local: threading.local) -> Any:
    return type(local), (), dict(vars(local)), None, None, _fill_local


def _fill_local(local: threading.local, state: dict[str, Any]) -> None:
    vars(local).update(state)


def _bare(graph: Graph, obj: object) -> Any:
    place = singletons.sentinel(obj)
    if place is None:
        return graph.default(obj)
    graph.uses(place[0])
    return context.named, place


# weak references and views


def _reference(graph: Graph, reference: Any) -> Any:
    kind = type(reference)
    if kind is weakref.WeakMethod:
        method = reference()
        return (_dead, ()) if method is None else (kind, (method,))
    if kind is not weakref.ref:
        return graph.default(reference)
    target = reference()
    if target is None:
        return _dead, ()
    callback = reference.__callback__
    return weakref.ref, ((target,) if callback is None else (target, callback))


class _Short:
    """What a dead reference referred to."""


def _dead() -> Any:
    return weakref.ref(_Short())


def _proxy(_: Graph, proxy: Any) -> Any:
    try:
        target = proxy.__repr__.__self__  # a proxy hands on every attribute
    except ReferenceError:
        return _dead_proxy, ()
    return weakref.proxy, (target,)


def _dead_proxy() -> Any:
    return weakref.proxy(_Short())


def _weak_keys(_: Graph, mapping: Any) -> Any:
    return type(mapping), (dict(mapping.items()),)


def _view(graph: Graph, view: Any) -> Any:
    for owner in gc.get_referents(view):
        if isinstance(owner, dict):
            return _view_of, (owner, _VIEWS[type(view)])
    return graph.default(view)


def _view_of(owner: dict[Any, Any], which: str) -> Any:
    return getattr(owner, which)()


def _mapping_proxy(graph: Graph, proxy: Any) -> Any:
    for owner in gc.get_referents(proxy):
        if type(owner) is dict and "__dict__" not in owner and "__module__" not in owner:
            return types.MappingProxyType, (owner,)
    return types.MappingProxyType, (dict(proxy),)


# files


def _file(graph: Graph, file: Any) -> Any:
    """Reduce an open file: a text file on its buffer, a buffer on its raw file, each of which a variable may hold."""
    if file.closed:
        return _closed, (type(file).__name__, getattr(file, "name", None), getattr(file, "mode", None))
    try:
        described = _describe(file)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        return graph.refuse(file, f"this open file can't be opened again: {error}")
    if described["kind"] == "FileIO":
        return _open, (graph.path(file), described)
    below = file.buffer if described["kind"] == "TextIOWrapper" else file.raw
    return _put_on, (below, described)


def _describe(file: Any) -> dict[str, Any]:
    if not isinstance(file.name, (str, bytes)):
        raise ValueError("it has no path")
    if file.writable():  # a flush of one that is read in a loop spoils its position
        file.flush()
    held = os.fstat(file.fileno())
    path = _path(file)
    if not stat.S_ISREG(held.st_mode):
        raise ValueError(f"{path} is no ordinary file")
    if not os.path.exists(path) or not os.path.samestat(held, os.stat(path)):
        raise ValueError(f"{path} is gone or another file by now")
    if path.startswith(("/proc/", "/sys/", "/dev/")):
        raise ValueError(f"{path} belongs to the system")
    text = isinstance(file, io.TextIOWrapper)
    described = {"kind": type(file).__name__, "path": path, "name": file.name, "mode": file.mode}
    described["position"] = _text_position(file, held.st_size) if text else file.tell()
    if text:
        described |= {"encoding": file.encoding, "errors": file.errors, "line": file.line_buffering}
        described["through"] = file.write_through
        described["newline"] = _newline(file, described["position"])
    return described


def _newline(file: io.TextIOWrapper, position: int) -> str | None:
    """Return the `newline` that `file` was opened with: only the collector sees it, right behind the codecs."""
    if file.readable():
        file.seek(0)  # else decoded text stands there, too
    seen = gc.get_referents(file)
    if file.readable():
        file.seek(position)
    place = next((index for index, each in enumerate(seen) if each == file.encoding), len(seen))
    text = next((each for each in seen[place + 1 :] if isinstance(each, str)), None)
    return text if text in _NEWLINES else None


def _path(file: Any) -> str:
    try:  # the folder may have changed since it was opened
        return os.readlink(f"/proc/self/fd/{file.fileno()}").removesuffix(" (deleted)")
    except OSError:
        return os.path.abspath(os.fsdecode(file.name))


def _text_position(file: io.TextIOWrapper, size: int) -> int:
    try:
        return file.tell()
    except OSError:
        if size > _REREAD:
            raise
    rest = len(file.read())  # inside an iteration; at the end it can tell again, and so after reading up to here
    file.seek(0)
    whole = len(file.read())
    file.seek(0)
    file.read(whole - rest)
    return file.tell()


def _open(label: str, described: dict[str, Any]) -> Any:
    state = context.current()
    path, position = described["path"], described["position"]

    def opener(_: str, flags: int) -> int:  # opened by its full path, it keeps the name it was given
        return os.open(path, flags & ~(os.O_TRUNC | os.O_EXCL | os.O_CREAT))

    try:
        size = os.stat(path).st_size
        if position > size:
            raise ValueError(f"it is shorter than where it stood ({size} < {position})")
        file = io.FileIO(described["name"], described["mode"], opener=opener)
        file.seek(position)
        return file
    except (OSError, ValueError) as error:
        return state.missing(label, f"its file {path} can't be opened here ({error})")


def _put_on(below: Any, described: dict[str, Any]) -> Any:
    if type(below) is Placeholder:
        return below
    if described["kind"] == "TextIOWrapper":
        coding = (described["encoding"], described["errors"], described["newline"])
        file: Any = io.TextIOWrapper(below, *coding, described["line"], described["through"])
        file.mode = described["mode"]
    else:
        file = getattr(io, described["kind"])(below)
    if "a" not in described["mode"]:
        file.seek(described["position"])
    return file


def _closed(kind: str, name: str | bytes | int | None, mode: str | None) -> Any:
    raw: Any = io.FileIO(os.devnull, "r+")
    raw.name = name  # it shows through whatever is built on it
    made: dict[str, Callable[[], Any]] = {
        "FileIO": lambda: raw,
        "TextIOWrapper": lambda: io.TextIOWrapper(io.BufferedReader(raw), "utf-8"),
        "BufferedWriter": lambda: io.BufferedWriter(raw),
    }
    made["BufferedReader"] = made["BufferedRandom"] = lambda: io.BufferedReader(raw)
    file = made[kind]()
    if kind == "TextIOWrapper":
        file.mode = mode
    file.close()
    return file


def _memory_view(graph: Graph, view: memoryview) -> Any:
    owner = view.obj
    if not view.c_contiguous or isinstance(owner, types.ModuleType):
        return graph.refuse(view, "a memoryview with gaps can't be saved")
    numpy = importlib.import_module("numpy")
    base = memoryview(owner) if not isinstance(owner, numpy.ndarray) else owner
    start = _address(numpy, view) - _address(numpy, base) if view.nbytes else 0
    size = view.nbytes
    return _make_view, (owner, start, size, view.format, tuple(view.shape or ()), view.readonly)


def _address(numpy: Any, obj: Any) -> int:
    array = obj if isinstance(obj, numpy.ndarray) else numpy.frombuffer(obj, dtype=numpy.uint8)
    return int(array.__array_interface__["data"][0])


def _make_view(owner: Any, start: int, size: int, form: str, shape: tuple[int, ...], readonly: bool) -> memoryview:
    whole = memoryview(owner)
    view = whole.cast("B") if whole.nbytes else whole
    view = view[start : start + size]
    if size and (form != "B" or len(shape) != 1):
        view = view.cast(form, shape)  # type: ignore[call-overload]
    return view.toreadonly() if readonly and not view.readonly else view


_HANDLERS: dict[type, Callable[[Graph, Any], Any]] = {
    type(_thread.allocate_lock()): _lock,
    _RLOCK: _rlock,
    object: _bare,
    weakref.ref: _reference,
    weakref.ProxyType: _proxy,
    weakref.CallableProxyType: _proxy,
    weakref.WeakKeyDictionary: _weak_keys,
    weakref.WeakValueDictionary: _weak_keys,
    types.MappingProxyType: _mapping_proxy,
    memoryview: _memory_view,
    io.TextIOWrapper: _file,
    io.BufferedReader: _file,
    io.BufferedWriter: _file,
    io.BufferedRandom: _file,
    io.FileIO: _file,
}
