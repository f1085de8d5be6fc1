"""Losses read from printed lines: the ones people print, however the text is cut, and nothing that is none."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.core.losses import Losses

PRINTED = "epoch 1 loss 2.303\nepoch 2 loss 1.5 val_loss 9.0\n\rstep 3 loss=0.25\repoch 4 loss: 1e-1, acc 0.99\nbye"


def read(*texts: str) -> tuple[float | None, float | None]:
    losses = Losses()
    for text in texts:
        losses.take(text)
    found = losses.end()
    return (found["first"], found["last"]) if found is not None else (None, None)


def test_first_and_last_are_those_of_the_lines() -> None:
    assert read(PRINTED) == (2.303, 0.1)


@given(st.lists(st.integers(0, len(PRINTED)), max_size=8))
def test_cuts_anywhere_change_nothing(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(PRINTED)]
    assert read(*(PRINTED[a:b] for a, b in pairwise(edges))) == (2.303, 0.1)


@pytest.mark.parametrize(
    "line",
    ["{'loss': 0.5, 'lr': 1}", "Loss=0.5", "LOSS 0.5", "train loss: 0.5", "training_loss 7 loss 0.5", "loss   =   0.5"],
)
def test_ways_to_print_one(line: str) -> None:
    assert read("loss 1\n", line) == (1.0, 0.5)


@pytest.mark.parametrize(
    "line",
    ["val_loss 0.5", "loss nan", "loss 5%", "loss 0.5.1", "glossy 5", "loss of 5", "loss", "losses 3", "loss 1e9999x"],
)
def test_what_is_none(line: str) -> None:
    assert read(line + "\n", line) == (None, None)


def test_one_alone_says_nothing_of_a_fall_and_huge_ones_are_none() -> None:
    assert read("loss 0.5\n") == (None, None)
    assert read("loss 1e999\nloss 1\nloss 2\n") in ((1.0, 2.0), (None, None))
    assert read("loss 3\nloss 1e999\n") == (None, None)


def test_a_line_without_end_is_bounded_and_the_last_loss_is_found_far_from_a_texts_end() -> None:
    losses = Losses()
    for _ in range(100):
        losses.take("x" * 10_000)
    assert len(losses._rest) <= 1000
    assert read("loss 3\n" + "loss 2\n" + "y\n" * 10_000) == (3.0, 2.0)
