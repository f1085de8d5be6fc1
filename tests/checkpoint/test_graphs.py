"""Random graphs of containers with shared and cyclic references come back with the same shape."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.store import Store


class Thing:
    """An object with attributes."""


KINDS = ("list", "dict", "object", "tuple", "set", "cell", "array", "view")
nodes = st.lists(
    st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 30), max_size=4), st.integers(-5, 5)),
    min_size=1,
    max_size=25,
)


def _build(plan: list[tuple[str, list[int], int]]) -> list[Any]:
    """Make one object for each line of the plan; what is mutable may refer to later ones."""
    made: list[Any] = []
    for kind, links, number in plan:
        earlier = [made[link % len(made)] for link in links] if made else []
        arrays = [item for item in earlier if isinstance(item, np.ndarray)]
        if kind == "tuple":
            made.append((number, *earlier))
        elif kind == "set":
            made.append({number, *(item for item in earlier if isinstance(item, Thing))})
        elif kind == "array":
            made.append(np.arange(200 + number, dtype=float))
        elif kind == "view":
            made.append(arrays[0][::2] if arrays else np.zeros(3))
        else:
            made.append({"list": [number], "dict": {"n": number}, "object": Thing(), "cell": (lambda: made)}[kind])
    for value, (kind, links, _) in zip(made, plan, strict=True):
        targets = [made[link % len(made)] for link in links]
        if kind == "list":
            value.extend(targets)
        elif kind == "dict":
            value.update(enumerate(targets))
        elif kind == "object":
            vars(value).update({f"a{index}": target for index, target in enumerate(targets)})
    return made


def _inside(value: Any) -> tuple[Any, list[Any]]:
    """Return what there is to say about `value` itself, and its parts."""
    if isinstance(value, dict):
        return list(value), list(value.values())
    if isinstance(value, (list, tuple)):
        return len(value), list(value)
    if isinstance(value, Thing):
        return sorted(vars(value)), list(vars(value).values())
    if isinstance(value, np.ndarray):
        return (value.tolist(), value.strides), [value.base]
    return (len(value), []) if isinstance(value, set) else ("", [value()] if callable(value) else [])


def _shape(values: dict[str, Any]) -> list[Any]:
    """Write the graph down in the order of a walk, each object by the number it got when it was first met."""
    numbers: dict[int, int] = {}
    kept: list[Any] = []
    lines: list[Any] = []
    todo = list(values.values())
    while todo:
        value = todo.pop(0)
        if id(value) in numbers:
            lines.append(("again", numbers[id(value)]))
            continue
        if isinstance(value, (int, str, float)):
            lines.append(value)
            continue
        numbers[id(value)] = len(numbers)
        kept.append(value)
        lines.append(type(value).__name__)
        line, parts = _inside(value)
        lines.append(line)
        todo += parts
    return lines


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(nodes, st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_any_graph_keeps_its_shape(plan: list[tuple[str, list[int], int]], picks: list[int]) -> None:
    made = _build(plan)
    values = {f"v{index}": made[pick % len(made)] for index, pick in enumerate(picks)}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        body = capture(dict(values), store)
        back: dict[str, Any] = {}
        restore(body, store, back)
    assert body["placeholders"] == []
    assert _shape({name: back[name] for name in values}) == _shape(values)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_view_shares_memory(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    kind = data.draw(st.sampled_from(["i2", "f8", "c16", "O", "M8[s]"]))
    root = np.arange(int(np.prod(shape))).astype(kind).reshape(shape)
    root = root.copy(order=data.draw(st.sampled_from(["C", "F"])))
    view = root
    for _ in range(data.draw(st.integers(1, 3))):
        index = []
        for length in view.shape:
            start = data.draw(st.integers(0, length - 1)) if length else 0
            index.append(slice(start, None, data.draw(st.sampled_from([1, 2, -1]))))
        view = view[tuple(index)].transpose(data.draw(st.permutations(range(view.ndim))))
    values = {"view": view, "root": root} if data.draw(st.booleans()) else {"root": root, "view": view}
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        back: dict[str, Any] = {}
        restore(capture(values, store), store, back)
    assert back["view"].shape == view.shape and back["view"].strides == view.strides
    assert back["view"].tolist() == view.tolist() and back["root"].tolist() == root.tolist()
    if view.size:
        root.reshape(-1)[:] = 7
        view[...] = 9
        back["root"].reshape(-1)[:] = 7
        back["view"][...] = 9
        assert back["root"].tolist() == root.tolist()
