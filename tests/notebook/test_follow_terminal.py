"""A plain IPython terminal follows remote cells, too: text, results, errors, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.notebook.local_kernels import ROOT, RealPlane, real_plane, until

SHELL = """
import sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance(colors="nocolor")
for code in sys.argv[1:]:
    result = shell.run_cell(code, store_history=True)
    print("cell", "ok" if result.success else type(result.error_in_exec).__name__, flush=True)
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[RealPlane]:
    with real_plane() as plane:
        yield plane


class Terminal:
    """A process with a plain shell that runs its cells, and what it has shown so far."""

    def __init__(self, plane: RealPlane, home: Path, *cells: str) -> None:
        self.out = ""
        self.err = ""
        env = {**os.environ, **plane.env, "PYTHONPATH": str(ROOT), "IPYTHONDIR": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHELL, plane.setup, *cells],
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._threads = [threading.Thread(target=read) for read in (self._read_out, self._read_err)]
        for thread in self._threads:
            thread.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out += line

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.err += line

    def end(self) -> None:
        self.process.wait(60)
        for thread in self._threads:
            thread.join()


@contextmanager
def terminal(plane: RealPlane, home: Path, *cells: str) -> Iterator[Terminal]:
    shown = Terminal(plane, home, *cells)
    try:
        yield shown
        shown.end()
    finally:
        shown.process.kill()
        shown.end()
        for pipe in (shown.process.stdout, shown.process.stderr):
            assert pipe is not None
            pipe.close()


def test_text_results_and_errors(plane: RealPlane, tmp_path: Path) -> None:
    cells = [
        "%%remote\nimport sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7",
        "%%remote\nfrom IPython.display import display\ndisplay('shown')",
        "%%remote\n1 / 0",
        "%again",
    ]
    with terminal(plane, tmp_path, *cells) as shown:
        shown.end()
    assert "out\n" in shown.out
    assert "Out[2]: 42" in shown.out
    assert "'shown'" in shown.out
    assert shown.err.startswith("err\n")
    ends = [line for line in shown.out.splitlines() if line.startswith("cell ")]
    assert ends == ["cell ok", "cell ok", "cell ok", "cell ZeroDivisionError", "cell ZeroDivisionError"]
    assert shown.out.count("ZeroDivisionError\x1b[39m: division by zero") == 2


def test_interrupt(plane: RealPlane, tmp_path: Path) -> None:
    with terminal(plane, tmp_path, "%%remote\nprint('on', flush=True)\nimport time; time.sleep(60)") as shown:
        until(lambda: "on" in shown.out, "the first output")
        shown.process.send_signal(signal.SIGINT)
        shown.end()
    assert shown.out.splitlines()[-1] == "cell KeyboardInterrupt"


def test_a_question_nobody_can_answer_ends_the_cell(plane: RealPlane, tmp_path: Path) -> None:
    with terminal(plane, tmp_path, "%%remote\ninput('name? ')", "%%remote\nprint('next')") as shown:
        shown.end()
    ends = [line for line in shown.out.splitlines() if line.startswith(("cell ", "next"))]
    assert ends == ["cell ok", "cell UsageError", "next", "cell ok"], shown.out
