"""torch tensors: each storage is saved once, each tensor is a window on it; optimizers keep what they hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint import arrays, context

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if they are torch's; torch is never loaded for it."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "UntypedStorage"):
        return None
    if kind in (torch.Tensor, torch.nn.Parameter):
        return _tensor
    if kind is torch.UntypedStorage:
        return _untyped
    if kind is torch.storage.TypedStorage:
        return _typed
    if kind is torch.Generator:
        return _generator
    if getattr(kind.__getstate__, "__module__", "") == "torch.nn.utils.parametrize":
        return _parametrized
    if issubclass(kind, torch.optim.Optimizer) and kind.__getstate__ is torch.optim.Optimizer.__getstate__:
        return _optimizer
    return None


class Storage:
    """Stands for one storage, however many Python objects wrap it."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage

    def __reduce_graph__(self, graph: Graph) -> Any:
        storage = self.storage
        size, device = storage.nbytes(), str(storage.device)
        if storage.device.type != "cpu":
            storage = graph.keep(storage.cpu())
        low = storage.data_ptr()
        if device == "cpu" and size:
            found = graph.memory.owner(low, low + size)
            if found is None:
                graph.memory.add(low, low + size, self)
            elif found[0] <= low and low + size <= found[1] and not isinstance(found[2], Storage):
                return _make_over_array, (found[2], low - found[0], size)
        data: Any = graph.buffer(arrays.raw(low, size)) if size >= arrays.SMALL else bytes(arrays.raw(low, size))
        return _make_storage, (data, size, device)


def _make_storage(data: int | bytes, size: int, device: str) -> Any:
    import torch  # noqa: PLC0415 - only where tensors were saved

    storage = torch.UntypedStorage(size)
    if size:
        target = arrays.raw(storage.data_ptr(), size)
        if isinstance(data, bytes):
            target[:] = data
        else:
            context.current().fill(data, target)
    return storage if device == "cpu" else _to_device(storage, device)


def _to_device(storage: Any, device: str) -> Any:
    import torch  # noqa: PLC0415 - only where tensors were saved

    try:
        return torch.empty(0, dtype=torch.uint8).set_(storage).to(device).untyped_storage()
    except (RuntimeError, AssertionError):  # torch without CUDA asserts
        context.current().warn(f"there is no {device} here: tensors that were on it are on the CPU now")
        return storage


def _make_over_array(array: Any, offset: int, size: int) -> Any:
    import numpy as np  # noqa: PLC0415 - numpy is there: this is its array
    import torch  # noqa: PLC0415 - only where tensors were saved

    low, high = arrays.bounds(array)
    owner = array.base if array.base is not None else array
    plain = (owner if owner.flags.c_contiguous else owner.T).reshape(-1).view(np.uint8)
    flat = np.ndarray((high - low,), np.uint8, plain)
    return torch.from_numpy(flat[offset : offset + size]).untyped_storage()


def _untyped(graph: Graph, storage: Any) -> Any:
    return _same, (graph.storage(storage),)


def _same(storage: Any) -> Any:
    return storage


def _typed(graph: Graph, storage: Any) -> Any:
    return _make_typed, (graph.storage(storage._untyped_storage), storage.dtype)  # noqa: SLF001 - the public one warns


def _make_typed(untyped: Any, dtype: Any) -> Any:
    import torch  # noqa: PLC0415 - only where tensors were saved

    return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def _generator(_: Graph, generator: Any) -> Any:
    return _make_generator, (str(generator.device), generator.get_state().numpy().tobytes())


def _make_generator(device: str, state: bytes) -> Any:
    import torch  # noqa: PLC0415 - only where tensors were saved

    try:
        generator = torch.Generator(device)
    except RuntimeError:
        return context.current().missing(f"a generator of {device}", f"there is no {device} here")
    generator.set_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    return generator


# tensors


def _tensor(graph: Graph, tensor: Any) -> Any:
    import torch  # noqa: PLC0415 - it is loaded: this is its tensor

    graph.uses("torch")
    plain = tensor.layout is torch.strided and tensor.device.type in ("cpu", "cuda") and not tensor.is_quantized
    if not plain or tensor.is_conj() or tensor.is_neg() or tensor.is_inference() or any(getattr(tensor, "names", ())):
        return graph.default(tensor)
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # noqa: SLF001 - nothing public tells
        return graph.refuse(tensor, "a tensor inside a transformation of torch.func can't be saved")
    leaf = tensor.is_leaf
    if not leaf:
        graph.note(tensor, "its value is kept, the graph that led to it is not: backward() needs it computed again")
    window = (tensor.dtype, tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
    state = {
        "requires_grad": leaf and tensor.requires_grad,
        "grad": tensor.grad if leaf else None,
        "hooks": tensor._backward_hooks if leaf else None,  # noqa: SLF001 - as torch's own reducer does
        "accumulated": tensor._post_accumulate_grad_hooks if leaf else None,  # noqa: SLF001 - nothing public tells
        "attributes": dict(tensor.__dict__),
    }
    made = (graph.storage(tensor.untyped_storage()), *window, type(tensor) is torch.nn.Parameter)
    return _make_tensor, made, state, None, None, _fill_tensor


def _make_tensor(
    storage: Any, dtype: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], parameter: bool
) -> Any:
    import torch  # noqa: PLC0415 - only where tensors were saved

    tensor = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, offset, shape, stride)
    return torch.nn.Parameter(tensor, requires_grad=False) if parameter else tensor


def _fill_tensor(tensor: Any, state: dict[str, Any]) -> None:
    tensor.requires_grad_(state["requires_grad"])
    if state["grad"] is not None:
        tensor.grad = state["grad"]
    if state["hooks"]:
        tensor._backward_hooks = state["hooks"]  # noqa: SLF001 - as torch's own does
    if state["accumulated"]:
        tensor._post_accumulate_grad_hooks = state["accumulated"]  # noqa: SLF001 - nothing public sets them
    tensor.__dict__.update(state["attributes"])


# modules and optimizers


def _parametrized(_: Graph, module: Any) -> Any:
    """Keep it whole: torch refuses, because elsewhere its class, made on the spot, could not be found again."""
    return _new, (type(module),), dict(vars(module)), None, None, _fill_plainly


def _fill_plainly(module: Any, state: dict[str, Any]) -> None:
    vars(module).update(state)


def _optimizer(graph: Graph, optimizer: Any) -> Any:
    """Keep all of it: torch's own way leaves out hooks and the step that a scheduler counts."""
    graph.uses(type(optimizer).__module__)
    return _new, (type(optimizer),), dict(vars(optimizer)), None, None, _fill_optimizer


def _new(kind: type) -> Any:
    return object.__new__(kind)


def _fill_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    type(optimizer).__setstate__(optimizer, state)
