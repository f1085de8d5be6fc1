"""A save tells how much of its bytes is written while the kernel's only thread writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.kernels.agent_client import Plane, machine
from tests.kernels.double_engine import INSTALL
from tests.kernels.test_agent_hold import ended, start

OFTEN = f"{INSTALL}; from ciuic_jupyter.kernels import saving; saving.SHARE_SECONDS = 0.01"
BIG = "import numpy as np; big = np.random.default_rng(0).random(25_000_000); little = [np.ones(n) for n in (3, 5, 70)]"


def shares(plane: Plane) -> list[Any]:
    return [frame["share"] for frame in plane.frames if frame["type"] == "progress" and "share" in frame]


@pytest.mark.parametrize("held", [False, True])
def test_shares_rise_to_one_and_never_above(tmp_path: Path, held: bool) -> None:
    with machine(tmp_path, before=OFTEN) as made:
        plane = made.connect().ready()
        plane.run(BIG)
        if held:
            start(plane)
            plane.call("hold")
        report = plane.call("save")["report"]
        told = shares(plane)
        assert report["attempts"] == 1 and report["bytes_total"] > 200_000_000 and (report["run"] is not None) == held
        assert told == sorted(told) and told[-1] == 1.0
        assert len({share for share in told if 0 < share < 1}) > 3, told
        steps = [frame["step"] for frame in plane.frames if frame["type"] == "progress"]
        assert steps.index("verifying") > len(steps) - 1 - steps[::-1].index("capturing")
        assert not (made.directory / "share").exists()
        if held:
            plane.call("go")
            assert ended(plane)["status"] == "ok"


def test_a_share_that_cannot_be_told_costs_no_save(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        (made.directory / "share").mkdir()
        assert plane.call("save")["seq"] == 1
        assert shares(plane) == []
