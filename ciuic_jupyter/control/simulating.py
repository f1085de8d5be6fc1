"""`ciuic simulate`: the idle rule of the control plane on a trace of cells, beside plain timeouts."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, TextIO

import typer

from ciuic_jupyter.control.say import plainly
from ciuic_jupyter.core.idle import Policy
from ciuic_jupyter.core.money import format_money, parse_usd
from ciuic_jupyter.core.simulate import Sessions, Tally, by_rule, by_timeout, least, play_all
from ciuic_jupyter.core.trace import read_trace
from ciuic_jupyter.errors import UsageError

MINUTES = (60, 30, 10, 5)
_HEAD = ("POLICY", "BILL", "OF ALWAYS ON", "OF OPTIMUM", "IDLE PART", "RESUMES", "PER 100 CELLS", "WAITED")


def simulate(  # noqa: PLR0913 - one parameter an option
    trace: Annotated[Path, typer.Argument(help="CSV (or .csv.gz): session, busy_s, gap_after_s", show_default=False)],
    price: Annotated[str, typer.Option(help="of a machine, per hour")] = "2.50",
    storage: Annotated[str, typer.Option(help="of a kept checkpoint, per hour")] = "0.01",
    wait_value: Annotated[str, typer.Option(help="of an hour of your waiting")] = "0",
    save: Annotated[float, typer.Option(help="seconds of a save and stop")] = 30,
    restore: Annotated[float, typer.Option(help="seconds of a start and restore")] = 90,
    unit: Annotated[int, typer.Option(help="billing unit in seconds")] = 1,
    minimum: Annotated[int, typer.Option(help="seconds billed at least for a machine")] = 60,
    cap: Annotated[int | None, typer.Option(help="resumes per 100 cells, at most")] = None,
    floor: Annotated[float, typer.Option(help="never release before so many seconds of quiet")] = 0,
    hours: Annotated[
        float | None, typer.Option("--shut-after-hours", help="over longer gaps you shut down by hand")
    ] = None,
) -> None:
    """Play a trace of cells under the idle rule and print bill, optimum, resumes and waits, beside plain timeouts."""
    with plainly(2):
        policy = Policy(
            parse_usd(price),
            parse_usd(storage),
            parse_usd(wait_value),
            save,
            restore,
            unit,
            minimum,
            floor,
            max_resumes_per_100=cap,
        )
        if hours is not None and not 0 < hours < 10**6:
            raise UsageError(f"--shut-after-hours {hours} is not a number of hours above 0; nothing was simulated")
        with _opened(trace) as lines:
            sessions = read_trace(lines, longest_gap_seconds=hours * 3600 if hours is not None else None)
        best = sum(least(cells, policy) for cells in sessions.values())
        busy = sum(cell.busy_ms for cells in sessions.values() for cell in cells)
        idle_free = policy.price_nano_per_hour * busy // 3_600_000
        count = sum(len(cells) for cells in sessions.values())
        typer.echo(f"{count} cells in {len(sessions)} sessions, {busy / 3.6e6:,.1f} h busy")
        tallies = policies(sessions, policy)
        always = next(tally for tally in tallies if tally.name == "never").sum("bill_nano")
        rows = [_HEAD, *(_row(tally, always, best, idle_free) for tally in tallies)]
        rows.append(
            ("optimum", format_money(best, places=2), _share(best, always, "%"), _share(best, best), "", "", "", "")
        )
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        for row in rows:
            first, *rest = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
            typer.echo("  ".join([first.strip().ljust(widths[0]), *rest]).rstrip())


def policies(sessions: Sessions, policy: Policy) -> list[Tally]:
    """Return the rule's tally and those of never and of timeouts of 60, 30, 10 and 5 minutes."""
    tallies = [
        play_all(sessions, policy, by_rule(policy), "the rule"),
        play_all(sessions, policy, by_timeout(None), "never"),
    ]
    return [*tallies, *(play_all(sessions, policy, by_timeout(60 * m), f"{m} min") for m in MINUTES)]


def _row(tally: Tally, always: int, best: int, idle_free: int) -> Sequence[str]:
    bill, waited = tally.sum("bill_nano"), tally.sum("waited_ms") / 1000
    return (
        tally.name,
        format_money(bill, places=2),
        _share(bill, always, "%"),
        _share(bill, best),
        _share(bill - idle_free, best - idle_free),
        str(tally.sum("resumes")),
        f"{tally.resumes_per_100:.1f}",
        f"{waited / 3600:,.1f} h",
    )


def _share(part: int, whole: int, sign: str = "x") -> str:
    if whole <= 0:
        return "-"
    return f"{100 * part / whole:.1f} %" if sign == "%" else f"{part / whole:.3f}x"


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            yield lines
    except (OSError, EOFError) as error:
        raise UsageError(f"the trace {path} can't be read: {error}") from error
