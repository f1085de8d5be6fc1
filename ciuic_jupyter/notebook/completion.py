"""Tab completion of session names, options and variables; it never starts a control plane and never blocks typing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LIMIT = 0.3  # seconds a Tab key may take
POSITIONAL = ("pause", "resume", "status", "cost", "attach", "release", "close")


class SessionNames:
    """Session names, looked up in a thread; a slow look-up answers the next Tab instead."""

    def __init__(self, look_up: Callable[[], Iterable[str]]) -> None:
        """`look_up` returns all names, or raises when no control plane runs."""
        self._look_up = look_up
        self._names: list[str] = []
        self._asking: threading.Thread | None = None

    def get(self) -> list[str]:
        """Return the names known within the time limit."""
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._ask, name="ciuic-completion", daemon=True)
            self._asking.start()
        self._asking.join(LIMIT)
        return list(self._names)

    def _ask(self) -> None:
        try:
            self._names = sorted(self._look_up())
        except Exception:  # noqa: BLE001  (no plane, no names: a Tab key must not raise)
            self._names = []


def complete(
    line: str, options: Iterable[str], names: Callable[[], list[str]], user_ns: Mapping[str, Any]
) -> list[str]:
    """Return completions for a magic's line up to the cursor; IPython keeps those that fit the word under it."""
    words = line.split(" ")
    word, before = words[-1], [w for w in words[:-1] if w]
    magic = before[0].lstrip("%") if before else ""
    last = before[-1] if len(before) > 1 else ""
    if last == "--session":
        return [name for name in names() if name.startswith(word)]
    if last in ("--in", "--out") or magic in ("ciuic_push", "ciuic_pull"):
        return _variables(word, user_ns)
    if word.startswith("-"):
        return [option for option in options if option.startswith(word)]
    found: list[str] = []
    if magic.removeprefix("ciuic_") in POSITIONAL and not last.startswith("--session"):
        found = [name for name in names() if name.startswith(word)]
    return found + ([] if word else list(options))


def _variables(word: str, user_ns: Mapping[str, Any]) -> list[str]:
    part = word.rpartition(",")[2]  # IPython's word under the cursor begins behind a comma too
    return sorted(name for name in user_ns if name.startswith(part) and not name.startswith("_") and name not in _SHELL)


_SHELL = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython"})
