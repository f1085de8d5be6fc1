"""Runs on another machine, sent over its stdin: looks at what an agent needs there, prints one line of JSON.

Standard library alone: nothing of this package is there yet. It changes nothing but a file it makes and removes.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import pwd
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

MARK = "CIUIC-PROBE "
_TOOL_SECONDS = 20.0  # nvidia-smi, loginctl
_IMPORT_SECONDS = 120.0  # torch from a cold disk
_UNLIMITED = 1 << 60
_RUNS = ("kernels.agent_core", "kernels.kernelapp", "providers.ssh_node")  # what is started on a machine


def _run(arguments: list[str], seconds: float) -> tuple[int, str, str]:
    """Return exit status and both outputs of a program; 127 if it is not here, 124 if it took too long."""
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, errors="replace", timeout=seconds, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return 127, "", f"{arguments[0]} is not here"
    except subprocess.TimeoutExpired:
        return 124, "", f"no answer in {seconds:.0f} s"
    except OSError as error:
        return 126, "", str(error)
    return done.returncode, done.stdout, done.stderr


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def code_digest(package: Path) -> str:
    """Return the digest of a package's Python files, names and bytes: the same code gives the same text anywhere."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _package() -> dict[str, Any]:
    """Say which ciuic_jupyter is here, and whether what runs on a machine can be imported."""
    spec = importlib.util.find_spec("ciuic_jupyter")
    if spec is None or spec.origin is None:
        return {"version": None}
    wanted = (
        "import ciuic_jupyter.kernels.agent_core, ciuic_jupyter.kernels.kernelapp, ciuic_jupyter.providers.ssh_node"
    )
    status, _, error = _run([sys.executable, "-c", wanted], _IMPORT_SECONDS)
    said = error.strip().splitlines()
    return {
        "version": _version("ciuic_jupyter"),
        "digest": code_digest(Path(spec.origin).parent),
        "runs": status == 0,
        "error": said[-1][:300] if said and status else "",
    }


def _disk(folder: str) -> dict[str, Any]:
    """Say how much room the user has where machines keep their files, and whether a file can be written there."""
    wanted = place = Path(os.path.expanduser(folder))
    while not place.exists() and place != place.parent:
        place = place.parent
    fact: dict[str, Any] = {"path": str(place), "wanted": str(wanted), "free": None, "error": ""}
    try:
        room = os.statvfs(place)
        fact["free"] = room.f_bavail * room.f_frsize
        fact["inodes"] = room.f_favail if room.f_files else None
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0" * 65536)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        fact["error"] = f"{error.strerror or error}"
    return fact


def _gpus() -> dict[str, Any]:
    """Say which GPUs the driver shows; device nodes tell of a GPU whose driver does not answer."""
    nodes = sorted([*glob.glob("/dev/nvidia[0-9]*"), *glob.glob("/dev/dxg")])
    fields = "name,memory.total,driver_version"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    status, printed, error = _run(query, _TOOL_SECONDS)
    devices = []
    if status == 0:
        for line in printed.splitlines():
            parts = [part.strip() for part in line.split(",")]
            if len(parts) == 3:
                devices.append({"name": parts[0], "memory_mib": parts[1], "driver": parts[2]})
    said = (printed + error).strip()
    return {"devices": devices, "nodes": nodes, "tool": status, "error": said[:300] if status else ""}


def _torch(look: bool) -> dict[str, Any]:
    """Say which torch is here; with `look`, whether it can use a GPU, which takes an import."""
    fact: dict[str, Any] = {"version": _version("torch"), "cuda": None, "error": ""}
    if fact["version"] is None or not look:
        return fact
    asks = "import json, torch; print(json.dumps([torch.version.cuda, torch.cuda.device_count()]))"
    status, printed, error = _run([sys.executable, "-W", "ignore", "-c", asks], _IMPORT_SECONDS)
    lines = (printed if status == 0 else error).strip().splitlines()
    if status == 0 and lines:
        fact["cuda"], fact["devices"] = json.loads(lines[-1])
    else:
        fact["error"] = lines[-1][:300] if lines else f"ended with {status}"
    return fact


def _number(path: str) -> int | None:
    try:
        text = Path(path).read_text().split()
        found = int(text[0])
    except (OSError, ValueError, IndexError):
        return None
    return found if found < _UNLIMITED else None


def _cgroup() -> dict[str, Any]:
    """Return the tightest limits on memory (bytes), processes and CPUs of our control groups; None is no limit."""
    limits: dict[str, Any] = {"memory": None, "pids": None, "cpus": None}
    try:
        own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return limits
    for _, names, path in own:
        kinds = ("memory", "pids", "cpu") if not names else tuple(set(names.split(",")) & {"memory", "pids", "cpu"})
        for kind in kinds:
            root = Path("/sys/fs/cgroup") / (names if names else "")
            for place in [root / path.lstrip("/"), *(root / path.lstrip("/")).parents]:
                if place != root and root not in place.parents:
                    break
                _tighten(limits, kind, place)
    return limits


def _tighten(limits: dict[str, Any], kind: str, place: Path) -> None:
    if kind == "cpu":
        try:
            quota, period = (place / "cpu.max").read_text().split()
            found: float | None = None if quota == "max" else int(quota) / int(period)
        except (OSError, ValueError):
            us, period_us = _number(f"{place}/cpu.cfs_quota_us"), _number(f"{place}/cpu.cfs_period_us")
            found = us / period_us if us and period_us and us > 0 else None
        key = "cpus"
    else:
        names = ("memory.max", "memory.limit_in_bytes") if kind == "memory" else ("pids.max",)
        found = min((n for name in names if (n := _number(f"{place}/{name}")) is not None), default=None)
        key = kind
    if found is not None and (limits[key] is None or found < limits[key]):
        limits[key] = found


def _limits() -> dict[str, Any]:
    """Say what bounds a user's processes here; sizes in bytes, None is no limit."""
    wanted = {"files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC, "address": resource.RLIMIT_AS}
    fact: dict[str, Any] = {}
    for name, number in wanted.items():
        hard = resource.getrlimit(number)[1]
        fact[name] = None if hard == resource.RLIM_INFINITY else hard
    fact["soft_files"] = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    fact["memory"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    fact["cgroup"] = _cgroup()
    fact["killed_at_logout"] = _killed_at_logout()
    return fact


def _killed_at_logout() -> bool:
    """Tell whether systemd ends this user's processes with the last login."""
    if not Path("/run/systemd/system").exists() or os.getuid() == 0:
        return False
    if Path("/var/lib/systemd/linger", _user()).exists():
        return False
    status, printed, _ = _run(["loginctl", "show-user", "--property=KillUserProcesses"], _TOOL_SECONDS)
    return status == 0 and printed.strip() == "KillUserProcesses=yes"


def _base() -> str | None:
    """Return the Python that an environment of ours was made with, None in any other Python."""
    try:
        made = json.loads(Path(sys.prefix, "ciuic.json").read_text())
        return str(made["base"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def look(wanted: dict[str, Any]) -> dict[str, Any]:
    """Return all facts. `wanted`: `folder`, where machines keep their files."""
    began, ticks = time.time(), time.monotonic()
    gpus = _gpus()
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "executable": sys.executable,
        "base": _base(),
        "implementation": sys.implementation.name,
        "soabi": sysconfig.get_config_var("SOABI"),
        "system": platform.system(),
        "machine": platform.machine(),
        "libc": platform.libc_ver(),
        "user": _user(),
        "host": platform.node(),
        "venv": importlib.util.find_spec("venv") is not None,
        "gpus": gpus,
        "torch": _torch(bool(gpus["devices"])),
        "package": _package(),
        "disk": _disk(str(wanted["folder"])),
        "tmp_free": shutil.disk_usage(tempfile.gettempdir()).free,
        "limits": _limits(),
    }
    facts["clock"] = {"began": began, "seconds": time.monotonic() - ticks}
    return facts


def main(wanted: dict[str, Any]) -> None:
    """Print the facts as the one line that the other side looks for."""
    sys.stdout.write(f"\n{MARK}{json.dumps(look(wanted))}\n")
    sys.stdout.flush()
