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


async def _shell(machine: SshMachine, what: str, command: str, seconds: float) -> Done:
    """Run a command, given to the shell by its input: what it sets as `KEY=...` is in no process's arguments."""
    environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    process = await asyncio.create_subprocess_exec(
        "/bin/sh",
        "-s",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(seconds):
            out, err, _ = await asyncio.gather(
                _end_of(process.stdout), _end_of(process.stderr), _give(process.stdin, command)
            )
            await process.wait()
    except TimeoutError as error:
        text = f"the {what} command of {machine.name} did not end in {seconds:.0f} s"
        raise ProviderError(f"{text}; what it was to do is not known") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return Done(process.returncode, out, err)


async def _give(stdin: asyncio.StreamWriter | None, command: str) -> None:
    assert stdin is not None
    with suppress(ConnectionError):  # a shell that ended has what it wanted
        stdin.write(f"{command}\n".encode())
        await stdin.drain()
    stdin.close()


async def _end_of(stream: asyncio.StreamReader | None) -> bytes:
    """Return the last bytes of a stream, however much it says."""
    assert stream is not None
    kept = b""
    while read := await stream.read(_MOST):
        kept = (kept + read)[-_MOST:]
    return kept


async def exists(machine: SshMachine) -> bool:
    """Tell whether the machine exists, and so costs money; ProviderError if its status command does not tell.

    A machine without one exists always: it is the user's own.
    """
    if machine.status is None:
        return True
    done = await _shell(machine, "status", machine.status, _STATUS_SECONDS)
    words = done.out.decode(errors="replace").split()
    if done.code != 0 or not words:
        raise ProviderError(f"the status command of {machine.name} told nothing (exit code {done.code}): {done.said}")
    return words[-1].strip("\"',.").lower() not in GONE


async def act(machine: SshMachine, what: str) -> None:
    """Run its `start` or `stop` command, if it has one; ProviderError if that fails."""
    command = machine.start if what == "start" else machine.stop
    if command is None:
        return
    done = await _shell(machine, what, command, _ACT_SECONDS)
    if done.code != 0:
        raise ProviderError(f"the {what} command of {machine.name} failed (exit code {done.code}): {done.said}")
