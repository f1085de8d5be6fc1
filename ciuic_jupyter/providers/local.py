"""Machines that are process trees on this computer: the embedded default.

A machine is a private folder named by its intent: `mkdir` makes a start happen once. Its agent holds `lock` for life.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from ciuic_jupyter.errors import OutOfCapacity, ProviderError
from ciuic_jupyter.monitor import cgroup, proof
from ciuic_jupyter.providers.base import Endpoint, Intent, Machine, MachineState, Offer
from ciuic_jupyter.providers.files import behind, write_private
from ciuic_jupyter.providers.warm_client import WarmParent

_MARK = "CIUIC_MACHINE"
_START_SECONDS = 20.0  # until the agent holds its lock
_GRACE_SECONDS = 6.0  # between SIGTERM and SIGKILL: the agent gives its kernel 2 s
_POLL = 0.02
_STOPPED = "stopped"  # the file that says a stop was asked for
_GONE = "gone"  # the file that says it lived and was proven stopped; no start brings it back
HIDDEN = ("CIUIC_TOKEN", "CIUIC_URL")  # variables that are not for the user's code


@dataclass(frozen=True)
class LocalPlaces:
    """Where machines live: `machines` holds their folders, `sockets` their short-named socket folders."""

    machines: Path
    sockets: Path


class LocalProvider:
    """Starts agents as child processes in sessions of their own; they outlive the plane."""

    name = "local"

    def __init__(self, places: LocalPlaces, offers: Sequence[Offer], warm: WarmParent | None = None) -> None:
        self._places = places
        self._offers = {offer.instance: offer for offer in offers}
        self._warm = warm
        self._starting: dict[str, asyncio.Lock] = {}
        self._children: list[subprocess.Popen[bytes]] = []

    async def offers(self) -> list[Offer]:
        """Return the machine types of this computer, priced by the settings."""
        return list(self._offers.values())

    def _folder(self, machine: str) -> Path:
        if not machine or not all(c.isalnum() or c in "-_" for c in machine):
            raise ProviderError(f"{machine!r} is not the id of a local machine; nothing was done")
        return self._places.machines / machine

    async def start(self, intent: Intent) -> Machine:
        """Start the machine of `intent` once, whatever happened to earlier callers."""
        if intent.offer.instance not in self._offers:
            known = ", ".join(self._offers)
            raise OutOfCapacity(f"no machine type {intent.offer.instance!r} here; this computer offers {known}")
        async with self._starting.setdefault(intent.id, asyncio.Lock()):
            folder = self._prepare(intent)
            if not _lived(folder):
                await self._launch(folder)
        found = await self.look(intent.id)
        if found is None:
            raise ProviderError(f"machine {intent.id} vanished while it started; start it again")
        return found

    def _prepare(self, intent: Intent) -> Path:
        folder = self._folder(intent.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sockets = self._places.sockets / intent.id.replace("-", "")[:12]
        sockets.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (folder / "machine.json").exists():
            config = {
                **intent.agent_config,
                "machine": intent.id,
                "intent": intent.id,
                "socket": str(sockets / "agent.sock"),
                "directory": str(folder),
            }
            write_private(folder / "agent.json", json.dumps(config))
            facts = {"intent": intent.id, "tag": intent.tag, "created_at": time.time(), "socket": config["socket"]}
            write_private(folder / "machine.json", json.dumps(facts))
        return folder

    async def _launch(self, folder: Path) -> None:
        pid = await self._warm.fork(folder / "agent.json") if self._warm is not None else None
        child = None if pid is not None else await asyncio.to_thread(_spawn, folder)
        if child is not None:
            self._children.append(child)
        deadline = time.monotonic() + _START_SECONDS
        while not proof.is_held(folder / "lock"):
            ended = child.poll() is not None if child is not None else proof.start_ticks(pid or 0) is None
            if ended and not proof.is_held(folder / "lock"):
                raise ProviderError(f"the agent of machine {folder.name} ended at its start: {_tail(folder)}")
            if time.monotonic() > deadline:
                raise ProviderError(f"the agent of machine {folder.name} did not start in {_START_SECONDS:.0f} s")
            await asyncio.sleep(_POLL)

    async def look(self, machine: str) -> Machine | None:
        """Return what can be proven: RUNNING while the lock is held, STOPPED only if no process of it is left."""
        folder = self._folder(machine)
        try:
            facts = json.loads((folder / "machine.json").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise ProviderError(f"what is known of machine {machine} can't be read: {error}") from error
        state, stopped_at, detail = MachineState.RUNNING, None, ""
        if not proof.is_held(folder / "lock"):
            if await asyncio.to_thread(_processes, machine, folder):
                state, detail = MachineState.UNKNOWN, "its agent is gone, processes of it are left"
            else:
                state = MachineState.STOPPED
                cgroup.remove(folder / "cgroup")
                self._children = [child for child in self._children if child.poll() is None]
                stopped_at, detail = _end_of(folder, float(facts["created_at"]))
        return Machine(machine, facts["intent"], facts["tag"], state, float(facts["created_at"]), stopped_at, detail)

    async def list(self, tag: str) -> list[Machine]:
        """Return the machines with our tag of which something lives."""
        found = []
        for path in sorted(self._places.machines.glob("*/machine.json")):
            folder = path.parent
            if (folder / _GONE).exists() and not proof.is_held(folder / "lock"):
                continue  # a proof reads all processes of this computer: once a machine is enough
            machine = await self.look(folder.name)
            if machine is None:
                continue
            if machine.state is not MachineState.STOPPED:
                if machine.tag == tag:
                    found.append(machine)
            elif _lived(folder):
                with suppress(OSError):
                    (folder / _GONE).touch(mode=0o600)
        return found

    async def stop(self, machine: str) -> None:
        """End the agent in order, then whatever of the machine is left by force."""
        folder = self._folder(machine)
        if folder.exists():
            (folder / _STOPPED).touch(mode=0o600)  # from here on no start brings it to life
        agent = proof.holder(folder / "lock")
        processes = await asyncio.to_thread(_processes, machine, folder)
        if agent is not None and proof.is_held(folder / "lock"):
            with suppress(ProcessLookupError):
                os.kill(agent.pid, signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_SECONDS
            while proof.is_held(folder / "lock") and time.monotonic() < deadline:  # noqa: ASYNC110 - a file lock has no event
                await asyncio.sleep(_POLL)
            if proof.is_held(folder / "lock") and proof.start_ticks(agent.pid) == agent.start_ticks:
                os.kill(agent.pid, signal.SIGKILL)
        for process in [*processes, *await asyncio.to_thread(_processes, machine, folder)]:
            with suppress(psutil.Error):
                process.kill()  # psutil refuses when the pid is another process by now
        self._forget(folder)

    def _forget(self, folder: Path) -> None:
        """Remove what a stopped machine needs no more: its secrets and its sockets."""
        if proof.is_held(folder / "lock"):
            return
        (folder / "agent.json").unlink(missing_ok=True)
        with suppress(OSError, ValueError, KeyError):
            shutil.rmtree(Path(json.loads((folder / "machine.json").read_text())["socket"]).parent)

    async def left(self) -> set[str]:
        """Return the machines that have a folder here."""
        return {path.name for path in self._places.machines.glob("*")}

    async def forget(self, machine: str) -> None:
        """Remove the folder of a machine of which nothing lives."""
        folder = self._folder(machine)
        found = await self.look(machine)
        if proof.is_held(folder / "lock") or (found is not None and found.state is not MachineState.STOPPED):
            return
        try:
            await asyncio.to_thread(shutil.rmtree, folder)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ProviderError(f"the folder {folder} of a machine long gone can't be removed: {error}") from error

    async def connect(self, machine: str) -> Endpoint:
        """Return the agent's socket."""
        try:
            facts = json.loads((self._folder(machine) / "machine.json").read_text())
        except (OSError, ValueError) as error:
            raise ProviderError(f"machine {machine} is not known here: {error}") from error
        return Endpoint(Path(facts["socket"]))

    async def events(self, machine: str, target: Path, after: int) -> None:
        """Copy what the agent's event log holds behind number `after`."""
        await asyncio.to_thread(_copy_events, self.log_of(machine), target, after)

    def log_of(self, machine: str) -> Path:
        """Return the folder of the event log of a machine's agent."""
        return self._folder(machine) / "events"


def _copy_events(log: Path, target: Path, after: int) -> None:
    try:
        for name in behind(os.listdir(log), after):
            shutil.copyfile(log / name, target / name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ProviderError(f"the event log {log} can't be copied: {error}") from error


def _lived(folder: Path) -> bool:
    """Tell whether a machine lives or ever did: a stop was asked, a last word is there, or an agent took the lock."""
    lock = folder / "lock"
    if (folder / _STOPPED).exists() or proof.is_held(lock) or proof.read_final(folder) is not None:
        return True
    return lock.exists() and lock.stat().st_size > 0


def _spawn(folder: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
    environment[_MARK] = folder.name
    log = os.open(folder / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ciuic_jupyter.kernels.agent", str(folder / "agent.json")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _processes(machine: str, folder: Path) -> list[psutil.Process]:
    """Return the living processes of a machine: its agent, what descends from it, and what carries its mark."""
    agent = proof.holder(folder / "lock")
    grouped = frozenset(cgroup.members(folder / "cgroup"))
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
                continue
            if agent is not None and process.pid == agent.pid:
                found.update({child.pid: child for child in process.children(recursive=True)})
                found[process.pid] = process
            elif process.pid in grouped or _carries(process, machine):
                found[process.pid] = process
    return list(found.values())


def _carries(process: psutil.Process, machine: str) -> bool:
    if process.uids().real != os.getuid():
        return False
    return process.environ().get(_MARK) == machine


def _end_of(folder: Path, created_at: float) -> tuple[float, str]:
    final = proof.read_final(folder)
    if final is not None:
        return final.at, final.reason
    alive = proof.last_proof_of_life(folder)
    if alive is not None:
        return alive, "died; its last proof of life"
    return created_at, "never lived"


def _tail(folder: Path) -> str:
    try:
        return (folder / "agent.log").read_text(errors="replace").strip()[-500:] or "it wrote no log"
    except OSError:
        return "it wrote no log"
