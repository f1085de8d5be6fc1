"""What a machine has against what it needs: pure functions from facts to checks, each with what to do.

The facts come from `providers.machine_probe`, run there; the other side of each comparison is `Ours`.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ciuic_jupyter import errors
from ciuic_jupyter.control.daemon import VERSION
from ciuic_jupyter.providers.machine_probe import code_digest
from ciuic_jupyter.providers.ssh_probe import LEAST_PYTHON, Probed, plain

State = Literal["ok", "note", "bad"]

LEAST_DISK = 1 << 30  # bytes free, below which a machine is of no use
LEAST_TORCH = (2, 10)
LEAST_FILES = 1024
LEAST_MEMORY = 1 << 30
_SKEW_SECONDS = 2.0  # that a clock may differ: receipts and a dead machine's last sign of life carry its time
_GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One line of the doctor: what was looked at, how it is, what was found, and what to do if that is not well."""

    what: str
    state: State
    found: str
    todo: str = ""

    def plain(self) -> dict[str, str]:
        """Return the JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class Ours:
    """This side of the comparison: versions, and unix seconds right before and right after the machine was asked."""

    before: float
    after: float
    version: str = VERSION
    python: tuple[int, int] = sys.version_info[:2]
    digest: str = ""


def our_digest() -> str:
    """Return the digest of the code that runs here."""
    return code_digest(Path(errors.__file__).parent)


@dataclass(frozen=True)
class Expected:
    """What the list of machines says of this one."""

    name: str
    python: str
    gpus: int


def checks(expected: Expected, probed: Probed, ours: Ours) -> Iterator[Check]:
    """Yield what is to be said of a machine."""
    fix = f"`ciuic doctor {expected.name} --bootstrap`"
    yield _python(probed, ours, expected.python, fix)
    facts = probed.facts
    if facts is None:
        return
    yield _system(facts)
    yield _disk(facts["disk"])
    yield _gpus(facts["gpus"], expected.gpus)
    yield _torch(facts, fix)
    yield _package(facts["package"], ours, fix)
    yield _clock(facts["clock"], ours)
    yield from _limits(facts["limits"], str(facts["user"]))


def healthy(found: list[Check]) -> bool:
    """Tell whether nothing is bad."""
    return all(check.state != "bad" for check in found)


def _python(probed: Probed, ours: Ours, python: str, fix: str) -> Check:
    wanted = ".".join(map(str, ours.python))
    seen = ", ".join(f"{plain(found.version)} at {plain(found.path)}" for found in probed.pythons)
    if probed.facts is None:
        least = ".".join(map(str, LEAST_PYTHON))
        todo = f"install Python {wanted} there; {least} or newer is needed"
        return Check("python", "bad", f"{seen}: too old" if seen else "none", todo)
    used = probed.pythons[-1]
    found = f"{plain(used.version)} at {plain(used.path)}"
    if used.asked != python:
        old = [plain(other.version) for other in probed.pythons if other.asked == python]
        told = f"{plain(python)} is {f'{old[0]}, too old' if old else 'not there'}; {found} is"
        return Check("python", "bad", told, f"{fix} uses it, or name it with `ciuic machines add ... --python`")
    if tuple(int(part) for part in used.version.split(".")[:2]) != ours.python:
        why = f"here runs {wanted}: what is saved on one can't be resumed on the other; install Python {wanted} there"
        return Check("python", "bad", found, why)
    return Check("python", "ok", found)


def _system(facts: Mapping[str, Any]) -> Check:
    libc = " ".join(str(part) for part in facts["libc"]) or "an unknown C library"
    found = plain(f"{facts['system']} on {facts['machine']}, {libc.strip()}")
    if facts["system"] != "Linux":
        return Check("system", "bad", found, "take a machine with Linux; others can't run an agent")
    if facts["machine"] != platform.machine():
        why = f"here is {platform.machine()}: numbers can differ in the last bit after a resume on the other"
        return Check("system", "note", found, why)
    return Check("system", "ok", found)


def _disk(disk: Mapping[str, Any]) -> Check:
    place = plain(str(disk["path"]))
    if disk["error"]:
        todo = f"make room or give the right to write at {plain(str(disk['wanted']))}"
        return Check("disk", "bad", f"a file can't be written at {place}: {plain(disk['error'])}", todo)
    free = int(disk["free"])
    found = f"{free / _GIB:.1f} GiB free at {place}"
    if free < LEAST_DISK:
        return Check("disk", "bad", found, f"make room: {LEAST_DISK / _GIB:.0f} GiB is the least, plus what you save")
    if disk.get("inodes") is not None and int(disk["inodes"]) < 10_000:
        return Check("disk", "bad", f"room for {disk['inodes']} files more at {place}", "remove files: inodes run out")
    return Check("disk", "ok", found)


def _gpus(gpus: Mapping[str, Any], expected: int) -> Check:
    devices = gpus["devices"]
    if devices:
        names = ", ".join(f"{device['name']} ({device['memory_mib']} MiB)" for device in devices)
        found = plain(f"{names}, driver {devices[0]['driver']}")
        if len(devices) < expected:
            todo = f"{expected} expected: take another machine, or `ciuic machines add` it with --gpus {len(devices)}"
            return Check("gpu", "bad", found, todo)
        return Check("gpu", "ok", found)
    if gpus["nodes"]:
        todo = "install or repair the NVIDIA driver; `nvidia-smi` there says more"
        return Check("gpu", "bad", f"{plain(gpus['nodes'][0])} exists, but: {plain(gpus['error'])}", todo)
    if expected:
        todo = "install the NVIDIA driver there, or `ciuic machines add` it with --gpus 0"
        return Check("gpu", "bad", f"none; {expected} expected ({plain(gpus['error']) or 'no device'})", todo)
    return Check("gpu", "ok", "none (cells run on the CPU)")


def _torch(facts: Mapping[str, Any], fix: str) -> Check:
    torch, devices = facts["torch"], facts["gpus"]["devices"]
    if torch["version"] is None:
        return Check("torch", "bad", "missing", f"{fix} installs it")
    version = plain(str(torch["version"]))
    parts = version.split(".")[:2]
    if all(part.isdigit() for part in parts) and tuple(map(int, parts)) < LEAST_TORCH:
        return Check("torch", "bad", f"{version}: too old", f"{'.'.join(map(str, LEAST_TORCH))} is the least; {fix}")
    if not devices:
        return Check("torch", "ok", version)
    if torch["error"]:
        return Check("torch", "bad", f"{version} can't be imported: {plain(torch['error'])}", f"install it anew; {fix}")
    if not torch["cuda"]:
        return Check("torch", "bad", f"{version} is built for the CPU", "install a CUDA build of torch there")
    if not torch.get("devices"):
        driver = plain(str(devices[0]["driver"]))
        cuda = plain(str(torch["cuda"]))
        todo = f"driver {driver} is too old for CUDA {cuda}, or the GPU is taken: update the driver"
        return Check("torch", "bad", f"{version} sees no GPU", todo)
    return Check("torch", "ok", f"{version}, CUDA {plain(str(torch['cuda']))}, {torch['devices']} GPU(s)")


def _package(package: Mapping[str, Any], ours: Ours, fix: str) -> Check:
    if package["version"] is None:
        return Check("ciuic_jupyter", "bad", "missing", f"{fix} installs {ours.version}")
    version = plain(str(package["version"]))
    if version != ours.version:
        return Check("ciuic_jupyter", "bad", f"{version}; here is {ours.version}", f"{fix} installs {ours.version}")
    if package["digest"] != ours.digest:
        return Check("ciuic_jupyter", "bad", f"{version}, but other code than here", f"{fix} installs ours")
    if not package["runs"]:
        found = f"{version} can't be imported: {plain(str(package['error']))}"
        return Check("ciuic_jupyter", "bad", found, f"{fix} makes an environment that can")
    return Check("ciuic_jupyter", "ok", f"{version}, the same code as here")


def _clock(clock: Mapping[str, Any], ours: Ours) -> Check:
    """The machine read its clock between `before` and `after`, less the time it then worked: that bounds the skew."""
    least = float(clock["began"]) + float(clock["seconds"]) - ours.after
    most = float(clock["began"]) - ours.before
    if least <= 0 <= most:
        return Check("clock", "ok", f"no difference seen (within {max(-least, most):.1f} s)")
    skew = min(abs(least), abs(most))
    found = f"{skew:.1f} s {'ahead of' if least > 0 else 'behind'} ours"
    if skew > _SKEW_SECONDS:
        return Check("clock", "bad", found, "set it by NTP there (`timedatectl set-ntp true`), or ours here")
    return Check("clock", "ok", found)


def _limits(limits: Mapping[str, Any], user: str) -> Iterator[Check]:
    group = limits["cgroup"]
    memory = min(int(limits["memory"]), group["memory"] or int(limits["memory"]), limits["address"] or 1 << 62)
    cpus = f"{group['cpus']:g} CPUs, " if group["cpus"] else ""
    many = min((n for n in (limits["processes"], group["pids"]) if n is not None), default=None)
    found = f"{memory / _GIB:.1f} GiB memory, {cpus}{limits['soft_files']} files, {many or 'any number of'} processes"
    if memory < LEAST_MEMORY:
        yield Check("limits", "bad", found, "give it 1 GiB of memory or more (control group, `ulimit -v`)")
    elif limits["files"] is not None and limits["files"] < LEAST_FILES:
        yield Check("limits", "bad", found, f"allow {LEAST_FILES} open files (`nofile` in /etc/security/limits.conf)")
    elif many is not None and many < 128:
        yield Check("limits", "bad", found, "allow 128 processes or more (`nproc`, or pids.max of the control group)")
    else:
        yield Check("limits", "ok", found)
    if limits["killed_at_logout"]:
        todo = f"`sudo loginctl enable-linger {plain(user)}` there, or an agent dies with the connection"
        yield Check("logout", "bad", "systemd ends this user's processes at logout", todo)
