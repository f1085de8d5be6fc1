"""The wheels that a machine without internet needs: one of the code that runs here, and what an agent imports.

Made and downloaded here, kept by their digest, so that a second machine or a new version costs what is new alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ciuic_jupyter.control import wheels as wheels_of_here
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers.ssh_probe import plain

# what the agent and its kernel import; pyproject.toml says which versions will do
RUNTIME = (
    "ipykernel", "ipython", "ipywidgets", "jupyter-client", "websockets", "psutil", "nvidia-ml-py",
    "cloudpickle", "numpy", "blake3", "fsspec", "platformdirs",
)  # fmt: skip
STORES = {"s3": "s3fs", "gs": "gcsfs", "oss": "ossfs"}
_DOWNLOAD_SECONDS = 3600.0
_OLDEST_GLIBC = 17


@dataclass(frozen=True)
class Target:
    """What the wheels must fit: `python` as (3, minor), `machine` like x86_64, the minor version of its glibc 2."""

    python: tuple[int, int]
    machine: str
    glibc: int

    @property
    def key(self) -> str:
        """Return a name for it."""
        return f"cp{self.python[0]}{self.python[1]}-{self.machine}-glibc{self.glibc}"

    @property
    def runs_ours(self) -> bool:
        """Tell whether what is compiled for this computer runs there, too."""
        libc, version = platform.libc_ver()
        ours = version.split(".")[1:2]
        fits = libc == "glibc" and bool(ours) and ours[0].isdigit() and self.glibc >= int(ours[0])
        return fits and self.machine == platform.machine() and self.python == sys.version_info[:2]

    def options(self) -> list[str]:
        """Return pip's options that choose wheels for it."""
        tag = f"cp{self.python[0]}{self.python[1]}"
        numbers = range(self.glibc, _OLDEST_GLIBC - 1, -1)
        names = [*(f"manylinux_2_{number}" for number in numbers), "manylinux2014", "manylinux2010", "manylinux1"]
        platforms = [f"{name}_{self.machine}" for name in [*names, "linux"]]
        abis = [tag, "abi3", "none"]
        return [
            "--implementation=cp",
            f"--python-version={self.python[0]}.{self.python[1]}",
            *(f"--abi={abi}" for abi in abis),
            *(f"--platform={name}" for name in platforms),
        ]


def _replace(path: Path, data: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)
    return path


def pins(roots: Iterable[str]) -> list[str]:
    """Return `name==version` of the packages `roots` and all they need, as installed here, without torch's own.

    UsageError names what is not installed here. Versions have no local part (`+cpu`): an index knows them without.
    """
    found: dict[str, str] = {}
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in found:
            continue
        try:
            installed = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError as error:
            raise UsageError(f"{name} is not installed here, a machine needs it; `pip install {name}`") from error
        found[name] = installed.version.partition("+")[0]
        for line in installed.requires or ():
            needed = Requirement(line)
            extras = wanted.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(needed)
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def pin(name: str) -> str:
    """Return `name==version` as installed here, without a local part; UsageError if it is not."""
    return next(line for line in pins([name]) if line.partition("==")[0] == canonicalize_name(name))


def gathered(wanted: list[str], target: Target, cache: Path, *, with_needs: bool = False) -> list[Path]:
    """Return the wheels of `wanted` alone, or of all they need too, from `cache`, this installation or an index.

    A machine that runs what this one runs gets copies of what is installed here; else, and for what can't be copied,
    the user's own index is asked. What is in `cache` is used only if each file is what was put there.
    UsageError if pip fails.
    """
    key = hashlib.sha256("\n".join([target.key, str(with_needs), *wanted]).encode()).hexdigest()[:16]
    listing, wheels = cache / "sets" / f"{key}.json", cache / "wheels" / key
    kept = _listed(listing, wheels)
    if kept is not None:
        return kept
    for folder in (listing.parent, wheels):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = [] if with_needs or not target.runs_ours else [line for line in wanted if _installed(line, wheels)]
    left = [line for line in wanted if line not in made]
    if left:
        _download(left, target, wheels, with_needs=with_needs)
    chosen = sorted(wheels.glob("*.whl")) if with_needs else [_wheel_of(line, wheels) for line in wanted]
    _replace(listing, json.dumps({path.name: digest_of(path) for path in chosen}).encode())
    return chosen


def _installed(pin: str, wheels: Path) -> bool:
    name, _, version = pin.partition("==")
    same = importlib.metadata.version(name) == version  # not one with a local part, like +cpu
    return same and wheels_of_here.installed_wheel(name, wheels) is not None


def _download(wanted: list[str], target: Target, wheels: Path, *, with_needs: bool) -> None:
    plan = _replace(wheels / "plan.txt", "".join(f"{line}\n" for line in wanted).encode())
    command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", *([] if with_needs else ["--no-deps"]), *target.options()]
    command += [f"--dest={wheels}", f"--requirement={plan}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=_DOWNLOAD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"the wheels for the machine can't be downloaded: {error}; try again") from error
    if done.returncode:
        said = plain(without_secrets(done.stderr or done.stdout))
        raise UsageError(f"pip found no wheels of what the machine needs ({target.key}): {said}")


def _listed(listing: Path, wheels: Path) -> list[Path] | None:
    """Return the wheels that an earlier download left, None if one of them is not what it was."""
    try:
        known = json.loads(listing.read_text())
        paths = [wheels / Path(name).name for name in known]
        good = all(digest_of(path) == known[path.name] for path in paths)
    except (OSError, ValueError, AttributeError):
        return None
    return paths if good else None


def _wheel_of(pin: str, wheels: Path) -> Path:
    name, _, version = pin.partition("==")
    for path in sorted(wheels.glob("*.whl"), reverse=True):
        parts = path.name.split("-")
        if canonicalize_name(parts[0]) == name and parts[1].partition("+")[0] == version:
            return path
    raise UsageError(f"pip says it has downloaded {pin}, and it is not in {wheels}; remove that folder, try again")


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def without_secrets(text: str) -> str:
    """Return pip's text without the passwords of index addresses."""
    return re.sub(r"://[^/\s@]+@", "://****@", text)
