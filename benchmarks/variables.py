"""Milliseconds to bring 100 MB into another kernel and back: ours, cloudpickle through a file, ipyparallel.

Run: python benchmarks/variables.py [MEGABYTES]. "plane" is the whole way of %ciuic_push and %ciuic_pull: notebook,
control plane, machine, kernel; "kernel" is the last step alone: frame, write, read, load.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import ipyparallel
import numpy as np
import pandas as pd
import torch
from kernel_start import COLD, client_of, connection

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.kernels import variables

ROUNDS = 5


def values(megabytes: int) -> dict[str, Any]:
    count = megabytes * 125_000
    columns = {f"c{i}": np.random.default_rng(i).random(count // 8) for i in range(7)}
    return {
        "array": np.random.default_rng(0).random(count),
        "tensor": torch.rand(count * 2),
        "frame": pd.DataFrame({**columns, "n": np.arange(count // 8)}),
        "list of 1000 arrays": [np.random.default_rng(i).random(count // 1000) for i in range(1000)],
    }


def timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def ours(kernel: Any, value: Any, folder: Path) -> tuple[float, float]:
    there, back = folder / "there", folder / "back"

    def push() -> None:
        variables.write_file(variables.dump({"value": value}), there)
        kernel("push", path=str(there))

    def pull() -> None:
        kernel("pull", path=str(back), names=["value"])
        touch(variables.load(back)["value"])

    return timed(push), timed(pull)


class Plane:
    """A control plane of its own with one session on this computer."""

    def __init__(self, folder: str) -> None:
        os.environ |= {"CIUIC_STATE_DIR": f"{folder}/state", "CIUIC_RUNTIME_DIR": f"{folder}/run"}
        self.client = PlaneClient.ensure()
        self.client.create("bench")
        while self.client.session("bench")["state"] != "running":
            time.sleep(0.05)

    def __call__(self, value: Any) -> tuple[float, float]:
        def pull() -> None:
            touch(variables.load(self.client.pull("bench", ["value"]))["value"])

        return timed(lambda: self.client.push("bench", variables.dump({"value": value}))), timed(pull)

    def close(self) -> None:
        self.client.close_session("bench")
        self.client.shutdown()


def by_cloudpickle(value: Any, folder: Path) -> tuple[float, float]:
    """What a hand-written hand-over costs; one side only, the other costs the same again."""
    path = folder / "pickle"

    def push() -> None:
        with path.open("wb") as file:
            cloudpickle.dump(value, file)

    def pull() -> None:
        with path.open("rb") as file:
            touch(cloudpickle.load(file))

    return timed(push), timed(pull)


def touch(value: Any) -> None:
    """Read every byte, as a mapped array costs nothing until then."""
    for part in value if isinstance(value, list) else [value]:
        np.asarray(part).sum()


class Kernel:
    """Our kernel, spoken to as its agent does."""

    def __init__(self, folder: str) -> None:
        info = connection(folder)
        self._process = subprocess.Popen([sys.executable, "-c", COLD, json.dumps(info)])
        self._client = client_of(info)
        self._client.execute("import numpy, pandas, torch", reply=True, timeout=60)

    def __call__(self, op: str, **content: Any) -> None:
        message = self._client.session.msg("ciuic_request", {"op": op, **content})
        self._client.shell_channel.send(message)
        reply = self._client.get_shell_msg(timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]

    def close(self) -> None:
        self._client.stop_channels()
        self._process.kill()
        self._process.wait()


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as folder, ipyparallel.Cluster(n=1, log_level=40) as engines:
        kernel, plane = Kernel(folder), Plane(folder)
        view = engines[:]
        view.block = True
        view.execute("import numpy, pandas, torch")
        print(f"{megabytes} MB, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; median of {ROUNDS}, in ms")
        print("| there / back | plane | kernel | cloudpickle, this side only | ipyparallel |")
        print("|---|---|---|---|---|")
        for name, value in values(megabytes).items():
            ways: dict[str, Callable[[], tuple[float, float]]] = {
                "plane": lambda value=value: plane(value),
                "kernel": lambda value=value: ours(kernel, value, Path(folder)),
                "cloudpickle": lambda value=value: by_cloudpickle(value, Path(folder)),
                "ipyparallel": lambda value=value: (
                    timed(lambda: view.push({"value": value})),
                    timed(lambda: touch(view.pull("value")[0])),
                ),
            }
            found = {way: [run() for _ in range(ROUNDS)] for way, run in ways.items()}
            cells = " | ".join(
                " / ".join(f"{1000 * statistics.median(pair[i] for pair in pairs):.0f}" for i in (0, 1))
                for pairs in found.values()
            )
            print(f"| {name} | {cells} |")
        kernel.close()
        plane.close()


if __name__ == "__main__":
    main()
