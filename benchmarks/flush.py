"""Seconds for a cell of 20,000 flushed prints, and how many of its lines arrive: our kernel beside a plain ipykernel.

Run: python benchmarks/flush.py [LINES]. Both clients read without a limit, so that what is lost was lost at the kernel.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from jupyter_client import BlockingKernelClient, KernelManager
from kernel_start import COLD, client_of, connection

ROUNDS = 5


def cell(client: BlockingKernelClient, lines: int) -> tuple[float, int, int]:
    """Return seconds, messages and lines."""
    begun = time.perf_counter()
    sent = client.execute(f"for i in range({lines}): print(i, flush=True)")
    text, messages = "", 0
    while True:
        message = client.get_iopub_msg(timeout=60)
        if message["parent_header"].get("msg_id") != sent:
            continue
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
            messages += 1
        elif message["content"].get("execution_state") == "idle":
            return time.perf_counter() - begun, messages, text.count("\n")


def main() -> None:
    lines = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    with tempfile.TemporaryDirectory() as folder:
        info = connection(folder)
        process = subprocess.Popen([sys.executable, "-c", COLD, json.dumps(info)])
        manager = KernelManager()
        manager.start_kernel()
        clients = {"plain ipykernel": manager.client(), "ours": client_of(info)}
        clients["plain ipykernel"].start_channels()
        for client in clients.values():
            client.iopub_channel.socket.rcvhwm = 0
            client.wait_for_ready(timeout=60)
        found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in clients}
        for _ in range(ROUNDS):
            for name, client in clients.items():
                found[name].append(cell(client, lines))
        print(f"{lines} flushed prints, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {ROUNDS} rounds")
        print("| kernel | s, median (min-max) | messages, median | lines that arrived, worst round |")
        print("|---|---|---|---|")
        for name, rounds in found.items():
            seconds = sorted(one[0] for one in rounds)
            messages = statistics.median(one[1] for one in rounds)
            arrived = min(one[2] for one in rounds)
            span = f"{statistics.median(seconds):.2f} ({seconds[0]:.2f}-{seconds[-1]:.2f})"
            print(f"| {name} | {span} | {messages:.0f} | {arrived} |")
        for client in clients.values():
            client.stop_channels()
        manager.shutdown_kernel(now=True)
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
