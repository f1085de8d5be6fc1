"""`ciuic machines` as a user types it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ciuic_jupyter.control.cli import app

Shell = Callable[..., Result]


@pytest.fixture
def ciuic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("CIUIC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CIUIC_RUNTIME_DIR", str(tmp_path / "run"))

    def call(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    return call


def test_a_machine_is_added_listed_and_removed_and_its_commands_are_not_shown(ciuic: Shell, tmp_path: Path) -> None:
    assert "no machines yet" in ciuic("machines", "list").stdout
    (tmp_path / "start.sh").write_text("KEY=hush cloud start gpu1\n")
    commands = ("--start", f"@{tmp_path / 'start.sh'}", "--stop", "-", "--status", "cloud status gpu1")
    stop = "KEY=hush cloud stop gpu1\n"
    more = ("--price", "0.90", "--gpus", "2")
    added = ciuic("machines", "add", "gpu1", "me@gpu.example:2222", *more, *commands, stdin=stop)
    assert added.exit_code == 0, added.stderr
    assert "ciuic doctor gpu1" in added.stdout
    record = tmp_path / "state" / "machines.json"
    assert stat.S_IMODE(record.stat().st_mode) == 0o600
    (kept,) = json.loads(record.read_text())["machines"]
    assert (kept["start"], kept["stop"]) == ("KEY=hush cloud start gpu1", "KEY=hush cloud stop gpu1")
    listed = ciuic("machines", "list")
    assert listed.stdout.splitlines()[1].split()[:4] == ["gpu1", "me@gpu.example:2222", "$0.9000/h", "2"]
    assert "start stop status" in listed.stdout
    (shown,) = json.loads(ciuic("machines", "list", "--json").stdout)
    assert shown["price_nano_per_hour"] == 900_000_000
    assert "hush" not in added.stdout + listed.stdout + json.dumps(shown)
    twice = ciuic("machines", "add", "gpu1", "me@gpu.example")
    assert (twice.exit_code, "already" in twice.stderr) == (1, True)
    assert ciuic("machines", "remove", "gpu1").exit_code == 0
    assert "no machines yet" in ciuic("machines", "list").stdout


def test_mistakes_are_one_line(ciuic: Shell, tmp_path: Path) -> None:
    mistakes = [
        (("machines", "add", "gpu1", "-oProxyCommand=x@y"), "is no ssh target"),
        (("machines", "add", "gpu1", "me@gpu", "--stop", "cloud stop"), "none for its status"),
        (("machines", "add", "gpu1", "me@gpu", "--start", f"@{tmp_path / 'none'}"), "can't be read"),
        (("machines", "add", "local.cpu", "me@gpu"), "another kind of machine"),
        (("machines", "remove", "nobody"), "there is no machine"),
        (("doctor", "nobody"), "there are: none"),
        (("doctor", "--bootstrap"), "needs the name of a machine"),
    ]
    for arguments, said in mistakes:
        arguments = ("machines", "add", "--", *arguments[2:]) if "-oProxyCommand=x@y" in arguments else arguments
        done = ciuic(*arguments)
        assert done.exit_code == 1, arguments
        assert said in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
