"""A library that is called again tells its callbacks that its loop begins; who heard that must not hear it twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hush:
    """A library's list of callbacks in which stand-ins hear what is said until `end`, each in its own place."""

    def __init__(self, callbacks: list[Any], stand_in: Callable[[], Any], hears: Callable[[Any], bool]) -> None:
        """Let only those hear that `hears` names: ours, and what draws or has to connect anew."""
        self._callbacks = callbacks
        self._all = list(callbacks)
        callbacks[:] = [one if hears(one) else stand_in() for one in callbacks]

    def end(self) -> None:
        """Put all back; a loop over the list goes on with those that come after the one that calls this."""
        self._callbacks[:] = self._all


class Overrides:
    """Attributes of objects that are others until `end`."""

    def __init__(self) -> None:
        self._before: list[tuple[dict[str, Any], str, bool, Any]] = []

    def put(self, owner: Any, name: str, value: Any) -> None:
        """Let `owner` itself, not its class, have `value`."""
        own = vars(owner)
        self._before.append((own, name, name in own, own.get(name)))
        own[name] = value

    def end(self) -> None:
        """Put back what was there."""
        while self._before:
            own, name, was_there, value = self._before.pop()
            if was_there:
                own[name] = value
            else:
                own.pop(name, None)


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing."""


def is_of(callback: Any, *modules: str) -> bool:
    """Tell whether a callback's class was defined below one of `modules`."""
    module = type(callback).__module__
    return any(module == one or module.startswith(f"{one}.") for one in modules)
