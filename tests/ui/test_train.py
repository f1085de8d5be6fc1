"""`%%ciuic_train` in a browser: the buttons while a cell runs, pause and resume, a reload, and the main job."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.ui import pages
from tests.ui.servers import Server, until

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits.ipynb"
LOAD = "%load_ext ciuic_jupyter"


@pytest.fixture(scope="module")
def latencies(artifacts: Path) -> Iterator[dict[str, float]]:
    """Milliseconds from click to answer, written to artifacts/ at the end."""
    measured: dict[str, float] = {}
    yield measured
    (artifacts / "click_latency_ms.json").write_text(json.dumps(measured, indent=1) + "\n")


def until_told(file: Path) -> str:
    """Return code of a cell that prints and runs until `file` exists."""
    return (
        "import os, time\nnumber = 0\n"
        f"while not os.path.exists({str(file)!r}):\n    number += 1\n    print(number)\n    time.sleep(0.05)\n"
    )


@pytest.mark.parametrize(
    ("kernel", "app"), [("ipk6310", "lab"), ("ipk730", "lab"), ("ipk740", "lab"), ("ipk740", "notebook")]
)
def test_pause_answers_while_the_cell_runs_then_saves_and_the_next_cell_resumes(
    page: Page, request: pytest.FixtureRequest, tmp_path: Path, kernel: str, app: str, latencies: dict[str, float]
) -> None:
    server: Server = request.getfixturevalue("lab" if app == "lab" else "notebook7")
    stop = tmp_path / "stop"
    name = f"p-{kernel}-{app}"
    cells = [LOAD, f"%%ciuic_train --session {name}\n{until_told(stop)}", "%%ciuic_train\nprint('number is', number)"]
    server.write(f"{name}.ipynb", [*cells, "%ciuic_close"], kernel)
    pages.open_notebook(page, server, f"{name}.ipynb", app=app)
    pages.run_cells(page, 2)
    expect(page.locator(".ciuic-meter .ciuic-line").first).to_contain_text("Cell running", timeout=60_000)
    latencies[f"{kernel} {app}"] = round(pages.press(page, "Pause", "Pausing"))
    pages.wait_done(page, 1)
    assert "paused at the loop in line 3; everything is saved" in pages.output_text(page, 1)
    before = pages.output_text(page, 1).partition("CellPaused")[0]
    page.screenshot(path=tmp_path / "paused.png")
    expect(page.locator(".ciuic-meter .ciuic-state").first).to_contain_text("Paused", timeout=60_000)
    assert page.locator(".ciuic-meter .ciuic-spent animateTransform").count() == 0
    assert "compute $0.00/h" in page.locator(".ciuic-meter .ciuic-card").first.inner_text()

    stop.touch()
    pages.run_cells(page, 1, start=2)
    pages.wait_done(page, 2, 90)
    text = pages.output_text(page, 2)
    assert f"resuming session {name}: saved" in text
    (number,) = re.findall(r"number is (\d+)", text)
    assert number == re.findall(r"^(\d+)$", before, re.MULTILINE)[-1]  # the cell went on, and ended at once
    pages.run_cells(page, 1, start=3)
    pages.wait_done(page, 3, 90)
    assert "Receipt" in pages.output_text(page, 3)


def test_meter_is_back_and_works_after_a_reload_during_a_run(page: Page, lab: Server, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    lab.write("again.ipynb", [LOAD, f"%%ciuic_train --session again\n{until_told(stop)}", "%ciuic_close"], "ipk740")
    pages.open_notebook(page, lab, "again.ipynb")
    pages.run_cells(page, 2)
    expect(page.locator(".ciuic-meter .ciuic-line")).to_contain_text("Cell running", timeout=60_000)
    pages.save(page)
    page.reload()
    pages.ready(page)
    expect(page.locator(".ciuic-meter .ciuic-line")).to_contain_text("Cell running", timeout=20_000)
    pages.press(page, "Pause", "Pausing")
    stop.touch()
    expect(page.locator(".ciuic-meter .ciuic-state")).to_contain_text("Paused", timeout=60_000)
    pages.run_cells(page, 1, start=2)
    pages.wait_done(page, 2, 60)


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_main_job_by_run_all(page: Page, lab: Server, artifacts: Path, theme: str) -> None:
    shutil.copy(DIGITS, lab.root / "digits.ipynb")
    pages.open_notebook(page, lab, "digits.ipynb", kernel="ipk740")
    page.evaluate("t => window.jupyterapp.commands.execute('apputils:change-theme', {theme: t})", theme)
    pages.run_all(page)
    shot = theme.split()[1].lower()
    expect(page.locator(".ciuic-meter .ciuic-line").first).to_contain_text("Cell running", timeout=60_000)
    page.locator(".ciuic-meter").first.scroll_into_view_if_needed()
    expect(page.locator(".ciuic-meter .ciuic-spark svg").first).to_be_visible(timeout=20_000)
    page.locator(".ciuic-meter").first.screenshot(path=artifacts / f"meter-{shot}.png", animations="allow")
    page.screenshot(path=artifacts / f"digits-running-{shot}.png")
    code_cells = until(lambda: _finished(page), "the end of Run All", 240)
    expect(page.locator(".jp-CodeCell")).to_have_count(code_cells, timeout=60_000)  # JupyterLab draws them when it can
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0
    last = pages.show_cell(page, code_cells - 1)
    expect(last).to_contain_text("Receipt")
    expect(last).to_contain_text("not billed")
    page.screenshot(path=artifacts / f"digits-receipt-{shot}.png")


def _finished(page: Page) -> int:
    """Return how many code cells there are once all have run, else 0."""
    cells = page.evaluate(
        """() => window.jupyterapp.shell.currentWidget.content.widgets
             .filter(cell => cell.model.type === 'code')
             .map(({model}) => [model.executionCount, model.executionState,
                                model.outputs.toJSON().filter(output => output.output_type === 'error')])"""
    )
    errors = [error["evalue"] for *_, found in cells for error in found]
    assert not errors, errors  # the cells behind it will never run
    return len(cells) if all(number and state == "idle" for number, state, _ in cells) else 0
