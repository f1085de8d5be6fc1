"""The lines that are kept open to machines: one connection a machine, requests to its far end, tunnels to agents."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciuic_jupyter.errors import MachineUnreachable, ProviderError, by_name
from ciuic_jupyter.providers import ssh_link
from ciuic_jupyter.providers.ssh_link import Done, Target
from ciuic_jupyter.providers.ssh_machines import SshMachine

if TYPE_CHECKING:
    import asyncssh

_MARK = b"CIUIC-NODE "
_ASK_SECONDS = 60.0

Reply = dict[str, Any]


class Line:
    """One machine's connection, opened when it is needed and again when it broke."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._connection: asyncssh.SSHClientConnection | None = None
        self._opening = asyncio.Lock()
        self._tunnels: dict[Path, asyncssh.SSHListener] = {}

    async def connection(self) -> asyncssh.SSHClientConnection:
        """Return a connection that is not known to be dead; MachineUnreachable if there is none to be had."""
        async with self._opening:
            if self._connection is None or self._connection.is_closed():
                self._tunnels.clear()
                self._connection = await ssh_link.connect(self.target)
            return self._connection

    async def ask(self, python: str, request: Mapping[str, Any], *, seconds: float = _ASK_SECONDS) -> Reply:
        """Have the far end do `request`; its errors are raised here, MachineUnreachable if there is no answer.

        The reply's `behind` is by how many seconds the machine's clock is behind ours.
        """
        command = [python, "-P", "-m", "ciuic_jupyter.providers.ssh_node"]
        data = json.dumps(request).encode()
        done = await ssh_link.run(await self.connection(), command, data=data, seconds=seconds)
        reply = _reply(done, self.target)
        error = reply.get("error")
        if isinstance(error, dict):
            kind = by_name(str(error.get("type")))
            raise (kind if issubclass(kind, ProviderError) else ProviderError)(str(error.get("message")))
        return {**reply, "behind": time.time() - float(reply["now"])}

    async def tunnel(self, local: Path, there: str) -> None:
        """Have the unix socket `local` here lead to the one there, through the connection alone."""
        import asyncssh  # noqa: PLC0415 - as in ssh_link

        connection = await self.connection()
        async with self._opening:
            if local in self._tunnels and not connection.is_closed():
                return
            _clear(local)
            try:
                self._tunnels[local] = await connection.forward_local_path(str(local), there)
            except (OSError, asyncssh.Error) as error:
                raise MachineUnreachable(f"no tunnel to {self.target}: {error}") from error
            os.chmod(local, 0o600)

    def end_tunnel(self, local: Path) -> None:
        """Let go of a machine that is gone."""
        listener = self._tunnels.pop(local, None)
        if listener is not None:
            listener.close()
        with suppress(OSError):
            local.unlink(missing_ok=True)

    async def close(self) -> None:
        """Close the connection and all that goes through it."""
        connection, self._connection = self._connection, None
        for local in list(self._tunnels):
            self.end_tunnel(local)
        if connection is not None:
            connection.abort()
            await connection.wait_closed()


def _clear(local: Path) -> None:
    local.unlink(missing_ok=True)


def _reply(done: Done, target: Target) -> Reply:
    lines = [line for line in done.out.splitlines() if line.startswith(_MARK)]
    if not lines:
        if b"No module named" in done.err or done.code in (126, 127):
            text = f"{target} has no ciuic_jupyter for its python ({done.said})"
            raise ProviderError(f"{text}; `ciuic doctor` with --bootstrap installs it there")
        raise ssh_link.refused(done, f"what was asked of {target}")
    try:
        reply = json.loads(lines[-1][len(_MARK) :])
        float(reply["now"])
    except (ValueError, KeyError, TypeError) as error:
        raise ProviderError(
            f"{target} answered what can't be understood: {error}; is it of another version?"
        ) from error
    return dict(reply)


class Lines:
    """All lines of a provider, by target."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}

    def to(self, machine: SshMachine) -> Line:
        """Return the line to a machine."""
        if machine.target not in self._lines:
            self._lines[machine.target] = Line(Target.parse(machine.target))
        return self._lines[machine.target]

    async def close(self) -> None:
        """Close them all."""
        lines, self._lines = list(self._lines.values()), {}
        for line in lines:
            await line.close()
