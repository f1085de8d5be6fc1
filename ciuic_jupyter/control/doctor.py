"""`ciuic doctor`: what this computer, or a machine reached over ssh, has against what is needed."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ciuic_jupyter.control import bootstrap, checkup
from ciuic_jupyter.control.checkup import Check
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.control.machines import known, listing
from ciuic_jupyter.errors import MachineUnreachable, UsageError
from ciuic_jupyter.monitor.nvml import Nvml
from ciuic_jupyter.providers import ssh_copy, ssh_link, ssh_machines
from ciuic_jupyter.providers.ssh_machines import SshMachine
from ciuic_jupyter.settings import Settings, private_directory

if TYPE_CHECKING:
    import asyncssh

FOLDER = "~/.local/share/ciuic"  # on a machine: environments that --bootstrap made, and their wheels
_DEFAULT_PYTHON = "python3"
_PACKAGES = ("ipython", "ipykernel", "ipywidgets", "jupyterlab", "torch", "numpy", "websockets", "fastapi")


def run(name: str | None, *, install: bool, as_json: bool) -> bool:
    """Print the checks of a machine, or of this computer if `name` is None; return whether nothing is bad."""
    settings = Settings()
    if name is None:
        if install:
            raise UsageError("--bootstrap needs the name of a machine; this computer has the package already")
        found = list(here(settings))
    else:
        found = asyncio.run(there(settings, known(settings, name), install=install))
    good = checkup.healthy(found)
    if as_json:
        typer.echo(json.dumps({"machine": name, "ok": good, "checks": [check.plain() for check in found]}))
    else:
        for check in found:
            todo = f"; {check.todo}" if check.todo else ""
            typer.echo(
                f"{ {'ok': 'ok  ', 'note': 'note', 'bad': 'BAD '}[check.state] } {check.what}: {check.found}{todo}"
            )
    return good


async def there(settings: Settings, machine: SshMachine, *, install: bool) -> list[Check]:
    """Return the checks of another machine, after an installation there if `install`."""
    try:
        connection = await ssh_link.connect(ssh_link.Target.parse(machine.target))
    except MachineUnreachable as error:
        if install:
            raise
        return [Check("ssh", "bad", str(error))]
    shell = Line(connection)
    try:
        python = machine.python
        if install:
            python = await bootstrap.install(shell, _wish(settings, machine), _progress)
            ssh_machines.change(listing(settings), machine.name, python=python)
        probed, ours = await bootstrap.probe(shell, FOLDER, python)
        expected = checkup.Expected(machine.name, python, machine.gpus)
        return [_reached(connection), *checkup.checks(expected, probed, ours)]
    finally:
        await shell.close()


def _wish(settings: Settings, machine: SshMachine) -> bootstrap.Wish:
    cache = private_directory(settings.state_dir) / "wheels"
    python = None if machine.python == _DEFAULT_PYTHON else machine.python
    return bootstrap.Wish(FOLDER, cache, settings.checkpoint_url, python)


def _progress(text: str) -> None:
    typer.echo(text, err=True)


def _reached(connection: asyncssh.SSHClientConnection) -> Check:
    key = connection.get_server_host_key()
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}" if key is not None else "no key"
    return Check("ssh", "ok", f"reached; host key {shown} as in known_hosts")


class Line:
    """A connection as `bootstrap` uses it."""

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    async def run(self, command: Sequence[str], text: str, seconds: float) -> tuple[int | None, str, str]:
        """Run a command there with `text` as its input."""
        done = await ssh_link.run(self._connection, command, data=text.encode(), seconds=seconds)
        return done.code, done.out.decode(errors="replace"), done.err.decode(errors="replace")

    async def send(self, files: Mapping[Path, str]) -> None:
        """Copy files there."""
        await ssh_copy.send(self._connection, files)

    async def close(self) -> None:
        """End it."""
        self._connection.abort()
        await self._connection.wait_closed()


def here(settings: Settings) -> Iterator[Check]:
    """Yield the checks of this computer."""

    def check(what: str, fine: bool, found: str, todo: str = "") -> Check:
        return Check(what, "ok" if fine else "bad", found, "" if fine else todo)

    yield check("python", sys.version_info >= (3, 11), platform.python_version(), "3.11 or newer is needed")
    yield from _packages(check)
    gpus = Nvml().read()
    if isinstance(gpus, str):
        yield Check("gpu", "bad", gpus, "idle release treats it as busy until it answers")
    else:
        yield Check("gpu", "ok", ", ".join(gpu.name for gpu in gpus) or "none (cells run on the CPU)")
    place = settings.state_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    yield check("disk", free > checkup.LEAST_DISK, f"{free / 2**30:.1f} GiB free at {place}", "make room")
    for folder in (settings.state_dir, settings.runtime_dir):
        if folder.exists():
            private = stat.S_IMODE(folder.lstat().st_mode) == 0o700 and folder.lstat().st_uid == os.getuid()
            yield check(
                str(folder), private, "private" if private else "others can look inside", f"`chmod 700 {folder}`"
            )
    found = PlaneClient.find(settings)
    yield Check(
        "control plane", "ok", f"runs at {found.url}" if found is not None else "not running; it starts when needed"
    )


def _packages(check: Callable[..., Check]) -> Iterator[Any]:
    for name in _PACKAGES:
        try:
            yield check(name, True, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield check(name, False, "missing", f"`pip install {name}`")
