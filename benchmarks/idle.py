"""When to release: the rule on two real traces, beside the optimum and plain timeouts. Prints targets and whether met.

    python benchmarks/idle.py [--quick]     # --quick: the smaller trace alone

Source and licence of the traces: tests/data/README.md. All terms are stated; nothing is timed, the figures are exact.
"""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path

from ciuic_jupyter.control.simulating import policies
from ciuic_jupyter.core.idle import Policy
from ciuic_jupyter.core.money import HOUR_MS, NANO
from ciuic_jupyter.core.simulate import Sessions, Tally, by_rule, least, play_all
from ciuic_jupyter.core.trace import read_trace

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
VM = Policy(5 * NANO // 2, NANO // 100, 0, 30, 90, 1, 60, 0.0)
VIEWS = [
    ("Adobe, as reserved", "adobe_june2021", None, 1.03, 0.68),
    ("Adobe, shut down over 8 h", "adobe_june2021", 8.0, 1.03, None),
    ("Colab, shut down over 8 h", "colab_cells", 8.0, 1.22, 0.42),
    ("Colab, as left", "colab_cells", None, 1.22, None),
]


def read(name: str, hours: float | None) -> Sessions:
    with gzip.open(DATA / f"replay_{name}.csv.gz", "rt") as lines:
        return read_trace(lines, longest_gap_seconds=hours * 3600 if hours else None)


def worst(sessions: Sessions, terms: Policy) -> float:
    """Return the worst session's idle part over the optimum's, without storage, minimum and rounding to seconds."""
    plain = replace(terms, storage_nano_per_hour=0, minimum_seconds=0)
    found = 0.0
    for cells, one in zip(sessions.values(), play_all(sessions, plain, by_rule(plain)).played, strict=True):
        busy = one.busy_ms * plain.price_nano_per_hour / HOUR_MS
        exact = sum(stay.closed_ms - stay.opened_ms for stay in one.stays) * plain.price_nano_per_hour / HOUR_MS
        best = least(cells, plain) - busy
        if best > 10 * plain.price_nano_per_hour / 3600:
            found = max(found, (exact - busy) / best)
    return found


def line(tally: Tally, always: int, best: int, free: int) -> str:
    bill = tally.sum("bill_nano")
    share, ratio, idle = bill / always, bill / best, (bill - free) / (best - free)
    waited = tally.sum("waited_ms") / max(1, tally.sum("busy_ms")) * 3600
    return f"  {tally.name:10} {share:6.3f}  {ratio:6.3f}  {idle:6.2f}  {tally.resumes_per_100:6.1f}  {waited:7.0f}"


def main() -> None:
    views = VIEWS[2:3] if "--quick" in sys.argv else VIEWS
    good = True
    for title, name, hours, target, saved in views:
        sessions = read(name, hours)
        best = sum(least(cells, VM) for cells in sessions.values())
        tallies = policies(sessions, VM)
        capped = replace(VM, max_resumes_per_100=5)
        tallies.append(play_all(sessions, capped, by_rule(capped), "cap 5/100"))
        by_name = {tally.name: tally for tally in tallies}
        always = by_name["never"].sum("bill_nano")
        free = by_name["never"].sum("busy_ms") * VM.price_nano_per_hour // HOUR_MS
        print(f"{title}: {by_name['never'].sum('cells')} cells, C 30 s, R 90 s, $2.50/h by the second, 60 s at least")
        print("  policy     /always    /OPT    idle  per 100  s waited per busy hour")
        for tally in tallies:
            print(line(tally, always, best, free))
        rule, cap = by_name["the rule"], by_name["cap 5/100"]
        ratio = rule.sum("bill_nano") / best
        idle = (rule.sum("bill_nano") - free) / (best - free)
        checks = [
            (f"bill {ratio:.3f} <= {target} x OPT", ratio <= target),
            (f"idle part {idle:.3f} <= 1.45", idle <= 1.45),
        ]
        most = worst(sessions, VM)
        checks.append((f"worst session {most:.3f} <= 1.75", most <= 1.75 + 1e-6))
        if saved is not None:
            kept = 1 - cap.sum("bill_nano") / always
            checks.append(
                (
                    f"cap 5: {cap.resumes_per_100:.2f} per 100, saves {kept:.3f} >= {saved}",
                    kept >= saved and cap.resumes_per_100 <= 5,
                )
            )
        for text, met in checks:
            good = good and met
            print(f"  {'ok  ' if met else 'MISS'} {text}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
