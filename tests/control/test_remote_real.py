"""A real plane, agent and kernel with a store elsewhere: what was paused goes on when nothing of it is left here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.errors import CiuicError
from ciuic_jupyter.settings import Settings
from tests.control.test_pause_real import Viewer, leave, until
from tests.s3_server import SECRET, make_bucket, s3_server


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        places = {"CIUIC_STATE_DIR": str(tmp_path / "state"), "CIUIC_RUNTIME_DIR": f"/tmp/ciuic-remote-{os.getpid()}"}
        for name, value in {**environment, **places, "CIUIC_CHECKPOINT_URL": "s3://bucket/ours/"}.items():
            monkeypatch.setenv(name, value)
        yield dict(environment)


def test_paused_there_and_resumed_with_nothing_left_here(tmp_path: Path, environment: dict[str, str]) -> None:
    client = PlaneClient.ensure(Settings())
    pid = int(client.health()["pid"])
    try:
        client.create("s")
        viewer = Viewer(client, "s")
        client.run("s", "r1", "big = bytes(range(256)) * 9000\nprint('first')")
        until(lambda: "first" in viewer.text)
        with pytest.raises(CiuicError, match="s3://bucket/ours/s-"):  # no such bucket
            client.pause("s")
        assert client.session("s")["state"] == "running"
        make_bucket(environment, "bucket")
        assert client.pause("s")["state"] == "paused"
        shutil.rmtree(tmp_path / "state" / "checkpoints")
        assert "big" in {one["name"] for one in client.checkpoint("s")["variables"]}  # looked into, with no machine
        shutil.rmtree(tmp_path / "state" / "checkpoints")
        client.resume("s", wait=True)
        client.run("s", "r2", "print('second', sum(big))")
        until(lambda: f"second {sum(range(256)) * 9000}" in viewer.text)
        client.release("s", discard=True)
    finally:
        leave(client, pid)
    for path in (tmp_path / "state").rglob("*"):
        if path.is_file():
            assert SECRET.encode() not in path.read_bytes(), path
