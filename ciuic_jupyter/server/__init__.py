"""The extension of Jupyter Server: a thin, authenticated way from the browser to the control plane."""

from __future__ import annotations

from typing import Any


def _load_jupyter_server_extension(app: Any) -> None:
    """Add the routes to a Jupyter server; called by it when it starts."""
    from ciuic_jupyter.server.extension import load  # noqa: PLC0415 - `import ciuic_jupyter.server` loads no server

    load(app)
