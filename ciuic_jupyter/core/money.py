"""Money as integer nano-units of a currency; text and Decimal appear only at the edges."""

from __future__ import annotations

import re
from decimal import Decimal

from ciuic_jupyter.errors import UsageError

NANO = 10**9
HOUR_MS = 3_600_000
MAX_NANO = 999_999_999 * NANO
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_SIGNS = {"USD": "$", "CNY": "¥", "EUR": "€", "GBP": "£"}


def parse_usd(amount: str | int | Decimal) -> int:
    """Return `amount` (units of the currency) as integer nano-units; UsageError unless it is a plain number >= 0."""
    text = format(amount, "f") if isinstance(amount, Decimal) and amount.is_finite() else str(amount)
    if isinstance(amount, bool | float) or not _AMOUNT.fullmatch(text):
        raise UsageError(f"{text!r} is not an amount of money; write a plain number such as 5 or 0.25")
    whole, _, fraction = text.partition(".")
    return int(whole) * NANO + int(fraction.ljust(9, "0") or 0)


def cost(rate_nano_per_hour: int, milliseconds: int, *, unit_ms: int = 1000, minimum_ms: int = 0) -> int:
    """Price one segment from its length: rounded up to the billing unit, never below the minimum, in nano-units."""
    if rate_nano_per_hour < 0 or milliseconds < 0 or unit_ms < 1 or minimum_ms < 0:
        raise UsageError(f"a segment of {milliseconds} ms at {rate_nano_per_hour} nano/h can't be priced: below zero")
    units = -(-max(milliseconds, minimum_ms) // unit_ms)
    return -(-rate_nano_per_hour * units * unit_ms // HOUR_MS)


def format_money(nano: int, currency: str = "USD", places: int | None = None) -> str:
    """Return `nano` as text for people: "$0.0132". Without `places`, enough of them to show small amounts."""
    size = abs(nano)
    if places is None:
        places = 2 if size == 0 or size >= 100 * NANO else 4 if size >= NANO // 1000 else 6 if size >= 1000 else 9
    step = 10 ** (9 - places)
    rounded = (size + step // 2) // step
    whole, fraction = divmod(rounded, 10**places)
    sign = _SIGNS.get(currency, f"{currency} ")
    digits = f"{whole:,}" + (f".{fraction:0{places}d}" if places else "")
    return f"{'-' if nano < 0 and rounded else ''}{sign}{digits}"
