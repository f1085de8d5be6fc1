"""`ciuic`: the control plane from a shell, for when no notebook is open."""

from __future__ import annotations

import asyncio
import os
import time
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from ciuic_jupyter.control import daemon, export, machines, money
from ciuic_jupyter.control import doctor as examined
from ciuic_jupyter.control import prices as price_tables
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.control.say import plainly, table
from ciuic_jupyter.control.simulating import simulate
from ciuic_jupyter.core.choice import choice
from ciuic_jupyter.core.forecast import words
from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.core.offers import Table, merged
from ciuic_jupyter.core.words import plain
from ciuic_jupyter.errors import ProviderError, UsageError
from ciuic_jupyter.kernels import logs
from ciuic_jupyter.monitor.proof import start_ticks
from ciuic_jupyter.settings import Settings

app = typer.Typer(
    help="GPU notebooks that cost nothing while nothing runs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # a command of the user's may hold a secret
)
app.add_typer(machines.app, name="machines")

app.command()(simulate)

Name = Annotated[str, typer.Argument(help="the session's name", show_default=False)]


def _client(*, start: bool = True) -> PlaneClient:
    if start:
        return PlaneClient.ensure()
    found = PlaneClient.find()
    if found is None:
        typer.echo("no control plane runs; nothing is watched. `ciuic serve` or any magic starts it")
        raise typer.Exit(3)
    return found


def _money(view: dict[str, Any], key: str) -> str:
    return format_money(int(view.get(key) or 0), str(view.get("currency") or "USD"))


def _line(view: dict[str, Any]) -> list[str]:
    return [
        str(view["name"]),
        str(view["state"]),
        str(view["instance"]),
        f"{_money(view, 'rate_nano_per_hour')}/h",
        _money(view, "spent_nano"),
        _money(view, "unspent_nano"),
        str(view["step"] or _ahead(view) or view["message"] or view["text"]),
    ]


def _ahead(view: dict[str, Any]) -> str:
    told = view.get("forecast") or {}
    if told.get("ends_at") is None:
        return ""
    return "; ".join(filter(None, words(told, str(view["currency"]), float(told["ends_at"]) - time.time())))


_HEAD = ["SESSION", "STATE", "MACHINE", "NOW", "SPENT", "NOT SPENT", "NEWS"]


@app.command()
def serve() -> None:
    """Be the control plane here, in the foreground, until Ctrl-C; machines and runs outlive it."""
    with plainly():
        logs.configure()
        if not asyncio.run(daemon.serve(Settings())):
            typer.echo("a control plane runs already; `ciuic status` tells more")


@app.command()
def status() -> None:
    """Say whether the control plane runs, and what costs money now."""
    with plainly():
        client = _client(start=False)
        health = client.health()
        typer.echo(f"control plane {health['version']}, pid {health['pid']}, {client.url}")
        if health["version"] != daemon.VERSION:
            typer.echo(f"this is {daemon.VERSION}: `ciuic stop`, then any command starts the new one; runs go on")
        views = client.sessions()
        if views:
            table([_HEAD, *(_line(view) for view in views)])
        live = [view for view in views if view["rate_nano_per_hour"]]
        typer.echo(f"{len(live)} machine(s) billed now" if live else "nothing is billed for compute now")


@app.command()
def sessions() -> None:
    """List the sessions."""
    with plainly():
        views = _client(start=False).sessions()
        if views:
            table([_HEAD, *(_line(view) for view in views)])
        else:
            typer.echo("no sessions yet: run a cell with %%ciuic_train")


@app.command()
def stop() -> None:
    """End the control plane; machines, runs and billing go on until it is started again or the lease ends."""
    with plainly():
        client = _client(start=False)
        pid = int(client.health()["pid"])
        client.shutdown()
        deadline = time.monotonic() + 20
        while start_ticks(pid) is not None and time.monotonic() < deadline:
            time.sleep(0.05)
        typer.echo("control plane stopped")


def _done(view: dict[str, Any]) -> None:
    spent, rate = _money(view, "spent_nano"), _money(view, "rate_nano_per_hour")
    typer.echo(f"{view['name']}: {view['state']}; spent {spent}, {rate}/h now")


@app.command()
def pause(
    name: Name,
    now: Annotated[
        bool, typer.Option("--now", help="go back to the running cell's last checkpoint, or interrupt it")
    ] = False,
) -> None:
    """Save a session and let its machine go; a cell that runs is held at its next loop boundary and goes on later."""

    def say(view: dict[str, Any]) -> None:
        way = f"`ciuic pause {name} --now` in another shell"
        typer.echo(f"ciuic: {choice(view['pause'], str(view['currency']), way)}", err=True)

    with plainly():
        _done(_client().pause(name, now=now, past_grace=say))


@app.command()
def resume(
    name: Name,
    drop_cell: Annotated[
        bool, typer.Option("--drop-cell", help="end the suspended cell where it stands; its variables are kept")
    ] = False,
    instance: Annotated[str | None, typer.Option("--instance", help="on another machine than it was on")] = None,
) -> None:
    """Start a machine for a paused session and restore it; a suspended cell goes on."""
    with plainly():
        _done(_client().resume(name, wait=True, drop_cell=drop_cell, instance=instance))


@app.command()
def release(
    name: Name, discard: Annotated[bool, typer.Option("--discard", help="don't save: its variables are lost")] = False
) -> None:
    """Interrupt what runs, save, and let the machine go now."""
    with plainly():
        _done(_client().release(name, discard=discard))


@app.command()
def close(name: Name) -> None:
    """Save, let the machine go, and end the session; its checkpoint is kept."""
    with plainly():
        _done(_client().close_session(name))


@app.command()
def keep(name: Name, minutes: Annotated[float, typer.Argument(help="for how long", min=0)]) -> None:
    """Let no idle rule release the session's machine for so many minutes."""
    with plainly():
        _client().keep(name, minutes * 60)
        typer.echo(f"{name}: kept for {minutes:g} minutes")


@app.command()
def cost(
    name: Annotated[str | None, typer.Argument(help="a session; all of them if left out")] = None,
    by: Annotated[str | None, typer.Option(help="day, session, run or machine (its type)")] = None,
) -> None:
    """Say what was spent, and what was not; by day, session, run or machine beside the same hours always on."""
    with plainly():
        if by is not None:
            money.show_report(_client().report(by, name), table)
            return
        total = _client().cost(name)
        rows = [["SESSION", "BILLED", "COMPUTE", "STORAGE", "NOT BILLED", "NOT SPENT"]]
        for line in [*total.get("sessions", []), {**total, "name": name or "all"}]:
            if "billed_seconds" not in line:
                continue
            times = f"{line['billed_seconds']:.0f} s", f"{line['unbilled_seconds']:.0f} s"
            compute, storage = _money(line, "compute_nano"), _money(line, "storage_nano")
            rows.append([str(line["name"]), times[0], compute, storage, times[1], _money(line, "unspent_nano")])
        table(rows)


@app.command()
def history(
    name: Annotated[str | None, typer.Argument(help="a session; all of them if left out")] = None,
    csv: Annotated[Path | None, typer.Option(help="write all rows to this file, as CSV", dir_okay=False)] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="write all rows to this file, as Parquet", dir_okay=False)
    ] = None,
    cell: Annotated[str | None, typer.Option(metavar="RUN", help="compare the runs of the cell that RUN is of")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="with --cell: so many epochs are in a run")] = None,
) -> None:
    """List runs and pauses, newest first; write them to a file; or compare the runs of one cell."""
    with plainly():
        if cell is not None:
            money.show_same(_client().same_cell(cell), epochs, table)
            return
        rows = _client().history(name)["rows"]
        for path, write in ((csv, export.to_csv), (parquet, export.to_parquet)):
            if path is not None:
                write(rows, path)
                typer.echo(f"{path}: {len(rows)} runs and pauses")
        if csv is None and parquet is None:
            money.show_history(rows[:50], table)


@app.command()
def advice(
    name: Annotated[str | None, typer.Argument(help="a session; all of them if left out", show_default=False)] = None,
) -> None:
    """Say what could cost less, each with its evidence and amount; nothing where nothing measured says so."""
    with plainly():
        money.show_advice(_client().advice(name))


@app.command()
def prices(
    gpu: Annotated[str, typer.Option(help="only machines whose GPU's name has this in it")] = "",
    live: Annotated[bool, typer.Option("--live", help="ask gpuhunt's catalogue, too")] = False,
) -> None:
    """List prices an hour, each with its currency, age and source, and how their clouds bill."""
    with plainly():
        money.show_prices(_price_table(live), gpu, table)


@app.command()
def compare(
    what: Annotated[str | None, typer.Argument(help="a session's name or a run's id", show_default=False)] = None,
    article: Annotated[
        bool, typer.Option("--article", help="the article's training of ResNet-50 instead, from hours and rules")
    ] = False,
    live: Annotated[bool, typer.Option("--live", help="with the prices of gpuhunt's catalogue, too")] = False,
) -> None:
    """Say what a session or a run cost, what it would have cost elsewhere, and with the machine kept on in pauses."""
    with plainly():
        if article == (what is not None):
            raise UsageError("name a session or a run, or give --article")
        if what is None:
            money.show_article(table)
        else:
            money.show_compared(_client().usage(what), _price_table(live), table)


def _price_table(live: bool) -> Table:
    """Return the tables there are; one that can't be had from elsewhere is told, and the others are used."""
    today = date.today()
    found = [price_tables.table(Settings().prices, today)]
    if live:
        try:
            found.append(price_tables.live(today))
        except ProviderError as error:
            typer.echo(f"ciuic: {error}; the bundled prices are used", err=True)
    return merged(found)


@app.command()
def show(name: Name) -> None:
    """List what a session's newest checkpoint holds; no machine is started."""
    with plainly():
        saved = _client().checkpoint(name)
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(saved["at"]))
        held = f"; in the middle of a cell, {saved['run']['where'] or 'at a loop'}" if saved["run"] else ""
        size = _bytes(saved["bytes"])
        typer.echo(f"{name}: checkpoint {saved['seq']} of {at}, Python {saved['python']}, {size}{held}")
        lost = {line["path"] for line in saved["placeholders"]}
        rows = [
            [v["name"], v["type"], "not saved" if v["name"] in lost else _bytes(v["bytes"])] for v in saved["variables"]
        ]
        if rows:
            table([["VARIABLE", "TYPE", "SIZE"], *rows])
        for line in saved["placeholders"]:
            typer.echo(plain(f"not saved: {line['path']}: {line['reason']}"))


@app.command("import")
def take_in(
    folder: Annotated[str, typer.Argument(help="has chunks/ and manifests/ in it", show_default=False)],
    name: Annotated[str, typer.Option("--name", help="of the session to make, new or closed", show_default=False)],
    trust: Annotated[
        bool, typer.Option("--trust", help="take what another key signed: its code runs as you when it is resumed")
    ] = False,
) -> None:
    """Make a paused session of the newest checkpoint in a folder, copied from another user or elsewhere."""
    with plainly():
        view = _client().take_in(name, os.path.abspath(folder), trust=trust)
        typer.echo(f"{name}: paused, {_bytes(view['checkpoint']['bytes'])}; `ciuic resume {name}` goes on with it")


def _bytes(count: int | None) -> str:
    if count is None:
        return "?"
    unit, size = next(((u, s) for u, s in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)) if count >= s), ("B", 1))
    return f"{count / size:.1f} {unit}" if size > 1 else f"{count} B"


@app.command()
def doctor(
    name: Annotated[str | None, typer.Argument(help="a machine; this computer if left out", show_default=False)] = None,
    install: Annotated[
        bool, typer.Option("--bootstrap", help="first install this very version there, without internet if need be")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """Check a machine: reached, versions, GPU, disk, clock, limits; say what to do. Exit code 1 if something is bad."""
    with plainly():
        if not examined.run(name, install=install, as_json=as_json):
            raise typer.Exit(1)


if __name__ == "__main__":
    app()
