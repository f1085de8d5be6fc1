"""What the browser tests do with a notebook's page."""

from __future__ import annotations

import secrets
from typing import Any

import nbformat
from playwright.sync_api import Locator, Page

from tests.ui.servers import Server

# A wheel's digit on show: which line of its strip lies in the drawing's window. Columns are read left to right.
_ODOMETER = """element => {
  const svg = element.querySelector('svg');
  if (!svg) return element.textContent;
  const box = svg.getBoundingClientRect(), middle = (box.top + box.bottom) / 2;
  const shown = [];
  for (const glyph of svg.querySelectorAll('tspan, text')) {
    if (glyph.tagName === 'text' && glyph.children.length) continue;
    const line = glyph.getBoundingClientRect();
    if (glyph.textContent && line.top <= middle && middle < line.bottom && line.width)
      shown.push([(line.left + line.right) / 2, glyph.textContent]);
  }
  return shown.sort((a, b) => a[0] - b[0]).map(item => item[1]).join('');
}"""


def open_notebook(page: Page, server: Server, name: str, *, app: str = "lab", kernel: str | None = None) -> None:
    """Open a notebook and wait until its kernel (`kernel` instead of the one it names) is ready."""
    if kernel is not None:
        notebook = nbformat.read(server.root / name, as_version=4)
        notebook.metadata["kernelspec"] = {"name": kernel, "display_name": kernel, "language": "python"}
        nbformat.write(notebook, server.root / name)
    where = f"lab/workspaces/{secrets.token_hex(4)}/tree/{name}" if app == "lab" else f"notebooks/{name}"
    page.goto(f"{server.url}{where}?token={server.token}")
    ready(page)


def ready(page: Page) -> None:
    """Wait until the page's notebook has an idle or busy kernel."""
    page.wait_for_function(
        """() => {
          const widget = window.jupyterapp?.shell?.currentWidget;
          const kernel = widget?.context?.sessionContext?.session?.kernel;
          return widget?.context?.isReady && kernel && ['idle', 'busy'].includes(kernel.status);
        }""",
        timeout=60_000,
    )


def run_all(page: Page) -> None:
    """Run all cells; returns at once."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")


def save(page: Page) -> None:
    """Save the notebook."""
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")


def kernel_id(page: Page) -> str:
    """Return the id of the notebook's kernel."""
    found = page.evaluate("() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.id")
    return str(found)


def prompt(page: Page, cell: int) -> str:
    """Return a code cell's prompt, such as `[*]:` or `[3]:`."""
    return page.locator(".jp-CodeCell .jp-InputPrompt").nth(cell).inner_text()


def wait_done(page: Page, cell: int, seconds: float = 60.0) -> None:
    """Wait until a cell has ended."""
    page.wait_for_function(
        """at => /\\[\\d+\\]/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[at]?.textContent ?? '')""",
        arg=cell,
        timeout=seconds * 1000,
    )


def output_text(page: Page, cell: int) -> str:
    """Return the text of a cell's outputs."""
    return page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea").first.inner_text()


def shown_number(locator: Locator) -> str:
    """Return a number of the meter as it is seen."""
    return str(locator.evaluate(_ODOMETER))


def press(page: Page, name: str, answer: str) -> float:
    """Press a meter's button and return the milliseconds until it says `answer`, measured in the page."""
    button = page.locator(".ciuic-meter").get_by_role("button", name=name)
    button.evaluate(
        """(button, answer) => button.addEventListener('click', () => {
          const pressed = performance.now();
          window.answered = null;
          new MutationObserver((_, observer) => {
            if (!button.textContent.includes(answer)) return;
            window.answered = performance.now() - pressed;
            observer.disconnect();
          }).observe(button, {childList: true, subtree: true, characterData: true});
        }, {capture: true, once: true})""",
        answer,
    )
    button.click()
    return float(page.wait_for_function("() => window.answered", timeout=10_000).json_value())


def count_kernel_messages(page: Page) -> None:
    """Count from now on what the kernel sends to this page (`window.kernelMessages`)."""
    page.evaluate(
        """() => {
          window.kernelMessages = [];
          const kernel = window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel;
          kernel.anyMessage.connect((_, args) => {
            if (args.direction === 'recv') window.kernelMessages.push(args.msg.header.msg_type);
          });
        }"""
    )


def messages(page: Page) -> Any:
    """Return the types of the kernel's messages since counting began."""
    return page.evaluate("() => window.kernelMessages")


def run_cells(page: Page, count: int, *, start: int = 0) -> None:
    """Select `count` code cells from number `start` on and run them; returns at once."""
    page.evaluate(
        """([start, count]) => {
          const notebook = window.jupyterapp.shell.currentWidget.content;
          notebook.deselectAll();
          notebook.activeCellIndex = start;
          if (count > 1) notebook.extendContiguousSelectionTo(start + count - 1);
          window.jupyterapp.commands.execute('notebook:run-cell');
        }""",
        [start, count],
    )


def show_cell(page: Page, cell: int) -> Locator:
    """Scroll to a code cell's outputs and return them."""
    outputs = page.locator(".jp-CodeCell").nth(cell).locator(".jp-OutputArea").first
    outputs.scroll_into_view_if_needed()
    return outputs
