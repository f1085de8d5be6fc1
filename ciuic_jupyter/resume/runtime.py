"""The hooks at work: what loops and `with` blocks are under way, and the stop at a boundary.

A hook costs a generator's step for a `for` and an attribute for a `while`. What is under way is known by the frame that
runs it and by the place in the code.
"""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import cached_property
from types import CodeType, FrameType, GeneratorType
from typing import Any

Key = tuple[int, "Site"]

LOOPS: dict[Key, Iterator[Any]] = {}
ASIDE: set[Key] = set()  # those of them that another thread than the main one runs
HIDING = frozenset({GeneratorType, enumerate, zip, map})  # what may run a progress bar's generator
BARS: dict[Key, list[tuple[int, Any]]] = {}  # generators of bars by id: nobody sees into one while it works
MANAGERS: dict[tuple[int, Site, int], Manager] = {}

_SITES: dict[tuple[str, str], Site] = {}


class Site:
    """One loop or `with` of one unit; the same object wherever its code is."""

    calm = True  # of the class: no boundary is wanted by anybody
    stop: Callable[[Site | Library, FrameType], None] | None = None
    staged: Callable[[str], None] | None = None  # told the name of a stage whose end the cell's code marks
    bars: Callable[[Iterator[Any]], list[tuple[int, Any]]] | None = None  # finds them before the first turn
    library = False  # a library whose loop has boundaries runs in this cell

    __slots__ = ("key", "unit")

    def __init__(self, unit: str, key: str) -> None:
        self.unit = unit
        self.key = key

    def __reduce__(self) -> Any:
        return site, (self.unit, self.key)

    def __repr__(self) -> str:
        return f"<hook of line {self.key.partition(':')[0]}>"

    def loop(self, iterable: Iterable[Any]) -> Generator[Any, None, None]:
        """Return what yields the items of `iterable`, with a boundary before each."""
        iterator: Iterator[Any] = iter(iterable)
        if type(iterator) is io.TextIOWrapper:  # a file under iteration does not tell its position
            iterator = iter(iterator.readline, "")
        return self.turns(iterator, inside=False)

    def turns(self, iterator: Iterator[Any], *, inside: bool) -> Generator[Any, None, None]:
        """Yield what is left; `inside` the body, where something else goes on first, with an item nobody reads."""
        key = (id(sys._getframe(1)), self)
        LOOPS.pop(key, None)  # the order is that in which they began
        LOOPS[key] = iterator
        if threading.current_thread() is not threading.main_thread():
            ASIDE.add(key)
        elif type(iterator) in HIDING and Site.bars is not None and "tqdm" in sys.modules:
            BARS[key] = Site.bars(iterator)
        try:
            if inside:
                yield None
            if not Site.calm:
                _boundary(self)
            for item in iterator:
                yield item
                if not Site.calm:
                    _boundary(self)
        finally:
            if LOOPS.get(key) is iterator:
                del LOOPS[key]
                ASIDE.discard(key)
                BARS.pop(key, None)

    def tick(self) -> bool:
        """Be a boundary of a `while`."""
        _boundary(self)
        return True

    def manager(self, manager: Any, number: int) -> Manager:
        """Return what enters and leaves as `manager` does, and is known while it is entered."""
        return Manager(manager, (id(sys._getframe(1)), self, number))


class Library:
    """A loop inside a library that goes on by the library's own means, called by the cell or a function of its."""

    def __init__(self, where: str, make: Callable[[FrameType], Callable[[], Any]]) -> None:
        """`where` is said to people. `make`, given the frame that was called, returns what is called to go on.

        That is saved with everything it holds; what it returns is the value of the call under way. NotResumable from
        `make` skips this boundary.
        """
        self.where = where
        self._make = make
        self.called: FrameType | None = None

    @cached_property
    def resumer(self) -> Callable[[], Any]:
        """What goes on, the same for each save at this boundary."""
        assert self.called is not None
        return self._make(self.called)


def offer(library: Library) -> None:
    """Be a boundary in a library's callback, of the frame that calls this; in the main thread."""
    stop = Site.stop
    if stop is not None and not Site.calm and threading.current_thread() is threading.main_thread():
        stop(library, sys._getframe(1))


def site(unit: str, key: str) -> Site:
    """Return the one hook of that place."""
    found = _SITES.get((unit, key))
    if found is None:
        found = _SITES[unit, key] = Site(unit, key)
    return found


def mark(code: CodeType, unit: str) -> CodeType:
    """Return `code` with one constant more, which nothing uses and `marked` finds: what `unit` it was made from."""
    constants = [mark(one, unit) if isinstance(one, CodeType) else one for one in code.co_consts]
    return code.replace(co_consts=(*constants, site(unit, "")))


def marked(code: CodeType) -> str | None:
    """Return the unit `mark` gave to `code`, if it did."""
    last = code.co_consts[-1] if code.co_consts else None
    return last.unit if isinstance(last, Site) and not last.key else None


class Manager:
    """A context manager under way."""

    __slots__ = ("again", "key", "manager")

    def __init__(self, manager: Any, key: tuple[int, Site, int], *, again: bool = True) -> None:
        """Stand for `manager`; without `again` it is entered already."""
        kind = type(manager)
        if not (hasattr(kind, "__enter__") and hasattr(kind, "__exit__")):
            raise TypeError(f"'{kind.__name__}' object does not support the context manager protocol")
        self.manager = manager
        self.key = key
        self.again = again

    def __enter__(self) -> Any:
        value = type(self.manager).__enter__(self.manager) if self.again else None
        MANAGERS[self.key] = self
        return value

    def __exit__(self, *how: Any) -> Any:
        MANAGERS.pop(self.key, None)
        return type(self.manager).__exit__(self.manager, *how)


def _boundary(place: Site) -> None:
    """Offer a boundary of the frame that runs the loop of `place`, in the main thread."""
    stop = Site.stop
    if stop is not None and threading.current_thread() is threading.main_thread():
        frame = sys._getframe(1).f_back
        if frame is not None:
            stop(place, frame)


def caller_id() -> int:
    """Return what names the frame that called the caller."""
    return id(sys._getframe(2))
