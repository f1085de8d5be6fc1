"""Files to a machine, by sftp over a connection that is there: each whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ciuic_jupyter.errors import MachineUnreachable, ProviderError

if TYPE_CHECKING:
    import asyncssh


async def send(connection: asyncssh.SSHClientConnection, files: Mapping[Path, str]) -> None:
    """Copy files to absolute paths there, mode 0600; ProviderError names the one that could not be written."""
    import asyncssh  # noqa: PLC0415 - half a second that only who has such machines pays

    place = ""
    try:
        async with connection.start_sftp_client() as sftp:
            for path, place in files.items():
                part = f"{place}.{os.getpid()}.part"
                try:
                    await sftp.put(path, part)
                    await sftp.chmod(part, 0o600)
                    await sftp.posix_rename(part, place)
                except BaseException:
                    await _removed(sftp, part)
                    raise
    except (asyncssh.ConnectionLost, asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection) as error:
        raise MachineUnreachable(f"the line to the machine broke while {place} was copied; try again") from error
    except asyncssh.SFTPError as error:
        full = "; is its disk full?" if isinstance(error, asyncssh.SFTPFailure) else ""
        raise ProviderError(f"{place} can't be written on the machine: {error.reason}{full}") from error
    except (OSError, asyncssh.Error) as error:
        text = f"files can't be copied to the machine: {error}"
        raise ProviderError(f"{text}; its sshd needs the sftp subsystem (`Subsystem sftp internal-sftp`)") from error


async def _removed(sftp: asyncssh.SFTPClient, path: str) -> None:
    import asyncssh  # noqa: PLC0415 - as above

    try:
        await sftp.remove(path)
    except (OSError, asyncssh.Error):
        return
