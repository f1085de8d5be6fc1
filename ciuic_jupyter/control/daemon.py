"""Find the user's one control plane, or start it: a lock file decides who; it outlives who started it."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import hashlib
import hmac
import importlib.metadata
import json
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import requests

from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.errors import PlaneUnavailable, UsageError
from ciuic_jupyter.kernels import logs
from ciuic_jupyter.providers.files import write_private
from ciuic_jupyter.settings import Settings, private_directory, read_private

if TYPE_CHECKING:
    from ciuic_jupyter.control.plane import Plane

VERSION = importlib.metadata.version("ciuic_jupyter")

_START_SECONDS = 30.0
_ASK_SECONDS = 5.0
_POLL = 0.02
_TARGETS = "metrics-targets.json"


def find(settings: Settings) -> tuple[str, str] | None:
    """Return address and token of the plane that runs, None if none does."""
    if settings.url is not None:
        if settings.token is None:
            raise UsageError("CIUIC_URL is set and CIUIC_TOKEN is not; set both, or neither for a plane of your own")
        return settings.url, settings.token.get_secret_value()
    known = _known(settings)
    if known is None or not _is_ours(known["url"], known["token"]):
        return None
    return known["url"], known["token"]


def ensure(settings: Settings) -> tuple[str, str]:
    """Return address and token of the user's plane, started now if none runs; PlaneUnavailable if it can't start."""
    found = find(settings)
    if found is not None:
        return found
    private_directory(settings.state_dir)
    child = _spawn(settings)
    deadline = time.monotonic() + _START_SECONDS
    while True:
        found = find(settings)
        if found is not None:
            return found
        if _failed(child) or time.monotonic() > deadline:
            log = settings.state_dir / "plane.log"
            raise PlaneUnavailable(f"the control plane did not start; the end of {log} says why: {_tail(settings)}")
        time.sleep(_POLL)


def _spawn(settings: Settings) -> int:
    log = os.open(settings.state_dir / "plane.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    environment = {
        **os.environ,
        "CIUIC_STATE_DIR": str(settings.state_dir),
        "CIUIC_RUNTIME_DIR": str(settings.runtime_dir),
    }
    for name in ("JPY_SESSION_NAME", "JPY_PARENT_PID", "MPLBACKEND"):  # of the kernel that happens to start us
        environment.pop(name, None)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "ciuic_jupyter.control.daemon"],  # a folder's own random.py is not ours
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(log)


def _failed(child: int) -> bool:
    """Tell whether the plane we started ended in failure; one that found another plane ends well."""
    try:
        ended, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:  # someone else in this process collected it
        return False
    return ended != 0 and os.waitstatus_to_exitcode(status) != 0


def _known(settings: Settings) -> dict[str, Any] | None:
    try:
        known = json.loads(read_private(settings.state_dir / "plane.json"))
        return known if isinstance(known["url"], str) and isinstance(known["token"], str) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def proof(token: str, nonce: str) -> str:
    """Return what only who knows the token can answer to `nonce`: the token itself is never sent to a stranger."""
    return hmac.new(token.encode(), f"ciuic plane {nonce}".encode(), "sha256").hexdigest()


def _is_ours(url: str, token: str) -> bool:
    nonce = secrets.token_hex(16)
    with requests.Session() as http:
        http.trust_env = False
        try:
            answer = http.get(
                f"{url}/v1/challenge", params={"nonce": nonce}, timeout=_ASK_SECONDS, allow_redirects=False
            )
            return hmac.compare_digest(str(answer.json()["proof"]), proof(token, nonce))
        except (requests.RequestException, ValueError, KeyError, TypeError):
            return False


def _tail(settings: Settings) -> str:
    try:
        return (settings.state_dir / "plane.log").read_text(errors="replace").strip()[-400:] or "(empty)"
    except OSError:
        return "(no log)"


def take_lock(settings: Settings) -> BinaryIO | None:
    """Return the lock of this state directory, None if another plane holds it."""
    path = private_directory(settings.state_dir) / "plane.lock"
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "r+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def announce(settings: Settings, url: str, token: str) -> None:
    """Write where the plane listens, whole or not at all, readable by its user alone."""
    path = settings.state_dir / "plane.json"
    temporary = path.with_name(f".plane.{os.getpid()}.json")
    known = {
        "url": url,
        "token": token,
        "pid": os.getpid(),
        "boot_id": Clock().boot_id,
        "version": VERSION,
        "started": time.time(),
    }
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(known, file)
    temporary.replace(path)


def announce_metrics(settings: Settings, url: str) -> None:
    """Write where Prometheus finds the plane now, as its `file_sd_configs` reads it.

    The port is another at each start, the name is not: series go on.
    """
    name = hashlib.sha256(secret(settings.state_dir / "owner").encode()).hexdigest()[:8]
    target = {"targets": [url.removeprefix("http://")], "labels": {"instance": f"{os.uname().nodename}-{name}"}}
    write_private(settings.state_dir / _TARGETS, json.dumps([target]))


def secret(path: Path) -> str:
    """Return the hex secret kept in `path`, made at the first call; 32 random bytes, mode 0600."""
    with suppress(FileNotFoundError):
        kept = read_private(path).strip()
        if len(bytes.fromhex(kept)) == 32:
            return kept
    write_private(path, secrets.token_hex(32))
    return read_private(path).strip()


async def serve(settings: Settings) -> bool:
    """Be the plane until SIGTERM or `ciuic stop`; return False at once if another one is."""
    lock = take_lock(settings)
    if lock is None:
        return False
    import uvicorn  # noqa: PLC0415 - who only looks for a plane needs no server

    from ciuic_jupyter.control.app import make_app  # noqa: PLC0415 - as above
    from ciuic_jupyter.control.door import Door  # noqa: PLC0415 - as above
    from ciuic_jupyter.control.plane import Plane  # noqa: PLC0415 - as above

    token = secrets.token_hex(24)
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    plane = Plane(settings)
    _end_in_order(plane)
    try:
        await plane.start()
        gc.collect()
        gc.freeze()  # the books stay: walking over them for garbage took 225 ms of 1,000 sessions with 50,000 cells
        config = uvicorn.Config(
            make_app(plane, token, listener.getsockname()[1]),
            log_level="warning",
            log_config=None,  # as everything here
            access_log=False,
            http=Door,
            ws="websockets-sansio",
            ws_max_size=256 << 20,
            ws_per_message_deflate=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            timeout_keep_alive=120,
        )
        server = uvicorn.Server(config)
        plane.on_shutdown = lambda: setattr(server, "should_exit", True)
        if plane.asked_to_end:  # while it started
            return True
        announce_metrics(settings, url)
        announce(settings, url, token)  # who comes before the server is up waits in the listener's queue
        await server.serve(sockets=[listener])
    finally:
        with suppress(OSError, UsageError):
            if (_known(settings) or {}).get("token") == token:
                for name in ("plane.json", _TARGETS):
                    (settings.state_dir / name).unlink()
        await plane.close()
        listener.close()
        lock.close()
    return True


def _end_in_order(plane: Plane) -> None:
    """Take signals as a wish to end: uvicorn raises those it got again when it is done, which would kill us."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: plane.shut_down())


def main() -> int:
    """Run the plane of this environment's settings: `python -m ciuic_jupyter.control.daemon`."""
    os.umask(0o077)
    os.chdir("/")  # no folder of the user's is held
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    logs.configure()
    asyncio.run(serve(Settings()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
