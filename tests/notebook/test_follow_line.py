"""The line to the control plane breaks, is silent, or ends up at another plane: cells lose and double nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

from tests.ipykernels import path_of
from tests.notebook.local_kernels import ROOT, LocalKernel, local_kernel, real_plane, small_plane, until
from tests.notebook.small_plane import Client


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plane")


@pytest.fixture(scope="module")
def kernel(directory: Path) -> Iterator[LocalKernel]:
    with small_plane(directory) as setup, local_kernel("7.4.0", setup) as kernel:
        yield kernel


def test_a_cut_line_loses_and_doubles_nothing(kernel: LocalKernel, directory: Path) -> None:
    code = "import time\nfor i in range(200):\n    print(i, flush=True)\n    time.sleep(0.01)"
    cell = kernel.start(f"%%remote\n{code}")
    for mark in ("20\n", "60\n", "120\n"):
        until(lambda mark=mark: mark in cell.text(), "some output")
        Client(str(directory)).ask("cut", seconds=0.2)
    until(lambda: cell.idle, "the end")
    assert cell.text() == "".join(f"{i}\n" for i in range(200))
    assert cell.text("stderr") == ""


def test_a_question_is_answered_over_a_cut_line(kernel: LocalKernel, directory: Path) -> None:
    cell = kernel.start("%%remote\nprint(input('name? '))", allow_stdin=True)
    until(lambda: kernel.questions, "the question")
    Client(str(directory)).ask("cut", seconds=0.5)
    kernel.answer("Ada")
    until(lambda: cell.idle, "the end")
    assert cell.text() == "Ada\n"


@pytest.mark.parametrize("version", ["6.31.0", "7.4.0"])
def test_a_kernel_restarted_by_jupyter_leaves_the_remote_cell_alone(version: str) -> None:
    places = [*filter(None, [path_of(version)]), ROOT]
    with real_plane() as plane, plane.client() as client:
        manager = KernelManager(kernel_name="python3")
        manager.start_kernel(env={**os.environ, **plane.env, "PYTHONPATH": os.pathsep.join(map(str, places))})
        asking = manager.blocking_client()
        try:
            asking.start_channels()
            asking.wait_for_ready(timeout=60)
            asking.execute(plane.setup, reply=True, timeout=60)
            asking.execute("%%remote\nimport time\nfor i in range(60):\n    time.sleep(0.05)\nprint('whole')")
            until(lambda: client.session("s")["busy"], "the remote cell")
            manager.restart_kernel(now=False)
            until(lambda: not client.session("s")["busy"], "its end")
            assert client.runs("s")[-1]["status"] == "ok"
        finally:
            asking.stop_channels()
            manager.shutdown_kernel(now=True)


def test_a_plane_killed_and_revived_loses_and_doubles_nothing() -> None:
    with real_plane() as plane, local_kernel("7.4.0", plane.setup, plane.env) as kernel:
        code = "import time\nfor i in range(800):\n    print(i, flush=True)\n    time.sleep(0.01)"
        cell = kernel.start(f"%%remote\n{code}")
        until(lambda: "100\n" in cell.text(), "some output")
        killed = plane.pid
        os.kill(killed, signal.SIGKILL)
        until(lambda: cell.idle, "the end", 60)
        assert cell.text() == "".join(f"{i}\n" for i in range(800))
        assert plane.pid != killed
        kernel.ok("client = PlaneClient.ensure()")
        assert kernel.ok("%%remote\nprint('next')").text() == "next\n"


def test_a_session_begun_anew_under_its_name() -> None:
    with real_plane() as plane, local_kernel("7.4.0", plane.setup, plane.env) as kernel:
        for i in range(3):
            kernel.ok(f"%%remote\nprint({i})")
        with plane.client() as client:
            client.release("s", discard=True)
            client.create("s")
            until(lambda: client.session("s")["state"] == "running", "the new life")
        assert kernel.ok("%%remote\nprint('new')").text() == "new\n"
        assert kernel.ok("%%remote\nprint('newer')").text() == "newer\n"


def test_cells_of_two_notebooks_wait_for_each_other_and_can_be_taken_back() -> None:
    with (
        real_plane() as plane,
        local_kernel("7.4.0", plane.setup, plane.env) as first,
        local_kernel("7.4.0", plane.setup, plane.env) as second,
    ):
        running = first.start("%%remote\nimport time\nprint('on', flush=True)\ntime.sleep(30)")
        until(lambda: running.text(), "the first output")
        queued = second.start("%%remote\nprint('never')")
        with plane.client() as client:
            until(lambda: client.session("s")["queued"] == 1, "the second cell in the queue")
            second.interrupt()
            until(lambda: queued.idle, "the end of the queued cell")
            assert [error["ename"] for error in queued.of("error")] == ["KeyboardInterrupt"]
            queued = second.start("%%remote\nprint('never')")
            until(lambda: client.session("s")["queued"] == 1, "the second cell in the queue")
        first.interrupt()
        until(lambda: running.idle and queued.idle, "the end of both")
        assert [error["ename"] for error in running.of("error")] == ["KeyboardInterrupt"]
        (error,) = queued.of("error")
        assert error["ename"] == "RemoteError"
        assert "did not run" in error["evalue"]
        assert second.ok("%%remote\nprint('now')").text() == "now\n"


def test_a_lost_machine_ends_the_cell() -> None:
    with real_plane() as plane, local_kernel("7.4.0", plane.setup, plane.env) as kernel:
        cell = kernel.start("%%remote\nimport os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
        until(lambda: cell.text(), "the first output")
        agent = int(Path(f"/proc/{cell.text().strip()}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(agent, signal.SIGKILL)
        until(lambda: cell.idle, "the end", 60)
        assert [error["ename"] for error in cell.of("error")] == ["KernelDied"]
