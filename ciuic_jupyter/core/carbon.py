"""Energy of a machine from its samples, and grams of CO2e from a grid's intensity; unknown is no number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ciuic_jupyter.errors import UsageError

WATTS_PER_CORE = 4.0  # of a core at work: codecarbon's figure for a processor it does not know
_GAP_SECONDS = 10.0  # without a sample: nothing is guessed about it
_MOST_WATTS = 5000.0  # of one GPU; a counter that runs faster was not ours
JOULES_PER_KWH = 3_600_000
SOURCE = "Our World in Data and Ember, as collected by codecarbon 3.3.2"

View = dict[str, Any]


@dataclass(frozen=True)
class Region:
    """A grid: grams of CO2e a kWh, in a year."""

    key: str
    name: str
    grams_per_kwh: float
    year: int


def grid(text: str) -> dict[str, Region]:
    """Return the regions of a table `region,name,grams_per_kwh,year`; UsageError names a line that is none."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#") or line == "region,name,grams_per_kwh,year":
            continue
        try:
            key, name, grams, year = line.split(",")
            region = Region(key, name, float(grams), int(year))
        except ValueError:
            raise UsageError(f"line {number} of the table of grids is no region: {line[:80]!r}") from None
        if not 0 < region.grams_per_kwh < 2000:
            raise UsageError(f"line {number} of the table of grids: {grams} g/kWh can't be")
        found[key] = region
    return found


class EnergyMeter:
    """Sums up one machine's energy from its samples, in joules; what is not known stays so."""

    def __init__(self) -> None:
        self.seen_seconds = 0.0
        self._cpu = self._gpu = 0.0
        self._cpu_known = True
        self._gpu_why: str | None = None
        self._how: set[str] = set()
        self._at: float | None = None
        self._counters: dict[int, float] = {}

    def take(self, sample: Mapping[str, Any], now: float) -> None:
        """Take a sample of `now` (seconds): `cpu_percent`, `gpus` with energy or power, or `gpu_why` there are none."""
        seconds = now - self._at if self._at is not None else 0.0
        self._at = now
        near = 0 < seconds <= _GAP_SECONDS
        if near:
            self.seen_seconds += seconds
            cpu = sample.get("cpu_percent")
            self._cpu_known = self._cpu_known and cpu is not None
            self._cpu += WATTS_PER_CORE * float(cpu or 0) / 100 * seconds
        if sample.get("gpu_why") and "quiet" not in (sample.get("gpu_witness") or {}):  # else there is no GPU
            self._gpu_why = str(sample["gpu_why"])
        for gpu in sample.get("gpus") or ():
            self._one(gpu, seconds if near else 0.0)

    def _one(self, gpu: Mapping[str, Any], seconds: float) -> None:
        index, counter, watts = int(gpu["index"]), gpu.get("energy_joules"), gpu.get("power_watts")
        if counter is not None:
            before = self._counters.get(index)
            self._counters[index] = float(counter)
            if before is not None and 0 <= counter - before <= _MOST_WATTS * max(seconds, _GAP_SECONDS) and seconds:
                self._gpu += float(counter) - before
            self._how.add("NVML's energy counter")
        elif watts is not None:
            self._gpu += float(watts) * seconds
            self._how.add("NVML's power samples")
        else:
            self._gpu_why = f"GPU {index} tells neither energy nor power"

    def view(self) -> View:
        """Return joules in all and how they are known, or why they are not; `seen_seconds` of the machine's life."""
        why = self._gpu_why or ("" if self._cpu_known else "the use of the CPU was not known")
        if not self.seen_seconds:
            why = why or "no samples"
        cpu = (
            f"CPU by a model of {WATTS_PER_CORE:g} W a core at work (an estimate, +-40 %), memory and cooling not in it"
        )
        known = None if why else self._gpu + self._cpu
        return {
            "joules": known,
            "gpu_joules": None if self._gpu_why else self._gpu,
            "how": "; ".join([*(f"GPU by {one}" for one in sorted(self._how)), cpu]),
            "why": why or None,
            "seen_seconds": self.seen_seconds,
        }


def emitted(energy: View, region: str | None, regions: Mapping[str, Region]) -> View:
    """Return grams of CO2e and where the intensity is from, or why they are unknown."""
    if energy["joules"] is None:
        return {"grams": None, "why": energy["why"]}
    if region is None:
        return {"grams": None, "why": "no grid region is set (CIUIC_GRID_REGION)"}
    found = regions.get(region)
    if found is None:
        return {"grams": None, "why": f"no intensity of the grid {region!r} is known; regions are like DEU"}
    grams = float(energy["joules"]) / JOULES_PER_KWH * found.grams_per_kwh
    source = f"{found.name} {found.grams_per_kwh:g} g/kWh in {found.year}, {SOURCE}"
    return {"grams": grams, "why": None, "source": source}


def lines(energy: View | None, carbon: View | None) -> Sequence[tuple[str, str]]:
    """Return both as rows for people: what is known, else that it is unknown and why."""
    if energy is None or carbon is None:
        return ()
    joules, grams = energy["joules"], carbon["grams"]
    said = f"{joules / JOULES_PER_KWH:.6f} kWh in {energy['seen_seconds']:.0f} s seen" if joules is not None else ""
    power = f"{said}: {energy['how']}" if said else f"unknown: {energy['why']}"
    gas = f"{grams:.3g} g CO2e: {carbon['source']}" if grams is not None else f"unknown: {carbon['why']}"
    return ("energy", power), ("carbon", gas)
