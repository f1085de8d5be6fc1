"""Wheels made of what is installed here: of the code that runs, and of what it needs, byte for byte what runs here."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import io
import os
import sys
import zipfile
from pathlib import Path

from ciuic_jupyter import errors
from ciuic_jupyter.errors import UsageError

NAME = "ciuic_jupyter"
_LEFT_OUT = ("labextension", "__pycache__")
_KEPT = (".py", ".typed", ".json", ".toml")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_LEVEL = 1  # of compression: a copy in a fast network is not to wait for it
_INSTALLERS = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")


def running_wheel(folder: Path) -> Path:
    """Write a wheel of the code that runs here into `folder`, and return it; the same code gives the same bytes.

    It holds the package without its panel, which no machine needs. An editable installation gives its files of now,
    an installed wheel those that its RECORD lists; UsageError if the installation has no metadata.
    """
    try:
        found = importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError as error:
        raise UsageError(f"{NAME} has no metadata here, so no wheel can be made of it; pip install it") from error
    content = {name: path.read_bytes() for name, path in _sources(found)}
    info = f"{NAME}-{found.version}.dist-info"
    content[f"{info}/METADATA"] = (found.read_text("METADATA") or "").encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: ciuic\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/entry_points.txt"] = (found.read_text("entry_points.txt") or "").encode()
    return _written(folder / f"{NAME}-{found.version}-py3-none-any.whl", content, info)


def installed_wheel(name: str, folder: Path) -> Path | None:
    """Write a wheel of an installed package into `folder`, and return it; None if it can't be made.

    That is so without a RECORD (a package of the system or of conda), or if a file is not what RECORD says. Programs
    in `bin` are made anew by whoever installs it.
    """
    found = importlib.metadata.distribution(name)
    tags = [line.partition(":")[2].strip() for line in (found.read_text("WHEEL") or "").splitlines() if "Tag:" in line]
    if not tags or not found.files or found.read_text("direct_url.json"):
        return None
    info = next((file.parts[0] for file in found.files if file.parts[0].endswith(".dist-info")), "")
    stem = info.removesuffix(".dist-info")
    content: dict[str, bytes] = {}
    for file in sorted(found.files, key=str):
        if "__pycache__" in file.parts or (file.parts[0] == info and file.name in _INSTALLERS):
            continue
        path = Path(str(file.locate()))
        place = file.as_posix() if file.parts[0] != ".." else _data(path, stem)
        if place is None:
            continue
        try:
            content[place] = path.read_bytes()
        except OSError:
            return None
        if file.hash is not None and file.hash.value != _digest(content[place], file.hash.mode):
            return None
    parts = [list(dict.fromkeys(part)) for part in zip(*(tag.split("-") for tag in tags), strict=True)]
    return _written(folder / f"{stem}-{'-'.join('.'.join(part) for part in parts)}.whl", content, info)


def _data(path: Path, stem: str) -> str | None:
    """Return the place in a wheel of a file outside of site-packages, None for a program."""
    real = Path(os.path.normpath(path))
    if not real.is_relative_to(sys.prefix):
        return None
    inner = real.relative_to(sys.prefix)
    return f"{stem}.data/data/{inner.as_posix()}" if inner.parts[0] in ("share", "etc") else None


def _digest(data: bytes, mode: str) -> str:
    return base64.urlsafe_b64encode(hashlib.new(mode, data).digest()).rstrip(b"=").decode()


def _written(path: Path, content: dict[str, bytes], info: str) -> Path:
    """Write a wheel, whole or not at all; the same content gives the same bytes."""
    content[f"{info}/RECORD"] = _record(content, f"{info}/RECORD")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr, entry.compress_type = 0o644 << 16, zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    temporary.replace(path)
    return path


def _sources(found: importlib.metadata.Distribution) -> list[tuple[str, Path]]:
    """Return the package's files as (name in the wheel, path), in the order of their names."""
    listed = [file for file in found.files or () if file.parts[0] == NAME]
    if listed:
        files = {file.as_posix(): Path(str(file.locate())) for file in listed}
    else:  # editable: only a .pth file is listed
        package = Path(errors.__file__).parent
        files = {f"{NAME}/{path.relative_to(package).as_posix()}": path for path in package.rglob("*")}
    wanted = [
        (name, path)
        for name, path in sorted(files.items())
        if path.suffix in _KEPT and path.is_file() and not set(_LEFT_OUT) & set(name.split("/"))
    ]
    if f"{NAME}/__init__.py" not in dict(wanted):
        raise UsageError(f"the files of {NAME} are not where its metadata says; pip install it anew")
    return wanted


def _record(content: dict[str, bytes], own: str) -> bytes:
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for name, data in content.items():
        writer.writerow([name, f"sha256={_digest(data, 'sha256')}", len(data)])
    writer.writerow([own, "", ""])
    return lines.getvalue().encode()
