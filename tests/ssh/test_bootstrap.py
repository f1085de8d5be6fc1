"""A bare machine is set up without internet and runs a session, and none of the user's secrets goes anywhere."""

from __future__ import annotations

import json
import os
import secrets
import stat
from pathlib import Path

import pytest

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.settings import Settings
from tests.control.test_pause_real import Viewer, leave, until
from tests.ssh.boxes import Box, User
from tests.ssh.doctor_parts import Watch, ciuic, holding, keep_wheels, python_with_torch

ENVIRONMENT = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "GITHUB_TOKEN", "WANDB_API_KEY",
    "SSH_KEY_PASSPHRASE",
)  # fmt: skip


CELL = "import torch, ciuic_jupyter; x = torch.ones(3); print('sum', x.sum().item(), ciuic_jupyter.__file__)"


def _plant(monkeypatch: pytest.MonkeyPatch, user: User, files: Path) -> list[str]:
    """Give the user thirteen secrets where people have them; return them."""
    found = {name: secrets.token_hex(12) for name in ENVIRONMENT}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    for name in ("PIP_EXTRA_INDEX_URL", "HTTPS_PROXY"):
        found[name] = secrets.token_hex(12)
        monkeypatch.setenv(name, f"https://me:{found[name]}@127.0.0.1:9/simple")
    for what, says in (("start", "true"), ("stop", f"echo stopped >{files}/state"), ("status", f"cat {files}/state")):
        found[what] = secrets.token_hex(12)
        (files / what).write_text(f"CLOUD_KEY={found[what]} sh -c '{says}'\n")
    (files / "state").write_text("running\n")
    found["private key"] = user.key.read_text().splitlines()[3]
    assert len(found) == 13
    return list(found.values())


def _doctor(*options: str) -> tuple[int, dict[str, dict[str, str]], str]:
    done = ciuic("doctor", "gpu1", "--json", *options)
    assert done.stdout.strip(), done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] == (done.returncode == 0)
    return done.returncode, {check["what"]: check for check in said["checks"]}, done.stdout + done.stderr


def _session() -> str:
    """Run a cell on the machine, pause and close; return what it printed."""
    client = PlaneClient.ensure(Settings())
    pid = int(client.health()["pid"])
    try:
        client.create("s", instance="gpu1")
        viewer = Viewer(client, "s")
        client.run(
            "s",
            "r",
            "import torch, ciuic_jupyter; x = torch.ones(3); print('sum', x.sum().item(), ciuic_jupyter.__file__)",
        )
        until(lambda: client.runs("s")[-1]["status"] != "running" and "sum" in viewer.text, seconds=240)
        assert client.close_session("s")["state"] == "closed"
    finally:
        leave(client, pid)
    return viewer.text


@pytest.mark.timeout(900)
def test_a_bare_machine_becomes_one_that_runs_sessions_and_no_secret_is_left_anywhere(
    pair: list[Box], user: User, plane_home: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = pair
    state, files = plane_home / "state", plane_home / "files"
    files.mkdir()
    monkeypatch.setenv("CIUIC_STATE_DIR", str(state))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", f"/tmp/ciuic-boot-{os.getpid()}")
    monkeypatch.setenv("CIUIC_WARM_START", "false")
    keep_wheels(state)
    planted = _plant(monkeypatch, user, files)
    bare = python_with_torch(folder / "python")
    with Watch(planted) as watch:
        options = [f"--{what}=@{files / what}" for what in ("start", "stop", "status")]
        added = ciuic(
            "machines", "add", "gpu1", f"root@{one.address}", "--price", "0.90", "--python", str(bare), *options
        )
        assert added.returncode == 0, added.stderr
        code, checks, before = _doctor()
        assert (code, checks["ciuic_jupyter"]["found"]) == (1, "missing")
        assert {what for what, check in checks.items() if check["state"] == "bad"} == {"ciuic_jupyter"}
        code, checks, made = _doctor("--bootstrap")
        assert code == 0, made
        assert checks["ciuic_jupyter"]["found"].endswith("the same code as here")
        code, _, again = _doctor("--bootstrap")
        assert (code, "\n0 of " in again) == (0, True), again
        listed = ciuic("machines", "list").stdout
        printed = _session()
    assert f"sum 3.0 {one.home}/.local/share/ciuic/" in printed
    assert (files / "state").read_text() == "stopped\n"
    assert watch.looks > 20
    assert watch.processes > watch.looks
    assert watch.found == set()
    told = added.stdout + added.stderr + before + made + again + listed + printed + one.log
    assert [secret for secret in planted if secret in told] == []
    records = [state / "machines.json", *(path for path in state.rglob("*") if path.is_file() and "ssh" in path.parts)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in records} == {0o600}
    assert any(planted[9] in path.read_text() for path in records), "the commands are kept, and only there"
    assert holding(planted, state, one.folder, but=records) == []
