"""The file of machines: what it takes, what it refuses, and that it is whole whatever happens."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.ssh_machines import SshMachine

CLOUD = {"start": "cloud start gpu1", "stop": "cloud stop gpu1", "status": "cloud status gpu1"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ssh_machines.FILE


def test_what_is_added_is_there_until_it_is_removed(path: Path) -> None:
    assert ssh_machines.load(path) == []
    one = SshMachine.of("gpu1", "me@gpu1.example.org", price="0.90", gpus=1, **CLOUD)
    two = SshMachine.of("gpu-2.b", "alias", python="/opt/venv/bin/python")
    assert one.price_nano_per_hour == 900_000_000
    ssh_machines.add(path, one)
    ssh_machines.add(path, two)
    assert ssh_machines.load(path) == [one, two]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="a machine gpu1 already"):
        ssh_machines.add(path, one)
    ssh_machines.remove(path, "gpu1")
    assert ssh_machines.load(path) == [two]
    with pytest.raises(UsageError, match=r"no machine 'gpu1'; there are: gpu-2\.b"):
        ssh_machines.remove(path, "gpu1")


@pytest.mark.parametrize("price", ["-1", "NaN", "Infinity", "1e5", "1e1000000", " 1", "1_0", "", "１", "0.9 "])
def test_prices_that_are_none(price: str) -> None:
    with pytest.raises(UsageError):
        SshMachine.of("gpu1", "h", price=price)


BAD_NAMES = ["", ".", "..", "a/b", "../a", "a..b", "A", "-x", "a b", "a\n", "x" * 65, "local", "local.cpu", "é"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UsageError, match="name"):
        SshMachine(name, "h")


@pytest.mark.parametrize(
    "rest",
    [
        {"gpus": -1},
        {"gpus": 1.5},
        {"gpus": True},
        {"price_nano_per_hour": -1},
        {"price_nano_per_hour": 0.9},
        {"price_nano_per_hour": float("nan")},
        {"price_nano_per_hour": 100_001 * 10**9},
        {"stop": "s"},  # a stop that nothing proves
        {"start": "s", "status": "s"},  # costs for ever
        {"status": "two\nlines"},
        {"status": ""},
        {"status": "x" * 5000},
        {"python": "-c"},
        {"python": "a b"},
        {"python": None},
    ],
)
def test_what_makes_no_sense_is_refused(rest: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="gpu1"):
        SshMachine("gpu1", "h", **rest)


GOOD = ' {"name": "a", "target": "h"}'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"machines": [\n {"name": "a"', "line 2"),
        ("[]", "line 1"),
        ('{"machines": {}}', "line 1"),
        ('{"machines": [\n' + GOOD + ',\n {"name": "b", "target": "-x"}\n]}', "line 3 .*no ssh target"),
        ('{"machines": [\n' + GOOD + ',\n {"name": "b"}\n]}', "line 3"),
        ('{"machines": [\n' + GOOD + ",\n" + GOOD + "\n]}", "line 3 .*there twice"),
        ('{"machines": [\n {"name": "a", "name": "b", "target": "h"}]}', "a key is there twice"),
        ('{"machines": [\n {"name": "a", "target": "h", "price_nano_per_hour": NaN}]}', "line 2 .*price"),
        ('{"machines": [\n {"name": "a", "target": "h", "more": 1}]}', "line 2"),
    ],
)
def test_a_damaged_file_is_named_with_its_line_and_kept(path: Path, text: str, said: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError, match=said) as told:
        ssh_machines.load(path)
    assert str(path) in str(told.value)
    with pytest.raises(UsageError):
        ssh_machines.add(path, SshMachine("c", "h"))
    assert path.read_text() == text


def test_a_file_that_others_can_write_or_that_is_a_link_runs_nothing(path: Path) -> None:
    path.write_text(json.dumps({"machines": []}))
    path.chmod(0o666)
    with pytest.raises(UsageError, match="others can write it"):
        ssh_machines.load(path)
    path.chmod(0o600)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    with pytest.raises(UsageError, match="can't be read"):
        ssh_machines.load(path)


def test_two_writers_lose_nothing(path: Path) -> None:
    def add_many(stem: str) -> None:
        for number in range(10):
            ssh_machines.add(path, SshMachine(f"{stem}{number}", "h"))

    with ThreadPoolExecutor(2) as writers:
        list(writers.map(add_many, ("a", "b")))
    assert len(ssh_machines.load(path)) == 20
