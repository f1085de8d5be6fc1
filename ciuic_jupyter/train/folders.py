"""Folders that a library wrote travel inside the checkpoint: the machine they are on is given back."""

from __future__ import annotations

from pathlib import Path


def pack(folder: str | None) -> dict[str, bytes]:
    """Return the files of `folder` by their path in it; none if there is no such folder."""
    root = Path(folder) if folder else None
    if root is None or not root.is_dir():
        return {}
    return {str(one.relative_to(root)): one.read_bytes() for one in sorted(root.rglob("*")) if one.is_file()}


def unpack(folder: str | None, files: dict[str, bytes]) -> None:
    """Write them again where `folder` is not there any more."""
    if folder is None or Path(folder).is_dir():
        return
    for name, data in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
