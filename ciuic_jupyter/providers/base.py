"""The seam to whoever rents out machines: six methods, and the plain records they speak in.

Errors of a provider's own library are mapped to ProviderError or OutOfCapacity here, at the seam.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


class MachineState(StrEnum):
    """What a provider says of a machine. UNKNOWN is not stopped: its meter runs on."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPED = "stopped"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Offer:
    """A machine type with its price; `minimum_seconds` are billed even if it lives shorter."""

    instance: str
    provider: str
    price_nano_per_hour: int
    currency: str = "USD"
    unit_seconds: int = 1
    minimum_seconds: int = 0
    gpus: int = 0
    gpu: str = ""
    listed: bool = True  # else it is found by its name alone: `auto` does not choose it


@dataclass(frozen=True)
class Intent:
    """The wish for one machine, in the ledger before the machine exists; at most one machine comes of it."""

    id: str
    session: str
    offer: Offer
    tag: str
    agent_config: Mapping[str, Any] = field(repr=False, default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """A machine as its provider sees it; times are unix seconds."""

    id: str
    intent: str
    tag: str
    state: MachineState
    created_at: float
    stopped_at: float | None = None
    detail: str = ""
    ended: bool = False  # nothing of ours runs on it any more, and it exists all the same: it has to be stopped


@dataclass(frozen=True)
class Endpoint:
    """Where the agent of a machine listens: a unix socket on this side of whatever channel leads there."""

    path: Path


class Provider(Protocol):
    """Whoever rents out machines. Every method may be called again after a crash of the caller."""

    name: str

    async def offers(self) -> list[Offer]:
        """Return the machine types there are; the plane asks when a session is created."""

    async def start(self, intent: Intent) -> Machine:
        """Start the one machine of `intent`, or return it if it was started before; called after the intent is durable.

        OutOfCapacity if there is none now; ProviderError for anything else, after which the plane looks whether the
        machine exists all the same.
        """

    async def look(self, machine: str) -> Machine | None:
        """Return what the provider knows of a machine, None if it never heard of it; asked till a stop is proven."""

    async def list(self, tag: str) -> list[Machine]:
        """Return the living machines that carry exactly `tag`; asked at start and each minute, to find orphans."""

    async def stop(self, machine: str) -> None:
        """Ask for the end of a machine; asked again until `look` says STOPPED or None. An ended one is no error."""

    async def connect(self, machine: str) -> Endpoint:
        """Return where the machine's agent listens; asked after each start and each loss of the line."""


@runtime_checkable
class Remembers(Protocol):
    """What a provider has besides that can still reach the files of a machine whose agent has ended."""

    async def events(self, machine: str, target: Path, after: int) -> None:
        """Copy the files of a machine's event log that hold events behind number `after` to the folder `target`.

        Each is named by its first event. Nothing is copied where there is no log; ProviderError if it can't be had.
        """


@runtime_checkable
class Tidies(Protocol):
    """What a provider has besides whose machines leave files here when they are gone."""

    async def left(self) -> set[str]:
        """Return the ids of machines of which files are here, whatever became of them."""

    async def forget(self, machine: str) -> None:
        """Remove the files of a machine that is proven stopped, its logs among them; others are left alone.

        Asked long after the ledger closed its time. ProviderError if the files can't be removed.
        """


@runtime_checkable
class Apart(Protocol):
    """What a provider has besides whose machines write checkpoints on disks of their own.

    Its `start` brings the checkpoint that its intent names to the machine, before the agent looks for it.
    """

    async def bring(self, machine: str, store: Path, key: bytes, seq: int | None) -> int:
        """Have checkpoint `seq` of a machine (None: its newest) in the folder `store`; return the bytes that came.

        Asked behind each save and before a stop is asked for. Only what is missing comes; all of it is checked before
        its manifest counts. CheckpointError, or ProviderError for a machine that can't be asked.
        """
