"""`ciuic machines`: the list of machines that are reached over ssh."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ciuic_jupyter.control.say import plainly, table
from ciuic_jupyter.core.money import format_money
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.ssh_machines import SshMachine
from ciuic_jupyter.settings import Settings, private_directory

app = typer.Typer(help="Machines of your own that are reached over ssh.", no_args_is_help=True)

_LONGEST = 4096  # characters of a command's file
Name = Annotated[str, typer.Argument(help="the machine's name", show_default=False)]
Command = Annotated[
    str | None, typer.Option(help="your cloud's command line for it; @FILE, or - to read it from there")
]


def listing(settings: Settings) -> Path:
    """Return the file of machines."""
    return settings.state_dir / ssh_machines.FILE


def known(settings: Settings, name: str) -> SshMachine:
    """Return the machine called `name`; UsageError lists those there are."""
    found = ssh_machines.load(listing(settings))
    for machine in found:
        if machine.name == name:
            return machine
    names = ", ".join(machine.name for machine in found) or "none"
    raise UsageError(f"there is no machine {name[:80]!r}; there are: {names}. `ciuic machines add` adds one")


@app.command()
def add(  # noqa: PLR0913 - the options of a command
    name: Name,
    target: Annotated[str, typer.Argument(help="user@host[:port], or a name of ~/.ssh/config", show_default=False)],
    price: Annotated[str, typer.Option(help="what an hour of it costs you")] = "0",
    gpus: Annotated[int, typer.Option(help="how many it has", min=0)] = 0,
    start: Command = None,
    stop: Command = None,
    status: Command = None,
    python: Annotated[str, typer.Option(help="the Python there that has this package")] = "python3",
) -> None:
    """Add a machine; nothing is connected to or started."""
    with plainly():
        settings = Settings()
        machine = SshMachine.of(
            name, target, price=price, gpus=gpus, python=python,
            start=_text(start), stop=_text(stop), status=_text(status),
        )  # fmt: skip
        private_directory(settings.state_dir)
        ssh_machines.add(listing(settings), machine)
        typer.echo(f"{name}: added; `ciuic doctor {name}` says what is missing there, --bootstrap installs it")


def _text(given: str | None) -> str | None:
    """Return a command as given, or as read from a file, which keeps what is secret in it out of a command line."""
    if given is None or not (given == "-" or given.startswith("@")):
        return given
    place = "standard input" if given == "-" else given[1:]
    try:
        if given == "-":
            read = sys.stdin.read(_LONGEST + 2)
        else:
            with Path(given[1:]).open() as file:
                read = file.read(_LONGEST + 2)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the command in {place} can't be read: {error}; nothing was added") from error
    return read.removesuffix("\n")


@app.command("list")
def show(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """List the machines; their commands are not shown, since they may hold something secret."""
    with plainly():
        settings = Settings()
        found = ssh_machines.load(listing(settings))
        if as_json:
            typer.echo(json.dumps([_plain(machine) for machine in found]))
        elif not found:
            typer.echo("no machines yet; `ciuic machines add NAME user@host`")
        else:
            rows = [["MACHINE", "SSH", "PRICE", "GPUS", "COMMANDS", "PYTHON"]]
            for machine in found:
                price = format_money(machine.price_nano_per_hour, settings.currency)
                commands = " ".join(_commands(machine)) or "-"
                rows.append([machine.name, machine.target, f"{price}/h", str(machine.gpus), commands, machine.python])
            table(rows)


def _commands(machine: SshMachine) -> list[str]:
    return [what for what in ("start", "stop", "status") if getattr(machine, what) is not None]


def _plain(machine: SshMachine) -> dict[str, object]:
    return {
        "name": machine.name,
        "target": machine.target,
        "price_nano_per_hour": machine.price_nano_per_hour,
        "gpus": machine.gpus,
        "commands": _commands(machine),
        "python": machine.python,
    }


@app.command()
def remove(name: Name) -> None:
    """Take a machine off the list; nothing is stopped."""
    with plainly():
        settings = Settings()
        private_directory(settings.state_dir)
        ssh_machines.remove(listing(settings), name)
        typer.echo(f"{name}: removed from the list; nothing was stopped")
