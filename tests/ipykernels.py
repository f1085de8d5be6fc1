"""Other versions of ipykernel beside the installed one, for tests of what changed between them."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

VERSIONS = ("6.31.0", "7.3.0", "7.4.0")
_CACHE = Path(__file__).resolve().parents[1] / ".cache" / "ipykernels"


def path_of(version: str) -> Path | None:
    """Return the directory to put on PYTHONPATH for this ipykernel; None: it is the installed one. Installs it once."""
    if installed_version("ipykernel") == version:
        return None
    target = _CACHE / version
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / ".complete").exists():
            wanted = ["--no-deps", "--quiet", "--upgrade", "--target", str(target), f"ipykernel=={version}"]
            subprocess.run([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *wanted], check=True)
            (target / ".complete").touch()
    return target


def name_of(version: str) -> str:
    """Return the kernelspec's name of a version."""
    return f"ipk{version.replace('.', '')}"


def write_kernelspec(version: str, data_dir: Path) -> str:
    """Write a kernelspec of this ipykernel under a Jupyter data directory and return its name."""
    directory = data_dir / "kernels" / name_of(version)
    directory.mkdir(parents=True, exist_ok=True)
    path = path_of(version)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": f"ipykernel {version}",
        "language": "python",
        "env": {"PYTHONPATH": str(path)} if path else {},
    }
    (directory / "kernel.json").write_text(json.dumps(spec))
    return directory.name
