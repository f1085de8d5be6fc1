"""Stages of a training: what stands when one ends is saved, without a pause."""

from __future__ import annotations

from ciuic_jupyter.resume import stages


def stage(name: str, /) -> None:
    """Mark the end of the stage `name`: a checkpoint is taken at the next loop turn, or at the end of the cell.

    The cell is held only while its memory is copied; one line says when it is saved. If the kernel or its machine dies,
    a resume goes on from there. `name` is one line of up to 100 characters: TypeError or ValueError for another one.
    Does nothing else in a local kernel, a script, a forked process, or between cells.
    """
    stages.ended(name)
