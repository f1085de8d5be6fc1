"""A kernel in a forked child: it owns everything it has, and says nothing of us to the user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ipykernels import VERSIONS
from tests.kernels.forked_kernel import ForkedKernel, is_alive, wait_until

EVERY_VERSION = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[ForkedKernel]:
    with ForkedKernel(tmp_path / "k") as made:
        yield made


@EVERY_VERSION
def test_it_runs_cells_as_any_ipykernel_of_this_version(version: str, tmp_path: Path) -> None:
    with ForkedKernel(tmp_path / "k", version=version) as kernel:
        assert kernel.client.value("__import__('ipykernel').__version__") == version
        (shown,) = kernel.client.run("x = 20\nx + 1")
        assert shown["msg_type"] == "execute_result"
        assert shown["content"]["data"]["text/plain"] == "21" and shown["content"]["execution_count"] == 2
        (error,) = kernel.client.run("1 / 0")
        assert error["msg_type"] == "error" and error["content"]["ename"] == "ZeroDivisionError"
        assert kernel.client.text("await __import__('asyncio').sleep(0); print('async')") == "async\n"
        assert kernel.log.read_text() == ""


@EVERY_VERSION
def test_the_namespace_is_that_of_a_plain_kernel(version: str, tmp_path: Path) -> None:
    from jupyter_client.manager import start_new_kernel

    with ForkedKernel(tmp_path / "k", version=version) as kernel:
        ours = set(kernel.client.value("list(globals())"))
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        answer = client.execute_interactive("0", user_expressions={"names": "list(globals())"}, timeout=60)
        plain = set(eval(answer["content"]["user_expressions"]["names"]["data"]["text/plain"]))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert {name for name in ours ^ plain if not name.startswith("_")} == set()
    assert not [name for name in ours if "ciuic" in name.lower()]


def test_it_leads_a_session_and_holds_no_descriptor_of_its_parent(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    before = f"kept = open({str(secret)!r}); import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    before += "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); import atexit; atexit.register(print, 'no')"
    with ForkedKernel(tmp_path / "k", before=before) as kernel:
        client = kernel.client
        assert os.getsid(kernel.pid) == kernel.pid and os.getpgid(kernel.pid) == kernel.pid
        assert client.value("[__import__('os').readlink(f'/proc/self/fd/0')]") == ["/dev/null"]
        held = [os.readlink(entry) for entry in Path(f"/proc/{kernel.pid}/fd").iterdir()]
        assert str(secret) not in held and str(kernel.log) in held
        assert client.value("int(__import__('signal').getsignal(15))") == int(signal.SIG_DFL)
        assert client.value("len(__import__('signal').pthread_sigmask(0, []))") == 0
        client.raw.shutdown()
        assert kernel.exit_code() == 0


def test_the_users_exit_hooks_run_and_the_exit_code_is_zero(kernel: ForkedKernel, tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    kernel.client.text(f"import atexit, pathlib; _ = atexit.register(pathlib.Path({str(mark)!r}).touch)")
    kernel.client.raw.shutdown()
    assert kernel.exit_code() == 0
    assert mark.exists()


def test_it_dies_with_the_process_that_forked_it(kernel: ForkedKernel) -> None:
    assert is_alive(kernel.pid)
    kernel.parent.kill()
    wait_until(lambda: not is_alive(kernel.pid))


def test_folder_environment_and_arguments_are_the_sessions(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "beside.py").write_text("here = True")
    env = {"MY_FLAG": "1"}
    inherited = {
        "JPY_SESSION_NAME": "other.ipynb",
        "CIUIC_TOKEN": "secret",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JPY_PARENT_PID": "1",
    }
    with ForkedKernel(tmp_path / "k", cwd=work, env=env, parent_env=inherited) as kernel:
        client = kernel.client
        client.text("import os, sys")
        assert client.value("os.getcwd()") == str(work) and client.value("os.environ['MY_FLAG']") == "1"
        assert client.value("[name for name in ('JPY_SESSION_NAME', 'CIUIC_TOKEN') if name in os.environ]") == []
        assert client.value("'__session__' in globals()") is False
        assert client.value("sys.argv") == [""]
        assert client.value("__import__('beside').here") is True
        assert client.value("[name for name in sys.path if name == '']") == [""], "a notebook imports from its folder"
        assert client.value("sys.path[0]") != ""


def test_a_folder_that_is_missing_here_is_said_in_the_log(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with ForkedKernel(tmp_path / "k", cwd=gone) as kernel:
        assert kernel.client.value("__import__('os').getcwd()") == os.path.expanduser("~")
        assert str(gone) in kernel.log.read_text()


def test_two_kernels_of_one_state_draw_different_numbers(tmp_path: Path) -> None:
    seeded = "import random, numpy, torch; random.seed(1); numpy.random.seed(1); torch.manual_seed(1)"
    draw = "[random.random(), numpy.random.rand(), torch.rand(1, dtype=torch.float64).item()]"
    drawn = []
    for name in ("a", "b"):
        with ForkedKernel(tmp_path / name, before=seeded) as kernel:
            kernel.client.text("import random, numpy, torch")
            drawn.append(kernel.client.value(draw))
    parents = subprocess.check_output([sys.executable, "-c", f"{seeded}; print({draw})"], text=True)
    assert len({*drawn[0], *drawn[1], *json.loads(parents)}) == 9


def test_a_client_that_connects_draws_no_number(kernel: ForkedKernel) -> None:
    kernel.client.text("import random; random.seed(7); state = random.getstate()")
    for _ in range(3):
        kernel.client.raw.kernel_info(reply=True, timeout=30)
    assert kernel.client.value("random.getstate() == state") is True


def test_a_figure_is_shown_inline(kernel: ForkedKernel) -> None:
    shown = kernel.client.run("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nNone")
    assert [message["msg_type"] for message in shown] == ["display_data"]
    assert "image/png" in shown[0]["content"]["data"]


def test_an_interrupt_ends_the_cell_and_not_the_kernel(kernel: ForkedKernel) -> None:
    sent = kernel.client.raw.execute("print('on', flush=True)\nwhile True: pass", stop_on_error=False)
    while kernel.client.raw.get_iopub_msg(timeout=30)["msg_type"] != "stream":
        pass
    os.kill(kernel.pid, signal.SIGINT)
    reply = kernel.client._reply(sent)
    assert reply["ename"] == "KeyboardInterrupt"
    assert kernel.client.value("1 + 1") == 2


@EVERY_VERSION
def test_an_interrupt_at_any_moment_of_a_cell_is_answered(version: str, tmp_path: Path) -> None:
    with ForkedKernel(tmp_path / "k", version=version) as kernel:
        client = kernel.client
        for _ in range(40):
            sent = client.raw.execute("import time\nwhile True: time.sleep(0.001)", stop_on_error=False)
            while client.raw.get_iopub_msg(timeout=30)["msg_type"] != "execute_input":
                pass
            os.kill(kernel.pid, signal.SIGINT)
            assert client._reply(sent)["ename"] == "KeyboardInterrupt"
        strike = "if 'strike' in lines[0]: os.kill(os.getpid(), signal.SIGINT)"
        client.text(f"import os, signal\ndef soon(lines):\n    {strike}\n    return lines")
        client.text("get_ipython().input_transformers_cleanup.append(soon)")
        shown = client.run("'strike'\nran = True")
        assert [message["content"]["ename"] for message in shown] == ["KeyboardInterrupt"]
        client.text("get_ipython().input_transformers_cleanup.remove(soon)")
        client.text("def first(info): os.kill(os.getpid(), signal.SIGINT) if 'strike' in info.raw_cell else None")
        client.text("get_ipython().events.register('pre_run_cell', first)")
        shown = client.run("'strike'\nran = True")
        assert [message["content"]["ename"] for message in shown] == ["KeyboardInterrupt"]
        shown = client.run("'strike'\nawait __import__('asyncio').sleep(60)\nran = True")
        assert shown[0]["content"]["ename"] == "CancelledError", "ipykernel's own way for a cell with await"
        assert client.value("'ran' in globals()") is False
        assert client.value("signal.getsignal(signal.SIGINT) is signal.default_int_handler") is True
        assert client.text("!echo on") == "on\r\n"


def test_history_works_and_no_file_is_shared(kernel: ForkedKernel, tmp_path: Path) -> None:
    kernel.client.run("first = 1")
    kernel.client.run("first + 1")
    assert "first = 1" in kernel.client.text("%history")
    assert kernel.client.value("[In[1], Out[2], _i2]") == ["first = 1", 2, "first + 1"]
    assert list(tmp_path.rglob("history.sqlite")) == []
    assert "HistorySaving" not in kernel.client.text("import threading; print(threading.enumerate())")


def test_child_processes_get_a_usable_environment(kernel: ForkedKernel) -> None:
    code = "import multiprocessing as mp\nwith mp.get_context('fork').Pool(2) as pool: got = pool.map(abs, [-1, -2])"
    kernel.client.text(code)
    assert kernel.client.value("got") == [1, 2]
    assert "42" in kernel.client.text("!echo 42")


def test_a_kernel_that_cannot_start_says_why_in_the_log(tmp_path: Path) -> None:
    code = """
import os
from ciuic_jupyter.kernels import kernelapp
connection = {"transport": "ipc", "ip": "/nowhere/k", "key": "k", "signature_scheme": "hmac-sha256",
              "shell_port": 1, "iopub_port": 2, "stdin_port": 3, "control_port": 4, "hb_port": 5}
parent = os.getpid()
pid = os.fork()
if pid == 0:
    kernelapp.main(connection, None, {}, parent=parent)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
