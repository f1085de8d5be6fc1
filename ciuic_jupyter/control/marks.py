"""The highest value each counter was shown at: what a bill takes back must not look like a counter's restart."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers.files import write_private
from ciuic_jupyter.settings import read_private

_log = logging.getLogger(__name__)


class Marks:
    """Integers by key, never lower than before, of one ledger; kept in a file that may be lost: then they begin anew.

    To Prometheus a counter that fell began again from zero, so a cent that was corrected would count the whole bill
    twice. A counter that would fall stands still until the ledger has caught up with it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._of = ""
        self._seen: dict[str, int] = {}
        self._now: dict[str, int] = {}
        with suppress(OSError, ValueError, UsageError, KeyError, TypeError, AttributeError):
            kept = json.loads(read_private(path))
            self._seen = {str(key): int(value) for key, value in kept["marks"].items()}
            self._of = str(kept["of"])

    def begin(self, of: str) -> None:
        """Begin a page about the ledger `of`; marks of another one say nothing about it."""
        if of != self._of:
            self._of, self._seen = of, {}
        self._now = {}

    def at_least(self, key: str, value: int) -> int:
        """Return `value`, or what `key` stood at before if that is more."""
        self._now[key] = max(value, self._seen.get(key, 0))
        return self._now[key]

    def keep(self) -> None:
        """End the page: write what it shows, before it is shown; on a full disk it is shown all the same."""
        if self._now != self._seen:
            self._seen = self._now
            try:
                write_private(self._path, json.dumps({"of": self._of, "marks": self._seen}))
            except OSError as error:
                _log.warning("what counters stood at is not kept over a restart: %s", error)
