"""While a remote cell runs, the local kernel answers buttons and reloaded pages, and keeps the order of the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ipykernels import VERSIONS
from tests.notebook.local_kernels import LocalKernel, local_kernel, real_plane, until

BUSY = "%%remote\nimport time\nprint('on', flush=True)\ntime.sleep(1.5)\nprint('off')"
BUTTON = """
import ipywidgets, time
clicks = []
button = ipywidgets.Button()
def clicked(_):
    clicks.append(time.time())
    print("clicked")
button.on_click(clicked)
button.comm.comm_id
"""


@pytest.fixture(scope="module", params=VERSIONS)
def kernel(request: pytest.FixtureRequest) -> Iterator[LocalKernel]:
    with real_plane() as plane, local_kernel(request.param, plane.setup, plane.env) as kernel:
        kernel.ok("%%remote\npass")
        yield kernel


def until_there(stop: Path) -> str:
    """Return a remote cell that goes on until `stop` exists, however slow the machine is."""
    wait = f"while not os.path.exists({str(stop)!r}):\n    time.sleep(0.02)\n"
    return f"%%remote\nimport os, time\nprint('on', flush=True)\n{wait}print('off')"


def click(kernel: LocalKernel, button: str) -> Any:
    content = {"comm_id": button, "data": {"method": "custom", "content": {"event": "click"}}}
    return kernel.comm("comm_msg", content)


def make_button(kernel: LocalKernel) -> str:
    text = kernel.ok(BUTTON).of("execute_result")[0]["data"]["text/plain"]
    return str(text).strip("'")


def test_local_buttons_work_during_a_remote_cell(kernel: LocalKernel, tmp_path: Path) -> None:
    button = make_button(kernel)
    cell = kernel.start(until_there(tmp_path / "stop"))
    until(lambda: cell.text(), "the first output")
    for count in range(1, 4):
        answer = click(kernel, button)
        until(lambda answer=answer: answer.of("status")[-1:] == [{"execution_state": "idle"}], "the click's end")
        assert answer.text() == "clicked\n"
        assert not cell.idle
        del count

    def last() -> str:
        return str([m["content"]["execution_state"] for m in kernel.published if m["msg_type"] == "status"][-1])

    until(lambda: last() == "busy", "the word that the cell goes on")
    (tmp_path / "stop").touch()
    until(lambda: cell.idle, "the end")
    assert cell.text() == "on\noff\n"
    kernel.ok("assert len(clicks) == 3")


def test_a_failing_callback_harms_nothing(kernel: LocalKernel) -> None:
    text = kernel.ok("import ipywidgets\nb = ipywidgets.Button()\nb.on_click(lambda _: 1 / 0)\nb.comm.comm_id").of(
        "execute_result"
    )[0]["data"]["text/plain"]
    cell = kernel.start(BUSY)
    until(lambda: cell.text(), "the first output")
    click(kernel, str(text).strip("'"))
    until(lambda: cell.idle, "the end")
    assert cell.text() == "on\noff\n"
    assert not cell.of("error")


def test_a_reloaded_page_gets_its_answers(kernel: LocalKernel, tmp_path: Path) -> None:
    cell = kernel.start(until_there(tmp_path / "stop"))
    until(lambda: cell.text(), "the first output")
    asked = [kernel.ask("kernel_info_request"), kernel.ask("comm_info_request")]
    until(lambda: all(answer.reply for answer in asked), "the answers")
    assert not cell.idle
    (tmp_path / "stop").touch()
    until(lambda: cell.idle, "the end")


def test_requests_before_during_and_behind_a_remote_cell_keep_their_order(kernel: LocalKernel) -> None:
    button = make_button(kernel)
    kernel.ok("order = []")
    cells = [kernel.start(BUSY)]
    for i in range(5):
        cells.append(kernel.start(f"order.append({i})"))
        click(kernel, button)
    until(lambda: cells[0].text(), "the first output")
    cells += [kernel.start(f"order.append({i})") for i in range(5, 10)]
    until(lambda: all(cell.idle for cell in cells), "the end of all")
    cells = [kernel.start(f"order.append({i})") for i in range(10, 15)]
    until(lambda: all(cell.idle for cell in cells), "the end of all")
    kernel.ok("assert order == list(range(15)), order\nassert len(clicks) == 5, clicks")


def test_queued_cells_and_a_failing_remote_one_among_them(kernel: LocalKernel) -> None:
    codes = ["%%remote\npass", "a = 1", "%%remote\nimport time; time.sleep(0.2); 1/0", "a = 2", "%%remote\nprint('no')"]
    cells = [kernel.start(code) for code in codes]
    until(lambda: all(cell.reply for cell in cells), "the replies")
    assert [cell.reply and cell.reply["status"] for cell in cells] == ["ok", "ok", "error", "aborted", "aborted"]
    kernel.ok("assert a == 1")


def test_an_interrupt_ends_the_remote_cell_however_early_it_comes(kernel: LocalKernel) -> None:
    for _ in range(30):  # the first output can be here before the answer to the cell's own request is
        cell = kernel.start("%%remote\nimport time\nprint('on', flush=True)\ntime.sleep(30)")
        until(lambda cell=cell: cell.text(), "the first output")
        kernel.interrupt()
        until(lambda cell=cell: cell.idle, "the end", 25)
        assert [error["ename"] for error in cell.of("error")] == ["KeyboardInterrupt"]
    kernel.ok("1 + 1")
    kernel.ok("%%remote\n1 + 1")
