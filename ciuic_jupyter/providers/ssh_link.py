"""One connection to a machine over ssh, made as the user's own OpenSSH would make it, and never with a password.

`~/.ssh/config` (aliases, keys, ProxyJump), the ssh agent and `known_hosts` count. A host key that is not in
`known_hosts` is refused, whatever the config says. What is secret goes through standard input, never into a command.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ciuic_jupyter.errors import HostKeyRefused, MachineUnreachable, ProviderError, UsageError

if TYPE_CHECKING:
    import asyncssh

CONNECT_SECONDS = 10.0
KEEPALIVE_SECONDS, KEEPALIVE_COUNT = 2.0, 3  # a dead line is closed after 6 to 8 s
_LONGEST = 400  # characters of what a machine says in an error

_TARGET = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+$-]{0,63})@)?"
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?))"
    r"(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Target:
    """Where a machine is: `host` may be an alias of `~/.ssh/config`; what is None is left to that."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Read `[user@]host[:port]`; UsageError for anything that a shell or ssh could take for something else."""
        found = _TARGET.fullmatch(text) if isinstance(text, str) else None
        port = int(found["port"]) if found is not None and found["port"] else None
        if found is None or (port is not None and not 0 < port < 65536):
            shown = repr(str(text)[:80])
            raise UsageError(f"{shown} is no ssh target; write user@host, user@host:port or a name of ~/.ssh/config")
        return cls(found["v6"] or found["host"], found["user"], port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.user + '@' if self.user else ''}{host}{f':{self.port}' if self.port else ''}"


@dataclass(frozen=True)
class Done:
    """What a command on a machine did: its exit code (None: ended by a signal) and what it wrote."""

    code: int | None
    out: bytes
    err: bytes

    @property
    def said(self) -> str:
        """The end of what it wrote, for an error."""
        text = (self.err or self.out).decode(errors="replace").strip()
        return "".join(c if c.isprintable() else " " for c in text)[-_LONGEST:] or "it said nothing"


async def connect(target: Target, *, seconds: float = CONNECT_SECONDS) -> asyncssh.SSHClientConnection:
    """Open a connection; MachineUnreachable says why there is none and what to do."""
    import asyncssh  # noqa: PLC0415 - half a second that only who has such machines pays

    logging.getLogger("asyncssh").setLevel(logging.WARNING)
    asked = _Asked(asyncssh.SSHClient)
    options = {"username": target.user} if target.user else {}
    numbers = {"port": target.port} if target.port else {}
    try:
        async with asyncio.timeout(seconds):
            return await asyncssh.connect(
                target.host,
                client_factory=asked,
                password_auth=False,
                kbdint_auth=False,
                agent_forwarding=False,  # a rented machine gets no use of the user's keys
                x11_forwarding=False,
                request_pty=False,
                keepalive_interval=KEEPALIVE_SECONDS,
                keepalive_count_max=KEEPALIVE_COUNT,
                login_timeout=seconds,
                **options,
                **numbers,
            )
    except asyncssh.HostKeyNotVerifiable as error:
        raise HostKeyRefused(_host_key_told(target, asked.offered)) from error
    except (asyncssh.PermissionDenied, asyncssh.KeyImportError) as error:
        text = f"{target} takes none of your keys ({_line(error)}); `ssh {target} true` must work without a question"
        raise MachineUnreachable(f"{text}: add the key there, or load it with ssh-add") from error
    except (OSError, TimeoutError, asyncssh.Error, ValueError) as error:
        why = _line(error) or f"no answer in {seconds:.0f} s"
        raise MachineUnreachable(
            f"{target} can't be reached over ssh: {why}; see what `ssh {target} true` says"
        ) from error


class _Asked:
    """A factory of asyncssh clients that remembers the host key it refused."""

    def __init__(self, base: type[asyncssh.SSHClient]) -> None:
        self.offered: list[tuple[str, str, int | None, asyncssh.SSHKey]] = []
        offered = self.offered

        class Client(base):  # type: ignore[valid-type, misc]
            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                offered.append((host, addr, port, key))
                return False

        self._client = Client

    def __call__(self) -> asyncssh.SSHClient:
        client: asyncssh.SSHClient = self._client()
        return client


def _host_key_told(target: Target, offered: Sequence[tuple[str, str, int | None, asyncssh.SSHKey]]) -> str:
    if not offered:
        return f"the host key of {target} can't be verified; see what `ssh {target} true` says. Nothing was sent to it"
    host, address, port, key = offered[-1]
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}"
    if _knows_other(host, address, port):
        place = f"[{host}]:{port}" if port and port != 22 else host
        return (
            f"the host key of {target} is not the one in known_hosts ({shown}): it was made anew, or someone is in "
            f"between. If you know why, `ssh-keygen -R {place}`, then `ssh {target}`; nothing was sent to it"
        )
    return (
        f"the host key of {target} is not in known_hosts ({shown}): compare it with the machine's own, then accept it "
        f"with `ssh {target}`; nothing was sent to it"
    )


def _knows_other(host: str, address: str, port: int | None) -> bool:
    """Tell whether the user's known_hosts holds a key for this host."""
    import asyncssh  # noqa: PLC0415 - as in connect

    path = Path(os.path.expanduser("~/.ssh/known_hosts"))
    with suppress(OSError, ValueError, asyncssh.Error):
        found = asyncssh.match_known_hosts(path.read_bytes(), host, address, port if port != 22 else None)
        return bool(found[0])
    return False


def _line(error: BaseException) -> str:
    text = next(iter(str(error).strip().splitlines()), "")[:_LONGEST]
    return "".join(c if c.isprintable() else " " for c in text)


async def run(
    connection: asyncssh.SSHClientConnection, command: Sequence[str], *, data: bytes = b"", seconds: float = 60.0
) -> Done:
    """Run `command` on the machine with `data` as its input; MachineUnreachable if the line breaks before its end."""
    import asyncssh  # noqa: PLC0415 - as in connect

    try:
        async with asyncio.timeout(seconds):
            process = await connection.create_process(shlex.join(command), encoding=None)
            try:
                out, err = await process.communicate(data)
                await process.wait_closed()
            finally:
                process.close()
    except TimeoutError as error:
        raise MachineUnreachable(f"{shlex.join(command)[:80]} did not end in {seconds:.0f} s on the machine") from error
    except (OSError, asyncssh.Error) as error:
        raise MachineUnreachable(f"the line to the machine broke: {_line(error)}") from error
    if process.exit_status is None and process.exit_signal is None:
        raise MachineUnreachable("the line to the machine broke before the command ended")
    return Done(process.returncode if process.exit_signal is None else None, bytes(out or b""), bytes(err or b""))


def refused(done: Done, what: str) -> ProviderError:
    """Return the error of a command that failed."""
    return ProviderError(f"{what} failed on the machine (exit code {done.code}): {done.said}")
