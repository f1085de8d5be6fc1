"""Old checkpoints go behind a save: what is kept stays whole, space comes back, and no save fails for it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint.collect import chunks_of
from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Store
from tests.kernels.agent_client import KEY, Plane, machine

MB = 1 << 20
BEGIN = "import os\nstays = os.urandom(3 * 1024 * 1024)"
CHANGE = "import os\nchanges = os.urandom(4 * 1024 * 1024)"
SUM = "import hashlib\nprint(hashlib.sha256(stays + changes).hexdigest())"
KILLER = """
import os, signal, sys
seen = []
def hook(event, args):
    if event == {event!r} and str(args[{place}]).endswith({end!r}):
        seen.append(event)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
"""


def save(plane: Plane) -> dict[str, Any]:
    """Change 4 of the 7 MB there are, and save."""
    assert plane.run(CHANGE)["status"] == "ok"
    return dict(plane.call("save")["report"]["swept"])


def size(store: Path) -> int:
    return sum(path.stat().st_size for path in (store / "chunks").iterdir())


def check_whole(root: Path, *seqs: int) -> None:
    """Read every chunk of these checkpoints and compare it with its name."""
    store = Store(root)
    reader = store.reader()
    for seq in seqs:
        needed = [name.hex() for name in chunks_of(store.read_manifest(seq, KEY).body)]
        assert len(needed) > 7
        known = store.chunks()
        assert all(bytes.fromhex(name) in known for name in needed)
        for name in needed:
            _, (_, _, length) = reader._place(name, "the test's")
            reader.read({"size": length, "chunks": [name]}, "the test's")
    reader.close()


def test_the_newest_stay_whole_and_the_space_of_the_old_comes_back_here_and_there(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    store, url = tmp_path / "store", (tmp_path / "there").as_uri()
    config = {"store": str(store), "cwd": str(tmp_path), "remote": url, "earlier_checkpoints": 1}
    with machine(tmp_path / "a", **config) as made:
        plane = made.connect().ready()
        plane.run(BEGIN)
        assert [save(plane)["checkpoints"] for _ in range(2)] == [0, 0]
        for seq in (3, 4):
            swept = save(plane)
            assert swept["problem"] == "" and (swept["checkpoints"], swept["packs"]) == (1, int(seq == 4)), swept
            assert (swept["bytes"] >= 4 * MB) == (seq == 4), "the first one's pack holds what stays, too"
            assert Store(store).manifests() == Remote(url).manifests() == [seq - 1, seq]
        check_whole(store, 3, 4)
        check_whole(tmp_path / "there", 3, 4)
        assert max(size(store), size(tmp_path / "there")) < 17 * MB
        plane.run(SUM)
        told, last = plane.text(), plane.last
        assert not [e for e in plane.events if e["kind"] == "note"]
    shutil.rmtree(store)
    with machine(tmp_path / "b", **config, checkpoint=4, first_seq=last + 1) as made:
        plane = made.connect(after=last)
        assert plane.until(lambda e: e["kind"] == "kernel")["state"] == "restored"
        plane.run(SUM)
        assert plane.text() == told != ""


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with four checkpoints, of a machine that keeps more."""
    root = tmp_path_factory.mktemp("four")
    with machine(root, earlier_checkpoints=9) as made:
        plane = made.connect().ready()
        plane.run(BEGIN + "\nimport hashlib\nsame = hashlib.sha256(stays).hexdigest()")
        for _ in range(4):
            assert save(plane)["checkpoints"] == 0
    return root / "store"


@pytest.mark.crash
@pytest.mark.parametrize(
    ("event", "place", "end"),
    [("os.remove", 0, ".json"), ("os.rename", 1, ".unused"), ("os.remove", 0, ".unused")],
    ids=["manifests", "aside", "packs"],
)
def test_a_machine_killed_while_it_sweeps_loses_nothing_and_the_next_one_sweeps(
    tmp_path: Path, four: Path, event: str, place: int, end: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(four, store)
    for name in "ab":
        (tmp_path / name).mkdir()
    config: dict[str, Any] = {"store": str(store), "cwd": str(tmp_path), "earlier_checkpoints": 1}
    before = KILLER.format(event=event, place=place, end=end)
    with machine(tmp_path / "a", before=before, **config, checkpoint=4) as made:
        plane = made.connect().ready()
        plane.run(CHANGE)
        plane.ask("save")
        assert made.process.wait(timeout=60) == -signal.SIGKILL
    assert {4, 5} <= set(Store(store).manifests()) != {1, 2, 3, 4, 5}
    check_whole(store, *Store(store).manifests())
    for pack in (store / "chunks").iterdir():  # an hour later: a new pack that no manifest names may be a save's
        os.utime(pack, (0, 0))
    with machine(tmp_path / "b", **config, checkpoint=5) as made:
        plane = made.connect().ready()
        plane.run("print(hashlib.sha256(stays).hexdigest() == same)")
        assert plane.text() == "True\n"
        assert [save(plane)["problem"] for _ in range(2)] == ["", ""], "the first gives packs their names back"
    assert Store(store).manifests() == [6, 7]
    check_whole(store, 6, 7)
    assert not list((store / "chunks").glob("*.unused")) and size(store) < 17 * MB


def test_what_can_not_be_swept_is_told_once_and_the_save_stands(tmp_path: Path, four: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(four, store)
    with machine(tmp_path, earlier_checkpoints=2) as made:
        plane = made.connect().ready()
        damaged = Store(store).manifest_path(4)
        damaged.write_bytes(damaged.read_bytes()[:-1])
        for seq in (5, 6):
            swept = save(plane)
            assert "00000004.json is damaged" in swept["problem"] and swept["checkpoints"] == 0
            Store(store).read_manifest(seq, KEY)
        plane.run("pass")
        (note,) = [event for event in plane.events if event["kind"] == "note"]
        assert "the new one is safe" in note["text"] and "00000004.json" in note["text"] and note["level"] == "warning"
        assert save(plane)["problem"] == "", "the damaged one is old by now"
        assert Store(store).manifests() == [5, 6, 7]
