"""What a resumed cell prints again is told apart from what is new, however it is cut into pieces."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.kernels.repeats import Repeats

Piece = tuple[str, str]  # a stream's name and text, or "display" and what is shown

pieces = st.lists(st.tuples(st.sampled_from(["stdout", "stderr", "display"]), st.text("ab", min_size=1, max_size=4)))
cuts = st.lists(st.integers(1, 3), min_size=1)


def event(piece: Piece) -> dict[str, Any]:
    name, text = piece
    if name == "display":
        return {"msg_type": "display_data", "content": {"data": {"text/plain": text}}, "metadata": {}}
    return {"msg_type": "stream", "content": {"name": name, "text": text}, "metadata": {}}


def cut(told: list[Piece], sizes: list[int]) -> list[Piece]:
    """Cut text into pieces of these sizes, over and over."""
    found = []
    number = 0
    for name, text in told:
        while name != "display" and len(text) > sizes[number % len(sizes)]:
            found.append((name, text[: sizes[number % len(sizes)]]))
            text = text[sizes[number % len(sizes)] :]
            number += 1
        found.append((name, text))
    return found


def passed(repeats: Repeats, told: list[Piece]) -> list[Piece]:
    """Return what is new of `told`."""
    found = []
    for name, text in told:
        is_display = name == "display"
        new = text * repeats.output(event((name, text))) if is_display else repeats.text(name, text)
        if new:
            found.append((name, new))
    return found


def joined(told: list[Piece]) -> list[Any]:
    """Return text of each stream joined between two displays, as a viewer sees it."""
    found: list[Any] = [{}]
    for name, text in told:
        if name == "display":
            found += [text, {}]
        else:
            found[-1][name] = found[-1].get(name, "") + text
    return found


@given(shown=pieces, more=pieces, sizes=cuts, other=cuts)
def test_what_was_shown_is_dropped_and_all_the_rest_is_not(
    shown: list[Piece], more: list[Piece], sizes: list[int], other: list[int]
) -> None:
    repeats = Repeats(event(piece) for piece in cut(shown, sizes))
    assert passed(repeats, cut(shown, other)) == []
    assert not repeats.differs and not repeats.left
    assert joined(passed(repeats, cut(more, other))) == joined(more)


@given(shown=pieces, told=pieces, sizes=cuts)
def test_nothing_that_was_not_shown_is_ever_lost(shown: list[Piece], told: list[Piece], sizes: list[int]) -> None:
    repeats = Repeats(event(piece) for piece in shown)
    new = passed(repeats, cut(told, sizes))
    for name in ("stdout", "stderr"):
        text = "".join(text for kind, text in told if kind == name)
        before = "".join(text for kind, text in shown if kind == name)
        fresh = "".join(text for kind, text in new if kind == name)
        assert text.endswith(fresh) and before.startswith(text[: len(text) - len(fresh)])
    dropped = len([1 for kind, _ in told if kind == "display"]) - len([1 for kind, _ in new if kind == "display"])
    displays = [[text for kind, text in each if kind == "display"] for each in (told, shown)]
    assert displays[0][:dropped] == displays[1][:dropped]


@given(shown=pieces, at=st.integers(0, 20))
def test_the_first_difference_ends_it(shown: list[Piece], at: int) -> None:
    told = [*shown[:at], ("stdout", "other"), *shown[at:]]
    repeats = Repeats(event(piece) for piece in shown)
    new = passed(repeats, told)
    assert new[0] == ("stdout", "other") and (not shown[at:] or repeats.differs or len(new) == 1)
    assert all(one != two or one in shown for one, two in pairwise(new))


def test_a_cell_that_ends_early_leaves_something() -> None:
    repeats = Repeats([event(("stdout", "a")), event(("display", "b"))])
    assert repeats.text("stdout", "a") == "" and repeats.left and not repeats.differs
