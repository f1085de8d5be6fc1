"""What the pieces of a checkpoint need to know while they are put together: where they belong and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ciuic_jupyter.checkpoint.placeholder import Placeholder
from ciuic_jupyter.errors import CheckpointError


@dataclass
class Loading:
    """One restore under way."""

    namespace: dict[str, Any]
    fill: Callable[[int, memoryview], None]  # out-of-band buffer number -> into memory of its size
    buffers: Sequence[Mapping[str, Any]]
    placeholders: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    collects: bool = True  # whether the collector is on afterwards
    later: list[Callable[[], None]] = field(default_factory=list)

    undo: list[Callable[[], None]] = field(default_factory=list)  # of what could not be put off, if the restore fails

    def afterwards(self, step: Callable[[], None]) -> None:
        """Run `step` when every variable is there: what reaches outside of them, or needs them whole."""
        self.later.append(step)

    def finish(self) -> None:
        """Run what was put off; a step that fails is told and costs itself alone."""
        while self.later:
            step = self.later.pop(0)
            try:
                step()
            except Exception as error:  # noqa: BLE001 - it may run the user's __hash__ or the like
                self.warn(f"a part was not restored: {type(error).__name__}: {error}")

    def missing(self, path: str, reason: str) -> Placeholder:
        """Return a placeholder for `path` that is in the report too."""
        self.placeholders.append(entry(path, reason))
        return Placeholder(path, reason)

    def warn(self, text: str) -> None:
        """Tell `text` once."""
        if text not in self.warnings:
            self.warnings.append(text)


_active: list[Loading] = []


@contextmanager
def loading(state: Loading) -> Iterator[Loading]:
    """Have `current` return `state` inside the block."""
    _active.append(state)
    try:
        yield state
    finally:
        _active.remove(state)


def current() -> Loading:
    """Return the restore under way; CheckpointError if there is none: a part of a checkpoint means nothing alone."""
    if not _active:
        raise CheckpointError("this is a part of a checkpoint; load the whole with checkpoint.namespace.restore")
    return _active[-1]


def entry(path: str, reason: str) -> dict[str, str]:
    """Return a line of the report about `path`; its variable is what the path starts with."""
    end = min((path.find(mark) for mark in ".[ (" if mark in path), default=len(path))
    return {"name": path[:end], "path": path, "reason": reason}


def namespace() -> dict[str, Any]:
    """Return the namespace that is being filled."""
    return current().namespace


def main_module() -> Any:
    """Return the module whose names are the namespace."""
    return sys.modules["__main__"]


def named(module: str, path: str) -> Any:
    """Return what `module` calls `path` in this process, or a placeholder."""
    try:
        __import__(module)
        value: Any = sys.modules[module]
        for part in path.split(".") if path else ():
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        return current().missing(f"{module}.{path}", f"this process has none ({error})")
    return value


def put_placeholder(path: str, reason: str) -> Placeholder:
    """Return a placeholder that was decided on while saving."""
    return Placeholder(path, reason)
