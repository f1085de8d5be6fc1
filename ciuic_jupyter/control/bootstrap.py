"""Install the code that runs here on another machine: probe, copy the wheels it lacks, make an environment of them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ciuic_jupyter.control import bundle
from ciuic_jupyter.control import wheels as wheels_of_here
from ciuic_jupyter.control.checkup import LEAST_TORCH, Ours, our_digest
from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers import machine_setup, ssh_probe
from ciuic_jupyter.providers.ssh_probe import Probed, plain

_PREPARE_SECONDS = 300.0
_INSTALL_SECONDS = 3600.0
_UNPACKED = 5  # bytes on the disk for a byte of wheel, compiled
_MIB = 1 << 20
_PREFIX = "ciuic-"
_SETUP = Path(machine_setup.__file__).read_text()
_TORCH_BYTES = 8 << 30  # a CUDA build with its libraries, unpacked


class Shell(Protocol):
    """A connection to another machine, as far as this module needs one."""

    async def run(self, command: Sequence[str], text: str, seconds: float) -> tuple[int | None, str, str]:
        """Run a command with `text` on its stdin; return exit code (None: by a signal) and both outputs."""

    async def send(self, files: Mapping[Path, str]) -> None:
        """Copy files to paths there, each whole or not at all, mode 0600."""


@dataclass(frozen=True)
class Wish:
    """What to set up where: `folder` there, what address checkpoints have, where wheels are kept here."""

    folder: str
    cache: Path
    checkpoint_url: str | None = None
    python: str | None = None


async def probe(shell: Shell, folder: str, python: str | None = None) -> tuple[Probed, Ours]:
    """Ask a machine what it has; return that and our side of the comparison."""
    digest = await asyncio.to_thread(our_digest)
    ours = Ours(0, 0, digest=digest)
    before = time.time()
    command = ssh_probe.command(ours.python[1], python)
    status, printed, error = await shell.run(command, ssh_probe.program(folder), ssh_probe.PROBE_SECONDS)
    after = time.time()
    probed = ssh_probe.parse(printed)
    if probed.facts is None and status != 0:
        said = plain(bundle.without_secrets(error or printed)) or "nothing"
        raise ProviderError(f"the machine can't be looked at: `sh` there ended with {status} and said: {said}")
    return probed, Ours(before, after, digest=digest)


async def install(shell: Shell, wish: Wish, say: Callable[[str], None]) -> str:
    """Make an environment there with this very version, and return the path of its Python.

    ProviderError or UsageError says which step failed. What is whole already is left as it is.
    """
    probed, ours = await probe(shell, wish.folder, wish.python)
    if probed.facts is not None and probed.facts["base"]:  # an environment that an earlier version made
        probed, ours = await probe(shell, wish.folder, str(probed.facts["base"]))
    facts = _fit(probed, ours)
    target = _target(facts)
    wanted, torch = _wanted(wish.checkpoint_url), bundle.pin("torch")
    wheel = await asyncio.to_thread(wheels_of_here.running_wheel, wish.cache / "own")
    wheels = [wheel, *await asyncio.to_thread(bundle.gathered, wanted, target, wish.cache)]
    system = _has_torch(facts)
    python = str(facts["executable"])
    plan = _plan(wish, wheels, system=system, torch="" if system else torch.partition("==")[2])
    try:
        return await _set_up(shell, python, wheels, plan, say)
    except _NoTorch:
        say(f"{torch} is not to be had from the machine's own index; it is copied from here")
    all_of_it = await asyncio.to_thread(bundle.gathered, [*wanted, torch], target, wish.cache, with_needs=True)
    wheels = [wheel, *all_of_it]
    return await _set_up(shell, python, wheels, _plan(wish, wheels, system=False, torch=""), say)


class _NoTorch(ProviderError):
    """The machine's own index has no torch."""


def _fit(probed: Probed, ours: Ours) -> dict[str, Any]:
    """Return the facts of a machine that wheels can be made for; ProviderError says what to install otherwise."""
    wanted = ".".join(map(str, ours.python))
    todo = f"install Python {wanted} there, then try again; nothing was changed"
    if probed.facts is None:
        seen = ", ".join(plain(found.version) for found in probed.pythons)
        raise ProviderError(f"no Python that is new enough there ({seen or 'none'}); {todo}")
    if not str(probed.facts["python"]).startswith(f"{wanted}."):
        raise ProviderError(f"Python {plain(str(probed.facts['python']))} there, {wanted} here; {todo}")
    if not probed.facts["venv"]:
        raise ProviderError("its Python has no venv module; install it there (Debian: `apt install python3-venv`)")
    if probed.facts["disk"]["error"]:
        said = plain(str(probed.facts["disk"]["error"]))
        raise ProviderError(f"a file can't be written at {plain(str(probed.facts['disk']['path']))} there: {said}")
    return probed.facts


def _target(facts: Mapping[str, Any]) -> bundle.Target:
    name, version = facts["libc"]
    parts = str(version).split(".")
    if facts["system"] != "Linux" or name != "glibc" or len(parts) < 2 or not parts[1].isdigit():
        found = plain(f"{facts['system']}, {name or 'unknown C library'} {version}")
        raise ProviderError(f"wheels are made for Linux with glibc; there is {found}. Install ciuic_jupyter by hand")
    major, minor = str(facts["python"]).split(".")[:2]
    return bundle.Target((int(major), int(minor)), str(facts["machine"]), int(parts[1]))


def _wanted(checkpoint_url: str | None) -> list[str]:
    scheme = (checkpoint_url or "").partition("://")[0]
    stores = [bundle.STORES[scheme]] if scheme in bundle.STORES else []
    return bundle.pins([*bundle.RUNTIME, *stores, "pip"])


def _has_torch(facts: Mapping[str, Any]) -> bool:
    """Tell whether the Python there has a torch that will do, one that sees the GPU if there is one."""
    torch = facts["torch"]
    parts = str(torch["version"] or "0").split(".")[:2]
    new = all(part.isdigit() for part in parts) and tuple(map(int, parts)) >= LEAST_TORCH
    return new and (not facts["gpus"]["devices"] or bool(torch.get("devices")))


def _plan(wish: Wish, wheels: list[Path], *, system: bool, torch: str) -> dict[str, Any]:
    digests = {path.name: bundle.digest_of(path) for path in wheels}
    text = json.dumps([digests, system, torch], sort_keys=True)
    name = f"{_PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return {"folder": wish.folder, "name": name, "wheels": digests, "system": system, "torch": torch}


async def _set_up(
    shell: Shell, python: str, wheels: list[Path], plan: dict[str, Any], say: Callable[[str], None]
) -> str:
    ready = await _step(shell, python, {**plan, "step": "prepare"}, _PREPARE_SECONDS)
    missing = [path for path in wheels if path.name in ready["missing"]]
    size = sum(path.stat().st_size for path in missing)
    needed = size + _UNPACKED * sum(path.stat().st_size for path in wheels if missing)
    if plan["torch"] and not ready["whole"]:
        needed += _TORCH_BYTES
    if ready["free"] < needed:
        free, least = ready["free"] // _MIB, needed // _MIB + 1
        room = f"the disk there is full: {free} MiB free, {least} MiB needed; make room"
        raise ProviderError(f"{room}{', or install torch there yourself' if plan['torch'] else ''}, then try again")
    say(f"{len(missing)} of {len(wheels)} wheels to copy ({size / _MIB:.1f} MiB)")
    if missing:
        await shell.send({path: f"{ready['wheels']}/{path.name}" for path in missing})
    done = await _step(shell, python, {**plan, "step": "install"}, _INSTALL_SECONDS)
    say(f"{'made' if done['made'] else 'found whole'}: {plain(str(done['python']))}")
    return str(done["python"])


async def _step(shell: Shell, python: str, wanted: dict[str, Any], seconds: float) -> dict[str, Any]:
    text = f"{_SETUP}\n\nmain(json.loads({json.dumps(json.dumps(wanted))}))\n"
    status, printed, error = await shell.run([python, "-P", "-"], text, seconds)
    for line in printed.splitlines():
        if line.startswith(machine_setup.MARK):
            answer: dict[str, Any] = json.loads(line.removeprefix(machine_setup.MARK))
            if "error" not in answer:
                return answer
            said = plain(bundle.without_secrets(str(answer["error"])))
            kind = _NoTorch if answer.get("torch") else ProviderError
            raise kind(f"the machine could not {wanted['step']}: {said}")
    said = plain(bundle.without_secrets(error or printed)) or "nothing"
    raise ProviderError(f"the machine could not {wanted['step']}: Python there ended with {status} and said: {said}")
