"""GPU notebooks that cost nothing while nothing runs: the front door, which loads nothing heavy."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; called by `%load_ext ciuic_jupyter`."""
    from ciuic_jupyter.notebook import magics  # noqa: PLC0415  (the front door stays light)

    magics.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again; sessions and runs go on. Called by `%unload_ext ciuic_jupyter`."""
    from ciuic_jupyter.notebook import magics  # noqa: PLC0415  (the front door stays light)

    magics.unload(shell)
