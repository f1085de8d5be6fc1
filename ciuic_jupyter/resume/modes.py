"""Modes of torch that context managers switch: they are set as the cell began, and entered again on the way."""

from __future__ import annotations

import sys
from typing import Any

_DEVICES = ("cpu", "cuda")


def take() -> dict[str, Any]:
    """Return the modes now; empty without torch."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_autocast_dtype"):
        return {}
    autocast = {device: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in _DEVICES}
    return {"grad": torch.is_grad_enabled(), "autocast": autocast}


def put(modes: dict[str, Any]) -> None:
    """Set what `take` returned."""
    torch = sys.modules.get("torch")
    if torch is None or not modes:
        return
    torch.set_grad_enabled(modes["grad"])
    for device, (enabled, dtype) in modes["autocast"].items():
        torch.set_autocast_dtype(device, dtype)
        torch.set_autocast_enabled(device, enabled)


def before(manager: Any) -> None:
    """Set the mode `manager` found when it was first entered, if it is one of torch's that keep it."""
    found = getattr(manager, "prev", None)
    if type(manager).__module__ == "torch.autograd.grad_mode" and isinstance(found, bool):
        sys.modules["torch"].set_grad_enabled(found)
