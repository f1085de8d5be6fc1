"""An agent with its real kernel: runs, outputs without loss, input, interrupt, widgets, cuts of the line."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.kernels.agent_client import Event, Machine, Plane, machine


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("box")) as made:
        made.connect().ready().cut()
        yield made


@pytest.fixture
def plane(box: Machine) -> Iterator[Plane]:
    """A connection of its own on the shared machine; only new events reach it."""
    first = box.connect()
    made = box.connect(after=first.hello["last_seq"])
    first.cut()
    yield made
    made.close()


def kinds(plane: Plane) -> list[str]:
    return [e["msg_type"] if e["kind"] == "output" else e["kind"] for e in plane.events]


def test_a_run_from_start_to_end(plane: Plane) -> None:
    ended = plane.run("print('out')\n6 * 7", run="first", cell_id="cell-1")
    assert kinds(plane) == ["run_started", "stream", "execute_result", "run_ended"]
    started, _, result, _ = plane.events
    assert (started["code"], started["cell_id"], started["run"]) == ("print('out')\n6 * 7", "cell-1", "first")
    assert result["content"]["data"]["text/plain"] == "42"
    assert ended["status"] == "ok" and ended["count"] == started["count"] == result["content"]["execution_count"]
    assert 0 < ended["seconds"] < 30 and "incomplete" not in ended


def test_an_error_ends_the_run_and_the_next_one_works(plane: Plane) -> None:
    ended = plane.run("print('before')\n1 / 0")
    assert (ended["status"], ended["ename"], ended["evalue"]) == ("error", "ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in ended["traceback"][-1]
    assert kinds(plane) == ["run_started", "stream", "error", "run_ended"]
    assert plane.run("pass")["status"] == "ok"


def test_a_run_without_history_does_not_count(plane: Plane) -> None:
    count = plane.run("pass")["count"]
    plane.run("pass", store_history=False)
    assert plane.run("pass")["count"] == count + 1


def test_twenty_thousand_flushed_lines_arrive(plane: Plane) -> None:
    plane.run("for i in range(20_000): print(i, flush=True)")
    assert plane.text() == "".join(f"{i}\n" for i in range(20_000))


def test_streams_keep_their_order_among_other_outputs(plane: Plane) -> None:
    plane.run(
        "import sys\nfrom IPython.display import display\n"
        "for i in range(50):\n    print('o', i)\n    print('e', i, file=sys.stderr)\n    display(i)"
    )
    pieces: list[tuple[str, str]] = []
    for event in (e for e in plane.events if e["kind"] == "output"):
        content = event["content"]
        if "text" not in content:
            pieces.append(("", content["data"]["text/plain"]))
            continue
        begun = pieces.pop()[1] if pieces and pieces[-1][0] == content["name"] else ""  # a line may come in two
        pieces.append((content["name"], begun + content["text"]))
    shown = [line for _, text in pieces for line in text.splitlines()]
    assert shown == [text for i in range(50) for text in (f"o {i}", f"e {i}", str(i))]


def test_pieces_of_a_line_are_merged_but_the_first_goes_at_once(plane: Plane) -> None:
    plane.run("import time\nfor i in range(200):\n    print(i, end=' ', flush=True)\n    time.sleep(0.002)")
    pieces = [e for e in plane.events if e["kind"] == "output"]
    assert "".join(e["content"]["text"] for e in pieces) == "".join(f"{i} " for i in range(200))
    assert 3 <= len(pieces) < 150
    assert len(pieces[0]["content"]["text"]) < 150


def test_a_display_with_buffers_and_ten_megabytes(plane: Plane) -> None:
    plane.run(
        "from IPython.display import publish_display_data\npublish_display_data({'text/plain': 'x' * 10_000_000})"
    )
    (shown,) = [e for e in plane.events if e["kind"] == "output"]
    assert shown["content"]["data"]["text/plain"] == "x" * 10_000_000


def test_one_run_at_a_time_and_the_same_one_twice(plane: Plane) -> None:
    plane.call("run", run="slow", code="input('go')")
    plane.until(lambda e: e["kind"] == "input_request")
    assert plane.call("run", run="slow", code="input('go')")["run"] == "slow"
    busy = plane.reply(plane.ask("run", run="other", code="print('never')"))
    assert not busy["ok"] and busy["error"]["message"].startswith("busy")
    plane.call("input", run="slow", value="on")
    assert plane.until(lambda e: e["kind"] == "run_ended")["status"] == "ok"
    assert plane.call("run", run="slow", code="input('go')")["run"] == "slow"
    plane.run("print('after')")
    assert plane.text() == "after\n"
    assert [e["run"] for e in plane.events if e["kind"] == "run_started"].count("slow") == 1


def test_the_same_request_id_twice_has_one_effect_and_one_answer(plane: Plane) -> None:
    plane.run("n = 0")
    again = [plane.reply(plane.ask("run", request="same", run="once", code="n += 1")) for _ in range(3)]
    assert again[0] == again[1] == again[2]
    plane.until(lambda e: e["kind"] == "run_ended" and e["run"] == "once")
    plane.run("print(n)")
    assert plane.text() == "1\n"


def test_input_and_password_are_asked_and_answered(plane: Plane) -> None:
    plane.call("run", run="asks", code="import getpass\nprint([input('name? '), getpass.getpass('secret? ')])")
    asked = plane.until(lambda e: e["kind"] == "input_request")
    assert (asked["prompt"], asked["password"], asked["run"]) == ("name? ", False, "asks")
    plane.call("input", run="asks", value="Ada")
    asked = plane.until(lambda e: e["kind"] == "input_request" and e["password"])
    assert asked["prompt"] == "secret? "
    plane.call("input", run="asks", value="l\u00f6ve")
    plane.until(lambda e: e["kind"] == "run_ended")
    assert plane.text() == "['Ada', 'l\u00f6ve']\n"
    refused = plane.reply(plane.ask("input", run="asks", value="late"))
    assert refused["error"]["type"] == "UsageError"


def test_interrupt_ends_a_loop_and_an_input(plane: Plane) -> None:
    for code, first in (("print('on', flush=True)\nwhile True: pass", "output"), ("input('?')", "input_request")):
        run = os.urandom(4).hex()
        plane.call("run", run=run, code=code)
        plane.until(lambda e, run=run, first=first: e["kind"] == first and e["run"] == run)
        assert not plane.call("interrupt", run="another")["interrupted"]
        assert plane.call("interrupt", run=run)["interrupted"]
        ended = plane.until(lambda e, run=run: e["kind"] == "run_ended" and e["run"] == run)
        assert (ended["status"], ended["ename"]) == ("error", "KeyboardInterrupt")
    assert not plane.call("interrupt", run=run)["interrupted"]
    assert plane.run("print('lives')")["status"] == "ok"


def test_forty_interrupts_at_any_moment_leave_a_healthy_kernel(plane: Plane) -> None:
    chance = random.Random(4)
    for number in range(40):
        run = f"loop-{number}-{os.urandom(4).hex()}"
        started = plane.ask("run", run=run, code="s = 0\nfor i in range(10**9): s += i")
        wait = chance.choice([0, 0, 0.001, 0.003, 0.01, 0.05])
        if wait:
            threading.Event().wait(wait)
        assert plane.reply(plane.ask("interrupt", run=run))["interrupted"]
        ended = plane.until(lambda e, run=run: e["kind"] == "run_ended" and e["run"] == run)
        assert (ended["status"], ended["ename"]) == ("error", "KeyboardInterrupt")
        assert plane.reply(started)["ok"]
    plane.run("print('healthy')")
    assert plane.text() == "healthy\n"


def test_a_widgets_message_reaches_the_kernel_and_its_answer_comes_back(plane: Plane) -> None:
    plane.run(
        "from comm import create_comm\nc = create_comm(target_name='t', data={'a': 1}, buffers=[b'first'])\n"
        "c.on_msg(lambda m: c.send({'got': m['content']['data'], 'n': len(m['buffers'])}, buffers=m['buffers']))"
    )
    opened = plane.until(lambda e: e.get("msg_type") == "comm_open")
    assert opened["content"]["data"] == {"a": 1} and bytes(opened["buffers"][0]) == b"first"
    content = {"comm_id": opened["content"]["comm_id"], "data": {"click": 2}}
    sent = plane.ask("comm", msg_type="comm_msg", content=content, metadata={}, buffers=[b"abc"])
    assert plane.reply(sent)["ok"]
    answer = plane.until(lambda e: e.get("msg_type") == "comm_msg")
    assert answer["content"]["data"] == {"got": {"click": 2}, "n": 1}
    assert bytes(answer["buffers"][0]) == b"abc" and answer["run"] == opened["run"]


def test_a_thread_that_outlives_its_cell_still_writes_to_it(plane: Plane) -> None:
    plane.run(
        "import threading\ngo = threading.Event()\n"
        "def late():\n    go.wait()\n    print('late', flush=True)\n"
        "t = threading.Thread(target=late); t.start()",
        run="starts",
    )
    plane.run("go.set(); t.join()", run="later")
    assert plane.until(lambda e: e["kind"] == "output")["content"]["text"] == "late\n"


def test_what_the_agent_does_not_know_is_refused_by_name(plane: Plane) -> None:
    for content in ({"op": "dance"}, {"op": "run", "run": 3, "code": "x"}, {"op": "lease", "seconds": -1}):
        reply = plane.reply(plane.ask(content.pop("op"), **content))
        assert not reply["ok"] and reply["error"]["type"] == "UsageError"
    assert plane.run("pass")["status"] == "ok"


def test_usage_is_told_at_most_twice_a_second_with_the_kernels_state(plane: Plane) -> None:
    plane.call("run", run="waits", code="input()")
    plane.until(lambda e: e["kind"] == "input_request")
    while len([f for f in plane.frames if f["type"] == "sample"]) < 4:
        plane.next()
    samples = [f for f in plane.frames if f["type"] == "sample"]
    assert samples[-1]["kernel"]["quiet"] is False and "waits" in samples[-1]["kernel"]["detail"]
    gaps = [b["now"] - a["now"] for a, b in itertools.pairwise(samples)]
    assert min(gaps) > 0.4
    plane.call("input", run="waits", value="")
    plane.until(lambda e: e["kind"] == "run_ended")
    count = len(plane.frames)
    while len(plane.frames) < count + 2:
        plane.next()
    assert plane.frames[-1]["kernel"]["quiet"] is True


def test_a_process_that_left_the_kernel_still_counts_as_its_work(plane: Plane) -> None:
    plane.run(
        "import os, subprocess, sys\n"
        "spin = 'import os;os.fork() and os._exit(0); os.setsid(); print(os.getpid(), flush=True)\\nwhile True: pass'\n"
        "p = subprocess.Popen([sys.executable, '-c', spin], stdout=subprocess.PIPE)\n"
        "pid = int(p.stdout.readline()); p.wait()"
    )

    def loud(frame: Event) -> bool:
        return frame["type"] == "sample" and frame["processes"] >= 2 and frame["cpu_percent"] > 20

    while not any(loud(frame) for frame in plane.frames):
        plane.next()
    plane.run("os.kill(pid, 9)")
    count = len(plane.frames)
    while not any(frame["type"] == "sample" and frame["processes"] == 1 for frame in plane.frames[count:]):
        plane.next()


def test_nothing_is_lost_or_doubled_over_twenty_cuts(plane: Plane, box: Machine) -> None:
    plane.call(
        "run", run="long", code="import time\nfor i in range(1000):\n    print(i, flush=True)\n    time.sleep(0.004)"
    )
    cuts = 0
    while not any(e["kind"] == "run_ended" for e in plane.events):
        seen = plane.last
        while plane.last < seen + 2 and not any(e["kind"] == "run_ended" for e in plane.events):
            plane.next()
        plane.cut()
        cuts += 1
        plane.take_over(box.connect(after=plane.last))
    assert cuts >= 20
    assert plane.text("long") == "".join(f"{i}\n" for i in range(1000))


def test_a_plane_that_does_not_read_blocks_nothing(box: Machine, plane: Plane) -> None:
    stalled = box.connect(after=plane.hello["last_seq"])
    stalled.call("run", run="floods", code="for i in range(40): print('x' * 1_000_000)\nopen('flooded', 'w').close()")
    done = box.root / "flooded"
    stop = threading.Event()
    threading.Timer(60, stop.set).start()
    while not done.exists() and not stop.is_set():
        stalled.send({"type": "beat"})
        stop.wait(0.02)
    assert done.exists()
    fresh = box.connect(after=plane.hello["last_seq"])
    fresh.until(lambda e: e["kind"] == "run_ended" and e["run"] == "floods")
    assert len(fresh.text("floods")) == 40 * 1_000_001
    fresh.close()


def test_the_newest_connection_takes_over(box: Machine, plane: Plane) -> None:
    from websockets.exceptions import ConnectionClosed

    newer = box.connect(after=plane.last)
    with pytest.raises(ConnectionClosed):
        while True:
            plane.next()
    assert newer.run("print(1)")["status"] == "ok"
    newer.close()


def test_garbage_closes_a_connection_and_never_the_agent(box: Machine, plane: Plane) -> None:
    from websockets.exceptions import ConnectionClosed

    from ciuic_jupyter.kernels.protocol import encode

    hello = encode({"type": "hello", "after": 0})
    starts: list[list[bytes | str]] = [
        [b"\xff" * 40],
        ["text"],
        [encode({"type": "beat"})],
        [encode({"type": "hello"})],
        [encode({"type": "hello", "after": -1})],
        [encode({"type": "hello", "after": 10**12})],
        [hello, b""],
        [hello, "text"],
        [hello, encode({"type": "surprise"})],
        [hello, encode({"type": "request", "op": "run"})],
    ]
    for start in starts:
        with box.socket() as raw:
            for data in start:
                raw.send(data)
            with pytest.raises(ConnectionClosed):
                while True:
                    raw.recv(timeout=30)
    again = box.connect(after=plane.last)
    assert again.run("print('lives')")["status"] == "ok"
    again.close()


def test_without_the_token_nobody_is_let_in(box: Machine, plane: Plane) -> None:
    from websockets.exceptions import InvalidStatus

    for path in ("/", "/blob/x", "/anything"):
        for token in ("", "wrong", "t" * 39, "t" * 41):
            with pytest.raises(InvalidStatus, match="401"):
                box.socket(path, token)


def test_only_we_can_reach_the_sockets_and_no_process_shows_the_token(box: Machine, plane: Plane) -> None:
    runtime = Path(box.config["socket"]).parent
    assert runtime.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o077 for p in runtime.iterdir()} == {0}
    agent = psutil.Process(box.process.pid)
    for process in (agent, *agent.children(recursive=True)):
        shown = b""
        with suppress(FileNotFoundError, ProcessLookupError):  # one that ends while we look
            shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            shown += Path(f"/proc/{process.pid}/environ").read_bytes()
        assert box.config["token"].encode() not in shown and box.config["key_hex"].encode() not in shown


def test_a_kernel_of_two_names_the_machine_and_leads_its_own_session(box: Machine, plane: Plane) -> None:
    plane.run("import os\nprint(os.environ['CIUIC_MACHINE'], os.getsid(0) == os.getpid(), os.getcwd())")
    assert plane.text() == f"{box.root.name} True {box.root}\n"
    assert box.kernel_pid() in [p.pid for p in psutil.Process(box.process.pid).children()]


def test_sigterm_ends_every_process_even_those_that_hid(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.run(
            "import subprocess, sys\n"
            "stubborn = 'import signal, time; signal.signal(15, 1); print(1, flush=True); time.sleep(600)'\n"
            "p = subprocess.Popen([sys.executable, '-c', stubborn], stdout=subprocess.PIPE); p.stdout.readline()\n"
            "print(p.pid)\n"
            "hidden = 'import os, time; os.setsid(); os.fork() and os._exit(0); print(os.getpid(), flush=True);'\n"
            "hidden = [sys.executable, '-c', hidden + 'time.sleep(600)']\n"
            "print(subprocess.Popen(hidden, stdout=subprocess.PIPE).stdout.readline().decode())"
        )
        pids = [int(text) for text in plane.text().split()]
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        family = psutil.Process(made.process.pid).children(recursive=True)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(timeout=30) == 0
        assert not [pid for pid in pids if psutil.pid_exists(pid)]
        _, alive = psutil.wait_procs(family, timeout=10)
        assert not alive
        assert made.final()["reason"] == "stopped"


def test_stop_answers_by_ending(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.ask("stop")
        assert made.process.wait(timeout=30) == 0
        assert made.final()["reason"] == "stop"
