"""torch's FLOP counter, told apart by device and kind of numbers instead of by module; imports torch.

Modules are what makes torch's own slow: it hooks each of their calls. Of operations that it neither counts nor takes
apart it is asked once. An ImportError means that this version of torch counts in another way.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, flop_registry

if not hasattr(FlopCounterMode, "_count_flops"):
    raise ImportError("torch's FlopCounterMode has no _count_flops")

_FLOAT32 = "float32"
_AMPERE = (8, 0)  # has TF32
_PRODUCTS = re.compile(  # a word in names of operations that multiply much
    r"(^|_)(add|badd|sp|hs)?(b?mm|mv)(_|$)|(^|_)(addbmm|hspmm|attention|head|conv(\dd)?|convolution|linear|trilinear)(_|$)|"
    r"(^|_)(cdist|cholesky|v?dot|fft|linalg|matmul|rnn|lstm|gru|solve|svd)(_|$)"
)
_CHEAP = re.compile(
    r"(^|_)(check|cross|fftfreq|flatten|norm|powsum|reorder|rfftfreq|thnn|upsample)(_|$)"
)  # but not these
_KNOWN = frozenset({"aten", "prim", "prims", "c10d", "_c10d_functional", "profiler"})  # others' kernels do anything
_plain: dict[Any, str] = {}  # operations that are neither counted nor taken apart, with what is to be said of them


class _Mode(_FlopCounterMode):  # type: ignore[misc]  # torch does not type it
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        said = _plain.get(func)
        if said is None:
            out = super().__torch_dispatch__(func, types, args, kwargs)
            if out is NotImplemented or not _is_plain(func):
                return out
            said = _plain[func] = _uncounted(func)
        else:
            out = func(*args, **(kwargs or {}))
        if said:
            self.counter.uncounted.add(said)
        return out


class Counter(FlopCounterMode):  # type: ignore[misc]  # torch does not type it
    """Counts in one thread while it is entered; `flop_counts` has "device kind" -> operation -> FLOPs."""

    def __init__(self, gpus: dict[str, str]) -> None:
        """Names of GPUs are put into `gpus`, by device."""
        super().__init__(display=False)
        self._gpus = gpus
        self.uncounted: set[str] = set()  # operations that may have multiplied much, and have no formula

    @classmethod
    def warm(cls) -> None:
        """Count nothing once: the first operation under a mode makes torch import its compiler, which takes seconds."""
        with cls({}):
            torch.empty(0).clone()

    def __enter__(self) -> Any:
        self.flop_counts.clear()
        self.mode: Any = _Mode(self)
        self.mode.__enter__()
        return self

    def __exit__(self, *how: Any) -> None:
        mode, self.mode = self.mode, None
        if mode is not None:
            mode.__exit__(*how)

    def _count_flops(self, func_packet: Any, out: Any, args: Any, kwargs: Any) -> Any:
        formula = self.flop_registry.get(func_packet)
        if formula is not None:
            self.flop_counts[self._key(func_packet, args)][func_packet] += formula(*args, **kwargs, out_val=out)
        return out

    def _key(self, func_packet: Any, args: Any) -> str:
        first = next((one for one in args if isinstance(one, torch.Tensor)), None)
        if first is None:
            return "unknown unknown"
        device, kind = str(first.device), str(first.dtype).removeprefix("torch.")
        if first.device.type == "cuda":
            if device not in self._gpus:
                self._gpus[device] = torch.cuda.get_device_name(first.device)
            if kind == _FLOAT32 and torch.cuda.get_device_capability(first.device) >= _AMPERE:
                kind = _float32("conv" in str(func_packet))
        return f"{device} {kind}"


def _is_plain(func: Any) -> bool:
    packet, decomposes = getattr(func, "_overloadpacket", None), getattr(func, "_can_decompose", None)
    return packet is not None and packet not in flop_registry and decomposes is not None and not decomposes()


def _uncounted(func: Any) -> str:
    """Return the name of an operation whose FLOPs are missed, nothing for one that has none to speak of."""
    namespace, _, name = str(func.name()).partition("::")
    name = name.partition(".")[0]
    much = _PRODUCTS.search(name) and not _CHEAP.search(name)
    return f"{namespace}::{name}" if namespace not in _KNOWN or much else ""


def _float32(convolution: bool) -> str:
    """Return what float32 is multiplied in on a GPU that has TF32."""
    try:
        short = torch.backends.cudnn.allow_tf32 if convolution else torch.get_float32_matmul_precision() != "highest"
    except RuntimeError:  # torch's old and new switches were used together
        return "float32 or tf32"
    return "tf32" if short else _FLOAT32
