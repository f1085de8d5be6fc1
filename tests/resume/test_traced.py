"""Modules beside the notebook that the user names: every boundary in their functions is gone on with elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.player import Player, check, playing

TRAINER = """\
'''The module's own words.'''
from __future__ import annotations
import functools, random
from . import parts
for _ in range(2):
    pass
COUNT = 0
SCALE = 3
def count():
    global COUNT
    for _ in range(2):
        COUNT += 1
    return COUNT
class Trainer:
    '''Trains.'''
    kind = "plain"
    def __init__(self, items):
        self.items = items
        self.__seen = []
        for item in items:
            self.__seen.append(item)
    def fit(self, epochs: Undefined = 1):
        best = 0
        def note(value: AlsoUndefined):
            nonlocal best
            best = max(best, value)
        for epoch in range(epochs):
            k = 0
            while k < 2:
                k += 1
                note(parts.step(k, self.items))
            print(epoch, best, note.__annotations__, self.__seen)
        return count(), best * SCALE
    @classmethod
    def made(cls):
        for i in range(2):
            print(cls.kind, i)
        return cls([i, 2])
def deco(f):
    @functools.wraps(f)
    def inner(*a):
        result = f(*a)
        return result + 1
    return inner
@deco
def work(n):
    s = 0
    for i in range(n):
        s += i + random.random()
    return s
"""
PARTS = """\
TOTAL = [0]
def step(k, items):
    for item in items:
        TOTAL[0] += item * k
    return TOTAL[0]
"""
FIRST = "import sys\nsys.path.insert(0, FOLDER)\nimport random; random.seed(3)\nSCALE = COUNT = -1"
USES = """
import pkg.trainer
from pkg.trainer import Trainer, work
t = Trainer([1, 2])
for turn in range(2):
    print(t.fit(2))
got = work(2)
made = Trainer.made()
left = pkg.trainer.COUNT, pkg.parts.TOTAL, COUNT, SCALE
"""


@pytest.fixture(scope="module")
def player() -> Iterator[Player]:
    with playing() as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the package `pkg`; no compiled file is written in it."""
    (tmp_path / "pkg").mkdir()
    for name, text in (("__init__", ""), ("trainer", TRAINER), ("parts", PARTS)):
        (tmp_path / "pkg" / f"{name}.py").write_text(text)
    return tmp_path


def cells(folder: Path, *more: str) -> list[str]:
    return [FIRST.replace("FOLDER", repr(str(folder))), *more]


def test_every_boundary_inside_the_functions_of_a_package(player: Player, folder: Path) -> None:
    assert check(player, cells(folder, USES), folder, trace=["pkg"]) == 63
    assert not list(folder.rglob("*.pyc"))


def test_a_package_that_was_imported_before_it_was_named(player: Player, folder: Path) -> None:
    late = "import pkg.trainer\nearlier = pkg.trainer.Trainer.fit"
    name = "import gc\nfrom ciuic_jupyter.resume.engine import Engine\n"
    name += "[e] = [e for e in gc.get_objects() if type(e) is Engine]\ne.traced.trace(['pkg'])\ndel e, gc, Engine"
    base = player.play("whole", cells(folder, late, name, USES))
    assert len(base["offered"]) == 63
    store = folder / "store"
    store.mkdir()
    saving = player.play("until", cells(folder, late, name, USES), store, None)
    for first in saving["saved"][::9]:
        second = player.play("onward", cells(folder, USES), store, first["body"], trace=["pkg"])
        assert first["printed"] + second["printed"] == base["printed"], first["where"]
        assert second["names"] == base["names"], first["where"]


def test_without_its_name_a_package_has_no_boundaries(player: Player, folder: Path) -> None:
    base = player.play("whole", cells(folder, "import pkg.trainer\npkg.trainer.work(2)"))
    assert not base["offered"]


def test_a_file_that_was_changed_during_the_pause_is_refused_by_its_name(player: Player, folder: Path) -> None:
    store = folder / "store"
    store.mkdir()
    saving = player.play("until", cells(folder, USES), store, None, trace=["pkg"])
    saved = next(one for one in saving["saved"] if "step()" in one["where"])
    path = folder / "pkg" / "parts.py"
    text = path.read_text()
    path.write_text(text.replace("item * k", "item + k"))
    with pytest.raises(AssertionError, match=r"parts\.py was changed since the pause"):
        player.play("onward", cells(folder, USES), store, saved["body"], trace=["pkg"])
    path.write_text(text)
    player.play("onward", cells(folder, USES), store, saved["body"], trace=["pkg"])


@pytest.mark.parametrize("reload", ["", "import importlib; importlib.reload(pkg.parts)\n"])
def test_a_file_that_is_edited_under_its_functions_is_skipped(player: Player, folder: Path, reload: str) -> None:
    edit = "from pathlib import Path\nimport pkg.parts\nfrom pkg.parts import step\np = Path(pkg.parts.__file__)\n"
    edit += "p.write_text('\\n' + p.read_text())\n" + reload + "step(1, [2, 3])"
    answer = player.play("whole", cells(folder, edit), trace=["pkg"])
    assert not answer["offered"]
    assert "parts.py was edited since it was imported" in " ".join(answer["skipped"])


def test_sources_and_tracebacks_are_the_users(player: Player, folder: Path) -> None:
    (folder / "pkg" / "bad.py").write_text("def fail(n):\n    for i in range(n):\n        1 / 0\n")
    look = "import inspect, traceback, pkg.trainer, pkg.bad\nsource = inspect.getsource(pkg.trainer.Trainer.fit)\n"
    look += "docs = pkg.trainer.__doc__, pkg.trainer.Trainer.__doc__\ntry:\n    pkg.bad.fail(1)\n"
    look += "except ZeroDivisionError as error:\n    at = traceback.extract_tb(error.__traceback__)[-1]\n"
    look += "    line = at.lineno, at.line, at.filename"
    names = player.play("whole", cells(folder, look), trace=["pkg"])["names"]
    assert TRAINER[TRAINER.index("    def fit") : TRAINER.index("    @classmethod")] == eval(names["source"])
    assert names["line"][1] == ["3", "'1 / 0'", repr(os.fspath(folder / "pkg" / "bad.py"))]
    assert names["docs"][1] == [repr("The module's own words."), repr("Trains.")]


@pytest.mark.parametrize(("module", "why"), [("math", "not made from a .py file"), ("sys", "not made from a .py file")])
def test_a_module_without_a_source_is_refused(player: Player, module: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        player.play("whole", ["import math"], trace=[module])
