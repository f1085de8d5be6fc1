"""The states of all random number generators a program uses without naming them, and of some it names."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any


def take(generators: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the states of python's, numpy's and torch's generators, and of torch `generators`."""
    state: dict[str, Any] = {"python": random.getstate()}
    if (numpy := sys.modules.get("numpy.random")) is not None:
        state["numpy"] = numpy.get_state()
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "get_rng_state"):
        state["torch"] = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = torch.cuda.get_rng_state_all()
        state["generators"] = [generator.get_state() for generator in generators]
    return state


def put(state: dict[str, Any], generators: Sequence[Any] = ()) -> None:
    """Set what `take` returned, as far as this process has it."""
    random.setstate(state["python"])
    if "numpy" in state and (numpy := sys.modules.get("numpy.random")) is not None:
        numpy.set_state(state["numpy"])
    if "torch" in state and (torch := sys.modules.get("torch")) is not None:
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
                torch.cuda.set_rng_state(state["cuda"][device], device)
        for generator, one in zip(generators, state.get("generators", ()), strict=False):
            generator.set_state(one)
