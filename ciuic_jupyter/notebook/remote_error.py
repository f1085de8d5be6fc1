"""Errors of remote cells, raised locally so that the notebook shows what a local cell would have shown."""

from __future__ import annotations

import builtins
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ciuic_jupyter.errors import CiuicError, KernelDied, RemoteError

_PROMPT = re.compile(r"((?:\x1b\[[0-9;]*m|\b)In\[)(\d+)(\])")


@lru_cache(maxsize=256)
def _class_named(name: str) -> type[RemoteError]:
    bases: tuple[type[BaseException], ...] = (RemoteError,)
    if name == "KeyboardInterrupt":
        bases = (RemoteError, builtins.KeyboardInterrupt)  # so that whoever stops on Ctrl-C stops here too
    return type(name or "RemoteError", bases, {"__module__": __name__, "_render_traceback_": _render, "traceback": ()})


def _render(self: Any) -> list[str]:
    return list(self.traceback) or [f"{type(self).__name__}: {self}"]


def remote_error(name: str, value: str, traceback: Sequence[str], counts: Mapping[int, int]) -> RemoteError:
    """Return the error to raise; `counts` maps the remote cells' numbers to the local ones in the traceback."""
    error = _class_named(name)(value)
    error.traceback = tuple(_local_numbers(line, counts) for line in traceback)  # type: ignore[attr-defined]
    return error


def _local_numbers(line: str, counts: Mapping[int, int]) -> str:
    return _PROMPT.sub(lambda found: f"{found[1]}{counts.get(int(found[2]), int(found[2]))}{found[3]}", line)


class _Told:
    """Shown as one line instead of a traceback of this package's insides."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class RemoteKernelDied(_Told, KernelDied):
    """The remote kernel's process is gone."""


class CellPaused(_Told, CiuicError):
    """The session was paused in the middle of the cell; it goes on, in its own place, when the session is resumed."""


class Detached(_Told, KeyboardInterrupt):
    """The cell stopped watching; the remote run goes on."""


RemoteKernelDied.__name__ = RemoteKernelDied.__qualname__ = "KernelDied"
Detached.__name__ = Detached.__qualname__ = "KeyboardInterrupt"
