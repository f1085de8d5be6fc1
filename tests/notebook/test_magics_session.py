"""The magics on the real thing: control plane, local machines and remote kernels, from a terminal's IPython shell."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from IPython.core.interactiveshell import InteractiveShell

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.notebook.report import Report


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Directories of a control plane of this module's own; plane and machines are gone afterwards."""
    home = tmp_path_factory.mktemp("home")
    runtime = tempfile.mkdtemp(prefix="ciuic-m-")
    patch = pytest.MonkeyPatch()
    for name, value in {
        "CIUIC_STATE_DIR": str(home / "state"),
        "CIUIC_RUNTIME_DIR": runtime,
        "CIUIC_WARM_START": "0",
        "IPYTHONDIR": str(home / "ipython"),
    }.items():
        patch.setenv(name, value)
    yield home
    plane = PlaneClient.find()
    if plane is not None:
        for view in plane.sessions():
            if view["state"] != "closed":
                plane.release(view["name"], discard=True) if view["state"] != "paused" else None
        plane.shutdown()
    patch.undo()
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def shell(home: Path) -> Iterator[Any]:
    """An IPython shell with the extension loaded, as a terminal has it."""
    from traitlets.config import Config

    InteractiveShell.clear_instance()
    config = Config()
    config.HistoryManager.enabled = False
    shell = InteractiveShell.instance(config=config)
    shell.run_line_magic("load_ext", "ciuic_jupyter")
    yield shell
    shell.run_line_magic("unload_ext", "ciuic_jupyter")
    InteractiveShell.clear_instance()


def run(shell: Any, code: str) -> Any:
    """Run a cell that must succeed and return its value."""
    result = shell.run_cell(code)
    result.raise_error()
    return result.result


def until(found: Callable[[], Any]) -> None:
    """Return once `found()` is true; fails after 20 s."""
    deadline = time.monotonic() + 20
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_train_with_variables_pause_and_resume(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "data = [1, 2, 3]\nback = 'mine'")
    run(shell, "%%ciuic_train --session one --in data --out total,nothing\ntotal = sum(data)\nprint('total', total)")
    said = capsys.readouterr().out
    assert "total 6" in said
    assert "session one has no variable named nothing; nothing was fetched" in said
    assert said.count("[one]") == 2, "a line of the meter at the start and at the end"
    assert "total" not in shell.user_ns, "--out brings all or none"

    with pytest.raises(Exception, match="no variable named back, missing; nothing was fetched"):
        run(shell, "%ciuic_pull total back missing")
    assert shell.user_ns["back"] == "mine"
    assert "total" not in shell.user_ns
    run(shell, "%ciuic_pull total")
    assert shell.user_ns["total"] == 6
    run(shell, "%ciuic_push back")

    receipt = run(shell, "%ciuic_pause")
    assert isinstance(receipt, Report)
    text = receipt.text()
    assert "billed" in text and "not billed" in text and "$" in text
    assert "data" in text and "total" in text, "the receipt names what was saved"
    status = run(shell, "%ciuic_status")
    assert status.data["state"] == "paused"
    assert "paused" in status.text()

    capsys.readouterr()
    run(shell, "%%ciuic_train --no-meter --flops\nprint(total, back)")
    said = capsys.readouterr().out
    assert "FLOPs: 0 FLOP counted; $/PFLOP unknown; utilisation unknown: nothing was counted" in said
    assert "resuming session one: saved" in said
    assert "6 mine" in said
    assert "[one]" not in said
    cost = run(shell, "%ciuic_cost").text()
    assert "not billed" in cost
    assert "Nothing that was measured says that this could cost less." in run(shell, "%ciuic_advice").text()
    assert run(shell, "%ciuic_close").data
    assert PlaneClient.ensure().session("one")["state"] == "closed"


def test_remote_error_has_its_own_class_and_skips_out(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "kept = 'mine'")
    result = shell.run_cell("%%ciuic_train --session two --out kept\nkept = 'theirs'\n1 / 0")
    assert type(result.error_in_exec).__name__ == "ZeroDivisionError"
    assert shell.user_ns["kept"] == "mine"
    said = capsys.readouterr().out
    assert "division by zero" in said
    assert said.count("[two] ") == 2, "the meter's last line comes after an error too"
    receipt = run(shell, "%ciuic_release --discard two")
    assert "saved" in receipt.text()


def test_detach_then_attach_by_session_and_by_run(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%ciuic_train --session three --detach\nfor n in range(5):\n    print('line', n)")
    plane = PlaneClient.ensure()
    until(lambda: plane.runs("three")[-1]["ended"])
    capsys.readouterr()
    run(shell, "%ciuic_attach three")
    said = capsys.readouterr().out
    assert [f"line {n}" for n in range(5)] == [line for line in said.splitlines() if line.startswith("line ")]
    last = plane.runs("three")[-1]["run"]
    run(shell, f"%ciuic_attach {last}")
    assert "line 4" in capsys.readouterr().out
    with pytest.raises(Exception, match="neither a session nor a run"):
        run(shell, "%ciuic_attach nowhere")
    run(shell, "%ciuic_keep 30m three")
    assert "kept until" in capsys.readouterr().out
    why = run(shell, "%ciuic_why three").text()
    assert all(word in why for word in ("kept until", "kernel", "processes", "gpu", "s of quiet"))
    run(shell, "%ciuic_pause three")
    run(shell, "%ciuic_resume three")
    assert "resuming session three: saved" in capsys.readouterr().out
    assert PlaneClient.ensure().session("three")["state"] == "running"
    run(shell, "%ciuic_release three")


def test_a_quote_runs_nothing_and_knows_the_cells_own_runs(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cell = "quoted = sum(range(10))\nprint('ran', quoted)"
    first = run(shell, f"%%ciuic_train --session six --quote\n{cell}")
    assert "not run to its end yet" in first.text() and "$0.9000 an hour" in first.text()
    assert "six" not in [view["name"] for view in PlaneClient.ensure().sessions()], "a quote starts nothing"
    for _ in range(2):
        run(shell, f"%%ciuic_train --session six --no-meter\n{cell}")
    assert capsys.readouterr().out.count("ran 45") == 2
    again = run(shell, f"%%ciuic_train --session six --quote\n{cell}\n")
    assert "ran 45" not in capsys.readouterr().out
    own = next(one for one in again.data["machines"] if one["instance"] == "local.cpu")
    assert (again.data["whole"], own["runs"], own["runs_now"], own["start_measured"]) == (2, 2, True, True)
    assert own["start_seconds"] > 0
    assert "2 runs here" in again.text() and "assumed as fast as local.cpu" in again.text()
    compared = run(shell, "%ciuic_cost --cell")
    assert len(compared.data["rows"]) == 2 and "Runs of one cell · quoted = sum" in compared.text()
    assert run(shell, f"%ciuic_cost --cell {compared.data['rows'][0]['key'][:8]}").data["text"] == compared.data["text"]
    with pytest.raises(Exception, match="the cell is empty"):
        run(shell, "%%ciuic_train --quote\n ")
    run(shell, "%ciuic_release --discard six")


def test_an_unknown_session_is_one_line_and_does_not_become_the_current_one(
    shell: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shell.run_cell("%ciuic_pause nowhere")
    said = capsys.readouterr()
    assert "nowhere" in said.err + said.out
    assert "Traceback" not in said.err + said.out
    assert shell.find_line_magic("ciuic_pause").__self__.desk.session == "default"


def test_magics_find_the_plane_again_after_it_was_killed(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, "%%ciuic_train --session four\nvalue = 41")
    plane = psutil.Process(PlaneClient.ensure().health()["pid"])
    os.kill(plane.pid, signal.SIGKILL)
    plane.wait(10)
    run(shell, "%%ciuic_train --session four\nprint('value', value + 1)")
    assert "value 42" in capsys.readouterr().out
    run(shell, "%ciuic_release --discard four")


def test_tab_knows_the_sessions_of_a_running_plane(shell: Any) -> None:
    from IPython.core.completer import provisionalcompleter

    run(shell, "%%ciuic_train --session five-of-five --no-meter\npass")
    text = "%ciuic_status five-"
    with provisionalcompleter():
        assert "five-of-five" in {found.text for found in shell.Completer.completions(text, len(text))}
    run(shell, "%ciuic_release --discard")
