"""Chromium and Jupyter servers for the browser tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

from tests.ui import servers

ARTIFACTS = Path(__file__).resolve().parents[2] / "artifacts"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/ui/" in str(item.path):
            item.add_marker(pytest.mark.ui)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Say with a failure what the page showed, and what server and control plane logged last."""
    report = yield
    seen = getattr(item, "funcargs", {})
    if report.when == "call" and report.failed and "page" in seen:
        report.sections.append(("page", _shown(seen["page"], item.name)))
        for server in (value for value in seen.values() if isinstance(value, servers.Server)):
            report.sections += [(f"the end of {name}", text) for name, text in server.logs().items()]
    return report


def _shown(page: Page, name: str) -> str:
    """Return each code cell's prompt, state and the end of its output; a screenshot goes to artifacts/."""
    shot = ARTIFACTS / f"failed-{''.join(letter if letter.isalnum() else '-' for letter in name)}.png"
    try:
        page.screenshot(path=shot, timeout=10_000)
        lines = page.evaluate(
            """() => {
              const notebook = window.jupyterapp.shell.currentWidget;
              const kernel = notebook.context.sessionContext.session?.kernel;
              return [
                ['kernel', kernel?.status, kernel?.connectionStatus],
                ['dialogs', ...[...document.querySelectorAll('.jp-Dialog')].map(dialog => dialog.innerText)],
                ...notebook.content.widgets.filter(cell => cell.model.type === 'code')
                  .map(({model}) => [model.executionCount, model.executionState,
                                     JSON.stringify(model.outputs.toJSON()).slice(-160)]),
              ];
            }"""
        )
    except Error as error:
        return f"{page.url}: {error}"
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests of this folder."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of its own context, wide enough for a notebook."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    yield page
    context.close()


@pytest.fixture(scope="package")
def artifacts() -> Path:
    """Where screenshots go; not in git."""
    ARTIFACTS.mkdir(exist_ok=True)
    return ARTIFACTS


def served(app: str, home: Path, *arguments: str) -> Iterator[servers.Server]:
    runtime = Path(tempfile.mkdtemp(prefix="ciuic-ui-"))
    server = servers.start(app, home, runtime, *arguments)
    yield server
    server.stop()
    stop = [sys.executable, "-m", "ciuic_jupyter.control.cli", "stop"]
    subprocess.run(stop, env=server.env, check=False, capture_output=True, timeout=60)
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """JupyterLab."""
    yield from served("jupyterlab", tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="package")
def notebook7(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Notebook 7."""
    yield from served("notebook", tmp_path_factory.mktemp("nb7"))


@pytest.fixture(scope="package")
def culling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """JupyterLab with an impatient culler of idle kernels, connected ones included."""
    arguments = ("cull_idle_timeout=8", "cull_interval=1", "cull_connected=True")
    yield from served(
        "jupyterlab", tmp_path_factory.mktemp("cull"), *(f"--MappingKernelManager.{option}" for option in arguments)
    )
