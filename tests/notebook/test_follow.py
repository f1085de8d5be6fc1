"""Remote cells look, end and fail like local ones, on every ipykernel that notebooks use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.ipykernels import VERSIONS
from tests.notebook.local_kernels import LocalKernel, RealPlane, local_kernel, real_plane, until

SLEEPS = """%%remote
import time
print('on', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print('interrupted')
    raise
"""
STUBBORN = """%%remote
import signal, time
hits, shown = [], 0
before = signal.signal(signal.SIGINT, lambda *_: hits.append(1))
deadline = time.time() + 60
print('on', flush=True)
while shown < 3 and time.time() < deadline:
    time.sleep(0.01)
    if len(hits) > shown:
        shown += 1
        print('no', flush=True)
signal.signal(signal.SIGINT, before)
print('end')
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[RealPlane]:
    with real_plane() as plane:
        yield plane


@pytest.fixture(scope="module", params=VERSIONS)
def kernel(request: pytest.FixtureRequest, plane: RealPlane) -> Iterator[LocalKernel]:
    with local_kernel(request.param, plane.setup, plane.env) as kernel:
        kernel.ok(f"import ipykernel; assert ipykernel.__version__ == {request.param!r}, ipykernel.__version__")
        yield kernel


def test_result_has_the_local_number(kernel: LocalKernel) -> None:
    cell = kernel.ok("%%remote\n40 + 2")
    (number,) = [content["execution_count"] for content in cell.of("execute_input")]
    (result,) = cell.of("execute_result")
    assert result["data"] == {"text/plain": "42"}
    assert result["execution_count"] == number


def test_error_is_raised_once_under_its_own_name(kernel: LocalKernel) -> None:
    cell = kernel.run("%%remote\nprint('before')\n1 / 0")
    number = cell.of("execute_input")[0]["execution_count"]
    (error,) = cell.of("error")
    assert (error["ename"], error["evalue"]) == ("ZeroDivisionError", "division by zero")
    assert f"In[{number}]" in "\n".join(error["traceback"]).replace("\x1b[39m", "").replace("\x1b[32m", "")
    assert "follow" not in "\n".join(error["traceback"])
    assert cell.text() == "before\n"
    assert cell.reply is not None
    assert cell.reply["status"] == "error"


def test_error_can_be_caught_as_remote_error(kernel: LocalKernel) -> None:
    kernel.ok(
        "from ciuic_jupyter.errors import RemoteError\n"
        "try:\n    get_ipython().run_cell_magic('remote', '', 'raise KeyError(5)')\n"
        "except RemoteError as error:\n    assert type(error).__name__ == 'KeyError' and str(error) == '5'\n"
        "else:\n    raise AssertionError"
    )


def test_queued_cells_are_aborted_behind_a_remote_error(kernel: LocalKernel) -> None:
    cells = [kernel.start(code) for code in ("%%remote\nimport time; time.sleep(0.3)\n1/0", "ran = 1", "ran = 2")]
    for cell in cells:
        until(lambda cell=cell: cell.reply is not None, "replies")
    assert [cell.reply["status"] for cell in cells if cell.reply] == ["error", "aborted", "aborted"]
    kernel.ok("assert 'ran' not in globals()")


def test_queued_cells_run_in_order_behind_a_good_one(kernel: LocalKernel) -> None:
    cells = [
        kernel.start(code)
        for code in ("order = []", "%%remote\nimport time; time.sleep(0.3)", "order.append(1)", "order.append(2)")
    ]
    for cell in cells:
        until(lambda cell=cell: cell.idle, "replies")
    kernel.ok("assert order == [1, 2], order; del order")


def test_interrupt_ends_the_remote_cell_and_the_local_one(kernel: LocalKernel) -> None:
    cell = kernel.start(SLEEPS)
    queued = kernel.start("ran = 3")
    until(lambda: "on" in cell.text(), "the first output")
    kernel.interrupt()
    until(lambda: cell.idle and queued.reply, "the end")
    (error,) = cell.of("error")
    assert error["ename"] == "KeyboardInterrupt"
    assert cell.text() == "on\ninterrupted\n", "the remote cell was not followed to its end"
    assert queued.reply is not None
    assert queued.reply["status"] == "aborted"
    kernel.ok("%%remote\nprint('well')")


def test_third_interrupt_detaches_and_tells_how_to_attach(kernel: LocalKernel) -> None:
    cell = kernel.start(STUBBORN)
    until(lambda: "on" in cell.text(), "the first output")
    for count in (1, 2):
        kernel.interrupt()
        until(lambda count=count: cell.text().count("no") == count, "the remote answer")
    kernel.interrupt()
    until(lambda: cell.idle, "the end")
    (error,) = cell.of("error")
    assert error["ename"] == "KeyboardInterrupt"
    assert "%ciuic_attach s" in error["evalue"]
    attached = kernel.start("%again")
    until(lambda: "no" in attached.text(), "the outputs so far")
    kernel.interrupt()
    until(lambda: attached.idle, "the end")
    assert attached.text() == "on\nno\nno\nno\nend\n"


def test_input_and_getpass(kernel: LocalKernel) -> None:
    del kernel.questions[:]
    cell = kernel.start(
        "%%remote\nimport getpass\nprint('hello', input('name? ') + getpass.getpass('word? '))", allow_stdin=True
    )
    for prompt, answer in (("name? ", "Ada"), ("word? ", "!")):
        asked = until(lambda prompt=prompt: [q for q in kernel.questions if q["prompt"] == prompt], "the question")
        assert asked[0]["password"] is (prompt == "word? ")
        kernel.answer(answer)
    until(lambda: cell.idle, "the end")
    assert cell.text() == "hello Ada!\n"


def test_interrupt_of_a_question(kernel: LocalKernel) -> None:
    del kernel.questions[:]
    cell = kernel.start("%%remote\ninput('well? ')", allow_stdin=True)
    until(lambda: kernel.questions, "the question")
    kernel.interrupt()
    until(lambda: cell.idle, "the end")
    assert cell.of("error")[0]["ename"] == "KeyboardInterrupt"
    again = kernel.start("%%remote\nprint(input('more? '))", allow_stdin=True)
    until(lambda: len(kernel.questions) > 1, "the second question")
    kernel.answer("yes")
    until(lambda: again.idle, "the end")
    assert again.text() == "yes\n"


def test_detached_outputs_stay_in_their_own_cell(kernel: LocalKernel) -> None:
    cell = kernel.ok(
        "%%remote detach\nimport time\nfor i in range(20):\n    print(i, flush=True)\n    time.sleep(0.05)"
    )
    other = kernel.ok("for i in range(5):\n    print('other', flush=True)")
    until(lambda: "19" in cell.text(), "the last line")
    assert cell.text() == "".join(f"{i}\n" for i in range(20))
    assert other.text() == "other\n" * 5


def test_twenty_thousand_flushed_prints_none_lost(kernel: LocalKernel) -> None:
    cell = kernel.ok("%%remote\nfor i in range(20_000):\n    print(i, flush=True)", 120)
    assert cell.text() == "".join(f"{i}\n" for i in range(20_000))
    assert len(cell.of("stream")) < 600


def test_late_output_of_a_thread_finds_its_cell(kernel: LocalKernel) -> None:
    cell = kernel.ok("%%remote\nimport threading\nthreading.Timer(0.3, lambda: print('late')).start()")
    until(lambda: cell.text() == "late\n", "the late output")


def test_next_input_is_set(kernel: LocalKernel) -> None:
    cell = kernel.ok("%%remote\nget_ipython().set_next_input('x = 1')")
    assert cell.reply is not None
    (payload,) = cell.reply["payload"]
    assert (payload["source"], payload["text"]) == ("set_next_input", "x = 1")


def test_page_of_help_is_shown(kernel: LocalKernel) -> None:
    cell = kernel.ok("%%remote\nlen?")
    assert cell.reply is not None
    (payload,) = cell.reply["payload"]
    assert payload["source"] == "page"
    assert "Return the number of items" in payload["data"]["text/plain"]


def test_error_shown_in_passing_is_an_output(kernel: LocalKernel) -> None:
    cell = kernel.ok(
        "%%remote\nimport time\ntry:\n    1/0\nexcept Exception:\n    get_ipython().showtraceback()\nprint('goes on')"
    )
    assert [content["ename"] for content in cell.of("error")] == ["ZeroDivisionError"]
    assert cell.text() == "goes on\n"


def test_kernel_sigkilled_and_attached_from_a_new_one(kernel: LocalKernel, plane: RealPlane) -> None:
    with local_kernel("7.4.0", plane.setup, plane.env) as doomed:
        cell = doomed.start(
            "%%remote\nimport time\nfor i in range(150):\n    print(i, flush=True)\n    time.sleep(0.01)\n'done'"
        )
        until(lambda: "30\n" in cell.text(), "some output")
        doomed.kill()
    attached = kernel.ok("%again")
    assert attached.text() == "".join(f"{i}\n" for i in range(150))
    assert attached.of("execute_result")[0]["data"] == {"text/plain": "'done'"}
    finished = kernel.ok("%again")
    assert finished.text() == attached.text()


def test_attach_to_a_failed_run_raises_its_error(kernel: LocalKernel) -> None:
    kernel.run("%%remote\nprint('x')\nraise ValueError('no')")
    cell = kernel.run("%again")
    assert cell.text() == "x\n"
    assert [(error["ename"], error["evalue"]) for error in cell.of("error")] == [("ValueError", "no")]


def test_dead_remote_kernel() -> None:
    with real_plane() as plane, local_kernel("7.4.0", plane.setup, plane.env) as kernel:
        cell = kernel.start("%%remote\nimport os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
        until(lambda: cell.text(), "the first output")
        os.kill(int(cell.text()), signal.SIGKILL)
        until(lambda: cell.idle, "the end")
        (error,) = cell.of("error")
        assert error["ename"] == "KernelDied"
        assert "%ciuic_resume" in error["evalue"]
