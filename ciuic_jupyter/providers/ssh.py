"""Machines that are reached over ssh: the user's own, or rented ones that the user's commands start and stop.

One session at a time uses a machine. Its agent outlives the connection; the plane's line to it goes through ssh from
unix socket to unix socket, so that nothing listens on a network. A stop is proven by the status command, or, for a
machine without one, by the machine itself: no process of ours is left there.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import HostKeyRefused, MachineUnreachable, OutOfCapacity, ProviderError, UsageError
from ciuic_jupyter.providers import ssh_commands, ssh_machines, ssh_store
from ciuic_jupyter.providers.base import Endpoint, Intent, Machine, MachineState, Offer
from ciuic_jupyter.providers.ssh_lines import Lines
from ciuic_jupyter.providers.ssh_link import Target
from ciuic_jupyter.providers.ssh_machines import SshMachine
from ciuic_jupyter.providers.ssh_notes import Note, Notes

_POLL = 1.0  # seconds between two looks at a machine that boots


@dataclass(frozen=True)
class SshPlaces:
    """`list` is the file of machines, `notes` the folder of what is known of ours, `sockets` a short private one."""

    list: Path
    notes: Path
    sockets: Path


class SshProvider:
    """Runs agents on the machines of the user's list; `start_seconds` is how long one may take to boot."""

    name = "ssh"

    def __init__(self, places: SshPlaces, *, currency: str = "USD", start_seconds: float = 300.0) -> None:
        self._places = places
        self._currency = currency
        self._start_seconds = start_seconds
        self._notes = Notes(places.notes)
        self._lines = Lines()
        self._using: dict[str, asyncio.Lock] = {}
        self._starting: set[str] = set()

    async def offers(self) -> list[Offer]:
        """Return the machines of the list, read anew; ProviderError names what is wrong in it."""
        try:
            machines = ssh_machines.load(self._places.list)
        except UsageError as error:
            raise ProviderError(str(error)) from error
        return [self._offer(machine) for machine in machines]

    def _offer(self, machine: SshMachine) -> Offer:
        price = machine.price_nano_per_hour
        return Offer(machine.name, self.name, price, self._currency, gpus=machine.gpus, listed=False)

    def _listed(self, instance: str) -> SshMachine:
        try:
            machines = ssh_machines.load(self._places.list)
        except UsageError as error:
            raise ProviderError(str(error)) from error
        for machine in machines:
            if machine.name == instance:
                return machine
        known = ", ".join(machine.name for machine in machines) or "none"
        raise OutOfCapacity(f"there is no machine {instance!r}; `ciuic machines add` adds one, there are: {known}")

    # -- start

    async def start(self, intent: Intent) -> Machine:
        """Start the machine of `intent` once: switch it on, bring its checkpoint there, have its agent run.

        What fails before an agent can run leaves nothing that costs, or is told by `look` for as long as it does.
        """
        async with self._using.setdefault(intent.offer.instance, asyncio.Lock()):
            note = self._notes.get(intent.id) or self._note(intent)
            self._starting.add(intent.id)
            try:
                if note.stopped_at is None:
                    await self._bring_up(note, intent)
            except ProviderError as error:
                await self._give_up(note, error)
                raise
            finally:
                self._starting.discard(intent.id)
        found = await self.look(intent.id)
        if found is None:
            raise ProviderError(f"machine {intent.id} vanished while it started; start it again")
        return found

    def _note(self, intent: Intent) -> Note:
        machine = self._listed(intent.offer.instance)
        for other in self._notes.living():
            if other.machine.name == machine.name or other.machine.target == machine.target:
                text = f"{machine.name} is used by session {other.session}"
                raise OutOfCapacity(f"{text}: pause that one first, or take another machine")
        note = Note(intent.id, intent.tag, intent.session, machine, time.time())
        self._notes.keep(note)
        return note

    async def _bring_up(self, note: Note, intent: Intent) -> None:
        if note.socket:  # its agent was started before whoever asked for it was
            return
        deadline = time.monotonic() + self._start_seconds
        await self._switch_on(note, deadline)
        config = intent.agent_config
        order = {"op": "prepare", "machine": note.intent, **self._where(note, config)}
        there = await self._first(note, order, deadline)
        note.store, note.events = str(there["store"]), str(there["events"])
        if not note.sent and not config.get("remote") and config.get("store"):
            await asyncio.to_thread(_send, note, config)
        note.sent = True
        self._notes.keep(note)
        offer = {"instance": intent.offer.instance, "provider": self.name, "price_nano_per_hour": 0}
        line = self._lines.to(note.machine)
        begin: dict[str, Any] = {"op": "start", "intent": intent.id, "session": intent.session, "offer": offer}
        begin |= {**self._where(note, config), "config": dict(config)}
        reply = await line.ask(note.machine.python, begin, seconds=self._start_seconds)
        note.socket = str(reply["socket"])
        self._notes.keep(note)

    @staticmethod
    def _where(note: Note, config: Mapping[str, Any]) -> dict[str, str]:
        return {"tag": note.tag, "name": Path(str(config.get("store") or note.session)).name}

    async def _switch_on(self, note: Note, deadline: float) -> None:
        machine = note.machine
        if machine.status is None or await ssh_commands.exists(machine):
            return
        await ssh_commands.act(machine, "start")
        while not await ssh_commands.exists(machine):
            if time.monotonic() > deadline:
                raise ProviderError(f"{machine.name} was started and its status command says it is not there")
            await asyncio.sleep(_POLL)

    async def _first(self, note: Note, request: dict[str, str], deadline: float) -> dict[str, Any]:
        """Ask a machine for the first time: one that was just switched on is waited for, another one is not."""
        line = self._lines.to(note.machine)
        while True:
            try:
                return await line.ask(note.machine.python, request)
            except HostKeyRefused:
                raise
            except MachineUnreachable:
                if note.machine.start is None or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_POLL)

    async def _give_up(self, note: Note, error: ProviderError) -> None:
        """See to it that a machine on which no agent can run costs nothing; if that fails, `look` tells."""
        if note.sent:
            return
        if note.machine.stop is None:
            self._notes.forget(note)
            return
        note.detail = str(error)
        try:
            await ssh_commands.act(note.machine, "stop")
            if not await ssh_commands.exists(note.machine):
                note.stopped_at = time.time()
        except ProviderError as failed:
            note.detail = f"{error}; and {failed}"
        self._notes.keep(note)

    # -- look and list

    async def look(self, machine: str) -> Machine | None:
        """Return what can be proven: STOPPED if the status command says so, or no process of ours is left there."""
        note = self._notes.get(machine)
        if note is None or note.stopped_at is not None:
            return note.stopped() if note is not None else None
        if machine in self._starting:
            return note.seen(MachineState.STARTING)
        try:
            if note.machine.status is not None and not await ssh_commands.exists(note.machine):
                return self._ended(note, time.time(), note.detail or "its status command says it is gone")
            reply = await self._lines.to(note.machine).ask(note.machine.python, {"op": "look", "machine": machine})
        except ProviderError as error:
            return note.seen(MachineState.UNKNOWN, str(error))
        return self._told(note, reply)

    def _told(self, note: Note, reply: Mapping[str, Any]) -> Machine:
        """Return what the machine's own words mean; times of its clock become times of ours."""
        there = reply.get("machine")
        if there is not None and there["state"] != MachineState.STOPPED:
            return note.seen(MachineState(there["state"]), str(there["detail"]))
        why = str(there["detail"]) if there is not None else "nothing of ours runs on it"
        if note.machine.status is not None:
            return note.seen(MachineState.RUNNING, f"its agent has ended ({why}), the machine itself is on", ended=True)
        at = there["stopped_at"] if there is not None else None
        now = time.time()
        ended = float(at) + float(reply["behind"]) if at is not None else (now if note.sent else note.created_at)
        return self._ended(note, min(max(ended, note.created_at), now), why)

    def _ended(self, note: Note, at: float, detail: str) -> Machine:
        note.stopped_at, note.detail = max(at, note.created_at), detail
        self._notes.keep(note)
        self._lines.to(note.machine).end_tunnel(self._socket(note))
        return note.stopped()

    async def list(self, tag: str) -> list[Machine]:
        """Return the machines with our tag that are not proven gone."""
        notes = [note for note in self._notes.living() if note.tag == tag]
        looked = await asyncio.gather(*(self.look(note.intent) for note in notes))
        return [one for one in looked if one is not None and one.state is not MachineState.STOPPED]

    # -- stop

    async def stop(self, machine: str) -> None:
        """End the agent and all it started, then run the stop command, if the machine has one."""
        note = self._notes.get(machine)
        if note is None or note.stopped_at is not None:
            return
        try:
            await self._lines.to(note.machine).ask(note.machine.python, {"op": "stop", "machine": machine})
        except ProviderError:
            if note.machine.stop is None:
                raise
        await ssh_commands.act(note.machine, "stop")

    # -- the line, and checkpoints

    def _socket(self, note: Note) -> Path:
        return self._places.sockets / f"ssh-{note.intent.replace('-', '')[:12]}" / "agent.sock"

    async def connect(self, machine: str) -> Endpoint:
        """Return a socket here that leads to the agent's, through the connection, which is opened again if it broke."""
        note = self._notes.get(machine)
        if note is None or not note.socket:
            raise ProviderError(f"machine {machine} is not known here, or its agent never ran")
        local = self._socket(note)
        local.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        await self._lines.to(note.machine).tunnel(local, note.socket)
        return Endpoint(local)

    async def bring(self, machine: str, store: Path, key: bytes, seq: int | None) -> int:
        """Have a checkpoint of a machine in `store`, with only what is missing sent; return the bytes that came."""
        note = self._notes.get(machine)
        if note is None or not note.store:
            return 0
        target = Target.parse(note.machine.target)
        return await asyncio.to_thread(ssh_store.fetch, target, note.store, Store(store), key, seq)

    async def events(self, machine: str, target: Path, after: int) -> None:
        """Copy what the event log of a machine's agent holds behind number `after`."""
        note = self._notes.get(machine)
        if note is not None and note.events:
            await asyncio.to_thread(ssh_store.events, Target.parse(note.machine.target), note.events, target, after)

    async def close(self) -> None:
        """Close the connections; machines and their agents go on."""
        await self._lines.close()


def _send(note: Note, config: Mapping[str, Any]) -> int:
    store, key = Store(Path(str(config["store"]))), bytes.fromhex(str(config["key_hex"]))
    return ssh_store.send(Target.parse(note.machine.target), note.store, store, key, config.get("checkpoint"))
