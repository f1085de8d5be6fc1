"""The loss that a training prints, read from its lines: enough to say what a unit of it cost."""

from __future__ import annotations

import math
import re

_LOSS = re.compile(
    r"(?<![A-Za-z0-9_])loss[\"']?\s{0,3}[:=]?\s{0,3}([-+]?\d{1,12}(?:\.\d{1,20})?(?:e[-+]?\d{1,3})?)(?![\w.%])", re.I
)
_LONGEST = 1000  # characters of a line under way that are kept
_TAIL = 4000  # characters at a text's end in which its last loss is looked for first


class Losses:
    """First and last number that stands behind the word loss in what was printed; `val_loss` and the like are none."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.last: float | None = None
        self._rest = ""

    def take(self, text: str) -> None:
        """Take the next text of a stream; a line counts once it has ended."""
        whole = self._rest + text
        end = max(whole.rfind("\n"), whole.rfind("\r")) + 1
        self._rest = whole[end:][-_LONGEST:]
        self._read(whole[:end])

    def end(self) -> dict[str, float] | None:
        """Return `first` and `last`, None if no two were printed; the line under way has ended, too."""
        self._read(self._rest)
        self._rest = ""
        if self.first is None or self.last is None:
            return None
        return {"first": self.first, "last": self.last}

    def _read(self, text: str) -> None:
        if "oss" not in text and "OSS" not in text:
            return
        start = 0
        if self.first is None:
            found = _LOSS.search(text)
            if found is None or not math.isfinite(float(found[1])):
                return
            self.first, start = float(found[1]), found.end()
        values = _LOSS.findall(text, max(start, len(text) - _TAIL)) or _LOSS.findall(text, start)
        if values and math.isfinite(float(values[-1])):
            self.last = float(values[-1])
