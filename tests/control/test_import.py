"""A paused session made of another user's checkpoint: by a plane over the fake cloud, and between two real users."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.core.session import State
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointUntrusted, CiuicError, SaveFailed, UsageError
from ciuic_jupyter.settings import Settings
from tests.checkpoint.test_import import theirs
from tests.control.conftest import Cloud, reach
from tests.control.test_pause_real import Viewer, expected, leave, until, until_there

HELD = {"run": "r", "code": "loop", "cell_id": "c", "seq": 40}


def left(cloud: Cloud) -> list[Path]:
    return list((cloud.settings.state_dir / "checkpoints").iterdir())


async def test_an_import_is_a_paused_session_that_costs_nothing_and_resumes(cloud: Cloud, tmp_path: Path) -> None:
    theirs(tmp_path / "there")
    with pytest.raises(CheckpointUntrusted, match="--trust"):
        await cloud.plane.take_in("s", str(tmp_path / "there"), trust=False)
    assert (cloud.plane.runners, cloud.books().sessions, left(cloud)) == ({}, {}, [])
    runner = await cloud.plane.take_in("s", str(tmp_path / "there"), trust=True)
    for _ in range(2):
        view = runner.view()
        assert (view["state"], view["rate_nano_per_hour"], view["machine"]) == ("paused", 0, None)
        assert view["checkpoint"]["names"] == ["big", "n"]
        assert [path.name for path in left(cloud)] == [f"s-{view['id'][:8]}"]
        assert cloud.books().sessions["s"] == runner.book
        await cloud.restart()
        runner = cloud.plane.runner("s")
    assert cloud.provider.started == 0
    store = Store(runner.context.store_directory(runner.book))
    assert set(store.read_manifest(1, runner.context.key_of(runner.book)).body["types"]) == {"big", "n"}
    await runner.ensure()
    await reach(runner, State.RUNNING)
    assert cloud.agent.restored_from == [1]


async def test_the_rows_of_an_import_stand_together(cloud: Cloud, tmp_path: Path) -> None:
    theirs(tmp_path / "there", run=HELD)
    await cloud.plane.take_in("s", str(tmp_path / "there"), trust=True)
    ledger = Ledger(cloud.settings.state_dir / "ledger.db", cloud.clock)
    kinds = [entry.kind for entry in ledger.replay()]
    ledger.close()
    assert kinds == ["session", "state", "checkpoint", "run", "run_suspend"]
    await cloud.restart()
    suspended = cloud.plane.runner("s").view()["suspended"]
    assert (suspended["run"], suspended["cell_id"], suspended["after"]) == ("r", "c", 0)


async def test_only_a_new_or_a_closed_name_is_taken(cloud: Cloud, tmp_path: Path) -> None:
    there = str(tmp_path / "there")
    theirs(tmp_path / "there")
    runner = await cloud.session()
    runner.note("an event of its first life")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"session s is (running|paused) already: close it"):
            await cloud.plane.take_in("s", there, trust=True)
        await runner.pause()
        await runner.let_go()
    life = runner.book.life
    await runner.end()
    spent = cloud.plane.cost()["spent_nano"]
    again = await cloud.plane.take_in("s", there, trust=True)
    assert again.book.state is State.PAUSED
    assert again.book.life != life
    assert again.book.first_seq == again.mirror.last_seq + 1 > 1
    assert cloud.plane.cost()["spent_nano"] == spent
    for name, path in (("../x", there), ("NO", there), ("t", "there"), ("t", there + "/chunks"), ("t", "/a\0b")):
        with pytest.raises(UsageError):
            await cloud.plane.take_in(name, path, trust=True)
    assert list(cloud.plane.runners) == ["s"]
    assert len(left(cloud)) == 2


async def test_damage_and_a_full_disk_leave_no_session_and_no_folder(cloud: Cloud, tmp_path: Path) -> None:
    there = tmp_path / "there"
    theirs(there)
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, most[1]))  # the kernel refuses the pack's second MiB
    try:
        with pytest.raises(SaveFailed, match="make room"):
            await cloud.plane.take_in("s", str(there), trust=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    next(there.glob("chunks/*.pack")).unlink()
    with pytest.raises(CheckpointDamaged, match="is missing"):
        await cloud.plane.take_in("s", str(there), trust=True)
    assert (cloud.plane.runners, cloud.books().sessions, left(cloud)) == ({}, {}, [])
    assert list((cloud.settings.state_dir / "sessions").glob("*")) == []
    (cloud.settings.state_dir / "checkpoints" / ".import-0123").mkdir()  # of a plane that was killed while it copied
    await cloud.restart()
    assert left(cloud) == []


def _user(home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PlaneClient, int]:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(home / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-{home.name}-{os.getpid()}")
    monkeypatch.setenv("CIUIC_WARM_START", "false")
    client = PlaneClient.ensure(Settings())
    return client, int(client.health()["pid"])


def _ciuic(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ciuic_jupyter.control.cli", "import", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def test_a_cell_that_one_user_paused_goes_on_at_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, pid = _user(tmp_path / "anna", monkeypatch)
    try:
        client.create("a")
        viewer = Viewer(client, "a")
        client.run("a", "r", until_there(tmp_path / "stop"))
        until(lambda: "2 0." in viewer.text)
        assert client.pause("a")["suspended"]["run"] == "r"
    finally:
        leave(client, pid)
    printed, there = viewer.text.splitlines()[1:], tmp_path / "copy"
    shutil.copytree(next((tmp_path / "anna" / "state" / "checkpoints").iterdir()), there)
    client, pid = _user(tmp_path / "bob", monkeypatch)
    try:
        refused = _ciuic(str(there), "--name", "b")
        assert refused.returncode == 1
        assert "ciuic: the manifest" in refused.stderr
        assert "`--trust` takes it" in refused.stderr
        assert client.sessions() == []
        assert list((tmp_path / "bob" / "state" / "checkpoints").iterdir()) == []
        taken = _ciuic(str(there), "--name", "b", "--trust")
        assert taken.stdout.startswith("b: paused, "), taken.stderr
        assert "seen" in {one["name"] for one in client.checkpoint("b")["variables"]}
        viewer = Viewer(client, "b")
        assert client.resume("b", wait=True)["state"] == "running"
        (tmp_path / "stop").touch()
        until(lambda: client.runs("b")[-1]["status"] == "ok")
        client.run("b", "r2", "print('seen', seen[-1])")
        until(lambda: "seen 0." in viewer.text)
        *rest, last = viewer.text.splitlines()
        whole = expected(len(printed + rest) - 1)
        assert printed + rest == whole
        assert last.split()[1] == whole[-2].split()[1]
        client.release("b", discard=True)
        _another_python(client, there)
    finally:
        leave(client, pid)


def _another_python(client: PlaneClient, there: Path) -> None:
    """What another Python made is taken, and refused at resume as always."""
    theirs(there, python="2.7")
    client.take_in("c", str(there), trust=True)
    view = client.resume("c", wait=True)
    assert view["state"] == "paused"
    assert "made by Python 2.7" in view["message"]
    with pytest.raises(CiuicError, match="is paused already"):
        client.take_in("c", str(there), trust=True)
