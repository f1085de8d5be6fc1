"""Runs on another machine, sent over its stdin: makes an environment there of wheels that were copied over.

Standard library alone, and no pip there: the wheels bring one, which runs from its own file. No index is asked but for
torch, and only if that is wanted.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

MARK = "CIUIC-SETUP "
_PIP_SECONDS = 3000.0
_DONE = "ciuic.json"  # in an environment: it is whole


class Failed(Exception):
    """A step that did not succeed; its text says which and why."""


class NoTorch(Failed):
    """The index of this machine has no torch, or there is none."""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def prepare(wanted: dict[str, Any]) -> dict[str, Any]:
    """Make the folder, and say where it is, what of the `wheels` (name: digest) is missing and how much room there is.

    An environment `name` that is whole already needs nothing.
    """
    folder = Path(os.path.expanduser(wanted["folder"]))
    wheels = folder / "wheels"
    wheels.mkdir(mode=0o700, parents=True, exist_ok=True)
    whole = (folder / wanted["name"] / _DONE).is_file()
    missing = []
    for name, digest in wanted["wheels"].items():
        path = wheels / name
        if not whole and not (path.is_file() and _digest(path) == digest):
            path.unlink(missing_ok=True)
            missing.append(name)
    free = shutil.disk_usage(folder).free
    return {"wheels": str(wheels), "missing": missing, "free": free, "whole": whole}


def install(wanted: dict[str, Any]) -> dict[str, Any]:
    """Make the environment `name` of the `wheels` (name: digest), checked again; return its Python.

    `system`: it sees the packages of the Python that makes it; `torch`: a version to get from this machine's own
    index, "" if it is here already or among the wheels.
    """
    folder = Path(os.path.expanduser(wanted["folder"]))
    place, wheels = folder / wanted["name"], folder / "wheels"
    with (folder / "setup.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        python = place / "bin" / "python"
        if (place / _DONE).is_file():
            return {"python": str(python), "made": False}
        shutil.rmtree(place, ignore_errors=True)
        for name, digest in wanted["wheels"].items():
            if not (wheels / name).is_file() or _digest(wheels / name) != digest:
                raise Failed(f"{name} did not arrive whole; try again")
        _make(place, python, wanted)
        (place / _DONE).write_text(json.dumps({"base": sys.executable, "wheels": wanted["wheels"]}))
        _drop_others(wheels, wanted["wheels"])
    return {"python": str(python), "made": True}


def _make(place: Path, python: Path, wanted: dict[str, Any]) -> None:
    _step("make an environment", [sys.executable, "-m", "venv", "--without-pip", str(place)])
    wheels = place.parent / "wheels"
    pip = next((str(wheels / name / "pip") for name in wanted["wheels"] if name.startswith("pip-")), None)
    if pip is None:
        raise Failed("no pip among the wheels")
    base = [str(python), pip, "install", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--quiet"]
    own = [str(wheels / name) for name in wanted["wheels"] if not name.startswith("pip-")]
    if wanted["torch"]:
        options = ["--retries=1", "--timeout=15", "--only-binary=:all:"]
        try:
            _step("get torch from this machine's index", [*base, *options, f"torch=={wanted['torch']}"])
        except Failed as error:
            shutil.rmtree(place, ignore_errors=True)
            raise NoTorch(str(error)) from error
    _step("install the wheels", [*base, "--isolated", "--no-compile", "--no-index", "--no-deps", *own])
    if wanted["system"]:
        _see_through(place)


def _see_through(place: Path) -> None:
    """Let an environment see, after its own packages, those of the Python that makes it; this may be one, too."""
    if sys.prefix == sys.base_prefix:
        config = place / "pyvenv.cfg"
        wanted = "include-system-site-packages = "
        config.write_text(config.read_text().replace(f"{wanted}false", f"{wanted}true"))
        return
    own = next((place / "lib").glob("python*/site-packages"))
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "zz_parent.pth").write_text("".join(f"{path}\n" for path in sorted(paths)))


def _drop_others(wheels: Path, kept: dict[str, str]) -> None:
    """Remove the wheels of earlier versions; those of this one spare the next machine state a copy."""
    for path in wheels.iterdir():
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _step(what: str, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=_PIP_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{what}: not done after {_PIP_SECONDS:.0f} s") from error
    except OSError as error:
        raise Failed(f"{what}: {error}") from error
    if done.returncode:
        raise Failed(f"{what}: {(done.stderr or done.stdout).strip()[-600:] or f'ended with {done.returncode}'}")


def main(wanted: dict[str, Any]) -> None:
    """Do `step` and print what came of it as the one line that the other side looks for."""
    os.umask(0o077)
    try:
        answer = {"prepare": prepare, "install": install}[wanted["step"]](wanted)
    except (Failed, OSError) as error:
        answer = {"error": str(error), "torch": isinstance(error, NoTorch)}
    sys.stdout.write(f"\n{MARK}{json.dumps(answer)}\n")
    sys.stdout.flush()
