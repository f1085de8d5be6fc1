"""The user's own commands that start, stop and look at a machine; they run here, as the user, in a shell."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress

from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers.ssh_link import Done
from ciuic_jupyter.providers.ssh_machines import GONE, SshMachine

_HIDDEN = ("CIUIC_TOKEN", "CIUIC_URL")
_STATUS_SECONDS, _ACT_SECONDS = 60.0, 600.0
_MOST = 1 << 16  # bytes of its words that are kept


async def _shell(command: str, seconds: float) -> Done:
    environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise ProviderError(
            f"`{command[:80]}` did not end in {seconds:.0f} s; what it was to do is not known"
        ) from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Done(process.returncode, out[-_MOST:], err[-_MOST:])


async def exists(machine: SshMachine) -> bool:
    """Tell whether the machine exists, and so costs money; ProviderError if its status command does not tell.

    A machine without one exists always: it is the user's own.
    """
    if machine.status is None:
        return True
    done = await _shell(machine.status, _STATUS_SECONDS)
    words = done.out.decode(errors="replace").split()
    if done.code != 0 or not words:
        raise ProviderError(f"the status command of {machine.name} told nothing (exit code {done.code}): {done.said}")
    return words[-1].strip("\"',.").lower() not in GONE


async def act(machine: SshMachine, what: str) -> None:
    """Run its `start` or `stop` command, if it has one; ProviderError if that fails."""
    command = machine.start if what == "start" else machine.stop
    if command is None:
        return
    done = await _shell(command, _ACT_SECONDS)
    if done.code != 0:
        raise ProviderError(f"the {what} command of {machine.name} failed (exit code {done.code}): {done.said}")
