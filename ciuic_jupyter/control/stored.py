"""A saved session from outside: what its checkpoint holds, and variables out of it, with no machine started.

To make a variable again is to run the user's code. A process of its own does it: it gets the checked manifest through
its standard input, loads everything, writes the variables to a file, and ends. The key that signs stays here.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import pickle
import shutil
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Manifest, Store
from ciuic_jupyter.errors import CheckpointError, CiuicError, UnknownName, UsageError, by_name
from ciuic_jupyter.providers.local import HIDDEN

if TYPE_CHECKING:
    from ciuic_jupyter.control.runner import Runner

_SECONDS = 900.0  # a checkpoint is loaded by then, or not at all; as long as a save waits for its test-load
_CHUNK = 1 << 20
_LOG_END = 300  # characters of what a process said before it crashed
_LOCAL = frozenset({"local"})  # providers whose machines are here: code of such a session may run here too

View = dict[str, Any]


# in the control plane


def alone(runner: Runner) -> bool:
    """Tell whether a checkpoint is all there is of a session: it has one, and no machine."""
    return not runner.live and runner.book.checkpoint is not None


def loads_here(runner: Runner) -> bool:
    """Tell whether variables can come out of a session's checkpoint without a machine."""
    return alone(runner) and runner.book.offer["provider"] in _LOCAL


def _manifest(runner: Runner) -> Manifest:
    """Return the newest checkpoint of a session: the one that a resume would go back to."""
    context, book = runner.context, runner.book
    if book.checkpoint is None:
        raise UsageError(f"session {book.name} has no checkpoint yet; a pause makes one: `ciuic pause {book.name}`")
    store, seq = Store(context.store_directory(book)), int(book.checkpoint["seq"])
    if (url := context.remote(book)) is not None:
        Remote(url).fetch(store, seq, context.key_of(book))
    return store.read_manifest(seq, context.key_of(book))


async def kinds(runner: Runner) -> dict[str, str]:
    """Return the saved variables: name -> type."""
    manifest = await asyncio.to_thread(_manifest, runner)
    return dict(manifest.body["types"])


async def show(runner: Runner) -> View:
    """Return what the newest checkpoint holds: variables with types and bytes, what was not saved, the cell it is in.

    Bytes of what variables share count for the first of them. Nothing is loaded.
    """
    manifest = await asyncio.to_thread(_manifest, runner)
    body, book = manifest.body, runner.book
    root = str(runner.context.store_directory(book))
    sizes = (await _asked({"op": "sizes", "root": root, "body": body}))["sizes"]
    held = (book.checkpoint or {}).get("report", {}).get("run") or body.get("run")
    return {
        "session": book.name,
        "seq": manifest.seq,
        "at": manifest.created,
        "python": body["python"],
        "platform": body["platform"],
        "bytes": body.get("bytes_total", 0),
        "run": {"run": held["run"], "where": str(held.get("where") or "")} if held else None,
        "variables": [
            {"name": name, "type": kind, "bytes": sizes.get(name)} for name, kind in sorted(body["types"].items())
        ],
        "placeholders": body["placeholders"],
    }


async def pull(runner: Runner, names: Sequence[str]) -> tuple[int, Iterator[bytes]]:
    """Return size and bytes of a file of the named variables, as a kernel's own `pull` makes it: all or none."""
    context, book = runner.context, runner.book
    manifest = await asyncio.to_thread(_manifest, runner)
    if missing := [name for name in names if name not in manifest.body["types"]]:
        text = f"there is no {', '.join(missing)} in checkpoint {manifest.seq} of session {book.name}"
        raise UnknownName(f"{text}; `ciuic show {book.name}` lists what it holds")
    folder = Path(tempfile.mkdtemp(prefix="pull-", dir=context.session_directory(book.name)))
    try:
        path, root = folder / "variables", str(context.store_directory(book))
        order = {"op": "pull", "root": root, "body": manifest.body, "names": list(names), "path": str(path)}
        await _asked(order)
        file = await asyncio.to_thread(path.open, "rb")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return os.fstat(file.fileno()).st_size, _pieces(file)


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(_CHUNK):
            yield piece


def _environment() -> dict[str, str]:
    """What the user's code may see of ours."""
    return {name: value for name, value in os.environ.items() if name not in HIDDEN}


async def _asked(order: View) -> View:
    """Have a process of its own do `order`; its error is raised here."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "ciuic_jupyter.control.stored"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env={**_environment(), "CUDA_VISIBLE_DEVICES": ""},  # tensors come to the CPU: no GPU here is asked for
        )
        try:
            async with asyncio.timeout(_SECONDS):
                said, _ = await process.communicate(json.dumps({**order, "parent": os.getpid()}).encode())
        except TimeoutError:
            text = f"the checkpoint was not loaded within {_SECONDS:.0f} s; nothing was read"
            raise CheckpointError(f"{text}. Resume the session to look into it") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        try:
            reply: View = json.loads(said)
        except ValueError:
            log.seek(0)
            end = log.read().decode(errors="replace").strip()[-_LOG_END:]
            text = f"the process that loaded the checkpoint ended early (exit code {process.returncode}): {end}"
            raise CheckpointError(f"{text}. Resume the session to look into it") from None
    if "error" in reply:
        raise by_name(reply["error"]["type"])(reply["error"]["message"])
    return reply


# in the process that loads


def main() -> None:
    """Do the one order on standard input, answer in JSON on standard output, and end."""
    from ciuic_jupyter.kernels.processes import die_with_parent  # noqa: PLC0415 - the control plane needs none of these

    answers = os.fdopen(os.dup(1), "w")  # no child inherits it
    os.dup2(2, 1)  # what the user's code prints is no answer
    order = json.load(sys.stdin)
    die_with_parent(int(order["parent"]))
    try:
        said = {"pull": _pull, "sizes": _sizes}[order["op"]](order)
    except CiuicError as error:
        said = {"error": {"type": type(error).__name__, "message": str(error)}}
    answers.write(json.dumps(said))
    answers.flush()
    os._exit(0)  # threads that were restored hold up nothing


def _pull(order: Mapping[str, Any]) -> View:
    """Load everything, as the variables are one graph, and write the ones asked for."""
    from ciuic_jupyter.checkpoint.namespace import restore  # noqa: PLC0415
    from ciuic_jupyter.checkpoint.placeholder import Placeholder, describe  # noqa: PLC0415
    from ciuic_jupyter.kernels import variables  # noqa: PLC0415

    module = types.ModuleType("__main__")  # where the notebook's own classes and functions believe to be
    sys.modules["__main__"] = module
    namespace = vars(module)
    restore(order["body"], Store(Path(order["root"])), namespace)
    values = {name: namespace[name] for name in order["names"]}
    for value in values.values():
        if type(value) is Placeholder:
            path, reason = describe(value)
            raise UsageError(f"{path} was not saved: {reason}; nothing was fetched")
    return {"size": variables.write_file(variables.dump(values), Path(order["path"]))}


class _Whatever(type):
    def __call__(cls, *_: Any, **__: Any) -> Any:
        return cls

    def __setitem__(cls, _: Any, __: Any) -> None:
        """Hold nothing."""


class _Nothing(metaclass=_Whatever):
    """Stands for every class, function and object that is not plain: makes nothing, runs nothing, holds nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Any:
        return cls

    @staticmethod
    def extend(_: Any) -> None:
        """Hold nothing."""

    append = add = update = __setstate__ = extend


class _Measure(pickle.Unpickler):
    """Walks over the saved structure without making one object of it, and counts the bytes that lie beside it."""

    def __init__(self, stream: bytearray, body: Mapping[str, Any]) -> None:
        self._buffers = body["buffers"]
        self.apart = 0
        super().__init__(io.BytesIO(stream), buffers=self._loose(body["loose"]))

    def _loose(self, numbers: Sequence[int]) -> Iterator[bytes]:
        for number in numbers:
            self._memory(number)
            yield b""

    def _memory(self, data: Any, *_: Any) -> Any:
        if type(data) is int:
            self.apart += self._buffers[data]["size"]
        return _Nothing

    def find_class(self, module: str, name: str) -> Any:
        ours = module.startswith("ciuic_jupyter.checkpoint.") and name in ("_make_array", "_make_storage")
        return self._memory if ours else _Nothing


def _sizes(order: Mapping[str, Any]) -> View:
    body = order["body"]
    reader = Store(Path(order["root"])).reader()
    try:
        stream = reader.read(body["blobs"]["pickle"], "the variables")
    finally:
        reader.close()
    measure, segments = _Measure(stream, body), body["segments"]
    ends = [*(segment["start"] for segment in segments[1:]), len(stream)]
    sizes: dict[str, int] = {}
    measure.load()  # what every checkpoint begins with
    for segment, end in zip(segments, ends, strict=True):
        before = measure.apart
        measure.load()
        if segment["kind"] == "name":
            sizes[segment["name"]] = end - segment["start"] + measure.apart - before
    return {"sizes": sizes}


if __name__ == "__main__":
    main()
