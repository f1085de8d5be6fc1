"""The line to a warm parent: a process that has imported torch, run none of it, and forks agents on request."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

_WARM_SECONDS = 8.0  # how long a start waits for a parent that is still importing; then it starts cold
_REPLY_SECONDS = 5.0
_POLL = 0.02


class WarmParent:
    """Keeps one warm parent; every failure of it means a cold start, never a failed one."""

    def __init__(self, socket: Path, modules: str, log: Path, *, hidden: tuple[str, ...] = ()) -> None:
        """`modules`: comma-separated names to import; `hidden`: environment variables it must not inherit."""
        self._socket = socket
        self._modules = modules
        self._log_path = log
        self._hidden = hidden
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = asyncio.Lock()

    def start(self) -> None:
        """Start the parent if none runs; it goes by itself when this process is gone."""
        if self._process is not None and self._process.poll() is None:
            return
        self._socket.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if name not in self._hidden}
        log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "ciuic_jupyter.kernels.warm",
                    str(self._socket),
                    self._modules,
                    str(os.getpid()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(log)

    async def fork(self, config: Path) -> int | None:
        """Return the pid of an agent forked for `config`, or None: start it cold."""
        async with self._lock:
            try:
                self.start()
                async with asyncio.timeout(_WARM_SECONDS):
                    reader, writer = await self._connect()
                try:
                    async with asyncio.timeout(_REPLY_SECONDS):
                        writer.write(json.dumps({"config": str(config)}).encode() + b"\n")
                        await writer.drain()
                        answer = json.loads(await reader.readline())
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
                return int(answer["pid"])
            except (OSError, ValueError, KeyError, TypeError, TimeoutError) as error:
                _log.warning("the warm parent did not fork (%r); starting cold", error)
                return None

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                return await asyncio.open_unix_connection(str(self._socket))
            except OSError:
                if self._process is None or self._process.poll() is not None:
                    raise
                await asyncio.sleep(_POLL)

    async def close(self) -> None:
        """End the parent; the agents it forked live on."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, 5)
        if self._process.poll() is None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
