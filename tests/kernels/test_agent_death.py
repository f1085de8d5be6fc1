"""Deaths: of the kernel under a run, of the agent by SIGKILL, of a kernel that never starts."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from pathlib import Path

import psutil

from tests.kernels.agent_client import Machine, machine


def test_a_killed_kernel_ends_its_run_and_is_told(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.call("run", run="doomed", code="print('last words', flush=True)\nimport time\ntime.sleep(600)")
        plane.until(lambda e: e["kind"] == "output")
        os.kill(made.kernel_pid(), signal.SIGKILL)
        dead = plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "dead")
        assert (dead["signal"], dead["exit_code"]) == (signal.SIGKILL, None)
        ended = plane.events[-2]
        assert (ended["kind"], ended["run"], ended["status"]) == ("run_ended", "doomed", "died")
        assert "SIGKILL" in ended["evalue"]
        assert plane.text() == "last words\n"
        for op, content in (("run", {"run": "next", "code": "1"}), ("names", {}), ("save", {})):
            refused = plane.reply(plane.ask(op, **content))
            assert not refused["ok"] and "dead" in refused["error"]["message"]
        fresh = made.connect(after=plane.last)
        assert fresh.hello["kernel"] == "dead" and fresh.hello["run"] is None
        fresh.close()


def test_everything_a_kernel_printed_before_its_end_arrives(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        code = f"""
            import os, sys, time
            print("on", flush=True)
            while not os.path.exists({str(go)!r}): time.sleep(0.01)
            for i in range(5000): print(i)
            sys.stdout.drain()
            time.sleep(0.5)  # for the sending thread: what it holds dies with the process
            os._exit(7)
        """
        plane.call("run", run="exits", code=textwrap.dedent(code))
        plane.until(lambda e: plane.text() == "on\n")
        kernel = psutil.Process(made.kernel_pid())
        made.process.send_signal(signal.SIGSTOP)
        try:
            go.touch()
            while kernel.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
        finally:
            made.process.send_signal(signal.SIGCONT)
        dead = plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "dead")
        assert (dead["exit_code"], dead["signal"]) == (7, None)
        assert plane.text() == "on\n" + "".join(f"{i}\n" for i in range(5000))
        assert [e["status"] for e in plane.events if e["kind"] == "run_ended"] == ["died"]


def test_a_death_while_variables_are_asked_answers_them(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        plane = made.connect().ready()
        plane.call("run", run="blocks", code="input()")
        plane.until(lambda e: e["kind"] == "input_request")
        asked = plane.ask("names")
        os.kill(made.kernel_pid(), signal.SIGKILL)
        reply = plane.reply(asked)
        assert reply["error"]["type"] == "KernelDied"


def test_a_killed_agent_takes_its_kernel_and_what_that_started_along(tmp_path: Path) -> None:
    made = Machine(tmp_path)
    plane = made.connect().ready()
    plane.run(
        "import subprocess, sys, os\n"
        "sleeper = 'import time; print(1, flush=True); time.sleep(600)'\n"
        "p = subprocess.Popen([sys.executable, '-c', sleeper], stdout=subprocess.PIPE); p.stdout.readline()\n"
        "q = subprocess.Popen([sys.executable, '-c', sleeper], stdout=subprocess.PIPE, start_new_session=True)\n"
        "q.stdout.readline()\n"
        "r = os.fork()\n"
        "if r == 0: import time; time.sleep(600)\n"
        "print(p.pid, q.pid, r)"
    )
    assert len(plane.text().split()) == 3
    family = psutil.Process(made.process.pid).children(recursive=True)
    assert {int(text) for text in plane.text().split()} <= {process.pid for process in family}
    plane.run("import time")
    made.process.send_signal(signal.SIGKILL)
    made.process.wait(timeout=30)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive
    assert not (made.directory / "final.json").exists()
    plane.close()


def test_a_second_agent_on_one_machine_refuses_to_live(tmp_path: Path) -> None:
    with machine(tmp_path) as made:
        made.connect().ready().close()
        second = Machine(tmp_path)
        assert second.process.wait(timeout=30) == 1
        assert "held by another process" in (made.directory / "out.log").read_text()
        assert made.connect().ready().run("1")["status"] == "ok"


def test_a_new_agent_after_a_killed_one_serves_again(tmp_path: Path) -> None:
    first = Machine(tmp_path)
    plane = first.connect().ready()
    plane.run("print('one')")
    last = plane.last
    first.process.kill()
    first.process.wait(timeout=30)
    plane.close()
    with machine(tmp_path) as second:
        plane = second.connect(after=last)
        plane.until(lambda e: e["kind"] == "kernel" and e["state"] == "ready")
        plane.run("print('two')")
        assert plane.text() == "two\n"


def test_a_config_that_is_wrong_is_named(tmp_path: Path) -> None:
    for change, words in (
        ({"key_hex": "zz"}, "config is wrong"),
        ({"token": ""}, "no token"),
        ({"socket": str(tmp_path / ("x" * 120) / "agent.sock")}, "CIUIC_RUNTIME_DIR"),
    ):
        made = Machine(tmp_path, **change)
        assert made.process.wait(timeout=30) == 1
        assert words in (made.directory / "out.log").read_text()


def test_sigterm_at_any_moment_of_the_start_ends_the_machine(tmp_path: Path) -> None:
    for number in range(8):
        root = tmp_path / str(number)
        root.mkdir()
        made = Machine(root)
        lock = made.directory / "lock"
        while not (lock.exists() and lock.stat().st_size):
            assert made.process.poll() is None
        threading.Event().wait(number * 0.05)
        made.process.send_signal(signal.SIGTERM)
        assert made.process.wait(timeout=30) in (0, -signal.SIGTERM)
        if made.process.returncode == 0:
            assert made.final()["reason"] == "stopped"
        ends = time.monotonic() + 10
        while left := [p.pid for p in psutil.process_iter() if _of(p, root)]:
            assert time.monotonic() < ends, left


def _of(process: psutil.Process, root: Path) -> bool:
    """Whether it was forked from the agent of `root`, whose command line it shares."""
    try:
        return any(str(root) in word for word in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
