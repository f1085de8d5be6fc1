"""matplotlib: callbacks of the notebook on a figure, rcParams, colormaps that it registered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint.placeholder import Placeholder
from ciuic_jupyter.checkpoint.shell import is_own

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if matplotlib would leave out a part of them."""
    if (kind.__module__, kind.__qualname__) == ("matplotlib.cbook", "CallbackRegistry"):
        return _callbacks
    return None


def _callbacks(graph: Graph, registry: Any) -> Any:
    """Keep what the notebook connected; the canvas and the toolbar connect their own again."""
    reduced = graph.default(registry)
    if not isinstance(reduced, tuple) or len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced
    state = dict(reduced[2])
    state["callbacks"] = {signal: dict(kept) for signal, kept in state["callbacks"].items()}
    for signal, connected in registry.callbacks.items():
        for number, reference in connected.items():
            function = reference()
            if function is not None and is_own(function):
                state["callbacks"].setdefault(signal, {})[number] = function
    return *reduced[:2], state


def options() -> dict[str, Any] | None:
    """Return the rcParams that are not the default, and colormaps that matplotlib does not bring; None: neither."""
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is None or not hasattr(matplotlib, "rcParamsDefault"):
        return None
    plain = {key: dict.__getitem__(matplotlib.rcParams, key) for key in dict.keys(matplotlib.rcParams)}
    default = {key: dict.__getitem__(matplotlib.rcParamsDefault, key) for key in dict.keys(matplotlib.rcParamsDefault)}
    changed = {key: value for key, value in plain.items() if key not in ("backend", "interactive")}
    changed = {key: value for key, value in changed.items() if key not in default or default[key] != value}
    registry = getattr(matplotlib, "colormaps", None)
    builtin = getattr(registry, "_builtin_cmaps", ())
    maps = {name: registry[name] for name in registry if name not in builtin} if registry and builtin else {}
    return {"params": changed, "maps": maps} if changed or maps else None


def set_options(value: Mapping[str, Any]) -> None:
    """Set them."""
    import matplotlib as mpl  # noqa: PLC0415 - it was loaded there

    mpl.rcParams.update(value["params"])
    for name, colormap in value["maps"].items():
        if type(colormap) is not Placeholder:
            mpl.colormaps.register(colormap, name=name, force=True)
