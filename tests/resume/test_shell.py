"""In a real IPython shell nobody sees hooks: tracebacks, sources, timings and profiles are of the user's code."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

HEAD = """
from IPython.core.interactiveshell import InteractiveShell
from ciuic_jupyter.resume.engine import Engine
shell = InteractiveShell.instance(colors="NoColor")
engine = Engine()
engine.install(shell)
def run(cell):
    return shell.run_cell(cell, store_history=True)
"""


def shell(*cells: str, tail: str = "", typed: str = "") -> str:
    """Return what a shell prints for `cells`, each run in turn in a process of its own; `typed` is its input."""
    code = HEAD + "".join(f"run({cell!r})\n" for cell in cells) + tail
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        input=typed,
    )
    assert done.returncode == 0, done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def test_an_error_in_a_loop_shows_the_users_lines_alone() -> None:
    text = shell("def f(items):\n    for item in items:\n        item.nothing()\n\nf([1])")
    assert "AttributeError" in text
    assert "----> 3         item.nothing()" in text
    assert "ciuic_jupyter" not in text


@pytest.mark.parametrize(
    ("cell", "line", "error"),
    [
        ("for x in 5:\n    pass", "----> 1 for x in 5:", "TypeError: 'int' object is not iterable"),
        (
            "with 5:\n    pass",
            "----> 1 with 5:",
            "TypeError: 'int' object does not support the context manager protocol",
        ),
        (
            "d = {1: 2}\nfor k in d:\n    d[k + 1] = 3",
            "----> 2 for k in d:",
            "dictionary changed size during iteration",
        ),
        ("while 1 / 0:\n    pass", "----> 1 while 1 / 0:", "ZeroDivisionError"),
    ],
)
def test_an_error_in_a_head_is_the_one_python_raises(cell: str, line: str, error: str) -> None:
    text = shell(cell)
    assert line in text
    assert error in text
    assert "ciuic_jupyter" not in text


def test_the_debugger_walks_the_users_frames_alone() -> None:
    failing = (
        "def f(items):\n    for item in items:\n        with open('/dev/null') as null:\n            item.nothing()\n"
    )
    failing += "def g(make):\n    for one in map(make, [1]):\n        pass\n"
    commands = "where\nup\np items\nquit\n"
    text = shell(failing, "f([1])", "%debug", "g(f)", "%debug", typed=2 * commands.replace("up\n", ""))
    assert text.count("item.nothing()") >= 2, "the post-mortem stands where the user's code failed"
    assert "[1]" in text
    assert "ciuic_jupyter" not in text
    assert "runtime.py" not in text


def test_a_profile_counts_the_users_functions() -> None:
    text = shell(
        "def f():\n    for i in range(3):\n        pass", "%prun -l 30 f()", "%%prun -l 3\nfor i in range(2):\n    f()"
    )
    assert "(f)" in text


def test_sources_timings_and_names_are_as_without_hooks() -> None:
    text = shell(
        "def f():\n    for i in range(3):\n        pass\n    return i",
        "import inspect\nprint(inspect.getsource(f))",
        "%timeit -n 1 -r 1 f()",
        "%%time\nfor i in range(2):\n    print('timed', i)",
        "%prun -q f()",
        "print(sorted(name for name in globals() if 'ciuic' in name))",
        "import pickle, types\nprint(type(f.__code__).__name__, f())",
    )
    assert "def f():\n    for i in range(3):\n        pass\n    return i" in text
    assert "timed 0\ntimed 1" in text
    assert "Wall time" in text
    assert "1 loop each" in text
    assert "[]\ncode 2" in text


def test_a_function_with_hooks_works_in_another_process() -> None:
    text = shell(
        "import cloudpickle, subprocess, sys",
        "def f(n):\n    s = 0\n    for i in range(n):\n        s += i\n    return s",
        "data = cloudpickle.dumps(f)",
        "code = 'import pickle, sys; print(pickle.loads(sys.stdin.buffer.read())(4))'",
        "print(subprocess.run([sys.executable, '-c', code], input=data, capture_output=True).stdout.decode())",
    )
    assert "6\n" in text


def test_async_cells_classes_and_comprehensions_run_as_before() -> None:
    text = shell(
        "import asyncio\nfor i in range(2):\n    await asyncio.sleep(0)\n    print('slept', i)",
        "class A:\n    squares = []\n    for i in range(3):\n        squares.append(i * i)\nprint(A.squares)",
        "def g():\n    for i in range(3):\n        got = yield i\nprint(list(g()), [x for x in g()])",
        "f = lambda: [i for i in range(2)]\nprint(f())",
    )
    assert "slept 0\nslept 1\n[0, 1, 4]\n[0, 1, 2] [0, 1, 2]\n[0, 1]\n" in text
