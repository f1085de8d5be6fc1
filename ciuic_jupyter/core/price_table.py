"""Price tables written in TOML, read strictly: what is wrong is said with the table's name and the line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any, NoReturn

from ciuic_jupyter.core.money import NANO, check_currency, parse_usd
from ciuic_jupyter.core.offers import Cloud, Fact, PriceRow, Table
from ciuic_jupyter.errors import UsageError

VERSION = 1
_MOST = 100_000 * NANO  # an hour
_LONGEST = 31 * 86_400  # seconds of a billing unit
_NAME = re.compile(r"[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,199}")
_HEADER = re.compile(r"\s*\[\[?\s*([A-Za-z0-9_\-]+(?:\s*\.\s*[A-Za-z0-9_\-]+)*)\s*\]\]?\s*(?:#.*)?")
_TOP = {"version", "clouds", "offers"}
_OFFER = {"cloud", "machine", "price_per_hour", "currency", "date", "source", "gpus", "gpu", "region"}
_CLOUD = {"title", "releases_in_pauses", "billing", "storage", "egress"}
_BILLING = {"unit_seconds", "minimum_seconds", "date", "source"}


def parse(text: str, name: str, today: date) -> Table:
    """Return the table that `text` is; UsageError names `name`, the line and what is wrong there."""
    return _Reader(text, name, today).table()


class _Block:
    """One table of the file, which knows its lines."""

    def __init__(self, reader: _Reader, where: str, number: int, values: Any) -> None:
        self._reader = reader
        self._where, self._number = where, number
        if not isinstance(values, dict):
            self.wrong(None, f"{where} has to be a table")
        self.values: Mapping[str, Any] = values

    def wrong(self, key: str | None, why: str) -> NoReturn:
        """Refuse the table for what stands at `key`."""
        self._reader.wrong(self._reader.line(self._where, self._number, key), why)

    def only(self, known: set[str], needed: tuple[str, ...] = ()) -> None:
        """Refuse keys nobody knows, and the lack of those needed."""
        for key in self.values:
            if key not in known:
                self.wrong(key, f"{key!r} is not known here; known are {', '.join(sorted(known))}")
        for key in needed:
            if key not in self.values:
                self.wrong(None, f"{key!r} is missing")

    def text(self, key: str, otherwise: str = "") -> str:
        """Return a line of text."""
        value = self.values.get(key, otherwise)
        if not isinstance(value, str) or (key in self.values and not _NAME.fullmatch(value)):
            self.wrong(key, f"{key} has to be a line of text in quotes")
        return value

    def number(self, key: str, least: int, most: int) -> int | None:
        """Return a whole number, None if the key is not there."""
        value = self.values.get(key)
        if value is not None and (type(value) is not int or not least <= value <= most):
            self.wrong(key, f"{key} has to be a whole number from {least} to {most}")
        return value

    def flag(self, key: str) -> bool:
        """Return true or false; false if the key is not there."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            self.wrong(key, f"{key} has to be true or false")
        return value

    def money(self, key: str) -> int:
        """Return an amount above zero in nano-units."""
        value = self.values.get(key)
        if isinstance(value, float):
            self.wrong(key, f'{key} has to stand in quotes, like "0.90": a float is not what it says')
        try:
            nano = parse_usd(value) if isinstance(value, (str, int)) else 0
        except UsageError as error:
            self.wrong(key, str(error))
        if not 0 < nano <= _MOST:
            self.wrong(key, f"{key} has to be above 0 and at most {_MOST // NANO}")
        return nano

    def currency(self) -> str:
        """Return the code of a currency."""
        try:
            return check_currency(self.values.get("currency", "USD"))
        except UsageError as error:
            self.wrong("currency", str(error))

    def date(self) -> date:
        """Return a day that is not to come."""
        value = self.values.get("date")
        if not isinstance(value, date) or isinstance(value, datetime):
            self.wrong("date", "date has to be a day without quotes, like 2023-08-01")
        if value > self._reader.today:
            self.wrong("date", f"{value} is in the future; correct the date, or this computer's clock")
        return value


class _Reader:
    def __init__(self, text: str, name: str, today: date) -> None:
        self.today = today
        self._name = name
        self._lines = text.splitlines()
        try:
            self._values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"at line (\d+)", str(error))
            self.wrong(int(found[1]) if found else max(1, len(self._lines)), str(error))

    def wrong(self, line: int, why: str) -> NoReturn:
        """Refuse the table for what stands in `line`."""
        raise UsageError(f"{self._name}, line {line}: {why}; nothing of this price table is used until it is corrected")

    def line(self, where: str, number: int, key: str | None) -> int:
        """Return the line of a key below the header `where` that stands there for the `number`th time, from 1."""
        seen, inside, header = 0, not where, 1
        for at, text in enumerate(self._lines, 1):
            found = _HEADER.fullmatch(text)
            if found:
                if inside:
                    break
                seen += re.sub(r"\s", "", found[1]) == where
                inside = seen == number and re.sub(r"\s", "", found[1]) == where
                header = at if inside else header
            elif inside and key is not None and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", text):
                return at
        return header

    def table(self) -> Table:
        top = _Block(self, "", 1, self._values)
        top.only(_TOP)
        version = self._values.get("version", VERSION)
        if version != VERSION:
            top.wrong("version", f"version {version!r} is not {VERSION}: a newer ciuic_jupyter may read it")
        clouds = _Block(self, "clouds", 1, self._values.get("clouds", {})).values
        listed = self._values.get("offers", [])
        if not isinstance(listed, list):
            top.wrong("offers", "offers are written as [[offers]], one after another")
        known = {key: self._cloud(key, value) for key, value in clouds.items()}
        return Table(tuple(self._offer(at, value) for at, value in enumerate(listed, 1)), known)

    def _offer(self, number: int, values: Any) -> PriceRow:
        block = _Block(self, "offers", number, values)
        block.only(_OFFER, ("cloud", "machine", "price_per_hour", "date", "source"))
        gpus = block.number("gpus", 0, 10_000)
        return PriceRow(
            cloud=block.text("cloud"),
            machine=block.text("machine"),
            rate=block.money("price_per_hour"),
            currency=block.currency(),
            date=block.date(),
            source=block.text("source"),
            gpus=1 if gpus is None else gpus,
            gpu=block.text("gpu"),
            region=block.text("region"),
            origin=self._name,
        )

    def _cloud(self, key: str, values: Any) -> Cloud:
        block = _Block(self, f"clouds.{key}", 1, values)
        block.only(_CLOUD)
        billing = _Block(self, f"clouds.{key}.billing", 1, block.values.get("billing", {}))
        billing.only(_BILLING, ("date", "source") if billing.values else ())
        return Cloud(
            key=key,
            title=block.text("title", key),
            releases=block.flag("releases_in_pauses"),
            unit_seconds=billing.number("unit_seconds", 1, _LONGEST),
            minimum_seconds=billing.number("minimum_seconds", 0, _LONGEST),
            billing_date=billing.date() if billing.values else None,
            billing_source=billing.text("source"),
            storage=self._fact(block, key, "storage", "price_per_gb_month"),
            egress=self._fact(block, key, "egress", "price_per_gb"),
        )

    def _fact(self, cloud: _Block, key: str, kind: str, price: str) -> Fact | None:
        if kind not in cloud.values:
            return None
        block = _Block(self, f"clouds.{key}.{kind}", 1, cloud.values[kind])
        block.only({price, "currency", "date", "source"}, (price, "date", "source"))
        return Fact(block.money(price), block.currency(), block.date(), block.text("source"))
