"""Usage of the machine as the plane sees it: many samples a second here, two frames a second on the line."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from ciuic_jupyter.kernels.lease import boottime
from ciuic_jupyter.kernels.looks import Looks
from ciuic_jupyter.kernels.plane_socket import PlaneSocket
from ciuic_jupyter.monitor.sample import Sample, Sampler

_log = logging.getLogger(__name__)

TELL_SECONDS = 0.5


class Usage:
    """Samples the kernel's process tree and tells the plane averages, witnesses of idleness, and where loops are."""

    def __init__(self, kernel: int, nursery: int, hz: float, looks: Looks, socket: PlaneSocket) -> None:
        self._sampler = Sampler(kernel, hz, reaper=os.getpid(), spared={nursery})  # orphans of the kernel are ours
        self._every = 1 / hz
        self._looks = looks
        self._runs = looks.runs
        self._socket = socket
        self._window: list[Sample] = []

    async def sample_for_ever(self) -> None:
        """Sample at the given rate; a lost beat is skipped, not made up for."""
        loop = asyncio.get_running_loop()
        due = told = loop.time()
        while True:
            due = max(due + self._every, loop.time())
            await asyncio.sleep(due - loop.time())
            self._window.append(self._sampler.sample(boottime()))
            if loop.time() - told >= TELL_SECONDS:
                told = loop.time()
                self._tell()

    def _tell(self) -> None:
        window, self._window = self._window, []
        if self._socket.connected:
            said = {"kernel": self.kernel(), "hostname": os.uname().nodename, "now": boottime()}
            sample = {"type": "sample", **_average(window), **said}
            look = self._looks.newest()
            self._socket.tell({**sample, "look": look} if look is not None else sample)

    def kernel(self) -> dict[str, Any]:
        """Say whether the kernel works, and since when (boottime): the exact one of the three witnesses."""
        run = self._runs.current
        quiet = run is None and not self._runs.kernel_busy
        detail = f"run {run.run}" if run else "a widget's callback" if self._runs.kernel_busy else "no cell runs"
        return {"quiet": quiet, "since": self._runs.kernel_since, "detail": detail}


def _average(window: list[Sample]) -> dict[str, Any]:
    newest: dict[str, Any] = window[-1].as_dict()
    for name in ("cpu_percent", "kernel_cpu_percent"):
        known = [value for sample in window if (value := getattr(sample, name)) is not None]
        newest[name] = sum(known) / len(known) if known else None
    return newest
