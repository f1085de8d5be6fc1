"""Numbers that count in the browser: SVG odometers, so no kernel message and no script is needed between facts.

Each digit is a strip of glyphs that an SVG animation moves. SVG time runs on while the element is hidden, so a number
is right again after its notebook tab was in the background; a CSS animation would start anew from the old fact.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from ciuic_jupyter.core.money import NANO, format_money

_LINE = 24.0  # height of one glyph's line in the drawing's units, at font size 20
_WIDE = 12.4
_NARROW = 6.0
_EARLY = 0.02  # seconds
_DAY = 86400.0
# Chromium samples an animation that was just inserted only when some interval ends; this one ends 5 times a second.
_PULSE = (
    '<rect width="0" height="0"><animate attributeName="x" values="0;0" dur="0.2s" repeatCount="indefinite"/></rect>'
)


@dataclass(frozen=True)
class Wheel:
    """One column of an odometer: `glyphs` shown in turn, each for `weight` units of the counted value."""

    glyphs: tuple[str, ...]
    weight: float
    width: float = _WIDE


def _strip(wheel: Wheel, left: float, value: float, speed: float, stop: float | None) -> str:
    """Draw one column; `speed` is units a second, negative counts down, 0 stands still."""
    count = len(wheel.glyphs)
    middle = left + wheel.width / 2
    rest = wheel.weight - value % wheel.weight if speed > 0 else value % wheel.weight
    if speed == 0 or rest / abs(speed) > _DAY:  # what moves tomorrow need not be animated today
        glyph = wheel.glyphs[int(value // wheel.weight) % count]
        return f'<text x="{middle:.1f}" y="19">{escape(glyph)}</text>'
    glyphs = wheel.glyphs if speed > 0 else tuple(reversed(wheel.glyphs))
    period = wheel.weight * count
    seconds = period / abs(speed)
    phase = (value % period if speed > 0 else (-value) % period) / abs(speed)
    texts = "".join(
        f'<tspan x="{middle:.1f}" y="{19 + at * _LINE:g}">{escape(g)}</tspan>' for at, g in enumerate(glyphs)
    )
    # steps as pairs of equal values: Chromium does not repaint calcMode="discrete" reliably
    values = ";".join(f"0 {-at * _LINE:g};0 {-at * _LINE:g}" for at in range(count))
    times = ";".join(f"{at / count:.6g};{(at + 1) / count:.6g}" for at in range(count))
    end = "" if stop is None else f' end="{max(0.0, stop):.3f}s" fill="freeze"'
    return (
        f'<g class="ciuic-wheel"><text>{texts}</text><animateTransform attributeName="transform" type="translate" '
        f'values="{values}" keyTimes="{times}" '
        f'dur="{seconds:.4f}s" begin="{-phase:.4f}s" repeatCount="indefinite"{end}/></g>'
    )


def _draw(cells: list[Wheel | str], value: float, speed: float, stop: float | None, label: str) -> str:
    parts: list[str] = []
    left = blank = 0.0
    for cell in cells:
        if isinstance(cell, str):
            width = _NARROW if cell in ".:," else _WIDE * len(cell)
            parts.append(f'<text x="{left + width / 2:.1f}" y="19">{escape(cell)}</text>')
        else:
            width = cell.width
            if left == blank and cell.glyphs[int(value // cell.weight) % len(cell.glyphs)] == "":
                blank += width
            parts.append(_strip(cell, left, value, speed, stop))
        left += width
    if speed:
        parts.append(_PULSE)
    # the number is read out as of its last fact: a screen reader must not be told each tick
    return (
        f'<span class="ciuic-number" role="img" aria-label="{escape(label, quote=True)}">'
        f'<svg aria-hidden="true" focusable="false" viewBox="0 0 {left:.1f} {_LINE:g}" '
        f'style="height:1.2em;width:{left / 20:.3f}em;margin-left:-{blank / 20:.3f}em;'
        f'overflow:hidden;vertical-align:bottom" '
        f'fill="currentColor"><g font-size="20" text-anchor="middle">{"".join(parts)}</g></svg></span>'
    )


_DIGITS = tuple("0123456789")


def places_for(rate_nano_per_hour: int) -> int:
    """Return how many decimals to show so that the last digit changes about once to four times a second."""
    for places in range(6, 2, -1):
        if rate_nano_per_hour * 10**places <= 4 * 3600 * NANO:
            return min(places, 4) if rate_nano_per_hour == 0 else places
    return 2


def amount(nano: int, currency: str) -> str:
    """Return an amount as text with the decimals of a meter: $0.0132, $250.00."""
    return format_money(nano, currency, places=2 if nano >= 100 * NANO or nano == 0 else 4)


def money(nano: int, rate_nano_per_hour: int, currency: str, *, label: str = "") -> str:
    """Draw an amount of `nano` that grows by `rate_nano_per_hour` by itself; a rate of 0 stands still."""
    spoken_label = f"{amount(nano, currency)} {label}".strip()
    places = max(2, places_for(rate_nano_per_hour))
    unit = NANO // 10**places
    prefix = format_money(0, currency).split("0", 1)[0]
    wide = _WIDE * max(1, len(prefix))
    if rate_nano_per_hour <= 0:
        text = amount(nano, currency)[len(prefix) :]
        return _draw(
            [Wheel((prefix,), 1, wide), *(c if c in ".," else Wheel((c,), 1) for c in text)], 0, 0, None, spoken_label
        )
    whole = len(str(nano // NANO))
    weight = 10.0 ** (places + whole)
    # one more digit may come before the next fact: its column shows the sign until then, the column before it nothing
    cells: list[Wheel | str] = [Wheel(("", *(prefix,) * 9), weight, wide), Wheel((prefix, *_DIGITS[1:]), weight, wide)]
    cells += [Wheel(_DIGITS, 10.0 ** (places + at)) for at in range(whole - 1, -1, -1)]
    cells.append(".")
    cells += [Wheel(_DIGITS, 10.0**at) for at in range(places - 1, -1, -1)]
    return _draw(cells, nano / unit, rate_nano_per_hour / 3600 / unit, None, spoken_label)


def percent(share: float, per_hour: float) -> str:
    """Draw a share in whole percent, rounded down, that grows by `per_hour` percent to 100; 0 stands still."""
    if share >= 100 or per_hour <= 0:
        return f"{int(min(share, 100))}%"
    speed = per_hour / 3600
    cells: list[Wheel | str] = [Wheel(("", *_DIGITS[1:]), 10), Wheel(_DIGITS, 1)]
    return _draw(cells, share, speed, max(0.0, (100 - share) / speed - _EARLY), str(int(share))) + "%"


def bar(share: float, per_hour: float) -> str:
    """Draw a bar of `share` percent that grows by `per_hour` percent until it is full; 0 stands still."""
    seconds = (100 - share) / per_hour * 3600 if per_hour > 0 and share < 100 else None
    grows = pulse = ""
    if seconds is not None and seconds <= _DAY:
        grows = f'<animate attributeName="width" from="{share:.3f}" to="100" dur="{seconds:.3f}s" fill="freeze"/>'
        pulse = _PULSE
    return (
        '<svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true" focusable="false">'
        f'<rect width="{min(share, 100):.3f}" height="1">{grows}</rect>{pulse}</svg>'
    )


def clock(seconds: float, *, down: bool = False) -> str:
    """Draw a time in seconds as m:ss (or h:mm:ss) that counts up, or down to 0:00 where it stays."""
    seconds = max(0.0, seconds)
    cells: list[Wheel | str] = []
    if seconds >= 3600 or not down:
        cells += _hours(seconds, down)
    cells += [*_minutes(seconds, down), ":", Wheel(_DIGITS[:6], 10), Wheel(_DIGITS, 1)]
    if down and seconds <= 2 * _EARLY:
        return _draw(cells, 0.0, 0.0, None, spoken(0))
    stop = seconds - _EARLY if down else None  # a wheel that stops on the dot would show its next round's first digit
    return _draw(cells, seconds, -1.0 if down else 1.0, stop, spoken(seconds))


def _hours(seconds: float, down: bool) -> list[Wheel | str]:
    """Hours appear by themselves when a count goes over an hour; before that their columns are blank."""
    if seconds >= 3600:
        return [Wheel(_DIGITS, 36000), Wheel(_DIGITS, 3600), ":"] if seconds >= 36000 else [Wheel(_DIGITS, 3600), ":"]
    return [] if down else [Wheel(("", *_DIGITS[1:]), 3600), Wheel(("", *(":",) * 9), 3600, _NARROW)]


def _minutes(seconds: float, down: bool) -> list[Wheel | str]:
    if seconds >= 3600:
        return [Wheel(_DIGITS[:6], 600), Wheel(_DIGITS, 60)]
    if down:
        return [Wheel(_DIGITS, 60)] if seconds < 600 else [Wheel(("", *_DIGITS[1:6]), 600), Wheel(_DIGITS, 60)]
    return [Wheel(("", *_DIGITS[1:6], *_DIGITS[:6]), 600), Wheel(_DIGITS, 60)]  # 9:59, then 59:59, then 1:00:00


def spoken(seconds: float) -> str:
    """Return a time as words: `1 h 2 min`, `2 min 5 s`, `12 s`, `0.4 s`."""
    if 0 < seconds < 10 and seconds != int(seconds):
        return f"{seconds:.1f} s"
    whole = int(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
