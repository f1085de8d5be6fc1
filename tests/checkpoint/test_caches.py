"""Caches and hashes of the user's: put back without a call, or named."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint import caches
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.store import Store
from tests.checkpoint.kernel import execute, namespace, run

CALLS: list[Any] = []


def _slow(*args: Any, **keywords: Any) -> Any:
    CALLS.append((args, keywords))
    return [args, keywords]


@pytest.mark.parametrize("maxsize", [None, 0, 1, 3, 100])
@pytest.mark.parametrize("typed", [False, True])
def test_what_was_read_can_be_written(maxsize: int | None, typed: bool) -> None:
    made = functools.lru_cache(maxsize=maxsize, typed=typed)(_slow)
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((1,), {}), ((1.0,), {}), (("a",), {}), ((), {})]
    asked += [((1, 2), {"k": 3}), ((), {"k": 3, "j": 4}), (((1, 2),), {}), ((1,), {}), ((True,), {})]
    for args, keywords in asked:
        made(*args, **keywords)
    contents = caches.read(made)
    assert contents is not None
    again = functools.lru_cache(maxsize=maxsize, typed=typed)(_slow)
    caches.write(again, contents)
    assert again.cache_info() == made.cache_info()
    CALLS.clear()
    for args, keywords, result in contents["calls"]:
        assert again(*args, **keywords) is result
    assert CALLS == []
    again("new", other=5)
    assert CALLS == [(("new",), {"other": 5})]


def test_a_cache_that_is_not_empty_is_left_alone() -> None:
    made = functools.lru_cache(_slow)
    made(1)
    contents = caches.read(made)
    assert contents is not None
    with pytest.raises(RuntimeError, match="are dropped"):
        caches.write(made, contents)
    assert made.cache_info().currsize == 1


def test_a_result_that_cannot_be_saved_is_computed_again(tmp_path: Path) -> None:
    names = namespace()
    execute("import functools\n@functools.cache\ndef f(n): return (i for i in 'ab') if n else 5\nf(0), f(1)", names)
    store, back = Store(tmp_path), namespace()
    body = capture(names, store)
    assert any("a generator can't be saved" in line["reason"] for line in body["placeholders"])
    restore(body, store, back)
    assert back["f"].cache_info().currsize == 1 and next(back["f"](1)) == "a"


LATE = """
class Key:
    broken = False
    def __init__(self, owner, name):
        self.owner, self.name = owner, name
    def __hash__(self):
        if Key.broken: raise TypeError("no hash today")
        return hash(self.name)
    def __eq__(self, other): return self.name == other.name
class Owner: pass
owner = Owner()
owner.keys = {}
first = Key(owner, "a")
owner.keys[first] = 1
def check_owner():
    assert owner.keys[Key(None, "a")] == 1 and next(iter(owner.keys)) is first
"""


def test_a_key_that_knows_its_dict_is_found_again(tmp_path: Path) -> None:
    world = tmp_path / "world.py"
    world.write_text(LATE)
    run("save", str(world), str(tmp_path))
    assert run("verify", str(tmp_path))["ok"]
    assert run("check", str(tmp_path))["checks"] == {"check_owner": ""}


def test_a_key_that_has_no_hash_any_more_is_named(tmp_path: Path) -> None:
    world = tmp_path / "world.py"
    world.write_text(LATE + "Key.broken = True\n")
    run("save", str(world), str(tmp_path))
    failed = run("verify", str(tmp_path))["failed"]
    assert "no hash today" in failed["owner.keys"]
