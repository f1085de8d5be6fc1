"""Saving and restoring a kernel: captured by it, test-loaded in a fresh process, signed here, read back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Manifest, Store
from ciuic_jupyter.errors import CheckpointDamaged, CiuicError, KernelDied, SaveFailed
from ciuic_jupyter.kernels import share
from ciuic_jupyter.kernels.agent_config import AgentConfig
from ciuic_jupyter.kernels.holds import Holds
from ciuic_jupyter.kernels.kernel_link import KernelLink
from ciuic_jupyter.kernels.nursery import Nursery
from ciuic_jupyter.kernels.pause import is_position
from ciuic_jupyter.kernels.runs import Runs

_ATTEMPTS = 3  # captures of one save: each forces the names that failed to load into placeholders
_BOUNDARIES = 20  # captures of one cell that holds, when what fails is the position alone: each at another boundary

SHARE_SECONDS = 0.2  # between two looks at how much is written


class Progress(Protocol):
    """Who hears how a save goes on."""

    def __call__(self, step: str, done: int, total: int, share: float | None = None) -> None:
        """Take a step and its number of `total`; of one that writes also the share of its bytes, 0 to 1."""


@dataclass(frozen=True)
class Kernel:
    """The kernel as a saver needs it: the line to it, its runs, and the hold of the one under way."""

    link: KernelLink
    runs: Runs
    holds: Holds


class Saver:
    """Takes the checkpoints of one kernel; the key that signs them stays in this process."""

    def __init__(self, config: AgentConfig, kernel: Kernel, nursery: Nursery, progress: Progress) -> None:
        self._config = config
        self._link, self._runs, self._holds = kernel.link, kernel.runs, kernel.holds
        self._nursery = nursery
        self._progress = progress
        self._store = Store(config.store)
        self.remote = Remote(config.remote) if config.remote else None

    async def save(self, *, passing: bool = False) -> dict[str, Any]:
        """Write a checkpoint that was loaded back in a fresh process, between cells or of one that holds.

        Return {seq, report}. With `passing` the cell under way is held only while its memory is copied; it goes
        on while that is written and checked.

        SaveFailed says why there is none; the kernel lives on. A manifest is signed after its data passed, so that
        what the next machine finds newest is always one that loads.
        """
        seconds: dict[str, float] = {"capture": 0.0, "verify": 0.0}
        begun = time.monotonic()
        try:
            body, attempts = await self._loadable_body(seconds, passing)
            signing = time.monotonic()
            self._progress("signing", 2, 3)
            manifest = await asyncio.to_thread(self._sign, body)
            seconds["sign"] = time.monotonic() - signing
            if self.remote is not None:
                self._progress("uploading", 2, 3)
                seconds["upload"] = 0.0
                with _timed(seconds, "upload"):
                    await asyncio.to_thread(self._upload, self.remote, manifest)
        except (SaveFailed, KernelDied):
            raise
        except (CiuicError, OSError) as error:
            raise SaveFailed(f"the save failed: {error}; the kernel lives on, save again") from error
        self._progress("saved", 3, 3)
        seconds["total"] = time.monotonic() - begun
        return {"seq": manifest.seq, "report": _report(body, seconds, attempts)}

    async def _loadable_body(self, seconds: dict[str, float], passing: bool) -> tuple[dict[str, Any], int]:
        forced: dict[str, str] = {}
        position: dict[str, str] = {}
        failures = 0
        for attempt in range(1, _BOUNDARIES + 1):
            if passing:
                await self._holds.hold(keep=False)
            body, modules = await self._capture(forced, position, seconds, passing)
            await self._prepare(modules)
            self._progress("verifying", 1, 3)
            try:
                with _timed(seconds, "verify"):
                    report = await self._nursery.verify(self._config.store, body, self._config.verify_seconds)
            except CheckpointDamaged as error:  # an old pack is bad: it was put aside, the next capture writes anew
                report, why = {"failed": {}, "damaged": True}, str(error)
            else:
                if report["ok"]:
                    return body, attempt
                why = "; ".join(f"{name}: {reason}" for name, reason in report["failed"].items())
            failed = {str(name): str(reason) for name, reason in report["failed"].items()}
            position = {path: reason for path, reason in failed.items() if body["run"] and is_position(path)}
            failures += not position
            new = failed.keys() - position.keys() - forced.keys()
            forced |= {name: failed[name] for name in new}
            if failures == _ATTEMPTS or not (new or position or report.get("damaged")):
                break
        raise SaveFailed(
            f"what was saved does not load again in a fresh process ({why or 'no name is to blame'}); "
            "the kernel lives on: delete or change what is named, then save again"
        )

    async def _capture(
        self, forced: Mapping[str, str], position: Mapping[str, str], seconds: dict[str, float], passing: bool
    ) -> tuple[dict[str, Any], list[str]]:
        """Wait until no cell runs or the one that runs holds, and have the kernel save; with `passing` let it go on.

        Return the body, which says which run, and the modules that loading it needs and the nursery may lack.
        `position` is what did not load of the position in the last save: the cell goes on to its next boundary.
        """
        while True:
            await self._holds.settled()
            self._progress("capturing", 0, 3)
            about: dict[str, Any] = {"store": str(self._config.store), "placeholders": {**forced, **position}}
            with _timed(seconds, "capture"):
                if not self._holds.held:
                    return await self._between_cells({**about, "placeholders": dict(forced)}), []
                if passing:
                    path = self._config.directory / f"body-{secrets.token_hex(8)}.json"
                    held = await self._holds.capture({**about, "later": True, "body_path": str(path)})
                else:
                    async with self._telling_share() as place:
                        held = await self._holds.capture({**about, **place})
            if held is not None:
                body = await self._written(Path(held["body_path"]), seconds) if passing else held["body"]
                return {**body, "run": held["run"]}, list(held["modules"])
            position = {}

    async def _between_cells(self, about: Mapping[str, Any]) -> dict[str, Any]:
        suspended = self._runs.suspended
        async with self._telling_share() as place:
            reply = await self._link.request("save", **about, **place, cell=suspended)
        return {**reply["body"], "run": suspended}

    @asynccontextmanager
    async def _telling_share(self) -> AsyncIterator[dict[str, str]]:
        """Give what a request to save needs to say how much is written, and pass that on until the block ends."""
        path = self._config.directory / "share"
        try:
            share.begin(path)
        except OSError:  # a save is worth more than what is told of it
            yield {}
            return
        telling = asyncio.create_task(self._tell_share(path))
        try:
            yield {"share_path": str(path)}
            self._say_share(share.read(path))
        finally:
            telling.cancel()
            path.unlink(missing_ok=True)

    async def _tell_share(self, path: Path) -> None:
        while True:
            await asyncio.sleep(SHARE_SECONDS)
            self._say_share(share.read(path))

    def _say_share(self, done: float | None) -> None:
        if done is not None:
            self._progress("capturing", 0, 3, done)

    async def _written(self, path: Path, seconds: dict[str, float]) -> dict[str, Any]:
        await self._holds.release()
        seconds.setdefault("write", 0.0)
        with _timed(seconds, "write"):
            return await self._holds.written(path)

    async def _prepare(self, modules: Sequence[str]) -> None:
        """Have the nursery import once what every test-load of a cell will need; between cells it did so before."""
        if not modules:
            return
        with suppress(CiuicError):  # the test-load will meet the same, and tell
            await self._nursery.prepare(modules)

    def _upload(self, remote: Remote, manifest: Manifest) -> None:
        """Have the checkpoint where the next machine will read it, or not at all: then it is no checkpoint here too."""
        try:
            remote.push(self._store, manifest.seq, self._config.secrets.key)
        except BaseException:
            self._store.manifest_path(manifest.seq).unlink(missing_ok=True)
            raise

    def _sign(self, body: Mapping[str, Any]) -> Manifest:
        manifest = self._store.write_manifest(dict(body), self._config.secrets.key)
        self._store.read_manifest(manifest.seq, self._config.secrets.key)  # from where the next machine will read it
        return manifest

    async def restore(self, seq: int) -> dict[str, Any]:
        """Check the signature of checkpoint `seq` and have the kernel load it; return the report.

        CheckpointUntrusted or CheckpointDamaged before anything is loaded; what the kernel raises.
        """
        begun = time.monotonic()
        if self.remote is not None:
            await asyncio.to_thread(self.remote.fetch, self._store, seq, self._config.secrets.key)
        manifest = await asyncio.to_thread(self._store.read_manifest, seq, self._config.secrets.key)
        reply = await self._link.request("restore", store=str(self._config.store), body=manifest.body)
        report = {key: value for key, value in reply.items() if key != "status"}
        gone = {line["path"]: line for line in [*manifest.body["placeholders"], *reply.get("placeholders", [])]}
        seconds = {"total": round(time.monotonic() - begun, 6)}
        return {**report, "placeholders": list(gone.values()), "seq": seq, "seconds": seconds}


def _report(body: Mapping[str, Any], seconds: Mapping[str, float], attempts: int) -> dict[str, Any]:
    return {
        "seconds": {name: round(value, 6) for name, value in seconds.items()},
        "bytes_total": body.get("bytes_total", 0),
        "bytes_written": body.get("bytes_written", 0),
        "names": sorted(body.get("names", ())),
        "placeholders": body.get("placeholders", []),
        "attempts": attempts,
        "run": body.get("run"),
    }


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    finally:
        seconds[name] += time.monotonic() - begun
