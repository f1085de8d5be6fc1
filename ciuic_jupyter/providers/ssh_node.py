"""The far end of the ssh provider: `python -m ciuic_jupyter.providers.ssh_node`, run on the machine for one request.

The request is JSON on standard input, the reply one line of JSON behind MARK on standard output: what a login shell
prints before does no harm. Machines live here as those of the `local` provider do, in folders of their own.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import stat
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from ciuic_jupyter.errors import CiuicError, ProviderError
from ciuic_jupyter.providers.base import Intent, Machine, Offer
from ciuic_jupyter.providers.local import LocalPlaces, LocalProvider

MARK = "CIUIC-NODE "
_SOCKET_ROOM = 107 - len("/s/0123456789ab/agent.sock")

Reply = dict[str, Any]


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ProviderError(f"{path} on the machine is not a directory of yours; remove it there")
    path.chmod(0o700)
    return path


def _state() -> Path:
    return _private(user_state_path("ciuic-node"))


def _sockets(state: Path) -> Path:
    """Return where sockets lie: never in /run/user, which is gone when the user has logged out."""
    return _private(state / "s" if len(bytes(state)) <= _SOCKET_ROOM else Path(f"/tmp/ciuic-node-{os.getuid()}"))


def _store(state: Path, tag: str, name: str) -> Path:
    if not all(part and part.replace("-", "").replace("_", "").replace(".", "").isalnum() for part in (tag, name)):
        raise ProviderError("the checkpoints' folder has no plain name; nothing was done")
    _private(state / "checkpoints")
    return _private(_private(state / "checkpoints" / tag[:16]) / name)


def _provider(state: Path, offers: list[Offer]) -> LocalProvider:
    return LocalProvider(LocalPlaces(_private(state / "machines"), _sockets(state)), offers)


def _folder(cwd: Any) -> str:
    """Return where a kernel begins: in the notebook's folder if it is here, too, else at home."""
    return cwd if isinstance(cwd, str) and os.path.isdir(cwd) else os.path.expanduser("~")


def _plain(machine: Machine | None) -> Reply | None:
    return asdict(machine) if machine is not None else None


async def _prepare(request: Reply) -> Reply:
    state = _state()
    log = _provider(state, []).log_of(request["machine"])
    return {"store": str(_store(state, request["tag"], request["name"])), "events": str(log)}


async def _start(request: Reply) -> Reply:
    state = _state()
    config = dict(request["config"])
    store = _store(state, request["tag"], request["name"])
    config |= {"store": str(store), "warm": False, "cwd": _folder(config.get("cwd"))}
    offer = Offer(**request["offer"])
    provider = _provider(state, [offer])
    machine = await provider.start(Intent(request["intent"], request["session"], offer, request["tag"], config))
    endpoint = await provider.connect(machine.id)
    return {"machine": _plain(machine), "socket": str(endpoint.path)}


async def _look(request: Reply) -> Reply:
    return {"machine": _plain(await _provider(_state(), []).look(request["machine"]))}


async def _stop(request: Reply) -> Reply:
    provider = _provider(_state(), [])
    await provider.stop(request["machine"])
    return {"machine": _plain(await provider.look(request["machine"]))}


_OPERATIONS = {"prepare": _prepare, "start": _start, "look": _look, "stop": _stop}


def answer(request: Reply) -> Reply:
    """Do one request; every failure is an error of the tree, told to who asked."""
    about = {"version": importlib.metadata.version("ciuic_jupyter"), "python": platform.python_version()}
    try:
        operation = _OPERATIONS.get(str(request.get("op")))
        if operation is None:
            raise ProviderError(f"no operation {request.get('op')!r}; this is version {about['version']}")
        reply = asyncio.run(operation(request))
    except CiuicError as error:
        reply = {"error": {"type": type(error).__name__, "message": str(error)}}
    except (OSError, KeyError, TypeError, ValueError) as error:
        reply = {"error": {"type": "ProviderError", "message": f"{type(error).__name__}: {error}"}}
    return {**reply, **about, "now": time.time()}


def main() -> int:
    """Answer the one request on standard input."""
    os.umask(0o077)
    os.chdir("/")
    request = json.loads(sys.stdin.buffer.read())
    sys.stdout.write(f"\n{MARK}{json.dumps(answer(request))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
