"""What all sessions of a plane share: clock, ledger, books, provider, places, keys."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.control.projections import Book, Books
from ciuic_jupyter.core.money import parse_usd
from ciuic_jupyter.core.offers import cheapest, wish_of
from ciuic_jupyter.errors import OutOfCapacity, ProviderError
from ciuic_jupyter.providers.base import Intent, Offer, Provider
from ciuic_jupyter.settings import Settings, private_directory

if TYPE_CHECKING:
    from ciuic_jupyter.control.purse import Purse

_RECENT = 5  # saves and restores that the estimate of the next one rests on


class Watched(Protocol):
    """Who is told that a session changed; every method returns at once."""

    def changed(self, name: str, *, soon: bool = False) -> None:
        """Its view is another now."""

    def sampled(self, name: str, busy: bool) -> None:
        """There is new usage of its machine."""


@dataclass
class Context:
    """Made once, passed to every runner."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    books: Books
    providers: Mapping[str, Provider]
    owner: str  # the tag of our machines
    key: bytes  # the user's; a session's checkpoints are signed by one that is derived from it
    watched: Watched | None = None
    purse: Purse | None = None  # budgets that all sessions share
    confirmed: set[str] = field(default_factory=set)  # machines whose end the provider told twice

    def now_ms(self) -> int:
        """Return unix milliseconds."""
        return round(self.clock.wall() * 1000)

    @property
    def storage_rate(self) -> int:
        """Nano-units an hour for keeping a session's checkpoints."""
        return parse_usd(self.settings.storage_price_per_hour)

    def provider(self, book: Book) -> Provider:
        """Return who rents out the machines of a session."""
        name = str(book.offer["provider"])
        if name not in self.providers:
            raise OutOfCapacity(f"session {book.name} lives on provider {name!r}, which is not set up here")
        return self.providers[name]

    async def offers(self) -> tuple[list[Offer], ProviderError | None]:
        """Return what all providers offer now, and what is wrong with one that can't say."""
        offers, wrong = [], None
        for provider in self.providers.values():
            try:
                offers += await provider.offers()
            except ProviderError as error:  # of one that keeps nobody from the others
                wrong = error
        return offers, wrong

    async def find_offer(self, instance: str) -> Offer:
        """Return the offer of an instance type, or the cheapest that fits `auto:...`; OutOfCapacity lists them."""
        offers, wrong = await self.offers()
        wish = wish_of(instance)
        if wish is not None:
            return cheapest(offers, wish, self.settings.currency)
        for offer in offers:
            if offer.instance == instance:
                return offer
        if wrong is not None:
            raise wrong
        known = sorted(offer.instance for offer in offers)
        raise OutOfCapacity(f"no machine type {instance!r}; there are: {', '.join(known) or 'none'}")

    def session_directory(self, name: str) -> Path:
        """Return the private folder of a session's events."""
        private_directory(self.settings.state_dir / "sessions")
        return private_directory(self.settings.state_dir / "sessions" / name)

    def store_directory(self, book: Book) -> Path:
        """Return the private folder of a session's checkpoints; each life has its own."""
        private_directory(self.settings.state_dir / "checkpoints")
        return private_directory(self.settings.state_dir / "checkpoints" / f"{book.name}-{book.life[:8]}")

    def remote(self, book: Book) -> str | None:
        """Return the address of a session's checkpoints elsewhere; None if they are here alone."""
        url = self.settings.checkpoint_url
        return f"{url.rstrip('/')}/{self.store_directory(book).name}" if url else None

    def key_of(self, book: Book) -> bytes:
        """Return what signs a session's checkpoints: a key of its own life, so that no machine ever has the user's."""
        if not book.own_key:
            return self.key
        return life_key(self.key, book.life)

    def keys(self) -> list[bytes]:
        """Return the keys that sign for this user and were on no machine but this computer."""
        own = [book for book in self.books.lives if book.own_key and book.only_here]
        return [self.key, *(life_key(self.key, book.life) for book in own)]

    def token(self, intent: str) -> str:
        """Return the token of an intent's agent: derived, so that it is kept nowhere."""
        return hmac.new(self.key, f"agent {intent}".encode(), "sha256").hexdigest()

    def timings(self, book: Book) -> tuple[float, float]:
        """Return seconds that a save and a restore of this session take: upper quartile of the last ones measured."""
        return (
            _upper(book.save_seconds, self.settings.checkpoint_seconds),
            _upper(book.restore_seconds, self.settings.restore_seconds),
        )

    def intent(self, book: Book, first_seq: int) -> Intent:
        """Return the provider's order for the machine that the ledger already intends."""
        assert book.intent is not None
        settings, number = self.settings, str(book.intent["id"])
        config: dict[str, Any] = {
            "session": book.name,
            "token": self.token(number),
            "first_seq": first_seq,
            "store": str(self.store_directory(book)),
            "key_hex": self.key_of(book).hex(),
            "remote": self.remote(book),
            "checkpoint": book.intent["checkpoint"],
            "cwd": book.cwd if book.cwd and os.path.isdir(book.cwd) else None,
            "env": {},
            "lease_seconds": settings.lease_seconds,
            "sample_hz": settings.sample_hz,
            "deadline": self._deadline(book),
            "save_failure_seconds": settings.save_failure_limit_seconds,
            "last_resort": settings.last_resort,
            "earlier_checkpoints": settings.earlier_checkpoints,
            "warm": settings.warm_start,
        }
        return Intent(number, book.name, Offer(**book.offer), self.owner, config)

    def _deadline(self, book: Book) -> float | None:
        """Return for how many seconds the budgets let a machine run that nobody hears."""
        return self.purse.seconds_left(book) if self.purse is not None else None


def life_key(key: bytes, life: str) -> bytes:
    """Return the key that signs the checkpoints of one life of a session."""
    return hmac.new(key, f"checkpoints {life}".encode(), "sha256").digest()


def _upper(measured: list[float], otherwise: float) -> float:
    recent = sorted(measured[-_RECENT:])
    return recent[(3 * (len(recent) - 1) + 3) // 4] if recent else otherwise
