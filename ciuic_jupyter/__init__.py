"""GPU notebooks that cost nothing while nothing runs: the front door, which loads nothing heavy."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = [
    "CostMonitor",
    "JobPaused",
    "TrainingJob",
    "__version__",
    "load_ipython_extension",
    "unload_ipython_extension",
]
_LATE = {"CostMonitor": "monitor", "JobPaused": "outcome", "TrainingJob": "job"}  # where in `sdk`


def __getattr__(name: str) -> Any:
    """Load a part of the SDK when it is asked for."""
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.sdk.{_LATE[name]}"), name)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Say where the panel's built files are; asked by `jupyter labextension develop`."""
    return [{"src": "labextension", "dest": "ciuic-jupyter"}]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    """Say what extends Jupyter Server; asked by it when it starts."""
    return [{"module": "ciuic_jupyter.server"}]


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by `%load_ext ciuic_jupyter`."""
    from ciuic_jupyter.notebook import magics  # noqa: PLC0415  (the front door stays light)

    magics.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again; sessions and runs go on. Called by `%unload_ext ciuic_jupyter`."""
    from ciuic_jupyter.notebook import magics  # noqa: PLC0415  (the front door stays light)

    magics.unload(shell)
