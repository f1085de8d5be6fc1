"""The control plane: every session's runner, brought back from the ledger, and held against what providers list."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ciuic_jupyter.control import views
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.daemon import secret
from ciuic_jupyter.control.ledger import Ledger, Row
from ciuic_jupyter.control.projections import Book, Books
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.core.session import State, check_name, is_live
from ciuic_jupyter.errors import CiuicError, ProviderError, UnknownSession
from ciuic_jupyter.providers.base import Machine, MachineState, Offer, Provider
from ciuic_jupyter.providers.local import LocalPlaces, LocalProvider
from ciuic_jupyter.providers.warm_client import WarmParent
from ciuic_jupyter.settings import Settings, private_directory

_log = logging.getLogger(__name__)

_TICK = 1.0
_ORPHANS = "orphans"  # the session that machines belong to which no intent knows


class Plane:
    """One per user: opens the ledger, owns all sessions, is the only executor of their commands."""

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, providers: Mapping[str, Provider] | None = None
    ) -> None:
        """Open the ledger in the settings' state directory; LedgerError if it can't be trusted."""
        self.settings = settings
        state = private_directory(settings.state_dir)
        runtime = private_directory(settings.runtime_dir)
        clock = clock or Clock()
        self._warm: WarmParent | None = None
        if providers is None:
            if settings.warm_start:
                hidden = ("CIUIC_TOKEN", "CIUIC_URL")
                self._warm = WarmParent(runtime / "warm.sock", settings.warm_modules, state / "warm.log", hidden=hidden)
            places = LocalPlaces(private_directory(state / "machines"), runtime)
            offer = Offer(settings.instance, "local", parse_usd(settings.price_per_hour), settings.currency)
            providers = {"local": LocalProvider(places, [offer], self._warm)}
        ledger = Ledger(state / "ledger.db", clock)
        self.context = Context(
            settings=settings,
            clock=clock,
            ledger=ledger,
            books=Books(ledger.replay()),
            providers=providers,
            owner=secret(state / "owner")[:32],
            key=bytes.fromhex(secret(state / "key")),
        )
        self.runners: dict[str, Runner] = {}
        self.on_shutdown: Callable[[], None] = lambda: None
        self._tasks: list[asyncio.Task[None]] = []
        self._creating = asyncio.Lock()

    async def start(self) -> None:
        """Take up every session where the ledger left it, and begin to look after them."""
        if self._warm is not None:
            self._warm.start()
        for book in self.context.books.sessions.values():
            if book.name != _ORPHANS:
                self.runners[book.name] = Runner(self.context, book)
        for runner in self.runners.values():
            await self._recover(runner)
        self._tasks = [asyncio.create_task(work()) for work in (self._tick_for_ever, self._reconcile_for_ever)]

    async def close(self) -> None:
        """Stop looking after things; machines and runs go on, and are found again at the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runner in self.runners.values():
            await runner.close()
        await asyncio.to_thread(self.context.ledger.close)
        if self._warm is not None:
            await self._warm.close()

    async def _recover(self, runner: Runner) -> None:
        """Do again what a state was doing: every command may be done twice."""
        book = runner.book
        self._end_runs_mirrored(runner)
        if book.state is State.REQUESTED:
            runner.spawn(runner.hand.start())
        elif book.state in (State.STARTING, State.RUNNING, State.SAVING):
            runner.pause_pending = book.state is State.RUNNING and book.pausing
            runner.hand.connect()
            if book.state is State.SAVING:
                runner.spawn(runner.hand.save())
        elif book.state is State.STOPPING:
            runner.spawn(runner.hand.stop())
        elif book.state in (State.PAUSED, State.FAILED, State.CLOSED):
            for run in [run for run in book.runs.values() if run.status == "running"]:
                runner.current = run.run
                runner.run_ended(run.run, "died", None)

    def _end_runs_mirrored(self, runner: Runner) -> None:
        """A run whose end stands in the mirror ended, even if we were killed before the ledger had it."""
        going = [run for run in runner.book.runs.values() if run.status == "running"]
        if not going:
            return
        first = min(run.first_seq or 0 for run in going)
        for seq, header in runner.headers(max(0, first - 1)):
            if header.get("kind") == "run_ended":
                runner.run_ended(str(header.get("run")), str(header.get("status")), seq)
        still = [run for run in going if run.status == "running"]
        runner.current = still[-1].run if still else None

    # -- sessions

    def runner(self, name: str) -> Runner:
        """Return a session's runner; UnknownSession names those there are."""
        check_name(name)
        found = self.runners.get(name)
        if found is None:
            known = ", ".join(sorted(self.runners)) or "none yet"
            raise UnknownSession(f"no session {name!r}; there are: {known}")
        return found

    async def create(self, name: str, *, instance: str | None, budget_nano: int | None, cwd: str | None) -> Runner:
        """Return the session, created or resumed if it has no machine; OutOfCapacity for an unknown instance."""
        check_name(name)
        async with self._creating:
            runner = self.runners.get(name)
            if runner is None or runner.book.state is State.CLOSED:
                runner = await self._born(name, instance, budget_nano, cwd)
            else:
                if instance is not None and instance != runner.book.offer["instance"]:
                    offer = await self.context.find_offer(instance)
                    raise ProviderError(
                        f"session {name} is on {runner.book.offer['instance']}, not {offer.instance}; "
                        "close it, or use another session name"
                    )
                if budget_nano is not None and budget_nano != runner.book.budget_nano:
                    await runner.set_budget(budget_nano)
            await runner.ensure()
        return runner

    async def _born(self, name: str, instance: str | None, budget_nano: int | None, cwd: str | None) -> Runner:
        offer = await self.context.find_offer(instance or self.settings.instance)
        old = self.runners.pop(name, None)
        if old is not None:
            await old.close()
        body = {
            "life": uuid.uuid4().hex,
            "offer": asdict(offer),
            "budget_nano": budget_nano,
            "cwd": cwd,
            "at_ms": self.context.now_ms(),
        }
        self.context.books.apply(await self.context.ledger.append(Row("session", body, session=name)))
        self.runners[name] = Runner(self.context, self.context.books.sessions[name])
        return self.runners[name]

    def views(self) -> list[dict[str, Any]]:
        """Return the views of all sessions, by name."""
        return [self.runners[name].view() for name in sorted(self.runners)]

    def cost(self, name: str | None = None) -> dict[str, Any]:
        """Return what one session's life, or everything, cost."""
        if name is not None:
            return views.cost_view(self.runner(name).book, self.context)
        return views.total_view(self.context.books.lives, self.context)

    # -- what time brings

    async def _tick_for_ever(self) -> None:
        while True:
            for runner in list(self.runners.values()):
                try:
                    await runner.tick()
                except CiuicError:
                    _log.exception("%s: a tick failed", runner.book.name)
            await asyncio.sleep(_TICK)

    async def _reconcile_for_ever(self) -> None:
        while True:
            try:
                await self.reconcile()
            except CiuicError:
                _log.exception("the providers' lists could not be compared with the ledger")
            await asyncio.sleep(self.settings.reconcile_seconds)

    async def reconcile(self) -> None:
        """Find machines of ours that no session wants: bill them from their creation, and stop them."""
        for name, provider in self.context.providers.items():
            with suppress(ProviderError):
                for machine in await provider.list(self.context.owner):
                    if machine.tag == self.context.owner and not self._wanted(machine):
                        await self._orphan(name, provider, machine)

    def _wanted(self, machine: Machine) -> bool:
        book = self.context.books.machines.get(machine.id)
        if book is None or book.state is None or book.intent is None:
            return False
        return is_live(book.state) and book.intent["id"] == machine.id

    async def _orphan(self, provider_name: str, provider: Provider, machine: Machine) -> None:
        _log.warning("machine %s is ours and nobody wants it: stopping it", machine.id)
        book = self.context.books.machines.get(machine.id) or await self._orphanage(provider_name)
        body = {
            "at_ms": round(machine.created_at * 1000),
            "rate": book.offer["price_nano_per_hour"],
            "currency": book.offer["currency"],
            "unit_ms": book.offer["unit_seconds"] * 1000,
            "minimum_ms": book.offer["minimum_seconds"] * 1000,
        }
        await self._write(Row("segment_open", body, book.name, machine.id, f"open:{machine.id}"))
        await provider.stop(machine.id)
        found = await provider.look(machine.id)
        if found is not None and found.state is not MachineState.STOPPED:
            return  # the next round asks again, for ever
        stopped = found.stopped_at if found is not None else None
        end = {
            "at_ms": round(stopped * 1000) if stopped is not None else self.context.now_ms(),
            "reason": "orphan",
            "estimated": stopped is None,
        }
        await self._write(Row("segment_close", end, book.name, machine.id, f"close:{machine.id}"))

    async def _orphanage(self, provider: str) -> Book:
        if _ORPHANS not in self.context.books.sessions:
            offers = await self.context.providers[provider].offers()
            offer = max(offers, key=lambda one: one.price_nano_per_hour)  # which it was is not known: the dearest
            body = {
                "life": uuid.uuid4().hex,
                "offer": asdict(offer),
                "budget_nano": None,
                "cwd": None,
                "at_ms": self.context.now_ms(),
            }
            await self._write(Row("session", body, _ORPHANS))
        return self.context.books.sessions[_ORPHANS]

    async def _write(self, row: Row) -> None:
        self.context.books.apply(await self.context.ledger.append(row))
