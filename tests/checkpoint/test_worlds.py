"""What a notebook holds comes back right in a new process, or is named."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.checkpoint.kernel import WORLDS

World = Callable[[str], dict[str, Any]]
NAMES = ("code", "arrays", "tensors", "resources", "science")


def _checks() -> list[tuple[str, str]]:
    found = []
    for name in NAMES:
        text = (WORLDS / f"{name}.py").read_text()
        found += [(name, check) for check in re.findall(r"^def (check_\w+)", text, re.MULTILINE)]
    return found


def test_there_are_enough_checks() -> None:
    assert len(_checks()) >= 90


@pytest.mark.parametrize(("name", "check"), _checks())
def test_property(world: World, name: str, check: str) -> None:
    assert world(name)["checks"][check] == ""


@pytest.mark.parametrize("name", ["code", "arrays", "tensors", "science"])
def test_what_is_whole_verifies(world: World, name: str) -> None:
    verified = world(name)["verified"]
    assert verified["ok"], verified["failed"]
    assert verified["names"] == len(world(name)["saved"]["names"])


LOST = {
    "code": {"error", "error.__cause__"},
    "arrays": set(),
    "tensors": {"loss"},
    "science": set(),
    "resources": {
        *("unlinked", "null", "held", "stop._cond._waiters[0]", "generator", "running", "connection", "child"),
        *("executor", "coroutine", "frame", "rows", "match", "area", "pointer", "refuses", "short", "mixed['bad']"),
        *("cfg['inner'][1]['sock']", "in_set (an element)", "finalizer", "cache._finalizer"),
        *("os.environ['HF_TOKEN']", "os.environ['WORLD_API_KEY']"),
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_exactly_what_is_not_whole_is_named(world: World, name: str) -> None:
    assert {line["path"] for line in world(name)["saved"]["placeholders"]} == LOST[name]


def test_what_dies_on_load_is_found_with_its_path(world: World) -> None:
    failed = world("resources")["verified"]["failed"]
    assert set(failed) == {"mapped", "wakes['k'][1]", "other", "needs[0]", "later_gone"}
    assert "cannot wake up" in failed["other"]
    assert not world("resources")["verified"]["ok"]


def test_no_secret_is_written(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    world("resources")
    folder = next(tmp_path_factory.getbasetemp().glob("resources*"))
    files = [path for path in (folder / "store").rglob("*") if path.is_file()]
    assert len(files) >= 2
    # the world's own source, which is in its history, names the value
    assert not any(b"s3cret-value" in path.read_bytes().replace(b'= "s3cret-value"', b"") for path in files)


def test_a_world_without_torch_does_not_load_it(world: World) -> None:
    assert not world("resources")["restored"]["torch"]


def test_packages_of_the_namespace_are_recorded(world: World) -> None:
    packages = world("science")["saved"]["packages"]
    assert {"pandas", "numpy", "sklearn", "matplotlib", "tqdm"} <= set(packages)
    assert "torch" not in packages
