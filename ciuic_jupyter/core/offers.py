"""What machines cost where, and what a piece of work would have cost there; pure, from rows that somebody else read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Protocol, TypeVar

from ciuic_jupyter.core.money import HOUR_MS, cost, format_money, parse_usd
from ciuic_jupyter.errors import OutOfCapacity, UsageError

AUTO = "auto"
GB = 10**9
MONTH_MS = 730 * HOUR_MS  # as clouds count one
_CONSTRAINTS = ("gpus", "gpu", "max")


@dataclass(frozen=True)
class Fact:
    """One price that is not an hour's, in nano-units: who says it, and when."""

    nano: int
    currency: str
    date: date
    source: str


@dataclass(frozen=True)
class Cloud:
    """How a cloud bills; None is unknown. `releases`: a training that pauses gives its machine back there."""

    key: str
    title: str
    releases: bool = False
    unit_seconds: int | None = None
    minimum_seconds: int | None = None
    billing_date: date | None = None
    billing_source: str = ""
    storage: Fact | None = None  # of a GB for a month
    egress: Fact | None = None  # of a GB


@dataclass(frozen=True)
class PriceRow:
    """A machine's price an hour, in nano-units, as `source` said at `date`; `origin` is the table it stands in."""

    cloud: str
    machine: str
    rate: int
    currency: str
    date: date
    source: str
    gpus: int = 1
    gpu: str = ""
    region: str = ""
    origin: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a later table's row has to share with it to take its place."""
        return self.cloud, self.machine, self.region

    @property
    def rate_per_gpu(self) -> int:
        """Nano-units an hour for one of its GPUs, rounded up."""
        return -(-self.rate // max(1, self.gpus))


@dataclass(frozen=True)
class Table:
    """Rows and what is known of their clouds."""

    rows: tuple[PriceRow, ...] = ()
    clouds: Mapping[str, Cloud] = field(default_factory=dict)

    def cloud(self, row: PriceRow) -> Cloud:
        """Return what is known of a row's cloud: maybe no more than its name."""
        return self.clouds.get(row.cloud) or Cloud(row.cloud, row.cloud)


def merged(tables: Iterable[Table]) -> Table:
    """Return one table of several; a later one's row or cloud takes the place of an earlier one's."""
    rows: dict[tuple[str, str, str], PriceRow] = {}
    clouds: dict[str, Cloud] = {}
    for table in tables:
        rows.update({row.key: row for row in table.rows})
        clouds.update(table.clouds)
    return Table(tuple(rows.values()), clouds)


def age(then: date, today: date) -> str:
    """Return how old a price is, in the largest unit that says something."""
    days = (today - then).days
    if days < 60:
        return "today" if days == 0 else f"{days} day{'s' if days != 1 else ''}"
    months = (today.year - then.year) * 12 + today.month - then.month - (today.day < then.day)
    return f"{months} months"


@dataclass(frozen=True)
class Usage:
    """Machine time of some work: `(begin, end)` in unix ms of each machine, until `end_ms`, when all was over."""

    stretches: Sequence[tuple[int, int]]
    end_ms: int
    gpus: int = 1
    stored_bytes: int | None = None  # of the checkpoint kept between machines

    @property
    def on_ms(self) -> int:
        """Milliseconds in which there was a machine."""
        return sum(end - begin for begin, end in self.stretches)

    @property
    def span_ms(self) -> int:
        """Milliseconds from the first machine's start to the end."""
        return max(0, self.end_ms - self.stretches[0][0]) if self.stretches else 0


@dataclass(frozen=True)
class Compared:
    """What a usage costs by one row, in nano-units of the row's currency; storage and egress None if unknown.

    `stopping`: machines are given back in pauses, as here; `always_on`: one machine is kept from begin to end.
    """

    row: PriceRow
    cloud: Cloud
    stopping: int
    always_on: int
    storage: int | None
    egress: int | None  # of one move of the checkpoint out of this cloud

    @property
    def usual(self) -> int:
        """What it comes to there: pauses are free only where the machine is given back in them."""
        return self.stopping if self.cloud.releases else self.always_on


def compare(usage: Usage, table: Table) -> list[Compared]:
    """Price a usage by each row, cheapest for those who stop first; machines of another size are taken per GPU.

    A billing unit or minimum that is not known counts as one second and none.
    """
    found = []
    for row in table.rows:
        cloud = table.cloud(row)
        billed = _biller(row, cloud, usage.gpus)
        pauses = max(0, usage.span_ms - usage.on_ms)
        found.append(
            Compared(
                row,
                cloud,
                stopping=sum(billed(end - begin) for begin, end in usage.stretches),
                always_on=billed(usage.span_ms) if usage.stretches else 0,
                storage=_of_bytes(cloud.storage, row, usage.stored_bytes, pauses, MONTH_MS),
                egress=_of_bytes(cloud.egress, row, usage.stored_bytes, 1, 1),
            )
        )
    return sorted(found, key=lambda one: (one.row.currency, one.stopping, one.row.key))


def _biller(row: PriceRow, cloud: Cloud, gpus: int) -> Callable[[int], int]:
    rate = -(-row.rate * max(1, gpus) // max(1, row.gpus))
    unit, minimum = (cloud.unit_seconds or 1) * 1000, (cloud.minimum_seconds or 0) * 1000
    return lambda milliseconds: cost(rate, milliseconds, unit_ms=unit, minimum_ms=minimum)


def _of_bytes(fact: Fact | None, row: PriceRow, size: int | None, part: int, whole: int) -> int | None:
    if fact is None or size is None or fact.currency != row.currency:
        return None
    return -(-fact.nano * size * part // (GB * whole))


# -- `--instance auto`


class Rentable(Protocol):
    """What a choice needs to know of an offer of a provider."""

    @property
    def instance(self) -> str: ...
    @property
    def price_nano_per_hour(self) -> int: ...
    @property
    def currency(self) -> str: ...
    @property
    def gpus(self) -> int: ...
    @property
    def gpu(self) -> str: ...
    @property
    def listed(self) -> bool: ...


class Billed(Rentable, Protocol):
    """An offer with how it is billed."""

    @property
    def unit_seconds(self) -> int: ...
    @property
    def minimum_seconds(self) -> int: ...


_Offer = TypeVar("_Offer", bound=Rentable)


@dataclass(frozen=True)
class Wish:
    """Constraints on a machine: GPUs at least, a word of the GPU's name, and a price an hour at most."""

    gpus: int = 0
    gpu: str = ""
    most: int | None = None

    def fits(self, offer: Rentable) -> bool:
        """Tell whether an offer is good enough."""
        named = not self.gpu or self.gpu.casefold() in offer.gpu.casefold()
        return named and offer.gpus >= self.gpus and (self.most is None or offer.price_nano_per_hour <= self.most)


def wish_of(instance: str) -> Wish | None:
    """Return the constraints of `auto` or `auto:gpus=2,gpu=A100,max=1.50`, None for the name of a machine type.

    UsageError says what can't be read.
    """
    head, colon, rest = instance.partition(":")
    if head != AUTO:
        return None
    said: dict[str, str] = {}
    for part in rest.split(",") if colon else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or name not in _CONSTRAINTS or name in said:
            raise UsageError(
                f"{part.strip()!r} is no constraint on a machine; write them like auto:gpus=2,gpu=A100,max=1.50"
            )
        said[name] = value
    if not re.fullmatch(r"[0-9]{1,4}", said.get("gpus", "0"), re.ASCII):
        raise UsageError(f"{said['gpus']!r} is not a number of GPUs; write it like auto:gpus=2")
    return Wish(int(said.get("gpus", "0")), said.get("gpu", ""), parse_usd(said["max"]) if "max" in said else None)


def cheapest(offers: Sequence[_Offer], wish: Wish, currency: str) -> _Offer:
    """Return the cheapest offer in `currency` that fits, the first of equals; OutOfCapacity lists what there is."""
    listed = [offer for offer in offers if offer.listed]
    fitting = [offer for offer in listed if offer.currency == currency and wish.fits(offer)]
    if not fitting:
        there = ", ".join(
            f"{offer.instance} ({format_money(offer.price_nano_per_hour, offer.currency)}/h, {offer.gpus} GPUs"
            f"{' ' + offer.gpu if offer.gpu else ''})"
            for offer in listed
        )
        raise OutOfCapacity(f"no machine in {currency} fits; there are: {there or 'none'}; loosen the constraints")
    return min(fitting, key=lambda offer: offer.price_nano_per_hour)


# -- the article's table


@dataclass(frozen=True)
class Hours:
    """Hours between two bounds, both possible."""

    least: float
    most: float

    def both(self, other: Hours) -> Hours | None:
        """Return what both allow, None if there is nothing."""
        least, most = max(self.least, other.least), min(self.most, other.most)
        return Hours(least, most) if least <= most else None


ARTICLE_TOTALS = {"ciuic": 220, "aws": 350, "gcp": 335, "azure": 320}  # $ for 100 epochs of ResNet-50, "about"
ARTICLE_ABOUT = 5  # $ that such totals are rounded to
ARTICLE_COMPUTING, ARTICLE_SPAN = 244, 291  # GPU-hours that make all four come out


def hours_of(total: int, rate: int) -> Hours:
    """Return the hours at `rate` (nano-units an hour) whose cost is `total` when rounded to the article's step."""
    per_hour = rate / 10**9
    return Hours((total - ARTICLE_ABOUT / 2) / per_hour, (total + ARTICLE_ABOUT / 2) / per_hour)


def article(table: Table) -> list[Compared]:
    """Price the article's training by the table's rules: so many hours of computing within so many hours.

    Its prices an hour and totals are known, its hours are not. The totals of the three that keep the machine agree on
    one span, that of the one which gives it back in pauses is for less: these two figures are the assumption.
    """
    named = {row.cloud: row for row in table.rows if row.cloud in ARTICLE_TOTALS and row.source.startswith("article")}
    usage = Usage([(0, ARTICLE_COMPUTING * HOUR_MS)], ARTICLE_SPAN * HOUR_MS)
    return compare(usage, Table(tuple(named[cloud] for cloud in ARTICLE_TOTALS if cloud in named), table.clouds))
