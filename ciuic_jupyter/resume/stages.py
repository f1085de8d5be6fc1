"""The end of a stage: what its name may be, and who is told when a cell's code says it."""

from __future__ import annotations

from ciuic_jupyter.resume.runtime import Site

LONGEST = 100  # characters of a name


def checked(name: object) -> str:
    """Return `name` without spaces around it; TypeError or ValueError if it can't be shown in one short line."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a stage is text, not {type(name).__name__}; nothing was marked")
    text = str.__str__(name)
    if len(text) > 2 * LONGEST or not 0 < len(text := text.strip()) <= LONGEST:
        raise ValueError(f"the name of a stage has 1 to {LONGEST} characters, not {len(text)}; nothing was marked")
    if not text.isprintable():
        raise ValueError("the name of a stage is one line of printable characters; nothing was marked")
    return text


def ended(name: object) -> None:
    """Tell whoever runs this process's cells that the stage `name` ends here; nobody does in a script."""
    text = checked(name)
    if Site.staged is not None:
        Site.staged(text)
