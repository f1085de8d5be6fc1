"""The hands of one session: start, connect, save, stop its machine; each ends by feeding what came of it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint.collect import collect
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.control import rows
from ciuic_jupyter.control.ledger import Row
from ciuic_jupyter.control.link import AgentLink
from ciuic_jupyter.core.session import Event, State
from ciuic_jupyter.errors import AgentUnavailable, CiuicError, ProtocolError, ProviderError, UsageError
from ciuic_jupyter.kernels.eventlog import left
from ciuic_jupyter.kernels.protocol import decode
from ciuic_jupyter.providers.base import Apart, Endpoint, Machine, MachineState, Remembers

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_log = logging.getLogger(__name__)

_SILENT_SECONDS = 2.0  # without a line before the provider is asked
_FIRST_RETRY, _LAST_RETRY = 0.05, 10.0
_AT_ONCE = 256  # events taken in before others have a turn


def _word(found: Machine | None) -> str:
    return "its provider does not know it" if found is None else found.detail or found.state.value


class MachineHand:
    """Acts on the machine that the session's newest intent means."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.link: AgentLink | None = None
        self._stop_wait = _FIRST_RETRY
        self._stopping = False
        self._started: float | None = None
        self._gone_seen = 0
        self._told = ""  # of a machine that is not heard
        self._brought = False  # what the machine saved last is here
        self._bringing = asyncio.Lock()
        self._start_over = asyncio.Event()
        self._start_over.set()

    @property
    def _machine(self) -> str:
        intent = self._runner.book.intent
        assert intent is not None
        return str(intent["id"])

    async def start(self) -> None:
        """Have the provider start the machine of the recorded intent; safe to call again after a crash."""
        self._start_over.clear()
        try:
            await self._start()
        finally:
            self._start_over.set()

    async def _start(self) -> None:
        runner = self._runner
        book, machine = runner.book, self._machine
        provider = runner.context.provider(book)
        try:
            found = await provider.start(runner.context.intent(book, runner.mirror.last_seq + 1))
        except ProviderError as error:
            looked = await self._look(machine)
            if looked is None:
                event = Event.START_FAILED if book.checkpoint is None else Event.START_FAILED_SAVED
                await runner.offer(event, message=f"no machine: {error}")
                return
            found = looked
        await runner.offer(Event.MACHINE_STARTED, machine=found.id, created_at=found.created_at)

    def connect(self) -> None:
        """Open the line to the machine's agent; what comes over it is told to the runner."""
        runner, machine = self._runner, self._machine
        provider = runner.context.provider(runner.book)
        self._started = runner.context.clock.boot()
        self._gone_seen, self._brought = 0, False

        async def where() -> Endpoint:
            return await provider.connect(machine)

        self.link = AgentLink(where, runner.context.token(machine), runner.mirror, runner)
        self.link.start()

    async def disconnect(self) -> None:
        """Close the line."""
        link, self.link = self.link, None
        if link is not None:
            await link.close()
            self._runner.changed()

    async def save(self) -> None:
        """Save through the agent: durable, read back, and loaded by a fresh process when it answers."""
        runner = self._runner
        try:
            reply = await self._ask_save()
            await self.bring(int(reply["seq"]))
            self._brought = True
        except AgentUnavailable:
            return  # the machine went first; that is fed where it is seen
        except CiuicError as error:
            runner.retry.failed(error, runner.book.goal)
            runner.pause_pending, runner.step_text = False, ""
            runner.note(f"not paused, the machine stays and is billed: {error}", "error")
            if await runner.offer(Event.SAVE_FAILED, message=f"not paused: {error}", goal=""):
                if runner.current is not None:
                    await runner.hold.go()
                runner.pump()
            return
        report = dict(reply["report"])
        if report.get("run"):
            report["run"] = {"where": runner.hold.where, **report["run"]}
        runner.hold.saved(report)
        saved = {"seq": reply["seq"], "report": report}
        if runner.wanted_again:
            runner.pause_pending, runner.step_text, self._brought = False, "", False
            text = "a cell came while the idle machine was saved: it is kept"
            if await runner.offer(Event.SAVED_AND_KEPT, message=text, goal="", checkpoint=saved):
                runner.pump()
            return
        await runner.offer(Event.SAVED, checkpoint=saved)

    @property
    def _apart(self) -> Apart | None:
        """The provider, if checkpoints lie on disks of its machines and nowhere else."""
        runner = self._runner
        provider = runner.context.provider(runner.book)
        return provider if isinstance(provider, Apart) and runner.context.remote(runner.book) is None else None

    async def bring(self, seq: int | None) -> None:
        """Have a checkpoint (None: the newest) here if the machine has it on a disk of its own; CiuicError if not."""
        apart, runner = self._apart, self._runner
        if apart is None:
            return
        runner.step_text = "bringing the checkpoint here" if runner.book.state is State.SAVING else runner.step_text
        runner.changed(soon=True)
        context = runner.context
        folder, key = context.store_directory(runner.book), context.key_of(runner.book)
        async with self._bringing:  # what comes next may lean on packs that a sweep would take
            await apart.bring(self._machine, folder, key, seq)
            await asyncio.to_thread(self._sweep, Store(folder), key)

    def _sweep(self, store: Store, key: bytes) -> None:
        """Remove old checkpoints here, where nobody but `bring` writes: the machine's agent does so on its own disk."""
        runner = self._runner
        if not store.manifests():
            return
        try:
            collect(store, key, keep=runner.context.settings.earlier_checkpoints + 1)
        except CiuicError as error:  # the new one is here, and that is what counts
            _log.warning("%s: old checkpoints stay: %s", runner.book.name, error)

    async def _rescue(self) -> None:
        """Have here what a machine that ends still holds: its newest checkpoint, and what nobody heard of its agent."""
        runner = self._runner
        provider = runner.context.provider(runner.book)
        if not isinstance(provider, Remembers) or (self.link is not None and self.link.up):
            await self._bring_what_is_there()
            return
        folder = Path(tempfile.mkdtemp(prefix="left-", dir=runner.context.session_directory(runner.book.name)))
        try:
            log = provider.events(self._machine, folder, runner.mirror.last_seq)
            for error in await asyncio.gather(self._bring_what_is_there(), log, return_exceptions=True):
                if isinstance(error, BaseException):
                    raise error
            newest = await asyncio.to_thread(self._newest)
            held = (newest["report"]["run"] or {}) if newest is not None else {}
            await self._take_in(folder, str(held.get("run")))
        except (OSError, CiuicError, KeyError, TypeError, ValueError, AttributeError) as error:
            _log.warning("%s: not all that it holds can be had: %s", self._machine, error)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _take_in(self, folder: Path, held: str) -> None:
        """Show what stands in a copied log behind what was heard. A run that died in the checkpoint goes on there."""
        runner = self._runner
        for count, (seq, frame) in enumerate(left(folder, runner.mirror.last_seq), start=1):
            header = decode(frame).header
            if header.get("type") != "event" or header.get("seq") != seq:
                raise ProtocolError(f"what stands in the log as event {seq} is none")
            if runner.mirror.append_frame(seq, frame):
                runner.late_event(header, seq, frame, suspended=held)
            if count % _AT_ONCE == 0:
                await asyncio.sleep(0)

    async def _bring_what_is_there(self) -> None:
        """Bring the newest checkpoint of a machine that ends, if it still can be had."""
        try:
            await self.bring(None)
        except CiuicError as error:
            _log.warning("%s: no newer checkpoint of the machine can be had: %s", self._machine, error)

    async def _ask_save(self) -> dict[str, Any]:
        while True:
            if self.link is None:
                raise AgentUnavailable("the machine was let go; nothing to save")
            try:
                return await self.link.request("save")
            except UsageError:  # a save that was asked for before we were restarted is still under way
                await asyncio.sleep(0.5)

    async def stop(self) -> None:
        """Ask the provider to stop the machine until it is proven gone; the meter runs on till then."""
        if self._stopping:
            return
        self._stopping = True
        if self._runner.book.goal != "discarded" and not self._brought:
            await self._rescue()
        why = said = self._runner.message  # the machine goes: it is still true once the machine is gone
        try:
            machine = self._machine
            provider = self._runner.context.provider(self._runner.book)
            found: Machine | None = None
            await self._start_over.wait()  # a machine that is being born can't be proven gone
            unknown = 0
            while True:
                try:
                    await provider.stop(machine)
                    found = await provider.look(machine)
                    unknown = unknown + 1 if found is None else 0
                    if unknown == 2 or (found is not None and found.state is MachineState.STOPPED):
                        break  # not known once can be a provider's slow list
                    said = f"the machine does not end yet: {_word(found)}"
                except ProviderError as error:
                    said = f"the machine could not be stopped, it is still billed: {error}"
                self._runner.message = said
                self._runner.changed()
                await asyncio.sleep(self._stop_wait)
                self._stop_wait = min(2 * self._stop_wait, _LAST_RETRY)
            self._stop_wait = _FIRST_RETRY
            if self._runner.message == said:
                self._runner.message = why
        finally:
            self._stopping = False
        await self._stopped(machine, found)

    async def _stopped(self, machine: str, found: Machine | None) -> None:
        book = self._runner.book
        newest = await asyncio.to_thread(self._unknown)
        if newest is not None and book.goal != "discarded":
            await self._runner.write(self._found(newest))
        if book.goal == "closed" or (book.goal == "discarded" and book.checkpoint is None):
            event = Event.STOPPED_CLOSED
        elif book.checkpoint is not None:
            event = Event.STOPPED_PAUSED
        else:
            event = Event.STOPPED_FAILED
        again = self._runner.wanted_again
        await self._runner.offer(event, **self._end(machine, found, book.goal or "stopped"))
        if again and book.state is State.PAUSED:
            await self._runner.ensure()

    def _end(self, machine: str, found: Machine | None, reason: str) -> dict[str, Any]:
        """The facts of a machine's end: the provider's time, or now where it has none (then it is estimated)."""
        known = found is not None and found.stopped_at is not None
        stopped = found.stopped_at if found is not None and found.stopped_at is not None else None
        return {
            "machine": machine,
            "created_at": found.created_at if found is not None else None,
            "stopped_ms": round(stopped * 1000) if stopped is not None else self._runner.context.now_ms(),
            "reason": reason,
            "estimated": not known,
        }

    async def tick(self) -> None:
        """Look after a machine that is silent, or that takes too long to start."""
        runner = self._runner
        state = runner.book.state
        if state is State.STARTING and self._started is not None:
            limit = runner.context.settings.start_timeout_seconds
            if runner.context.clock.boot() - self._started > limit:
                text = f"the machine was not ready within {limit:.0f} s: it is stopped"
                await runner.offer(Event.RESTORE_FAILED, message=text, goal="restore_failed")
                return
        if state not in (State.STARTING, State.RUNNING, State.SAVING) or self.link is None:
            return
        down = self.link.down_since
        if down is None or asyncio.get_running_loop().time() - down < _SILENT_SECONDS:
            return
        found = await self._look(self._machine)
        if found is not None and found.ended:
            await runner.offer(Event.KERNEL_DIED, message=f"{found.detail}; it is stopped", goal="paused")
            return
        if found is not None and found.state is not MachineState.STOPPED:
            self._gone_seen = 0
            if found.state is MachineState.UNKNOWN and found.detail and self.link is not None and not self.link.up:
                self._told = runner.message = f"not heard, still billed: {found.detail}"
                runner.changed(soon=True)
            return
        self._gone_seen += 1
        if self._gone_seen >= 2:  # once can be a provider's slow list
            await self._lost(found)

    async def _lost(self, found: Machine | None) -> None:
        runner = self._runner
        book = runner.book
        end = self._end(self._machine, found, found.detail if found is not None else "vanished")
        await self._rescue()
        newest = await asyncio.to_thread(self._unknown)
        if newest is not None:
            text = "the machine heard nothing from here: it saved and stopped itself"
            await runner.offer(Event.AGENT_SAVED_AND_LEFT, message=text, checkpoint=newest, **end)
        elif book.checkpoint is not None:
            text = f"the machine is gone ({end['reason']}); resume goes back to the last checkpoint"
            await runner.offer(Event.MACHINE_LOST_SAVED, message=text, **end)
        else:
            text = f"the machine is gone ({end['reason']}) and there was no checkpoint: its variables are lost"
            await runner.offer(Event.MACHINE_LOST, message=text, **end)

    def heard(self) -> None:
        """The line is there again: what was told of a machine that is not heard is over."""
        if self._told and self._runner.message == self._told:
            self._runner.message = ""
        self._told = ""

    def hello(self, checkpoint: int) -> None:
        """Enter a checkpoint that the agent took, if the word of it was lost with the plane that asked."""
        book = self._runner.book
        if checkpoint <= (book.checkpoint["seq"] if book.checkpoint is not None else 0):
            return
        if self._apart is not None:
            self._runner.spawn(self._learn())
        else:
            self._enter()

    async def _learn(self) -> None:
        await self._bring_what_is_there()
        self._enter()

    def _enter(self) -> None:
        book = self._runner.book
        newest = self._unknown()
        if newest is not None:
            row = self._found(newest)
            book.checkpoint = dict(row.body)
            self._runner.write_soon(row)

    def _found(self, checkpoint: dict[str, Any]) -> Row:
        """The row of a checkpoint found in the store: its own word may still come, so it takes no key."""
        row = rows.checkpoint(self._runner, checkpoint, self._runner.context.now_ms())
        return replace(row, idem=None)

    def _unknown(self) -> dict[str, Any] | None:
        """Return the newest checkpoint if the ledger does not know it."""
        newest, known = self._newest(), self._runner.book.checkpoint
        return newest if newest is not None and (known is None or newest["seq"] > known["seq"]) else None

    def _newest(self) -> dict[str, Any] | None:
        """Return the newest checkpoint that is signed by us, as the ledger records one."""
        context = self._runner.context
        store = Store(context.store_directory(self._runner.book))
        with suppress(CiuicError):
            for seq in sorted(store.manifests(), reverse=True):
                with suppress(CiuicError):
                    body = store.read_manifest(seq, context.key_of(self._runner.book)).body
                    report = {
                        "bytes_total": body.get("bytes_total", 0),
                        "bytes_written": body.get("bytes_written", 0),
                        "names": sorted(body.get("names", ())),
                        "placeholders": body.get("placeholders", []),
                        "seconds": {},
                        "run": body.get("run"),
                    }
                    return {"seq": seq, "report": report}
        return None

    async def _look(self, machine: str) -> Machine | None:
        """Ask the provider until it answers: an error is no answer, and never means gone."""
        provider = self._runner.context.provider(self._runner.book)
        wait = _FIRST_RETRY
        while True:
            try:
                return await provider.look(machine)
            except ProviderError as error:
                _log.warning("%s: the provider can't be asked: %s", machine, error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LAST_RETRY)
