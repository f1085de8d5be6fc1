"""A save tells how much of its bytes is written while the kernel's only thread writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.agent_client import machine
from tests.kernels.double_engine import INSTALL
from tests.kernels.test_agent_hold import ended, start

OFTEN = f"{INSTALL}; from ciuic_jupyter.kernels import saving; saving.SHARE_SECONDS = 0.01"
# Keeps in a file what is told: on its way to the plane a newer frame may take the place of one that waits.
KEPT = f"""{OFTEN}
import json
from ciuic_jupyter.kernels.plane_socket import PlaneSocket
tell = PlaneSocket.tell
def told(self, header):
    with open("FILE", "a") as file:
        file.write(json.dumps(header) + chr(10))
    tell(self, header)
PlaneSocket.tell = told
"""
BIG = "import numpy as np; big = np.random.default_rng(0).random(25_000_000); little = [np.ones(n) for n in (3, 5, 70)]"


def shares(frames: list[dict[str, Any]]) -> list[Any]:
    return [frame["share"] for frame in frames if frame["type"] == "progress" and "share" in frame]


@pytest.mark.parametrize("held", [False, True])
def test_shares_rise_to_one_and_never_above(tmp_path: Path, held: bool) -> None:
    file = tmp_path / "told"
    with machine(tmp_path, before=KEPT.replace("FILE", str(file))) as made:
        plane = made.connect().ready()
        plane.run(BIG)
        if held:
            start(plane)
            plane.call("hold")
        report = plane.call("save")["report"]
        frames = [json.loads(line) for line in file.read_text().splitlines()]
        told, arrived = shares(frames), shares(plane.frames)
        assert report["attempts"] == 1 and report["bytes_total"] > 200_000_000 and (report["run"] is not None) == held
        assert told == sorted(told) and told[-1] == 1.0
        assert len({share for share in told if 0 < share < 1}) > 3, told
        assert arrived == sorted(arrived) and arrived and set(arrived) <= set(told)
        steps = [frame["step"] for frame in frames if frame["type"] == "progress"]
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
        assert shares(plane.frames) == []
