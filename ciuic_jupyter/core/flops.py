"""FLOPs that a run's kernel counted, as money and as a share of the GPU's peak; what is not known is no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.core.words import plain
from ciuic_jupyter.errors import UsageError

PFLOP = 10**15
_LONG = ("float32", "tf32")  # what autocast multiplies in bf16
KINDS = ("float32", "tf32", "bfloat16", "float16", "float64")
_HEAD = "gpu,kind,tflops,date,source"
_MOST_TFLOPS = 100_000
_MOST_KEYS, _MOST_TEXT, _MOST_FLOPS, _MOST_SECONDS = 64, 120, 10**30, 1e10  # of what a machine tells

View = dict[str, Any]


@dataclass(frozen=True)
class Peak:
    """What a GPU can do at most with one kind of numbers, in TFLOPS without sparsity, as `source` said at `date`."""

    tflops: float
    date: date
    source: str


Peaks = Mapping[tuple[str, str], Peak]


def peaks(text: str) -> dict[tuple[str, str], Peak]:
    """Return the peaks of a table `gpu,kind,tflops,date,source`; UsageError names a line that is none."""
    found: dict[tuple[str, str], Peak] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or line == _HEAD:
            continue
        try:
            gpu, kind, tflops, taken, source = line.split(",", 4)
            peak = Peak(float(tflops), date.fromisoformat(taken), source)
        except ValueError:
            raise UsageError(f"line {number} of the table of GPUs is no peak: {line[:80]!r}") from None
        if not 0 < peak.tflops < _MOST_TFLOPS or kind not in KINDS or not source or (gpu, kind) in found:
            raise UsageError(f"line {number} of the table of GPUs can't be: {line[:80]!r}")
        found[gpu, kind] = peak
    return found


def told(counted: Any) -> View | None:
    """Return what a machine told of a count (`resume.flops`), checked and bounded; None if it is none.

    {by: {"device kind": FLOPs}, gpus: {device: name}, seconds, whys}: why it is not all of the run. Told twice is told.
    """
    if not isinstance(counted, dict):
        return None
    by, gpus, seconds, whys = counted.get("by"), counted.get("gpus"), counted.get("seconds"), counted.get("whys")
    if not isinstance(by, dict) or not isinstance(gpus, dict) or max(len(by), len(gpus)) > _MOST_KEYS:
        return None
    if not isinstance(whys, list) or len(whys) > _MOST_KEYS:
        return None
    if not all(type(number) is int and 0 <= number <= _MOST_FLOPS for number in by.values()):
        return None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _MOST_SECONDS:
        return None
    return {
        "by": {_text(key): number for key, number in by.items()},
        "gpus": {_text(key): _text(name) for key, name in gpus.items()},
        "seconds": float(seconds),
        "whys": [_text(why) for why in whys],
    }


def _text(said: object) -> str:
    return plain(str(said)[:_MOST_TEXT])[:_MOST_TEXT]


def figures(counted: View, spent_nano: int, currency: str, known: Peaks) -> View:
    """Return total FLOPs, nano-units a PFLOP, and utilisation of the GPUs that were used (0 to 1), or why unknown."""
    total = sum(counted["by"].values())
    share, peak, why = _utilisation(counted, known)
    return {
        "flops": total,
        "seconds": counted["seconds"],
        "why": "; ".join(counted["whys"]) or None,
        "nano_per_pflop": -(-spent_nano * PFLOP // total) if total else None,
        "currency": currency,
        "utilisation": share,
        "peak": peak,
        "utilisation_why": why,
    }


def _utilisation(counted: View, known: Peaks) -> tuple[float | None, str | None, str | None]:
    """Return the share, what it is of, or why it is unknown: time at the peak by the time that statements took."""
    at_peak, used, said = 0.0, set(), []
    for key, number in counted["by"].items():
        device, _, kind = key.rpartition(" ")
        if not number or not device.startswith("cuda"):
            continue
        name = counted["gpus"].get(device, "a GPU without a name")
        peak = known.get((name, kind))
        if peak is None:
            return None, None, f"no peak of {name} in {kind} is known"
        at_peak += number / (peak.tflops * 1e12)
        used.add(device)
        said.append(f"{peak.tflops:g} TFLOPS in {kind} of {name} ({peak.source}, {peak.date})")
    if not used:
        return None, None, "nothing was counted on a GPU" if counted["by"] else "nothing was counted"
    if counted["seconds"] <= 0:
        return None, None, "it took no time that could be measured"
    if counted["whys"]:
        return None, None, "not all of it was counted"
    return at_peak / counted["seconds"] / len(used), "; ".join(dict.fromkeys(said)), None


def shorter_in_bf16(counted: View, known: Peaks) -> tuple[float, str] | None:
    """Return the share of the counted time that bf16 takes less for the same products, and what was seen, or None.

    Both at the peak: products that are further from it in bf16 gain less. None where the GPU has no known peak in bf16,
    or anything was counted on it that has no known peak.
    """
    at_peak = in_bf16 = 0.0
    total, long, names, devices = 0, 0, set(), set()
    for key, flops in counted["by"].items():
        device, _, kind = key.rpartition(" ")
        if not device.startswith("cuda") or not flops:
            continue
        name = str(counted["gpus"].get(device, ""))
        peak, short = known.get((name, kind)), known.get((name, "bfloat16"))
        if peak is None or short is None:
            return None
        total, seconds = total + flops, flops / (peak.tflops * 1e12)
        at_peak += seconds
        devices.add(device)
        if kind in _LONG:
            long, seconds = long + flops, flops / (short.tflops * 1e12)
            names.add(name)
        in_bf16 += seconds
    if not long or counted["seconds"] <= 0 or counted["whys"]:
        return None
    seen = f"{100 * long / total:.0f} % of {number(total)} were counted in fp32 or TF32 on {', '.join(sorted(names))}"
    return (at_peak - in_bf16) / counted["seconds"] / len(devices), seen


def number(flops: int) -> str:
    """Return FLOPs for people: `1.23 TFLOP`."""
    for power, unit in ((18, "EFLOP"), (15, "PFLOP"), (12, "TFLOP"), (9, "GFLOP"), (6, "MFLOP"), (3, "kFLOP")):
        if flops >= 10**power:
            return f"{flops / 10**power:.4g} {unit}"
    return f"{flops} FLOP"


def line(figure: Mapping[str, Any] | None) -> str:
    """Return a run's figures in one line: what is known, else that it is unknown and why."""
    if figure is None:
        return "unknown: the kernel told no count"
    parts = [f"{'at least ' if figure['why'] else ''}{number(int(figure['flops']))} counted"]
    if figure["why"]:
        parts.append(str(figure["why"]))
    per = figure["nano_per_pflop"]
    parts.append(f"{format_money(int(per), str(figure['currency']))}/PFLOP" if per is not None else "$/PFLOP unknown")
    share = figure["utilisation"]
    if share is not None:
        parts.append(f"utilisation {100 * share:.1f} % of {figure['peak']}")
    else:
        parts.append(f"utilisation unknown: {figure['utilisation_why']}")
    return "; ".join(parts)


def lines(figures_of_runs: Sequence[Mapping[str, Any]] | None) -> Sequence[tuple[str, str]]:
    """Return rows for a receipt, one a run that was counted."""
    return [(f"FLOPs, run {str(one['run'])[:8]}", line(one["figures"])) for one in figures_of_runs or ()]
