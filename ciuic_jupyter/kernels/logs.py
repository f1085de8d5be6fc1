"""Our logs, one line an entry: what a machine, a cell or a request wrote can't look like one or act on a terminal."""

from __future__ import annotations

import logging
from typing import Any

from ciuic_jupyter.core.words import plain

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class Plain(logging.Formatter):
    """Writes each entry as one line; a traceback stands below it, each of its lines set in."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the entry without its traceback."""
        return plain(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """Return a traceback."""
        return "\n".join(f"  {plain(line)}" for line in super().formatException(ei).split("\n"))


def configure(filename: str | None = None) -> None:
    """Send entries from INFO on to a file, or to standard error; websockets says less."""
    handler = logging.StreamHandler() if filename is None else logging.FileHandler(filename)
    handler.setFormatter(Plain(_FORMAT))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)  # a warm parent has set up its own
    logging.getLogger("websockets").setLevel(logging.WARNING)
