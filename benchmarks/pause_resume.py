"""Pause and resume of a 0.5 GB namespace through the whole stack: plane, agent, kernel, store.

Beside it, in the same run: the disk (the same bytes written and fsynced), and cloudpickle doing the bytes alone.
`python benchmarks/pause_resume.py [megabytes]`; no GPU, no network. Ratios, not seconds, compare machines.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
import uuid
from pathlib import Path

import cloudpickle
import numpy as np

from ciuic_jupyter.control.client import PlaneClient

FILL = """
import numpy as np, torch
rng = np.random.default_rng(0)
arrays = [rng.standard_normal(({megabytes}, 16384)) for _ in range(4)]  # half of it
view = arrays[0][::2]
model = torch.nn.Linear({megabytes} * 512, 256)
"""
CHANGE = "arrays[1][: len(arrays[1]) // 100 + 1] += 1"


def run(client: PlaneClient, code: str) -> float:
    """Run a cell and return its seconds, from asking to its end."""
    number = uuid.uuid4().hex
    stream = client.stream("bench", int(client.session("bench")["last_seq"]))
    begun = time.perf_counter()
    client.run("bench", number, code)
    for frame in stream:
        if frame.header.get("kind") == "run_ended" and frame.header.get("run") == number:
            stream.close()
            if frame.header["status"] != "ok":
                raise SystemExit(f"the cell failed: {frame.header.get('evalue')}")
            return time.perf_counter() - begun
    raise SystemExit("the stream ended")


def timed(label: str, work: object, rows: list[tuple[str, float, str]], note: str = "") -> object:
    begun = time.perf_counter()
    result = work()  # type: ignore[operator]
    rows.append((label, time.perf_counter() - begun, note))
    return result


def disk(path: Path, data: bytes) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())


def main(megabytes: int) -> None:
    """Measure and print the table."""
    state, runtime = tempfile.mkdtemp(), tempfile.mkdtemp(prefix="ciuic-b-", dir="/tmp")
    os.environ |= {"CIUIC_STATE_DIR": f"{state}/s", "CIUIC_RUNTIME_DIR": runtime}
    client = PlaneClient.ensure()
    rows: list[tuple[str, float, str]] = []
    try:
        timed(
            "first machine, to its first cell",
            lambda: (client.create("bench"), run(client, "pass")),
            rows,
            "warm parent included",
        )
        run(client, FILL.format(megabytes=megabytes))
        for label, change, quiet in (("pause at once", "pass", 0), ("pause 6 s later, 1 % changed", CHANGE, 6)):
            run(client, change)
            time.sleep(quiet)  # between cells the nursery imports what the kernel imported
            view = timed(label, lambda: client.pause("bench"), rows)
            saved = view["checkpoint"]  # type: ignore[index]
            steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in saved["seconds"].items())
            rows[-1] = (
                *rows[-1][:2],
                f"{saved['bytes'] / 1e6:.0f} MB, {saved['bytes_written'] / 1e6:.1f} MB new; {steps}",
            )
            timed("resume, to ready", lambda: client.resume("bench", wait=True), rows)
            rows.append(("first cell after it", run(client, "float(view[0, 0])"), ""))
        client.close_session("bench")
    finally:
        client.shutdown()
    data = np.random.default_rng(0).standard_normal(megabytes * 131072).tobytes()
    timed("limit: write + fsync", lambda: disk(Path(state) / "raw", data), rows, f"{len(data) / 1e6:.0f} MB")
    array = np.frombuffer(data)
    timed(
        "peer: cloudpickle + fsync",
        lambda: disk(Path(state) / "peer", cloudpickle.dumps({"arrays": [array]})),
        rows,
        "bytes only: no aliases, no verification",
    )
    shutil.rmtree(state, ignore_errors=True)
    shutil.rmtree(runtime, ignore_errors=True)
    for label, seconds, note in rows:
        print(f"{label:34s} {seconds:8.3f} s   {note}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 512)
