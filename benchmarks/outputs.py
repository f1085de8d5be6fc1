"""How outputs of remote cells arrive, beside a local cell and what others offer, all in one run.

`python benchmarks/outputs.py [--rounds N]`: prints a table. Every way is timed at the same place: a front end that
listens to the notebook's own kernel. `jupyter_client`: a cell that calls execute_interactive on a second kernel;
`%%px`: ipyparallel with one engine; `%%ciuic_train`: through the control plane and an agent.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.notebook.local_kernels import Cell, LocalKernel, local_kernel

JUPYTER_CLIENT = """
from IPython.core.magic import register_cell_magic
from jupyter_client.manager import start_new_kernel
manager, other = start_new_kernel()

@register_cell_magic
def naive(line, cell):
    other.execute_interactive(cell, timeout=120)
"""
IPYPARALLEL = (
    "import ipyparallel\ncluster = ipyparallel.Cluster(n=1, log_level=50)\nview = cluster.start_and_connect_sync()"
)
CIUIC = "%load_ext ciuic_jupyter"
CIUIC_END = (
    "from ciuic_jupyter.control.client import PlaneClient\n"
    "client = PlaneClient.ensure(); client.release('bench', discard=True); client.shutdown()"
)
WAYS = {
    "local cell": ("", "", ""),
    "jupyter_client": (JUPYTER_CLIENT, "%%naive", "other.stop_channels(); manager.shutdown_kernel(now=True)"),
    "ipyparallel %%px": (IPYPARALLEL, "%%px", "cluster.stop_cluster_sync()"),
    "%%ciuic_train": (CIUIC, "%%ciuic_train --no-meter --session bench", CIUIC_END),
}
LINES = 20_000
PRINTS = "import time\nfor i in range(20):\n    print(repr(time.time()), flush=True)\n    time.sleep(0.1)"
BURST = f"for i in range({LINES}):\n    print('line', i, flush=True)"
PICTURE = "from IPython.display import Image\nimage = Image(data=bytes(7_500_000), format='png')\nimage"


@contextmanager
def environment() -> Iterator[dict[str, str]]:
    """Places of its own for the control plane."""
    with tempfile.TemporaryDirectory(prefix="cb", dir="/tmp", ignore_cleanup_errors=True) as home:
        yield {"CIUIC_STATE_DIR": f"{home}/state", "CIUIC_RUNTIME_DIR": f"{home}/run", "IPYTHONDIR": f"{home}/ipython"}


def timed(kernel: LocalKernel, code: str) -> tuple[float, Cell]:
    """Return the seconds from sending a cell to its idle status at the front end."""
    start = time.monotonic()
    cell = kernel.ok(code, 300)
    last = max(message["at"] for message in cell.messages)
    return last - start, cell


SHOWS = {"stream", "display_data", "update_display_data"}


def whole(message: dict[str, Any]) -> str:
    """Return the text a message shows; `%%px` shows all lines so far as one display and updates it."""
    content = message["content"]
    if message["msg_type"] == "stream":
        return str(content["text"])
    if message["msg_type"] in SHOWS:
        return str(content["data"].get("text/plain", "")).removeprefix("[stdout:0] ")
    return ""


def newest(message: dict[str, Any]) -> str:
    """Return the text that was not in the message before."""
    text = whole(message)
    return text if message["msg_type"] == "stream" else text[text.rstrip("\n").rfind("\n") + 1 :]


def quantile(values: list[float], share: float) -> float:
    """Return the value below which `share` of `values` lie."""
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def measure(kernel: LocalKernel, magic: str, rounds: int) -> list[str]:
    """Return one row of the table for the way that `magic` goes."""

    def with_magic(code: str) -> str:
        return f"{magic}\n{code}" if magic else code

    kernel.ok(with_magic("pass"), 120)
    trips = [1000 * timed(kernel, with_magic("pass"))[0] for _ in range(rounds)]
    cell = timed(kernel, with_magic(PRINTS))[1]
    late = [
        1000 * (message["at"] + time.time() - time.monotonic() - float(word))
        for message in cell.messages
        for word in re.findall(r"\b\d{10}\.\d+\b", newest(message))
    ]
    burst, cell = timed(kernel, with_magic(BURST))
    shown = [message for message in cell.messages if message["msg_type"] in SHOWS]
    lines = max(cell.text().count("line "), *(whole(message).count("line ") for message in shown))
    picture = timed(kernel, with_magic(PICTURE))[0]
    return [
        f"{statistics.median(trips):.1f}",
        f"{quantile(trips, 0.95):.1f}",
        f"{statistics.median(late):.1f}" if late else "-",
        f"{quantile(late, 0.95):.1f}" if len(late) > 1 else "-",
        f"{burst:.2f}",
        str(lines),
        str(len(shown)),
        f"{picture:.2f}",
    ]


def main() -> None:
    """Measure all ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100, help="round trips per way")
    parser.add_argument("--only", help="one way")
    options = parser.parse_args()
    head = ["way", "pass ms", "p95", "print ms", "p95", f"{LINES} prints s", "lines", "messages", "10 MB png s"]
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| " + " | ".join(head) + " |")
    print("|" + " --- |" * len(head))
    with environment() as env:
        for way, (setup, magic, end) in WAYS.items():
            if options.only not in (None, way):
                continue
            with local_kernel("7.4.0", env=env) as kernel:
                kernel.run(setup, 120)
                row = measure(kernel, magic, options.rounds)
                kernel.run(end, 60)
            print("| " + " | ".join([way, *row]) + " |", flush=True)


if __name__ == "__main__":
    main()
