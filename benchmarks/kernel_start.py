"""Time from the wish for a kernel to its first cell, and to `import torch; torch.ones(1)`: plain, cold and warm.

Run: python benchmarks/kernel_start.py [ROUNDS]. The three ways take turns in one run, so that load hits them alike.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jupyter_client import BlockingKernelClient, KernelManager
from jupyter_client.session import Session

COLD = """
import json, os, sys
from ciuic_jupyter.kernels import kernelapp
connection, parent = json.loads(sys.argv[1]), os.getpid()
pid = os.fork()
if pid == 0:
    kernelapp.main(connection, None, {}, parent=parent)
os.waitpid(pid, 0)
"""

WARM = """
import json, os, sys
from ciuic_jupyter.kernels import kernelapp, warm
warm.load(["numpy", "torch"])
parent = os.getpid()
print("ready", flush=True)
for line in sys.stdin:
    warm.check_forkable()
    pid = os.fork()
    if pid == 0:
        kernelapp.main(json.loads(line), None, {}, parent=parent)
    os.waitpid(pid, 0)
"""


def connection(folder: str) -> dict[str, Any]:
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    made: dict[str, Any] = {name: number for number, name in enumerate(names, 1)}
    return {
        **made,
        "transport": "ipc",
        "ip": f"{folder}/k",
        "key": os.urandom(16).hex(),
        "signature_scheme": "hmac-sha256",
    }


def client_of(info: dict[str, Any]) -> BlockingKernelClient:
    client = BlockingKernelClient(session=Session(key=info["key"].encode()))
    client.load_connection_info(info)
    client.context.reconnect_ivl = 5  # ms; zmq's 100 would measure the client's sleep
    client.start_channels(hb=False)
    return client


def cells(client: BlockingKernelClient, begun: float) -> tuple[float, float]:
    """Return the seconds to the end of a first cell and of one that makes a tensor."""
    found = []
    for code in ("1 + 1", "import torch; torch.ones(1)"):
        reply = client.execute(code, reply=True, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]
        found.append(time.perf_counter() - begun)
    return found[0], found[1]


def plain() -> tuple[float, float]:
    begun = time.perf_counter()
    manager = KernelManager(transport="tcp")
    manager.start_kernel()
    client = manager.client()
    client.context.reconnect_ivl = 5
    client.start_channels()
    try:
        return cells(client, begun)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def cold() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        info = connection(folder)
        begun = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-c", COLD, json.dumps(info)])
        client = client_of(info)
        try:
            return cells(client, begun)
        finally:
            client.stop_channels()
            process.kill()
            process.wait()


@contextmanager
def warm_parent() -> Iterator[Callable[[], tuple[float, float]]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdout.readline()

    def warm() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            info = connection(folder)
            begun = time.perf_counter()
            process.stdin.write(json.dumps(info) + "\n")
            client = client_of(info)
            try:
                return cells(client, begun)
            finally:
                client.shutdown()
                client.stop_channels()

    try:
        yield warm
    finally:
        process.kill()
        process.wait()


def line(name: str, rounds: list[tuple[float, float]]) -> str:
    columns = []
    for place in (0, 1):
        values = sorted(1000 * pair[place] for pair in rounds)
        columns.append(f"{statistics.median(values):>7.0f} ({values[0]:.0f}-{values[-1]:.0f})")
    return f"| {name} | {columns[0]} | {columns[1]} |"


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with warm_parent() as warm:
        ways = {
            "plain KernelManager": plain,
            "cold, forked from a new process": cold,
            "forked from a warm parent": warm,
        }
        for way in ways.values():
            way()  # file caches
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                found[name].append(way())
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}; {rounds} rounds")
    print("| start of a kernel, ms: median (min-max) | first cell | import torch; torch.ones(1) |")
    print("|---|---|---|")
    for name, values in found.items():
        print(line(name, values))


if __name__ == "__main__":
    main()
