"""How far an iterator is, told without a line of the user's code; what is not known is told as not known."""

from __future__ import annotations

import ast
import io
import itertools
import warnings
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm, trange

from ciuic_jupyter.resume.iterators import freeze, thaw
from ciuic_jupyter.resume.progress import Position, around, bars, position
from ciuic_jupyter.resume.rewrite import Unit
from ciuic_jupyter.resume.runtime import BARS, LOOPS, Site

SIZED: dict[str, Any] = {
    "range": lambda n: range(n),
    "huge range": lambda n: range(1 << 80, (1 << 80) + n),
    "list": lambda n: list(range(n)),
    "tuple": lambda n: tuple(range(n)),
    "text": lambda n: "é" * n,
    "bytes": lambda n: bytes(n),
    "array": lambda n: np.zeros((n, 2)),
    "dict": lambda n: dict.fromkeys(range(n)),
    "items": lambda n: dict.fromkeys(range(n)).items(),
    "set": lambda n: set(range(n)),
    "deque": lambda n: deque(range(n)),
    "repeat": lambda n: itertools.repeat(None, n),
    "backwards": lambda n: reversed(list(range(n))),
    "enumerate": lambda n: enumerate(range(n), 5),
    "zip": lambda n: zip(range(n + 3), range(n), itertools.count(), strict=False),
    "map": lambda n: map(str, range(n)),
    "tqdm": lambda n: tqdm(range(n), file=io.StringIO()),
    "trange": lambda n: trange(n, file=io.StringIO()),
    "tqdm of enumerate": lambda n: tqdm(enumerate([0] * n), file=io.StringIO()),
    "enumerate of tqdm": lambda n: enumerate(tqdm([0] * n, disable=True)),
}


@pytest.mark.parametrize("kind", SIZED)
@given(size=st.integers(1, 40), taken=st.integers(1, 40))
def test_what_is_left_is_exact_and_what_was_taken_where_it_is_told(kind: str, size: int, taken: int) -> None:
    iterator = iter(SIZED[kind](size))
    taken = min(taken, size)
    for _ in range(taken):
        next(iterator)
    found = position(iterator)
    assert found is not None and found.left == size - taken and found.taken in (taken, None)
    assert sum(1 for _ in iterator) == size - taken, "the look took nothing"


def test_a_filter_is_where_its_source_is() -> None:
    iterator = filter(None, [0, 1, 0, 1, 1])
    next(iterator)
    assert position(iterator) == Position(2, 3)


def test_a_bar_that_goes_on_after_a_resume_is_where_it_stood() -> None:
    iterator = iter(tqdm(enumerate([1, 2, 3, 4, 5]), file=io.StringIO()))
    next(iterator), next(iterator)
    again = thaw(freeze(iterator))
    next(again)
    assert position(again) == Position(3, 2)


def test_a_bar_that_reads_is_where_its_count_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Site, "bars", bars)
    site, seen = Site("unit", "1:0"), []

    def slow() -> Iterator[int]:
        for at in range(5):
            ((key, iterator),) = ((key, one) for key, one in LOOPS.items() if key[1] is site)
            seen.append((position(iterator), key in BARS))
            yield at

    for _ in site.loop(enumerate(tqdm(slow(), total=5, file=io.StringIO(), mininterval=0, miniters=1))):
        pass
    assert seen == [(Position(at + 1, 4 - at, rough=True), True) for at in range(5)]
    assert not BARS and not LOOPS


def generated() -> Iterator[int]:
    yield from range(3)


class Asked:
    """Says so if it is asked anything but for items."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> int:
        return 1

    def __len__(self) -> int:
        raise SystemExit("asked for its length")

    def __length_hint__(self) -> int:
        raise SystemExit("asked for its length")

    def __reduce__(self) -> Any:
        raise SystemExit("asked for itself")

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(f"asked for {name}")


def shy() -> Any:
    """Return an iterator whose very class can't be asked; made here, as pytest asks what it finds in modules."""

    class Hidden(type):
        def __getattribute__(cls, name: str) -> Any:
            raise SystemExit(f"asked the class for {name}")

    class Shy(metaclass=Hidden):
        def __iter__(self) -> Any:
            return self

        def __next__(self) -> int:
            return 1

    return Shy()


class Numbered:
    def __len__(self) -> int:
        raise SystemExit("asked for its length")

    def __getitem__(self, at: int) -> int:
        return at


UNKNOWN: dict[str, Any] = {
    "generator": generated,
    "the user's": Asked,
    "the user's class": shy,
    "the user's by number": Numbered,
    "enumerate": lambda: enumerate(Asked()),
    "zip": lambda: zip(range(9), Asked(), strict=False),
    "map": lambda: map(str, Asked()),
    "tqdm": lambda: tqdm(generated(), file=io.StringIO()),
    "tqdm of the user's": lambda: tqdm(zip(shy()), file=io.StringIO()),
    "count": itertools.count,
    "cycle": lambda: itertools.cycle([1]),
    "chain": lambda: itertools.chain([1], [2]),
    "ordered": lambda: OrderedDict({1: 2}),
    "called": lambda: iter(lambda: 1, 2),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_known_runs_nothing_and_is_not_known(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        iterator = iter(UNKNOWN[kind]())
        next(iterator)
        assert position(iterator) is None


def test_a_chain_without_an_end_is_not_gone_down_for_ever() -> None:
    iterator: Any = iter([1, 2])
    for _ in range(1000):
        iterator = enumerate(iterator)
    assert position(iterator) is None


CELL = """
def fit(items):
    for item in items:
        while True:
            for x in item: pass
for fold in range(3):
    fit([])
while cond():
    for y in (1,): pass
for last in (): pass
"""


def test_what_stands_around_a_loop() -> None:
    unit, other = Unit(ast.parse(CELL)), Unit(ast.parse("fit([])"))

    def told(key: str, running: Unit | None = unit) -> tuple[str, int | None, int]:
        found = around(unit, key, running=running)
        return found.name, found.endless, found.follow

    assert told("6:0") == ("line 6", None, 2)
    assert told("9:4") == ("line 9", 8, 1)
    assert told("10:0") == ("line 10", None, 0)
    assert told("5:12") == ("line 5 of fit()", 4, 0)
    assert told("3:4", other) == ("line 3 of fit()", None, 0)
    assert told("3:4")[1] == 8, "the cell may call it there"
    with pytest.raises(LookupError):
        around(unit, "99:0", running=None)
