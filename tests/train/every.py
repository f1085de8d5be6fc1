"""A training inside a library, saved at every boundary it offers and gone on with in new processes: bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.resume.player import Answer, Player


def check(player: Player, cells: Sequence[str], folder: Path, *, begins: bool = True) -> list[str]:
    """Go on from every boundary of the last cell, and pause twice; return where they are.

    `begins`: they are at the begin of a turn, where a training that goes on offers the one it was paused at once more.
    """
    base = player.play("whole", cells)
    store = Path(tempfile.mkdtemp(dir=folder))
    saving = player.play("until", cells, store, None)
    assert saving["names"] == base["names"]
    saved: list[Answer] = saving["saved"]
    assert [first["where"] for first in saved] == base["offered"]
    assert not [first["gone"] for first in saved if first["gone"]]
    for first in saved:
        second = player.play("onward", cells, store, first["body"])
        assert second["names"] == base["names"], first["where"]
        assert first["printed"] + second["printed"] == base["printed"], first["where"]
    again = player.play("onward", cells, store, saved[0]["body"], int(begins))
    assert again["where"] == base["offered"][1]
    assert player.play("onward", cells, store, again["body"])["names"] == base["names"]
    return list(base["offered"])


def skipped(player: Player, cells: Sequence[str]) -> str:
    """Return why the last cell offers no boundary."""
    answer = player.play("whole", cells)
    assert not answer["offered"]
    return " ".join(answer["skipped"])
