"""Whether a cell may have a boundary, by names alone: never denied where there is one."""

from __future__ import annotations

import ast

import pytest

from ciuic_jupyter.resume.engine import Engine

EARLIER = """
def loops(n):
    for i in range(n): pass
def leads(n):
    return loops(n)
def plain(n):
    return n + 1
def gives():
    for i in range(2):
        yield i
class Model:
    def fit(self):
        while True:
            break
    def score(self):
        return 1
alias = leads
part = [loops]
"""


@pytest.fixture
def engine() -> Engine:
    made = Engine({})
    made.hook(ast.parse(EARLIER))
    return made


@pytest.mark.parametrize(
    "cell",
    [
        "for i in range(3): pass",
        "if x:\n    while y: pass",
        "loops(3)",
        "y = 1 + leads(3)",
        "alias(3)",
        "part[0](1)",
        "list(map(loops, [1]))",
        "m = Model(); m.fit()",
        "m.fit()",
        "here = loops\nhere(1)",
        "def f():\n    for i in x: pass\nf()",
        "trainer.train(callbacks=[saver])",
    ],
)
def test_a_cell_that_may_have_a_boundary(engine: Engine, cell: str) -> None:
    assert engine.has_loops(cell)


@pytest.mark.parametrize(
    "cell",
    [
        "x = 1",
        "plain(3)",
        "list(gives())",
        "[x for x in range(3)]",
        "forest.predict(data)",
        "import time; time.sleep(3)",
    ],
)
def test_a_cell_that_has_none(engine: Engine, cell: str) -> None:
    assert not engine.has_loops(cell)


def test_objects_whose_call_loops_may_be_called_by_any_name(engine: Engine) -> None:
    engine.hook(ast.parse("class Called:\n    def __call__(self):\n        for i in range(2): pass"))
    assert engine.has_loops("thing()")
