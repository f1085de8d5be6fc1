"""Output of a kernel: no line is lost, none overtakes another, and a flush costs next to nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ipykernels import VERSIONS
from tests.kernels.forked_kernel import ForkedKernel


@pytest.fixture(params=VERSIONS)
def kernel(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ForkedKernel]:
    with ForkedKernel(tmp_path / "k", version=request.param) as made:
        yield made


def words(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return what was shown as (where, line), in order; a line may come in several messages."""
    found: list[tuple[str, str]] = []
    for message in messages:
        content = message["content"]
        if message["msg_type"] == "stream":
            begun = found.pop()[1] if found and found[-1][0] == content["name"] else ""
            found.append((content["name"], begun + content["text"]))
        elif message["msg_type"] in ("display_data", "execute_result"):
            found.append((message["msg_type"], content["data"]["text/plain"]))
        else:
            found.append((message["msg_type"], content.get("ename", "")))
    return [(where, line) for where, text in found for line in (text.splitlines() or [""])]


def test_twenty_thousand_flushed_lines_arrive_in_few_messages(kernel: ForkedKernel) -> None:
    for _ in range(3):
        shown = kernel.client.run("for i in range(20_000): print(i, flush=True)")
        assert "".join(message["content"]["text"] for message in shown) == "".join(f"{i}\n" for i in range(20_000))
        assert len(shown) < 400
    assert kernel.client.pending() == []


def test_displays_results_and_errors_do_not_overtake_flushed_lines(kernel: ForkedKernel) -> None:
    code = "for i in range(400):\n    print(i, flush=True)\n    display(i)\nprint('end', flush=True)\n'result'"
    expected = [pair for i in range(400) for pair in (("stdout", str(i)), ("display_data", str(i)))]
    assert words(kernel.client.run(code)) == [*expected, ("stdout", "end"), ("execute_result", "'result'")]
    code = "from IPython.display import clear_output\n"
    code += "for i in range(50):\n    print(i, flush=True)\n    clear_output()\n1/0"
    expected = [pair for i in range(50) for pair in (("stdout", str(i)), ("clear_output", ""))]
    assert words(kernel.client.run(code)) == [*expected, ("error", "ZeroDivisionError")]


def test_widget_messages_do_not_overtake_flushed_lines(kernel: ForkedKernel) -> None:
    kernel.client.text("from comm import create_comm; line = create_comm(target_name='t')")
    shown = words(kernel.client.run("for i in range(200):\n    print(i, flush=True)\n    line.send({'i': i})"))
    assert shown == [pair for i in range(200) for pair in (("stdout", str(i)), ("comm_msg", ""))]


def test_the_two_streams_keep_their_order_where_they_are_flushed(kernel: ForkedKernel) -> None:
    code = "import sys\nfor i in range(300):\n    print(i, flush=True)\n    print(i, file=sys.stderr, flush=True)"
    expected = [pair for i in range(300) for pair in (("stdout", str(i)), ("stderr", str(i)))]
    assert words(kernel.client.run(code)) == expected


def test_text_that_a_timer_sends_overtakes_no_flushed_line(kernel: ForkedKernel) -> None:
    code = (
        "import sys\nprint('a', flush=True)\nprint('b', flush=True)\nsys.stderr.write('half')\n"
        "sys.stderr.pub_thread.schedule(sys.stderr._flush)"
    )
    assert words(kernel.client.run(code)) == [("stdout", "a"), ("stdout", "b"), ("stderr", "half")]


def test_a_line_flushed_just_after_another_does_not_wait_for_the_cell(kernel: ForkedKernel) -> None:
    code = "for word in 'abc': print(word, flush=True)\nwhile True: pass"
    kernel.client.raw.execute(code)
    seen = ""
    while seen != "a\nb\nc\n":
        message = kernel.client.raw.get_iopub_msg(timeout=20)
        if message["msg_type"] == "stream":
            seen += message["content"]["text"]


def test_a_fork_sends_nothing_twice(kernel: ForkedKernel) -> None:
    # one write a token: ipykernel sends each write of a forked child by itself, and the parent's text may come between
    code = """
import os, sys
for i in range(30):
    sys.stdout.write(f'<p{i}>')
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        sys.stdout.write(f'<c{i}>')
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
"""
    shown = words(kernel.client.run(code)) + words(
        [message for message in kernel.client.pending() if message["msg_type"] == "stream"]
    )
    tokens = re.findall(r"<(.)(\d+)>", "".join(line for _, line in shown))
    assert sorted(tokens) == sorted((who, str(i)) for who in "pc" for i in range(30))
