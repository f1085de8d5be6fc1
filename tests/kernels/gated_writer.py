"""A disk that takes no byte of a snapshot before the test lets it: the kernel's writer waits for a file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint import snapshot


def install(folder: str) -> None:
    """Touch `begun` in `folder` when bytes could be written, and wait for `open`; in this process and its children."""
    write = snapshot._written

    def late(*args: Any) -> Any:
        Path(folder, "begun").touch()
        while not Path(folder, "open").exists():
            time.sleep(0.01)
        return write(*args)

    snapshot._written = late
