"""The meter in a browser: it counts while the kernel is silent, stands when paused, answers, survives a reload."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.ui import pages
from tests.ui.servers import Server, until

# A meter fed by hand: what the control plane would say, from a session at $36 an hour (a cent a second).
FED = """
import threading, time
from ciuic_jupyter.notebook.meter import make_meter
pressed = threading.Event()
def view(**changes):
    now = time.time()
    return dict(name="fed", state="running", instance="local.cpu", currency="USD", rate_nano_per_hour=36_000_000_000,
                spent_nano=1_000_000_000, as_of=now, billed_seconds=100, unbilled_seconds=0, unspent_nano=0,
                budgets=[dict(key="day", scope="day", budget_nano=2_000_000_000, spent_nano=1_000_000_000,
                              rate_nano_per_hour=36_000_000_000, mark=50)],
                last_seq=0, pause_pending=False, **changes)
def act(action):
    pressed.set()
    return {**view(), "pause_pending": True}
meter = make_meter("fed", act)
"""
SHOW = "meter.update(view(idle=dict(verdict='idle', release_at=time.time() + 125, reason='all quiet')))\ndisplay(meter)"


def amount(page: Page) -> float:
    return float(pages.shown_number(page.locator(".ciuic-spent .ciuic-number").first).lstrip("$"))


def budget(page: Page) -> tuple[int, float]:
    """Return the percent that a budget's bar says, and those that it shows."""
    filled = "svg => 100 * svg.querySelector('rect').getBoundingClientRect().width / svg.getBoundingClientRect().width"
    number = pages.shown_number(page.locator(".ciuic-budget .ciuic-number").first)
    return int(number), float(page.locator(".ciuic-budget .ciuic-bar svg").first.evaluate(filled))


def countdown(page: Page) -> int:
    minutes, seconds = pages.shown_number(page.locator(".ciuic-line .ciuic-number").first).split(":")
    return int(minutes) * 60 + int(seconds)


def test_amount_and_countdown_go_on_while_the_kernel_says_nothing(page: Page, lab: Server, artifacts: Path) -> None:
    lab.write("tick.ipynb", [FED, SHOW], "ipk740")
    pages.open_notebook(page, lab, "tick.ipynb")
    pages.run_all(page)
    page.locator(".ciuic-spent .ciuic-number svg").wait_for()
    pages.wait_done(page, 1)
    until(
        lambda: page.evaluate(
            "() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.status === 'idle'"
        ),
        "the kernel's idle",
    )
    pages.count_kernel_messages(page)
    first, started, left = amount(page), time.monotonic(), countdown(page)
    expect(page.locator(".ciuic-budget")).to_contain_text("past 50%")
    image = page.locator(".ciuic-spent").screenshot(animations="allow")
    until(lambda: amount(page) >= first + 0.05, "five more cents", 20)
    seconds = time.monotonic() - started
    assert amount(page) - first == pytest.approx(0.01 * seconds, abs=0.012)
    assert left - countdown(page) == pytest.approx(seconds, abs=1.5)
    for share in budget(page):
        assert share == pytest.approx(50 * amount(page), abs=1.6)
    assert page.locator(".ciuic-spent").screenshot(animations="allow") != image
    assert pages.messages(page) == []

    # A tab in the background hides the notebook; an animation that starts anew would show the old fact again.
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.node.style.display = 'none'; }")
    until(lambda: time.monotonic() > started + seconds + 3, "three seconds hidden")
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.node.style.display = ''; }")
    shown = until(lambda: amount(page) >= first + 0.01 * (time.monotonic() - started) - 0.012, "the amount of now", 5)
    assert shown
    assert pages.messages(page) == []
    page.screenshot(path=artifacts / "meter-counting.png")


def test_amount_stands_still_when_paused(page: Page, lab: Server) -> None:
    paused = "meter.update({**view(), 'state': 'paused', 'rate_nano_per_hour': 0, 'spent_nano': 1_230_000_000})"
    lab.write("still.ipynb", [FED, SHOW, paused], "ipk740")
    pages.open_notebook(page, lab, "still.ipynb")
    pages.run_all(page)
    expect(page.locator(".ciuic-state")).to_contain_text("Paused")
    assert amount(page) == 1.23
    assert page.locator(".ciuic-spent animateTransform").count() == 0
    image = page.locator(".ciuic-spent").screenshot(animations="allow")
    deadline = time.monotonic() + 2.5
    until(lambda: time.monotonic() > deadline, "two seconds")
    assert amount(page) == 1.23
    assert page.locator(".ciuic-spent").screenshot(animations="allow") == image


def test_equal_facts_send_nothing_and_many_facts_send_few(page: Page, lab: Server) -> None:
    same = "base = view()\nfor _ in range(200):\n    meter.update({**base, 'as_of': time.time(), 'last_seq': 5,"
    same += " 'spent_nano': 1_000_000_000 + int((time.time() - base['as_of']) * 10_000_000)})\n    time.sleep(0.01)"
    many = "for n in range(200):\n    meter.update(view(run='r', usage={'cpu_percent': n / 2}))\n    time.sleep(0.02)"
    lab.write("few.ipynb", [FED, SHOW + "\nmeter.update(view())", same, many], "ipk740")
    pages.open_notebook(page, lab, "few.ipynb")
    pages.run_all(page)
    pages.wait_done(page, 1)
    pages.count_kernel_messages(page)
    pages.wait_done(page, 3)
    updates = [kind for kind in pages.messages(page) if kind == "comm_msg"]
    # 200 facts in 4 s or more: the first picture at once, then two a second; each may move the buttons too
    assert 2 <= len(updates) <= 60


@pytest.mark.parametrize(("kernel", "app"), [("ipk730", "lab"), ("ipk740", "lab"), ("ipk740", "notebook")])
def test_button_answers_while_a_local_cell_is_busy(
    page: Page, request: pytest.FixtureRequest, kernel: str, app: str
) -> None:
    server: Server = request.getfixturevalue("lab" if app == "lab" else "notebook7")
    busy = "end = time.time() + 60\nwhile not pressed.is_set() and time.time() < end:\n    pass\n"
    busy += "print('pressed', pressed.is_set())"
    server.write(f"busy-{kernel}.ipynb", [FED, SHOW, busy], kernel)
    pages.open_notebook(page, server, f"busy-{kernel}.ipynb", app=app)
    pages.run_all(page)
    pages.wait_done(page, 1)
    until(lambda: pages.prompt(page, 2) == "[*]:", "the busy cell")
    pages.press(page, "Pause", "Pausing")
    pages.wait_done(page, 2)
    assert "pressed True" in pages.output_text(page, 2)


def test_button_keeps_the_focus_and_dimmed_ones_do_nothing(page: Page, lab: Server) -> None:
    lab.write("focus.ipynb", [FED, SHOW], "ipk740")
    pages.open_notebook(page, lab, "focus.ipynb")
    pages.run_all(page)
    pages.wait_done(page, 1)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".ciuic-line")).to_contain_text("resume is not possible now")
    button = page.get_by_role("button", name="Pause")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Pausing")).to_be_focused()


def test_reloaded_page_shows_the_amount_of_now_and_its_button_works(page: Page, lab: Server) -> None:
    lab.write("reload.ipynb", [FED, SHOW], "ipk740")
    pages.open_notebook(page, lab, "reload.ipynb")
    pages.run_all(page)
    pages.wait_done(page, 1)
    pages.save(page)
    first, started = amount(page), time.monotonic()
    until(lambda: amount(page) >= first + 0.02, "two more cents")
    page.reload()
    pages.ready(page)
    page.locator(".ciuic-spent .ciuic-number svg").wait_for()
    until(lambda: amount(page) >= first + 0.01 * (time.monotonic() - started) - 0.02, "the amount of now", 5)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Pausing").wait_for(timeout=2000)


def test_culler_culls_a_kernel_whose_meter_is_watched(page: Page, culling: Server) -> None:
    culling.write("cull.ipynb", [FED, SHOW], "ipk740")
    pages.open_notebook(page, culling, "cull.ipynb")
    pages.run_all(page)
    pages.wait_done(page, 1)
    page.locator(".ciuic-spent .ciuic-number svg").wait_for()
    assert len(culling.ask("api/kernels")) == 1
    until(lambda: culling.ask("api/kernels") == [], "the culling of the idle kernel", 40)
