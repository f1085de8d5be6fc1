"""A cloud in memory, with a clock that tests turn and every fault a cloud has; it keeps a bill of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ciuic_jupyter.core.money import cost
from ciuic_jupyter.errors import OutOfCapacity, ProviderError
from ciuic_jupyter.providers.base import Endpoint, Intent, Machine, MachineState, Offer


@dataclass
class Faults:
    """What goes wrong from now on; numbers count down as they are used."""

    no_capacity: int = 0
    start_error_before: int = 0  # refuse a start that did not happen
    start_error_after: int = 0  # report an error for a start that did happen
    stop_error: int = 0
    stop_ignored: int = 0  # say yes to a stop and do nothing
    look_error: int = 0
    list_error: int = 0
    stop_seconds: float = 0.0  # how long a machine lives on after a stop
    duplicates: bool = False  # list each machine twice
    hidden: set[str] = field(default_factory=set)  # machines a list forgets
    lies: list[MachineState | None] = field(default_factory=list)  # what the next looks say; None: never heard of it


@dataclass
class _Kept:
    machine: Machine
    offer: Offer
    stop_at: float | None = None


class FakeProvider:
    """Machines that exist as rows; `now` returns unix seconds and is turned by the test."""

    name = "fake"

    def __init__(self, now: Callable[[], float], endpoint: Path, offers: list[Offer] | None = None) -> None:
        self._now = now
        self._endpoint = endpoint
        self._offers = offers or [Offer("fake.1", "fake", 3_600_000_000)]
        self._kept: dict[str, _Kept] = {}
        self.faults = Faults()
        self.intents: list[Intent] = []
        self.on_start: Callable[[Intent], None] = lambda intent: None
        self.on_stop: Callable[[str], None] = lambda machine: None

    def _use(self, fault: str) -> bool:
        left = int(getattr(self.faults, fault))
        if left:
            setattr(self.faults, fault, left - 1)
        return left > 0

    async def offers(self) -> list[Offer]:
        """Return the machine types."""
        return list(self._offers)

    async def start(self, intent: Intent) -> Machine:
        """Start the machine of an intent, once."""
        self.intents.append(intent)
        if self._use("no_capacity"):
            raise OutOfCapacity(f"no {intent.offer.instance} left; try another type or later")
        if self._use("start_error_before"):
            raise ProviderError("the cloud answered 500; ask again")
        if intent.id not in self._kept:
            self.on_start(intent)
            made = Machine(intent.id, intent.id, intent.tag, MachineState.RUNNING, self._now())
            self._kept[intent.id] = _Kept(made, intent.offer)
        if self._use("start_error_after"):
            raise ProviderError("the answer timed out; look whether it started")
        self._advance()
        return self._kept[intent.id].machine

    def foreign(self, machine: str, tag: str) -> None:
        """Put a machine there that no one asked us for."""
        made = Machine(machine, machine, tag, MachineState.RUNNING, self._now())
        self._kept[machine] = _Kept(made, self._offers[0])

    def vanish(self, machine: str) -> None:
        """Let a machine be gone from now on, as a preempted one is."""
        self._end(self._kept[machine], self._now(), "vanished")

    def _end(self, kept: _Kept, at: float, detail: str) -> None:
        if kept.machine.state is not MachineState.STOPPED:
            kept.machine = replace(kept.machine, state=MachineState.STOPPED, stopped_at=at, detail=detail)
            self.on_stop(kept.machine.id)

    def _advance(self) -> None:
        for kept in self._kept.values():
            if kept.stop_at is not None and self._now() >= kept.stop_at:
                self._end(kept, kept.stop_at, "stopped")

    async def look(self, machine: str) -> Machine | None:
        """Return a machine as it is now."""
        if self._use("look_error"):
            raise ProviderError("the cloud answered 503; ask again")
        self._advance()
        kept = self._kept.get(machine)
        if kept is None or not self.faults.lies:
            return kept.machine if kept is not None else None
        said = self.faults.lies.pop(0)
        ended = self._now() if said is MachineState.STOPPED else None
        return replace(kept.machine, state=said, stopped_at=ended) if said is not None else None

    async def list(self, tag: str) -> list[Machine]:
        """Return living machines of a tag, with the faults lists have."""
        if self._use("list_error"):
            raise ProviderError("the cloud answered 401; check the credentials")
        self._advance()
        found = [
            kept.machine
            for kept in self._kept.values()
            if kept.machine.tag == tag
            and kept.machine.state is not MachineState.STOPPED
            and kept.machine.id not in self.faults.hidden
        ]
        return found * 2 if self.faults.duplicates else found

    async def stop(self, machine: str) -> None:
        """Stop a machine, when the faults let it."""
        if self._use("stop_error"):
            raise ProviderError("the cloud answered 500 to the stop; ask again")
        kept = self._kept.get(machine)
        if kept is None or self._use("stop_ignored"):
            return
        if kept.stop_at is None:
            kept.stop_at = self._now() + self.faults.stop_seconds
        self._advance()

    async def connect(self, machine: str) -> Endpoint:
        """Return the endpoint given at construction."""
        return Endpoint(self._endpoint)

    @property
    def alive(self) -> tuple[str, ...]:
        """Return the machines that cost money now."""
        living = (kept.machine for kept in self._kept.values() if kept.machine.state is not MachineState.STOPPED)
        return tuple(machine.id for machine in living)

    @property
    def started(self) -> int:
        """Return how many machines ever were."""
        return len(self._kept)

    def bill(self) -> int:
        """Return what this cloud charges in all, in nano-units, by its own timestamps."""
        total = 0
        for kept in self._kept.values():
            end = kept.machine.stopped_at if kept.machine.stopped_at is not None else self._now()
            length = round(end * 1000) - round(kept.machine.created_at * 1000)
            unit, minimum = kept.offer.unit_seconds * 1000, kept.offer.minimum_seconds * 1000
            total += cost(kept.offer.price_nano_per_hour, max(0, length), unit_ms=unit, minimum_ms=minimum)
        return total
