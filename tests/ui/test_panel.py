"""The panel in a browser: what it shows, one click from everywhere, and outputs that come back."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from playwright.sync_api import Locator, Page, WebSocketRoute, expect

from tests.ui import pages
from tests.ui.conftest import served
from tests.ui.servers import Server, until

LOAD = "%load_ext ciuic_jupyter"
SLOW = 60_000


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A JupyterLab with a plane of its own, which does not run yet."""
    yield from served("jupyterlab", tmp_path_factory.mktemp("panel"))


def counting(file: str) -> str:
    """Return code of a cell that prints numbers until `file` exists beside the notebook."""
    return (
        f"%%ciuic_train\nimport os, time\n\nnumber = 0\nwhile not os.path.exists({file!r}):\n"
        "    number += 1\n    print('number', number)\n    time.sleep(0.05)\nprint('the end')"
    )


def open_panel(page: Page) -> Locator:
    page.evaluate("() => { window.jupyterapp.commands.execute('ciuic:open'); }")
    panel = page.get_by_role("region", name="Sessions and what they cost")
    panel.wait_for()
    return panel


def card(page: Page, name: str) -> Locator:
    return page.locator(f".ciuic-session[data-session^='{name}']")


def numbers(page: Page, cell: int) -> list[int]:
    return [int(found) for found in re.findall(r"^number (\d+)$", pages.output_text(page, cell), re.MULTILINE)]


def in_order(page: Page, cell: int, least: int) -> bool:
    """Tell whether a cell shows each number once, and `least` of them."""
    found = numbers(page, cell)
    assert found == list(range(1, len(found) + 1)), found
    return len(found) >= least


def in_both_themes(page: Page, artifacts: Path, name: str) -> None:
    """Take a picture in the dark theme and in the light one, which stays."""
    for theme in ("Dark", "Light"):
        page.evaluate(
            "t => window.jupyterapp.commands.execute('apputils:change-theme', {theme: t})", f"JupyterLab {theme}"
        )
        page.wait_for_function("t => document.body.dataset.jpThemeName === t", arg=f"JupyterLab {theme}")
        page.screenshot(path=artifacts / f"panel-{name}-{theme.lower()}.png", animations="allow")


def start_counting(page: Page, server: Server, name: str) -> tuple[Locator, Path]:
    """Return the panel, and the file that ends the cell."""
    stop = server.root / f"{name}.stop"
    server.write(f"{name}.ipynb", [LOAD, counting(stop.name)], "ipk740")
    pages.open_notebook(page, server, f"{name}.ipynb")
    pages.run_cells(page, 2)
    panel = open_panel(page)
    expect(card(page, name).get_by_role("status")).to_have_text("Cell running", timeout=SLOW)
    return panel, stop


def test_panel_starts_the_plane_and_teaches_the_first_cell(page: Page, own: Server, artifacts: Path) -> None:
    own.write("first.ipynb", [""], "ipk740")
    pages.open_notebook(page, own, "first.ipynb")
    panel = open_panel(page)
    expect(panel.get_by_role("alert")).to_contain_text("The control plane is not running")
    page.screenshot(path=artifacts / "panel-away.png")
    panel.get_by_role("button", name="Start the control plane").click()
    expect(panel.get_by_role("heading", name="No session yet")).to_be_visible(timeout=SLOW)
    expect(panel.get_by_role("alert")).to_have_count(0)
    page.screenshot(path=artifacts / "panel-empty.png")
    panel.get_by_role("button", name="Put these cells into the notebook").click()
    sources = (
        "() => window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model.sharedModel.getSource())"
    )
    found = page.evaluate(sources)
    assert found[0] == LOAD
    assert found[1].startswith("%%ciuic_train\n")


def test_pause_and_resume_in_mid_cell_from_panel_toolbar_and_status_bar(
    page: Page, own: Server, artifacts: Path
) -> None:
    panel, stop = start_counting(page, own, "clicks")
    tool = page.locator(".jp-NotebookPanel-toolbar .ciuic-toolbutton")
    status = page.locator("#jp-main-statusbar .ciuic-toolbutton").nth(1)
    clicks = card(page, "clicks")
    state = clicks.get_by_role("status")
    page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
    until(lambda: in_order(page, 1, 5), "five numbers")
    expect(clicks.locator(".ciuic-spark polyline")).to_be_visible(timeout=SLOW)
    in_both_themes(page, artifacts, "running")
    for pause, resume in ((clicks, tool), (tool, status), (status, clicks)):
        button = pause.get_by_role("button", name="Pause") if pause is clicks else pause
        button.click()
        expect(state).to_have_text("Paused", timeout=SLOW)
        expect(page.locator(".ciuic-after")).to_have_text(re.compile(r"^stopped at \d\d:\d\d:\d\d.*, \$0\.\d+$"))
        expect(tool).to_have_text("Resume")
        if pause is status:
            in_both_themes(page, artifacts, "paused")
        before = len(numbers(page, 1))
        button = resume.get_by_role("button", name="Resume") if resume is clicks else resume
        button.click()
        expect(state).to_have_text("Cell running", timeout=SLOW)
        until(lambda least=before + 5: in_order(page, 1, least), "five more numbers")
    stop.touch()
    expect(state).to_have_text("Ready", timeout=SLOW)
    until(lambda: "the end" in pages.output_text(page, 1), "the end of the cell")
    assert in_order(page, 1, 20)
    panel.get_by_text("History").click()
    expect(panel.locator(".ciuic-rows > li")).to_have_count(4)
    panel.locator(".ciuic-rows summary").first.click()
    expect(panel.get_by_role("table", name="Receipt")).to_contain_text("Session, not billed")
    in_both_themes(page, artifacts, "history")


def test_a_running_cell_has_a_forecast_in_meter_and_panel(page: Page, own: Server, artifacts: Path) -> None:
    loop = "for step in range(40_000):\n    time.sleep(0.05)\n    if os.path.exists('ahead.stop'): break"
    own.write("ahead.ipynb", [LOAD, f"%%ciuic_train --budget 0.1\nimport os, time\n{loop}"], "ipk740")
    pages.open_notebook(page, own, "ahead.ipynb")
    pages.run_cells(page, 2)
    open_panel(page)
    ahead = card(page, "ahead")
    expect(ahead).to_contain_text(re.compile(r"Forecast \$0\.\d+ \(\$0\.\d+ to \$0\.\d+\)"), timeout=SLOW)
    expect(ahead).to_contain_text(re.compile(r"about \d+ min .*left"))
    expect(ahead.get_by_role("progressbar", name="Progress of the cell")).to_be_visible()
    expect(ahead).to_contain_text(re.compile(r"Will reach the budget in about \d+"))
    meter = page.locator(".ciuic-meter .ciuic-forecast")
    expect(meter).to_have_text(re.compile(r"^forecast \$0\.\d+ \(0\.\d+ to 0\.\d+\), \d+ (min|s) left$"), timeout=SLOW)
    expect(page.locator(".ciuic-meter .ciuic-ahead")).to_have_text(re.compile("^will reach the budget in about "))
    in_both_themes(page, artifacts, "ahead")
    (own.root / "ahead.stop").touch()
    expect(ahead.get_by_role("status")).to_have_text("Ready", timeout=SLOW)
    expect(meter).to_have_count(0)


def kill_kernel(page: Page, server: Server) -> None:
    """Kill the notebook's kernel; the server starts another, which knows of nothing."""
    named = f"kernel-{pages.kernel_id(page)}.json"
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # one that ends while we look
            if any(named in part for part in child.cmdline()):
                found.append(child)
    (kernel,) = found
    kernel.kill()


def test_outputs_come_back_after_a_reload_and_after_a_kernel_s_death(page: Page, own: Server) -> None:
    _, stop = start_counting(page, own, "back")
    until(lambda: in_order(page, 1, 5), "five numbers")
    seen = len(numbers(page, 1))
    page.reload()  # nothing was saved
    pages.ready(page)
    until(lambda: in_order(page, 1, seen + 5), "the numbers of before, and more")
    kill_kernel(page, own)
    seen = len(numbers(page, 1))
    until(lambda: in_order(page, 1, seen + 5), "more numbers, with a kernel that knows of nothing")
    stop.touch()
    until(lambda: "the end" in pages.output_text(page, 1), "the end of the cell")
    whole = numbers(page, 1)
    assert in_order(page, 1, seen + 5)
    pages.save(page)
    page.reload()
    pages.ready(page)
    page.locator(".ciuic-toolbutton").first.wait_for()
    assert numbers(page, 1) == whole
    assert page.evaluate("() => window.jupyterapp.shell.currentWidget.context.model.dirty") is False


def test_outputs_that_were_cleared_and_saved_stay_away(page: Page, own: Server) -> None:
    own.write("clear.ipynb", [LOAD, "%%ciuic_train\nprint('number 1')"], "ipk740")
    pages.open_notebook(page, own, "clear.ipynb")
    pages.run_cells(page, 2)
    pages.wait_done(page, 1)
    ended = time.time()
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    until(lambda: time.time() > ended + 3, "three seconds, which a file may be newer than a run")
    pages.save(page)
    page.reload()
    pages.ready(page)
    page.locator(".jp-NotebookPanel-toolbar .ciuic-toolbutton").wait_for()
    expect(page.locator(".jp-CodeCell .jp-OutputArea-output")).to_have_count(0)


def test_panel_speaks_the_language_of_jupyterlab(page: Page, own: Server) -> None:
    folder = Path(own.env["JUPYTERLAB_SETTINGS_DIR"]) / "@jupyterlab" / "translation-extension"
    folder.mkdir(parents=True, exist_ok=True)
    setting = folder / "plugin.jupyterlab-settings"
    setting.write_text(json.dumps({"locale": "fr_FR"}))
    Feed(page, [])
    own.write("words.ipynb", [""], "ipk740")
    try:
        pages.open_notebook(page, own, "words.ipynb")
        page.evaluate("() => { window.jupyterapp.commands.execute('ciuic:open'); }")
        expect(page.locator(".ciuic-first h2")).to_have_text("Pas encore de session")
        expect(page.locator(".ciuic-totals dd").first).to_contain_text("1,00")
    finally:
        setting.unlink()


def test_outputs_of_a_run_that_ended_while_nobody_looked_come_back(page: Page, own: Server) -> None:
    _, stop = start_counting(page, own, "away")
    until(lambda: in_order(page, 1, 3), "three numbers")
    url = page.url
    page.goto("about:blank")  # a closed laptop
    stop.touch()

    def ended() -> bool:
        (session,) = [one for one in own.ask("ciuic/snapshot")["sessions"] if one["name"].startswith("away")]
        return not session["busy"]

    until(ended, "the end of the run")
    page.goto(f"{url}?token={own.token}")
    pages.ready(page)
    until(lambda: "the end" in pages.output_text(page, 1), "its last line")
    assert in_order(page, 1, 4)


def test_plane_is_killed_and_started_again_with_the_panel_open(page: Page, own: Server) -> None:
    panel, _ = start_counting(page, own, "killed")
    (place,) = Path(own.env["CIUIC_STATE_DIR"]).glob("**/plane.json")
    os.kill(json.loads(place.read_text())["pid"], signal.SIGKILL)
    start = panel.get_by_role("button", name="Start the control plane")
    expect(panel.get_by_role("alert")).to_contain_text("The control plane is not running", timeout=SLOW)
    pause = card(page, "killed").get_by_role("button", name="Pause")
    expect(pause).to_have_attribute("aria-disabled", "true")
    start.click()
    expect(panel.get_by_role("alert")).to_have_count(0, timeout=SLOW)
    expect(pause).not_to_have_attribute("aria-disabled", "true")
    seen = len(numbers(page, 1))
    until(lambda: in_order(page, 1, seen + 3), "more numbers")
    pause.click()
    expect(card(page, "killed").get_by_role("status")).to_have_text("Paused", timeout=SLOW)


def test_two_tabs_show_the_same_each_by_one_line(page: Page, own: Server) -> None:
    other = page.context.new_page()
    lines: list[str] = []
    other.on("websocket", lambda line: lines.append(line.url) if "ciuic/watch" in line.url else None)
    own.write("tabs.ipynb", [LOAD, "%%ciuic_train\nx = 1"], "ipk740")
    pages.open_notebook(page, own, "tabs.ipynb")
    open_panel(page)
    pages.open_notebook(other, own, "tabs.ipynb")
    open_panel(other)
    pages.run_cells(page, 2)
    for tab in (page, other):
        expect(card(tab, "tabs").get_by_role("status")).to_have_text("Ready", timeout=SLOW)
    other.locator(".jp-NotebookPanel-toolbar .ciuic-toolbutton").click()
    for tab in (page, other):
        expect(card(tab, "tabs").get_by_role("status")).to_have_text("Paused", timeout=SLOW)
    assert len(lines) == 1


def test_a_cell_is_quoted_from_its_menu_and_from_the_history(page: Page, own: Server, artifacts: Path) -> None:
    own.write("quoted.ipynb", [f"{LOAD}\n%ciuic_status", "%%ciuic_train\nimport time\ntime.sleep(0.2)"], "ipk740")
    pages.open_notebook(page, own, "quoted.ipynb")
    panel = open_panel(page)
    pages.run_cells(page, 1)  # which starts the plane
    pages.wait_done(page, 0)
    expect(panel.get_by_role("alert")).to_have_count(0, timeout=SLOW)
    cell = page.locator(".jp-CodeCell").nth(1)

    def quoted() -> Locator:
        cell.locator(".jp-InputArea-editor").click(button="right")
        page.get_by_role("menuitem", name="Quote this cell").click()
        table = page.locator(".jp-Dialog").get_by_role("table", name="Quote")
        expect(table).to_contain_text("local.cpu")
        return table

    expect(quoted()).to_contain_text("$0.9000 an hour")
    expect(page.locator(".jp-Dialog")).to_contain_text("This cell has not run to its end yet.")
    page.keyboard.press("Escape")
    pages.run_cells(page, 2)
    expect(card(page, "quoted").get_by_role("status")).to_have_text("Ready", timeout=SLOW)
    pages.wait_done(page, 1)
    table = quoted()
    expect(table).to_contain_text("measured 1 × here")
    expect(table).to_contain_text("assumed as fast as local.cpu")
    page.screenshot(path=artifacts / "panel-quote.png")
    page.keyboard.press("Escape")
    panel.get_by_text("History").click()
    panel.locator(".ciuic-rows summary", has_text="import time").first.click()
    expect(panel.get_by_role("table", name="Quote")).to_contain_text("measured 1 × here")
    in_both_themes(page, artifacts, "again")
    page.locator(".jp-CodeCell").first.locator(".jp-InputArea-editor").click(button="right")
    expect(page.get_by_role("menuitem", name="Cut Cell")).to_be_visible()
    expect(page.get_by_role("menuitem", name="Quote this cell")).to_have_count(0)


def test_notebook_7_has_the_button_and_the_panel(page: Page, notebook7: Server, artifacts: Path) -> None:
    notebook7.write("seven.ipynb", [LOAD, "%%ciuic_train\nx = 1"], "ipk740")
    pages.open_notebook(page, notebook7, "seven.ipynb", app="notebook")
    pages.run_cells(page, 2)
    tool = page.locator(".jp-NotebookPanel-toolbar .ciuic-toolbutton")
    expect(tool).to_have_text("Pause", timeout=SLOW)
    open_panel(page)
    tool.click()
    expect(card(page, "seven").get_by_role("status")).to_have_text("Paused", timeout=SLOW)
    expect(tool).to_have_text("Resume")
    page.screenshot(path=artifacts / "panel-notebook7.png")


# What a server could say that ours does not: names as long and as odd as they get, amounts next to nothing and huge.
ODD = "<img src=x onerror=document.title='hit'><b>"


def fed(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "state": "running",
        "instance": "local.cpu",
        "currency": "USD",
        "rate_nano_per_hour": 900_000_000,
        "spent_nano": 1_234_500_000,
        "as_of": 1_000_000_000,
        **changes,
    }


def budget(cap: int, scope: str = "session", **changes: Any) -> dict[str, Any]:
    plain = {"key": scope, "scope": scope, "budget_nano": cap, "spent_nano": 10**9, "percent": 0, "mark": 0}
    return {**plain, "rate_nano_per_hour": 900_000_000, **changes}


class Feed:
    """A page's watch, spoken by the test in place of the server."""

    def __init__(self, page: Page, sessions: list[dict[str, Any]]) -> None:
        self._first = sessions
        self._lines: list[WebSocketRoute] = []
        page.route_web_socket(re.compile("ciuic/watch"), self._open)

    def _open(self, line: WebSocketRoute) -> None:
        self._lines.append(line)
        total = {"currency": "USD", "rate_nano_per_hour": 900_000_000, "as_of": 1_000_000_000, "budget_nano": None}
        amounts = ("today_nano", "month_nano", "today_always_on_nano", "month_always_on_nano")
        head = {"type": "snapshot", "version": 1, "plane": {"up": True, "version": "0", "error": None}}
        total |= {name: 10**9 * 2**at for at, name in enumerate(amounts)}
        self.say({**head, "sessions": self._first, "total": total, "now": 1_000_000_000})

    def say(self, frame: dict[str, Any]) -> None:
        self._lines[-1].send(json.dumps(frame))


def test_names_and_amounts_of_any_kind_are_text_that_fits(page: Page, own: Server, artifacts: Path) -> None:
    rtl = "جلسة التدريب \u202e123"
    small, huge = {"spent_nano": 1, "rate_nano_per_hour": 0}, {"spent_nano": 10**18, "rate_nano_per_hour": 0}
    long, dear = fed("n" * 10_000, **huge), fed("训练🙂", rate_nano_per_hour=10**18, budgets=[budget(1_300_000_000)])
    Feed(page, [fed(ODD, **small), long, fed(rtl), dear])
    own.write("odd.ipynb", [""], "ipk740")
    pages.open_notebook(page, own, "odd.ipynb")
    panel = open_panel(page)
    expect(panel.locator(".ciuic-title").filter(has_text=ODD)).to_have_text(ODD)
    assert panel.locator("img, .ciuic-title b").count() == 0
    assert page.title() != "hit"
    expect(panel.get_by_text("$0.000000001")).to_be_visible()
    expect(panel.get_by_text("$1,000,000,000.00", exact=True)).to_be_visible()
    expect(panel.get_by_text("$1,000,000,000.00/h")).to_be_visible()
    for element in panel.locator(".ciuic-session").all():
        fits = "element => element.scrollWidth <= element.clientWidth && element.getBoundingClientRect().height < 420"
        assert element.evaluate(fits), element.inner_text()[:200]
    panel.screenshot(path=artifacts / "panel-odd.png")


def test_every_budget_has_a_bar_and_its_marks_are_said(page: Page, own: Server, artifacts: Path) -> None:
    given = [
        budget(1_250_000_000, "run", spent_nano=1_050_000_000, mark=80),
        budget(2 * 10**9, "day", mark=50),
        budget(50 * 10**9, "month"),
        budget(10**9, "user", mark=100),
    ]
    rests = {"state": "paused", "rate_nano_per_hour": 0, "budgets": given[1:3]}
    feed = Feed(page, [fed("works", budgets=given), fed("rests", **rests)])
    own.write("budgets.ipynb", [""], "ipk740")
    pages.open_notebook(page, own, "budgets.ipynb")
    panel = open_panel(page)
    bars = card(page, "works").locator(".ciuic-budget")
    expect(bars).to_have_count(4)
    for at, text in enumerate(("This cell: 84% of $1.25past 80%", "Today: 50% of $2.00past 50%", "This month: 2%")):
        expect(bars.nth(at)).to_contain_text(text)
    expect(bars.nth(3).get_by_role("alert")).to_have_text("reached")
    expect(card(page, "rests").locator(".ciuic-budget")).to_have_count(1)  # nothing is spent of the month's here
    feed.say({"type": "session", "session": fed("works", budgets=[{**given[2], "mark": 50}])})
    expect(bars).to_have_count(1)
    expect(bars.get_by_role("alert")).to_have_text("past 50%")
    panel.screenshot(path=artifacts / "panel-budgets.png")


def test_keyboard_keeps_its_place_through_every_state(page: Page, own: Server) -> None:
    feed = Feed(page, [fed("keys")])
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url.partition("?")[0].rpartition("/")[2])
        route.fulfill(json=fed("keys", as_of=1_000_000_001, pause_pending=True))

    page.route(re.compile("ciuic/sessions/keys/"), answer)
    own.write("keys.ipynb", [""], "ipk740")
    pages.open_notebook(page, own, "keys.ipynb")
    panel = open_panel(page)
    button = panel.locator(".ciuic-session .ciuic-main")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_text("Pausing…")
    page.keyboard.press("Enter")  # a dimmed button does nothing, and is still there
    progress = {"stopped_at": None, "last_cost_nano": None}
    for state, text in (
        ({"state": "saving", "progress": {"step": "saving", "fraction": 0.4, **progress}}, "Saving 40%"),
        ({"state": "saving", "progress": {"step": "verifying", "fraction": None, **progress}}, "Verifying"),
        ({"state": "stopping", "progress": {"step": "releasing", "fraction": None, **progress}}, "Releasing"),
        ({"state": "paused", "rate_nano_per_hour": 0}, "Paused"),
    ):
        feed.say({"type": "session", "session": fed("keys", **state)})
        expect(card(page, "keys").get_by_role("status")).to_have_text(text)
        expect(button).to_be_focused()
    page.keyboard.press("Space")
    until(lambda: page.wait_for_timeout(20) or asked == ["pause", "resume"], "the resume")
    order = ["Release", "Keep 30 min", "Close"]
    for name in order:
        page.keyboard.press("Tab")
        expect(panel.get_by_role("button", name=name)).to_be_focused()
    feed.say({"type": "gone", "name": "keys"})
    expect(panel.get_by_role("heading", name="No session yet")).to_be_visible()
