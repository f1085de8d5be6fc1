"""The control plane: every session's runner, brought back from the ledger, and held against what providers list."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from ciuic_jupyter.checkpoint.remote import check_url
from ciuic_jupyter.control import incoming, rows, views
from ciuic_jupyter.control.alerts import check_webhook
from ciuic_jupyter.control.board import Board
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.context import Context
from ciuic_jupyter.control.daemon import secret
from ciuic_jupyter.control.ledger import Ledger, Row
from ciuic_jupyter.control.prices import local_offers
from ciuic_jupyter.control.projections import Books, born
from ciuic_jupyter.control.purse import Purse
from ciuic_jupyter.control.reconcile import ORPHANS, reconcile, tidy
from ciuic_jupyter.control.runner import Runner
from ciuic_jupyter.core.offers import wish_of
from ciuic_jupyter.core.session import Event, State, check_name, step
from ciuic_jupyter.core.usage import Tally
from ciuic_jupyter.errors import CiuicError, UnknownSession, UsageError
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.base import Offer, Provider
from ciuic_jupyter.providers.local import LocalPlaces, LocalProvider
from ciuic_jupyter.providers.ssh import SshPlaces, SshProvider
from ciuic_jupyter.providers.warm_client import WarmParent
from ciuic_jupyter.settings import Settings, private_directory

_log = logging.getLogger(__name__)

_TICK = 1.0


class Plane:
    """One per user: opens the ledger, owns all sessions, is the only executor of their commands."""

    def __init__(
        self, settings: Settings, *, clock: Clock | None = None, providers: Mapping[str, Provider] | None = None
    ) -> None:
        """Open the ledger in the settings' state directory; LedgerError if it can't be trusted."""
        self.settings = settings
        if settings.checkpoint_url is not None:
            check_url(settings.checkpoint_url)
        if settings.alert_webhook is not None:
            check_webhook(settings.alert_webhook.get_secret_value())
        state = private_directory(settings.state_dir)
        runtime = private_directory(settings.runtime_dir)
        clock = clock or Clock()
        self._warm: WarmParent | None = None
        if providers is None:
            if settings.warm_start:
                hidden = ("CIUIC_TOKEN", "CIUIC_URL")
                self._warm = WarmParent(runtime / "warm.sock", settings.warm_modules, state / "warm.log", hidden=hidden)
            places = LocalPlaces(private_directory(state / "machines"), runtime)
            far = SshPlaces(state / ssh_machines.FILE, state / "ssh", runtime)
            providers = {
                "local": LocalProvider(places, local_offers(settings), self._warm),
                "ssh": SshProvider(far, currency=settings.currency, start_seconds=settings.start_timeout_seconds),
            }
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
        self.context.purse = Purse(self.context, self.runners)
        self.board = self.context.watched = Board(self)
        self.on_shutdown: Callable[[], None] = lambda: None
        self.asked_to_end = False
        self._tasks: list[asyncio.Task[None]] = []
        self._creating = asyncio.Lock()
        self._reconciling = asyncio.Lock()

    async def start(self) -> None:
        """Take up every session where the ledger left it, and begin to look after them."""
        if self._warm is not None:
            self._warm.start()
        await asyncio.to_thread(incoming.clear, self.context)
        for book in self.context.books.sessions.values():
            if book.name != ORPHANS:
                self.runners[book.name] = Runner(self.context, book)
        for runner in list(self.runners.values()):
            try:
                await self._recover(runner)
            except CiuicError as error:  # it is told, and keeps no other session waiting
                _log.exception("session %s could not be taken up", runner.book.name)
                runner.message = f"could not be taken up: {error}"
        works = (self._tick_for_ever, self._reconcile_for_ever, self.board.work)
        self._tasks = [asyncio.create_task(work()) for work in works]

    def shut_down(self) -> None:
        """Have whoever serves this plane end it; safe in a signal handler."""
        self.asked_to_end = True
        self.on_shutdown()

    async def close(self) -> None:
        """Stop looking after things; machines and runs go on, and are found again at the next start."""
        self.board.fanout.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runner in list(self.runners.values()):
            await runner.close()
        for provider in self.context.providers.values():
            if isinstance(provider, SshProvider):
                await provider.close()
        await asyncio.to_thread(self.context.ledger.close)
        if self._warm is not None:
            await self._warm.close()

    async def _recover(self, runner: Runner) -> None:
        """Do again what a state was doing: every command may be done twice."""
        book = runner.book
        self._read_mirror(runner)
        if book.state is State.REQUESTED:
            runner.pause_pending = book.pausing
            runner.spawn(runner.hand.start())
        elif book.state in (State.STARTING, State.RUNNING, State.SAVING):
            runner.pause_pending = book.state is not State.SAVING and book.pausing
            runner.hand.connect()
            if book.state is State.SAVING:
                runner.spawn(runner.hand.save())
        elif book.state is State.STOPPING:
            runner.spawn(runner.hand.stop())
        elif book.state in (State.PAUSED, State.FAILED, State.CLOSED):
            lost = ("running", "suspended") if book.state is State.CLOSED else ("running",)
            for run in [run for run in book.runs.values() if run.status in lost]:
                runner.runs.lost(run.run)

    def _read_mirror(self, runner: Runner) -> None:
        """What stands in the mirror happened, even if we were killed before the ledger had it."""
        book = runner.book
        seen = (1 + max(run.last_seq or 0, run.seen_seq) for run in book.runs.values())
        first = max([book.first_seq, runner.mirror.first_seq, *seen])
        for seq, header in runner.headers(first - 1):
            runner.runs.fold(header, seq)
        runs = list(book.runs.values())
        current = next((run for run in reversed(runs) if run.status == "running"), None)
        if current is not None:
            runner.current, runner.tally = current.run, Tally(current.usage)

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
                if instance is not None and not _suits(runner.book.offer, instance):
                    await self._move(runner, await self.context.find_offer(instance))
                if budget_nano is not None and budget_nano != runner.book.budget_nano:
                    await runner.set_budget(budget_nano)
            await runner.ensure()
        return runner

    async def choose(self, runner: Runner, instance: str) -> None:
        """Have the next machine of a session that has none be of type `instance`; UsageError while it has one."""
        async with self._creating:
            if not _suits(runner.book.offer, instance):
                await self._move(runner, await self.context.find_offer(instance))

    async def _move(self, runner: Runner, offer: Offer) -> None:
        """Have a session's next machine be of another type; UsageError while it has one."""
        book = runner.book
        if runner.live:
            raise UsageError(
                f"session {book.name} is on {book.offer['instance']}, not {offer.instance}; "
                "pause it first, then it goes on there, or use another session name"
            )
        await runner.write(Row("move", {"offer": asdict(offer), "at_ms": self.context.now_ms()}, session=book.name))

    async def _born(self, name: str, instance: str | None, budget_nano: int | None, cwd: str | None) -> Runner:
        offer = await self.context.find_offer(instance or self.settings.instance)
        old = self.runners.pop(name, None)
        if old is not None:
            await old.close()
        body = self._life(offer, old, budget_nano, cwd)
        self.context.books.apply(await self.context.ledger.append(Row("session", body, session=name)))
        self.runners[name] = Runner(self.context, self.context.books.sessions[name])
        return self.runners[name]

    def _life(
        self, offer: Offer, old: Runner | None, budget_nano: int | None = None, cwd: str | None = None, life: str = ""
    ) -> dict[str, Any]:
        return {
            "life": life or uuid.uuid4().hex,
            "own_key": True,
            "offer": asdict(offer),
            "budget_nano": budget_nano,
            "cwd": cwd,
            "at_ms": self.context.now_ms(),
            "first_seq": old.mirror.last_seq + 1 if old is not None else 1,
        }

    async def take_in(self, name: str, path: str, *, trust: bool) -> Runner:
        """Return a new session, paused at the newest checkpoint of the folder `path`, of which nothing is loaded.

        UsageError if the name is taken, CheckpointUntrusted if someone else signed it and `trust` is not given,
        CheckpointDamaged if it is not whole; then, or when the disk is full, nothing is left.
        """
        self._check_free(name)
        offer = await self.context.find_offer(self.settings.instance)
        life = uuid.uuid4().hex
        async with incoming.copied(self.context, path, life, trust=trust) as copy, self._creating:
            self._check_free(name)
            old = self.runners.pop(name, None)
            if old is not None:
                await old.close()
            body = self._life(offer, old, life=life)
            runner = Runner(self.context, born(name, body))
            try:
                async with copy.placed(self.context, runner.book) as saved:
                    taken = step(old.book.state if old is not None else None, Event.IMPORT)
                    written = rows.of_import(runner, body, taken, saved)
                    entries = await self.context.ledger.append_all(written)
            except BaseException:
                await runner.close()
                if old is not None:
                    self.runners[name] = Runner(self.context, old.book)
                raise
            for entry in entries:
                self.context.books.apply(entry)
            runner.book = self.context.books.sessions[name]
            self.runners[name] = runner
        runner.message = "imported; resume it to go on"
        runner.changed()
        return runner

    def _check_free(self, name: str) -> None:
        check_name(name)
        book = self.context.books.sessions.get(name)
        if book is not None and book.state is not State.CLOSED:
            text = f"session {name} is {book.state or 'there'} already: close it, or import under another name"
            raise UsageError(f"{text}; nothing was taken")

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
                runner.begin_tick()
            await asyncio.sleep(_TICK)

    async def _reconcile_for_ever(self) -> None:
        while True:
            try:
                await self.reconcile()
                await tidy(self.context)
            except Exception:  # noqa: BLE001 - whatever one round meets, the next one looks again
                _log.exception("the providers' lists could not be compared with the ledger")
            await asyncio.sleep(self.settings.reconcile_seconds)

    async def reconcile(self) -> None:
        """Find machines of ours that no session wants: bill them from their creation, and stop them."""
        async with self._reconciling:  # two at once would both make a book for the same orphan
            await reconcile(self.context)


def _suits(offer: Mapping[str, Any], instance: str) -> bool:
    """Tell whether a session on the machine type `offer` has what `instance` asks for."""
    wish = wish_of(instance)
    return wish.fits(Offer(**offer)) if wish is not None else instance == offer["instance"]
