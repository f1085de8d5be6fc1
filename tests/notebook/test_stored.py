"""Looking into a paused session: what it holds, and variables out of it; no machine is started for either."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.namespace import capture
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.control import stored
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import NotPicklable, UnknownName, UsageError
from ciuic_jupyter.kernels import variables
from ciuic_jupyter.settings import Settings
from tests.notebook.local_kernels import until

CELL = """
import numpy, threading, time
from collections import OrderedDict
class Point:
    def __init__(self, x):
        self.x = x
    def __hash__(self):
        raise RuntimeError("nobody asks while it is measured")
grid = numpy.arange(500_000, dtype="f8")
view = grid[10:]
point = Point([1, 2])
ordered = OrderedDict(a=point)
lost = (n for n in range(3))
mixed = {"good": 1, "bad": lost}
print("noise of a cell")
for n in range(10_000):
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlaneClient]:
    """A session `s` that was paused in the middle of its cell."""
    runtime = tempfile.mkdtemp(prefix="ciuic-st-")
    patch = pytest.MonkeyPatch()
    patch.setenv("CIUIC_STATE_DIR", str(tmp_path_factory.mktemp("home") / "state"))
    patch.setenv("CIUIC_RUNTIME_DIR", runtime)
    patch.setenv("CIUIC_WARM_START", "false")
    client = PlaneClient.ensure(Settings())
    client.create("s")
    client.run("s", "r", CELL)
    stream = client.stream("s")
    until(lambda: "noise of a cell" in str(frame.header) if (frame := stream.recv(1)) else None, "the loop", 60)
    stream.close()
    client.pause("s")
    yield client
    client.shutdown()
    patch.undo()
    shutil.rmtree(runtime, ignore_errors=True)


def machines(client: PlaneClient) -> Any:
    view = client.session("s")
    return view["state"], view["machine"], view["billed_seconds"]


def test_variables_come_out_of_a_paused_session_and_it_stays_paused(saved: PlaneClient) -> None:
    before = machines(saved)
    assert before[0] == "paused"
    assert {"grid": "numpy.ndarray", "point": "Point"}.items() <= saved.names("s").items()
    values = variables.load(saved.pull("s", ["grid", "view", "point", "ordered"]))
    assert values["grid"].sum() == sum(range(500_000))
    assert values["view"].base is not None
    assert values["point"].x == [1, 2]
    assert values["ordered"]["a"] is values["point"], "one object stays one"
    assert machines(saved) == before
    folders = Settings().state_dir / "sessions" / "s"
    assert not list(folders.glob("pull-*")), "nothing is left behind"


def test_what_is_not_there_or_was_not_saved_is_refused_by_name(saved: PlaneClient) -> None:
    with pytest.raises(UnknownName, match="there is no nowhere in checkpoint 1 of session s; `ciuic show s` lists"):
        saved.pull("s", ["grid", "nowhere"])
    with pytest.raises(UsageError, match=r"lost was not saved: .*generator.*; nothing was fetched"):
        saved.pull("s", ["grid", "lost"])
    with pytest.raises(NotPicklable, match=r"mixed can't be sent to another process: .*not saved"):
        saved.pull("s", ["mixed"])
    assert not list((Settings().state_dir / "sessions" / "s").glob("pull-*"))


def test_show_lists_names_types_sizes_and_where_it_stands(saved: PlaneClient) -> None:
    told = saved.checkpoint("s")
    assert (told["seq"], told["run"]["run"]) == (1, "r")
    assert "line 15" in told["run"]["where"]
    found = {variable["name"]: variable for variable in told["variables"]}
    assert found["grid"]["type"] == "numpy.ndarray"
    assert 4_000_000 <= found["grid"]["bytes"] < 4_010_000
    assert found["view"]["bytes"] < 10_000, "its memory is grid's"
    assert found["point"]["type"] == "Point"
    assert {line["path"] for line in told["placeholders"]} == {"lost"}


def test_show_in_a_shell(saved: PlaneClient) -> None:
    command = [sys.executable, "-m", "ciuic_jupyter.control.cli", "show"]
    done = subprocess.run([*command, "s"], capture_output=True, text=True, timeout=60, env={**os.environ})
    lines = done.stdout.splitlines()
    assert lines[0].startswith("s: checkpoint 1 of ") and "in the middle of a cell, " in lines[0]
    assert lines[1].split() == ["VARIABLE", "TYPE", "SIZE"]
    assert ["grid", "numpy.ndarray", "4.0", "MB"] in [line.split() for line in lines]
    assert ["lost", "generator", "not", "saved"] in [line.split() for line in lines]
    assert lines[-1].startswith("not saved: lost: ")
    saved.create("empty")
    until(lambda: saved.session("empty")["state"] == "running", "the start")
    done = subprocess.run([*command, "empty"], capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.returncode == 1
    assert done.stderr == "ciuic: session empty has no checkpoint yet; a pause makes one: `ciuic pause empty`\n"
    saved.release("empty", discard=True)


def test_sizes_count_memory_beside_the_structure_and_run_no_code(tmp_path: Path) -> None:
    import collections

    import numpy as np
    import torch

    class Loud:
        def __init__(self, value: object) -> None:
            self.value = value

        def __setstate__(self, state: object) -> None:
            raise AssertionError("nothing is made")

    namespace: dict[str, Any] = {
        "weights": {"w": torch.ones(300_000), "frozen": frozenset({(1, "a")})},
        "data": np.zeros(1000, dtype="f8"),
        "wide": np.zeros((100, 100))[:, ::2],
        "loud": [Loud({1}), Loud(bytearray(100_000))],
        "counter": collections.Counter("abc"),
        "many": list(range(10_000)),
        "number": 1,
    }
    body = capture(namespace, Store(tmp_path))
    sizes = stored._sizes({"root": str(tmp_path), "body": body})["sizes"]
    assert sizes.keys() == namespace.keys()
    about = {"weights": 1_200_000, "data": 8_000, "loud": 100_000, "many": 29_000}
    for name, size in about.items():
        assert size <= sizes[name] < size * 1.2 + 4_000, name
    assert sizes["wide"] >= 40_000
    assert sizes["number"] < 20
