"""Chromium and Jupyter servers for the browser tests."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

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
