"""How the shell's commands speak: a table, an error in one line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer

from ciuic_jupyter.core.words import plain
from ciuic_jupyter.errors import CiuicError


@contextmanager
def plainly(code: int = 1) -> Iterator[None]:
    """Say an error in one line and leave with `code`."""
    try:
        yield
    except CiuicError as error:
        typer.echo(f"ciuic: {plain(str(error))}", err=True)
        raise typer.Exit(code) from None


def table(rows: Iterable[Iterable[str]]) -> None:
    """Print rows of cells in columns; the first row is the head."""
    lines = [list(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        typer.echo(plain("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()))
