"""Execute a notebook as Jupyter would, print the text its cells show, and save it with its outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def text_of(output: nbformat.NotebookNode) -> str:
    """Return the plain text of one cell output, as a terminal can show it."""
    if output.output_type == "stream":
        return str(output.text)
    if output.output_type == "error":
        return "\n".join(output.traceback) + "\n"
    data = output.get("data", {})
    if "image/png" in data:
        return "[a figure: see the executed notebook]\n"
    return str(data.get("text/plain", "")) + "\n"


def main(source: str, target: str) -> None:
    """Run `source` cell by cell, printing as it goes, and write the result to `target`."""
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(Path(source).resolve().parent)}})
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                print("\n" + cell.source)
                continue
            print("\n" + "\n".join(f">>> {line}" for line in cell.source.splitlines()))
            try:
                client.execute_cell(cell, index)
            finally:
                for output in cell.outputs:
                    print(text_of(output), end="", flush=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    main(*sys.argv[1:3])
