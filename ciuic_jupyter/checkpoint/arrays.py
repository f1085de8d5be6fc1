"""numpy arrays: memory is saved once, and every array on it is a window with its offset and strides."""

from __future__ import annotations

import array as array_module
import bisect
import ctypes
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint import context

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph

SMALL = 512  # bytes; a smaller array stays inside the pickle


class Memory:
    """Which addresses belong to which array or storage of this walk."""

    def __init__(self, roots: Sequence[Any]) -> None:
        """`roots` are arrays whose memory something else turned out to use."""
        self._starts: list[int] = []
        self._blocks: list[tuple[int, Any]] = []  # end, owner
        for root in roots:
            low, high = bounds(root)
            self.add(low, high, root)

    def add(self, low: int, high: int, owner: Any) -> None:
        """Remember that [low, high) belongs to `owner`."""
        index = bisect.bisect_left(self._starts, low)
        self._starts.insert(index, low)
        self._blocks.insert(index, (high, owner))

    def owner(self, low: int, high: int) -> tuple[int, int, Any] | None:
        """Return (start, end, owner) of the block that [low, high) touches."""
        index = bisect.bisect_right(self._starts, low) - 1
        for place in (index, index + 1):
            if 0 <= place < len(self._starts):
                start, (end, owner) = self._starts[place], self._blocks[place]
                if start < high and low < end:
                    return start, end, owner
        return None


def raw(address: int, size: int) -> memoryview:
    """Return `size` bytes of memory at `address`; they are read, whatever owns them must live on."""
    if size == 0:
        return memoryview(b"")
    return memoryview((ctypes.c_char * size).from_address(address)).cast("B")


def bounds(array: Any) -> tuple[int, int]:
    """Return the first address of `array`'s elements and the one behind the last."""
    low = high = int(array.__array_interface__["data"][0])
    if array.size == 0:
        return low, low
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if they are arrays of numpy."""
    numpy = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "ndarray"):
        return None
    if kind is numpy.ndarray:
        return _array
    if issubclass(kind, numpy.memmap):
        return _mapped
    if issubclass(kind, numpy.ndarray):
        masked, record = numpy.ma.MaskedArray, numpy.recarray
        if kind is masked:
            return _subclass
        reducers = (numpy.ndarray.__reduce__, record.__reduce__)
        plain = kind.__reduce__ in reducers and kind.__reduce_ex__ is numpy.ndarray.__reduce_ex__
        return _subclass if plain else None
    return None


def _array(graph: Graph, array: Any) -> Any:
    graph.uses("numpy")
    root = array
    while _is_array(root.base):
        root = root.base
    if root is not array:
        return _window(graph, array, root)
    if array.dtype.hasobject:
        return graph.default(array)
    if not array.flags.owndata and array.base is not None:
        reduced = _foreign(graph, array)
        if reduced is not None:
            return reduced
    return _owner(graph, array)


def _is_array(obj: Any) -> bool:
    return isinstance(obj, sys.modules["numpy"].ndarray)


def _owner(graph: Graph, array: Any) -> Any:
    """Reduce an array that owns its memory."""
    low, high = bounds(array)
    found = graph.memory.owner(low, high)
    if found is not None and found[2] is not array:
        from ciuic_jupyter.checkpoint.graph import Restart  # noqa: PLC0415 - the graph imports this module

        if not any(array is root for root in graph.plan.roots):
            graph.plan.roots.append(array)
            raise Restart
    elif found is None and high > low:
        graph.memory.add(low, high, array)
    layout = "C" if array.flags.c_contiguous else "F" if array.flags.f_contiguous else ""
    if not layout:
        flat = graph.keep(Block(low, high - low, array))
        return _make_window, (flat, array.dtype, array.shape, array.strides, _data(array) - low, array.flags.writeable)
    if high - low < SMALL:
        data: Any = array.tobytes("A" if layout == "F" else "C")
    else:
        data = graph.buffer(raw(low, high - low))
    return _make_array, (data, array.dtype, array.shape, layout, array.flags.writeable)


class Block:
    """Stands for memory that belongs to an array of an unusual layout."""

    def __init__(self, low: int, size: int, owner: Any) -> None:
        self.low, self.size, self.owner = low, size, owner

    def __reduce_graph__(self, graph: Graph) -> Any:
        numpy = sys.modules["numpy"]
        return _make_array, (graph.buffer(raw(self.low, self.size)), numpy.dtype("u1"), (self.size,), "C", True)


def _make_array(data: int | bytes, dtype: Any, shape: tuple[int, ...], layout: str, writeable: bool) -> Any:
    import numpy as np  # noqa: PLC0415 - the checkpoint room loads without it

    array = np.empty(shape, dtype, order=layout)  # type: ignore[call-overload]
    if array.nbytes:
        target = raw(int(array.__array_interface__["data"][0]), array.nbytes)
        if isinstance(data, bytes):
            target[:] = data
        else:
            context.current().fill(data, target)
    if not writeable:
        array.flags.writeable = False
    return array


# windows


def _data(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def _window(graph: Graph, array: Any, root: Any) -> Any:
    low, high = bounds(root)
    first, last = bounds(array)
    inside = (low <= first and last <= high) or array.size == 0
    dense = root.flags.c_contiguous or root.flags.f_contiguous or not root.dtype.hasobject
    if not inside or not dense:
        graph.note(array, "the array is kept, but it no longer shares memory with the one it is a view of")
        return graph.default(array)
    offset = _data(array) - low if array.size else 0
    return _make_window, (root, array.dtype, array.shape, array.strides, offset, array.flags.writeable)


def _make_window(
    root: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, writeable: bool
) -> Any:
    import numpy as np  # noqa: PLC0415 - the checkpoint room loads without it

    low, _ = bounds(root)
    if root.dtype.hasobject or dtype.hasobject:
        array = _object_window(root, dtype, shape, strides, offset)
    elif root.flags.c_contiguous or root.flags.f_contiguous:
        flat = (root if root.flags.c_contiguous else root.T).reshape(-1).view(np.ndarray)
        buffer: Any = flat.view(np.uint8) if flat.size else np.empty(0, np.uint8)
        array = np.ndarray(shape, dtype, buffer, offset, strides)
    else:  # dense, but with its axes in another order: its block is what its memory belongs to
        base = root.base
        array = np.ndarray(shape, dtype, base, offset + low - bounds(base)[0], strides)
    if not writeable:
        array.flags.writeable = False
    return array


def _object_window(root: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Any:
    from numpy.lib.stride_tricks import as_strided  # noqa: PLC0415 - the checkpoint room loads without it

    flat = (root if root.flags.c_contiguous else root.T).reshape(-1)
    if dtype != root.dtype:
        for name, (kind, start) in (root.dtype.fields or {}).items():
            if kind == dtype and start == offset % root.itemsize:
                flat, offset = flat[name], offset - start
                break
        return as_strided(flat[offset // root.itemsize :], shape, strides)
    return as_strided(flat[offset // root.itemsize :], shape, strides)


# subclasses, files, foreign memory


def _subclass(graph: Graph, array: Any) -> Any:
    graph.uses(type(array).__module__)
    if array.dtype.hasobject and not _is_array(array.base):
        return graph.default(array)
    state = dict(getattr(array, "__dict__", {}))
    if "_mmap" in state:  # private changes to a file: the array has them
        state["_mmap"] = None
    return _make_subclass, (graph.keep(Plain(array)), type(array)), state, None, None, _fill_subclass


class Plain:
    """Stands for the array below one of a subclass."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce_graph__(self, graph: Graph) -> Any:
        return _array(graph, self.array)


def _make_subclass(plain: Any, kind: type) -> Any:
    return plain.view(kind)


def _fill_subclass(array: Any, state: dict[str, Any]) -> None:
    array.__dict__.update(state)


def _mapped(graph: Graph, array: Any) -> Any:
    numpy = sys.modules["numpy"]
    if isinstance(array.base, numpy.ndarray):
        root = array
        while isinstance(root.base, numpy.ndarray):
            root = root.base
        reduced = _window(graph, array, root)
        if reduced[0] is not _make_window:
            return reduced
        return _make_mapped_window, (type(array), *reduced[1])
    if array.base is None or array.filename is None or array.mode == "c":
        return _subclass(graph, array)
    array.flush()
    mode = "r+" if array.mode == "w+" else array.mode
    described = (array.dtype, mode, array.offset, array.shape, "F" if array.flags.fnc else "C")
    return _open_mapped, (graph.path(array), str(array.filename), described)


def _make_mapped_window(kind: type, *args: Any) -> Any:
    array = _make_window(*args)
    return array.view(kind)


def _open_mapped(label: str, path: str, described: tuple[Any, ...]) -> Any:
    import numpy as np  # noqa: PLC0415 - the checkpoint room loads without it

    try:
        return np.memmap(path, *described)
    except (OSError, ValueError) as error:
        return context.current().missing(label, f"its file {path} can't be mapped here ({error})")


def _foreign(graph: Graph, array: Any) -> Any:
    """Reduce an array on memory of bytes, a bytearray or a tensor; None if it belongs to something unknown."""
    base = array.base
    if isinstance(base, memoryview):
        base = base.obj
    if type(base) in (bytes, bytearray, array_module.array):
        start = _data(sys.modules["numpy"].frombuffer(base, "u1")) if len(base) else 0
        low, _ = bounds(array)
        made = (base, array.dtype, array.shape, array.strides, _data(array) - start if array.size else 0)
        return _make_on_bytes, (*made, array.flags.writeable)
    torch = sys.modules.get("torch")
    if torch is not None and _is_tensor(base):
        storage = base.untyped_storage()
        offset = _data(array) - storage.data_ptr()
        if array.size and not 0 <= offset <= storage.nbytes():
            return None
        made = (graph.storage(storage), array.dtype, array.shape, array.strides, offset if array.size else 0)
        return _make_on_storage, (*made, array.flags.writeable)
    low, high = bounds(array)
    found = graph.memory.owner(low, high)
    if found is not None and found[2] is not array and found[0] <= low and high <= found[1] and _is_array(found[2]):
        return _window(graph, array, found[2])
    return None


def _is_tensor(obj: Any) -> bool:
    return isinstance(obj, getattr(sys.modules["torch"], "Tensor", ()))


def _make_on_bytes(
    base: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, writeable: bool
) -> Any:
    import numpy as np  # noqa: PLC0415 - the checkpoint room loads without it

    array: Any = np.ndarray(shape, dtype, base, offset, strides)
    if array.flags.writeable and not writeable:
        array.flags.writeable = False
    return array


def _make_on_storage(
    storage: Any, dtype: Any, shape: tuple[int, ...], strides: tuple[int, ...], offset: int, writeable: bool
) -> Any:
    import torch  # noqa: PLC0415 - only where tensors were saved

    flat = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
    return _make_on_bytes(flat, dtype, shape, strides, offset, writeable)
