"""Money as integer nano-units of a currency; text and Decimal appear only at the edges."""

from __future__ import annotations

import re
from decimal import Decimal

from ciuic_jupyter.errors import UsageError

NANO = 10**9
HOUR_MS = 3_600_000
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?", re.ASCII)
_CODES = (  # ISO 4217, those in use in 2026; metals, funds' units and the code for tests left out
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CLP CNY "
    "COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR "
    "ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK "
    "MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF "
    "SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD UYU "
    "UZS VED VES VND VUV WST XAF XCD XCG XOF XPF YER ZAR ZMW ZWG"
)
CURRENCIES = frozenset(_CODES.split())
_SIGNS = {"USD": "$", "CNY": "¥", "EUR": "€", "GBP": "£"}


def parse_usd(amount: str | int | Decimal) -> int:
    """Return `amount` (units of the currency) as integer nano-units; UsageError unless it is a plain number >= 0.

    Floats are refused: 0.1 is not what it says.
    """
    text = _plain(amount)
    if text is None or not _AMOUNT.fullmatch(text):
        huge = isinstance(amount, int) and abs(amount) >= 10**20  # str() of an int has a limit of its own
        shown = "an integer of more than 20 digits" if huge else repr(str(amount)[:40])
        raise UsageError(f'{shown} is not an amount of money; write a plain number such as "5" or "0.25"')
    whole, _, fraction = text.partition(".")
    return int(whole) * NANO + int(fraction.ljust(9, "0") or 0)


def _plain(amount: str | int | Decimal) -> str | None:
    if isinstance(amount, str):
        return amount
    if isinstance(amount, Decimal):
        return format(amount, "f") if amount.is_finite() and abs(amount.adjusted()) < 20 else None
    return str(amount) if type(amount) is int and 0 <= amount < NANO else None


def check_currency(code: object) -> str:
    """Return `code` if it is that of a currency; UsageError says what to write instead."""
    if not isinstance(code, str) or code not in CURRENCIES:
        upper = code.strip().upper() if isinstance(code, str) else ""
        what = f"did you mean {upper}?" if upper in CURRENCIES else "write a code of ISO 4217, like USD, EUR or CNY"
        raise UsageError(f"{str(code)[:40]!r} is not a currency; {what}")
    return code


def billed_ms(milliseconds: int, *, unit_ms: int = 1000, minimum_ms: int = 0) -> int:
    """Return the time that is paid for a segment of this length: whole billing units, and the minimum at least."""
    if milliseconds < 0 or unit_ms < 1 or minimum_ms < 0:
        raise UsageError(
            f"a segment of {milliseconds} ms, billed by {unit_ms} ms and {minimum_ms} ms at least, can't be priced"
        )
    return max(minimum_ms, -(-milliseconds // unit_ms) * unit_ms)


def cost(rate_nano_per_hour: int, milliseconds: int, *, unit_ms: int = 1000, minimum_ms: int = 0) -> int:
    """Price one segment from its length, in nano-units, rounded up.

    Priced once, from its ends: a sum of prices of its parts would round each of them.
    """
    if rate_nano_per_hour < 0:
        raise UsageError(f"a price of {rate_nano_per_hour} nano-units per hour is below zero")
    billed = billed_ms(milliseconds, unit_ms=unit_ms, minimum_ms=minimum_ms)
    return -(-rate_nano_per_hour * billed // HOUR_MS)


def format_change(nano: int, base: int, currency: str = "USD") -> str:
    """Return how much more or less `nano` is than `base`, which is above zero: "+$0.0120 (112 %)"."""
    sign = "+" if nano > base else ""
    return f"{sign}{format_money(nano - base, currency)} ({100 * nano / base:.0f} %)"


def format_money(nano: int, currency: str = "USD", places: int | None = None) -> str:
    """Return `nano` as text for people: "$0.0132". Without `places`, enough of them to show small amounts."""
    if places is not None and not 0 <= places <= 9:
        raise UsageError(f"money has 0 to 9 decimal places, not {places}")
    size = abs(nano)
    if places is None:
        places = 2 if size == 0 or size >= 100 * NANO else 4 if size >= NANO // 1000 else 6 if size >= 1000 else 9
    step = 10 ** (9 - places)
    rounded = (size + step // 2) // step
    whole, fraction = divmod(rounded, 10**places)
    sign = _SIGNS.get(currency, f"{currency} ")
    digits = f"{whole:,}" + (f".{fraction:0{places}d}" if places else "")
    return f"{'-' if nano < 0 and rounded else ''}{sign}{digits}"
