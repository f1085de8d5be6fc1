"""A placeholder raises on any use, and looks like what it is."""

from __future__ import annotations

import copy
import math
import operator
import os
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.placeholder import Placeholder, describe
from ciuic_jupyter.errors import CheckpointError

PLACE = Placeholder("cfg['db']", "a connection can't be saved")
USES: list[Callable[[Any], Any]] = [
    *(
        str,
        bytes,
        bool,
        len,
        iter,
        next,
        reversed,
        int,
        float,
        complex,
        round,
        math.floor,
        abs,
        dir,
        vars,
        sorted,
        list,
    ),
    *(operator.neg, operator.index, copy.copy, copy.deepcopy, pickle.dumps, operator.length_hint, sum),
    *(
        lambda p: p(),
        lambda p: p.x,
        lambda p: p[0],
        lambda p: p == 1,
        lambda p: p != p,
        lambda p: p < 1,
        lambda p: p > 1,
    ),
    *(lambda p: p + 1, lambda p: 1 + p, lambda p: "a" + p, lambda p: p @ p, lambda p: p % 2, lambda p: 2**p),
    *(lambda p: 1 in p, lambda p: f"{p}", lambda p: p.__dict__, lambda p: p.__enter__(), lambda p: hasattr(p, "x")),
    *(lambda p: setattr(p, "x", 1), lambda p: delattr(p, "x"), lambda p: operator.setitem(p, 0, 1)),
    *(lambda p: operator.iadd(p, 1), lambda p: [*p], lambda p: {**p}, os.fspath),
]


@pytest.mark.parametrize("number", range(len(USES)))
def test_any_use_raises(number: int) -> None:
    with pytest.raises(
        CheckpointError, match=r"cfg\['db'\] was not saved .* a connection can't be saved; make it again"
    ):
        USES[number](PLACE)


def test_it_can_be_shown_and_kept() -> None:
    assert repr([PLACE]) == "[<not saved: cfg['db']: a connection can't be saved>]"
    assert PLACE in {PLACE} and {PLACE: 1}[PLACE] == 1
    assert isinstance(PLACE, Placeholder)
    assert describe(PLACE) == ("cfg['db']", "a connection can't be saved")


def test_with_and_await_raise() -> None:
    with pytest.raises(CheckpointError), PLACE:  # type: ignore[attr-defined]
        pass

    async def wait() -> None:
        await PLACE  # type: ignore[misc]

    with pytest.raises(CheckpointError):
        wait().send(None)


def test_numpy_and_isinstance() -> None:
    import numpy as np

    assert not isinstance(PLACE, dict)
    with pytest.raises(CheckpointError):
        np.sum(PLACE)
