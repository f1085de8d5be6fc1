"""A running cell's loops are seen from outside, with what is done and what is left; a pause is no time of the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernels.agent_client import Plane, machine

STAY = """
import os, time
def stay(name):
    while not os.path.exists({folder!r} + name):
        time.sleep(0.01)
"""
CASES = {
    "nested": (
        "for epoch in range(4):\n    for step, item in enumerate(zip('abc', [1, 2, 3, 4])):\n"
        "        if epoch == 2 and step == 1: stay(NAME)",
        [("line 1", 3, 1), ("line 2", 2, 1)],
    ),
    "in a function": (
        "def fit(items):\n    for item in items:\n        if item == 2: stay(NAME)\n"
        "for fold in [1, 2]:\n    fit([1, 2, 3])",
        [("line 4", 1, 1), ("line 2 of fit()", 2, 1)],
    ),
    "a generator": ("def items():\n    yield 1\nfor item in items(): stay(NAME)", [("line 3", None, None)]),
    "over a list of the user's": (
        "class Mine(list):\n    def __len__(self): raise SystemExit('asked')\n    __length_hint__ = __len__\n"
        "for item in Mine([1, 2]):\n    if item == 1: stay(NAME)",
        [("line 4", 1, 1)],
    ),
    "none": ("stay(NAME)", []),
}
LOADER = """import torch
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm
torch.set_num_threads(1)
for workers in (0, 2):
    batches = DataLoader(TensorDataset(torch.arange(103)), batch_size=10, shuffle=True, num_workers=workers)
    for step, batch in enumerate(tqdm(batches, disable=bool(workers))):
        if step == 4: stay(f"loader{workers}")
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    root = tmp_path_factory.mktemp("looks")
    (root / "a").mkdir()
    with machine(root / "a") as made:
        plane = made.connect().ready()
        plane.run(STAY.format(folder=f"{root}/"))
        yield plane


def look(plane: Plane, run: str, after: int = 0) -> dict[str, Any]:
    """Return the first look at a run among the frames after so many."""
    while True:
        for frame in plane.frames[after:]:
            if frame.get("look") and frame["look"]["run"] == run:
                return dict(frame["look"])
        after = len(plane.frames)
        plane.next()


def go_on(plane: Plane, name: str) -> None:
    (plane.machine.root.parent / name).touch()


def places(told: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(one["name"], one["taken"], one["left"]) for one in told["loops"]]


@pytest.mark.parametrize("name", CASES)
def test_the_loops_of_a_running_cell_are_seen(plane: Plane, name: str) -> None:
    code, expected = CASES[name]
    plane.call("run", run=name, code=code.replace("NAME", repr(name)))
    seen = look(plane, name)
    while places(seen) != expected and len(seen["loops"]) < len(expected):  # it has not come so far
        seen = look(plane, name, len(plane.frames))
    assert places(seen) == expected and 0 < seen["ran"] < 60
    go_on(plane, name)
    assert plane.until(lambda e: e["kind"] == "run_ended" and e["run"] == name)["status"] == "ok"


def test_loaders_of_torch_are_seen_through_a_progress_bar(plane: Plane) -> None:
    plane.call("run", run="loaders", code=LOADER)
    for workers, outer in ((0, ("line 5", 1, 1)), (2, ("line 5", None, 0))):  # a tuple's iterator forgets at its end
        while places(seen := look(plane, "loaders", len(plane.frames))) != [outer, ("line 7", 5, 6)]:
            assert len(seen["loops"]) <= 2
        go_on(plane, f"loader{workers}")
    assert plane.until(lambda e: e["kind"] == "run_ended" and e["run"] == "loaders")["status"] == "ok"


def test_a_cell_held_for_a_pause_does_not_run(plane: Plane) -> None:
    code = "for turn in range(10**9):\n    time.sleep(0.01)\n    if os.path.exists(STOP): break"
    stop = str(plane.machine.root.parent / "stop")
    plane.call("run", run="held", code=code.replace("STOP", repr(stop)))
    look(plane, "held")
    assert plane.call("hold")["held"]
    look(plane, "held", len(plane.frames))  # may be from before
    first = look(plane, "held", len(plane.frames))
    second = look(plane, "held", len(plane.frames))
    assert second["ran"] == first["ran"] and places(second) == places(first)
    plane.call("go")
    while (later := look(plane, "held", len(plane.frames)))["ran"] == first["ran"]:
        pass
    assert later["loops"][0]["left"] < first["loops"][0]["left"]
    go_on(plane, "stop")
    assert plane.until(lambda e: e["kind"] == "run_ended" and e["run"] == "held")["status"] == "ok"
