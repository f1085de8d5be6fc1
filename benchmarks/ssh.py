"""A session on machines over ssh, through the whole stack: start, round trips, pause to stopped, resume, bytes moved.

The machines are Debian's sshd in network namespaces here (as in `tests/ssh`), so the wire costs next to nothing. Beside
it in the same run: a tunnel by OpenSSH's own client to the same echo, and the same cells on the `local` provider.
Bytes are those of the network interface, both ways. `python -m benchmarks.ssh [megabytes]` as root.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.providers import ssh_machines
from ciuic_jupyter.providers.ssh_lines import Line
from ciuic_jupyter.providers.ssh_link import Target
from ciuic_jupyter.providers.ssh_machines import SshMachine
from tests.ssh.boxes import PYTHON, Box, User, boxes, needs, wait

PINGS = 500
ECHO = """
import os, socket, sys
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
while True:
    line, _ = server.accept()
    while data := line.recv(4096): line.sendall(data)
"""
FILL = """
import numpy as np
rng = np.random.default_rng(0)
arrays = [rng.integers(0, 256, (1 << 20), dtype=np.uint8) for _ in range({megabytes})]
"""
LOOP = "import time\nfor step in range(100000):\n    arrays[0][0] += 1\n    time.sleep(0.01)\n    print(step)\n"


def run(client: PlaneClient, session: str, code: str) -> float:
    """Run a cell and return its seconds, from asking to its end."""
    number = uuid.uuid4().hex
    with closing(client.stream(session, int(client.session(session)["last_seq"]))) as stream:
        begun = time.perf_counter()
        client.run(session, number, code)
        for frame in stream:
            if frame.header.get("kind") == "run_ended" and frame.header.get("run") == number:
                return time.perf_counter() - begun
    raise SystemExit("the stream ended")


def first_output(client: PlaneClient, session: str, after: int) -> None:
    with closing(client.stream(session, after)) as stream:
        for frame in stream:
            if frame.header.get("msg_type") == "stream":
                return


def moved(box: Box) -> int:
    """Return the bytes that went over a box's cable so far, both ways."""
    folder = Path(f"/sys/class/net/{box.cable}/statistics")
    return sum(int((folder / name).read_text()) for name in ("rx_bytes", "tx_bytes"))


def ping(path: Path) -> list[float]:
    """Return milliseconds of round trips of 64 bytes through a unix socket."""
    found = []
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        for _ in range(PINGS):
            begun = time.perf_counter()
            line.sendall(b"x" * 64)
            size = 0
            while size < 64:
                size += len(line.recv(64))
            found.append(1000 * (time.perf_counter() - begun))
    return found


def tell(label: str, times: list[float], unit: str = "ms") -> None:
    ordered = sorted(times)
    high = ordered[int(0.95 * (len(ordered) - 1))]
    print(f"| {label} | {statistics.median(ordered):.2f} {unit} | {high:.2f} {unit} |", flush=True)


async def through_ours(box: Box, folder: Path) -> list[float]:
    line = Line(Target.parse(f"root@{box.address}"))
    try:
        await line.tunnel(folder / "ours.sock", f"{box.home}/echo.sock")
        return await asyncio.to_thread(ping, folder / "ours.sock")
    finally:
        await line.close()


def round_trips(box: Box, user: User, folder: Path) -> None:
    """Compare our tunnel with OpenSSH's, to the same echo on the machine."""
    options = ["-F", "none", "-i", str(user.key), "-o", f"UserKnownHostsFile={user.ssh}/known_hosts"]
    target = f"root@{box.address}"
    echo = subprocess.Popen(["ssh", *options, target, f"{PYTHON} -c '{ECHO}' {box.home}/echo.sock"])
    wait((box.home / "echo.sock").exists, "the echo")
    theirs = folder / "theirs.sock"
    tunnel = subprocess.Popen(["ssh", *options, "-N", "-L", f"{theirs}:{box.home}/echo.sock", target])
    try:
        wait(theirs.exists, "OpenSSH's tunnel")
        for _ in range(2):
            tell("tunnel of `ssh -L`, 64 bytes there and back", ping(theirs))
            tell("our tunnel, the same", asyncio.run(through_ours(box, folder)))
        begun = time.perf_counter()
        subprocess.run(["ssh", *options, target, "true"], check=True)
        print(f"| `ssh host true`, a new connection | {time.perf_counter() - begun:.2f} s | |")
    finally:
        for process in (tunnel, echo):
            process.kill()
            process.wait()


@contextmanager
def setting() -> Iterator[tuple[list[Box], User, Path]]:
    folder = Path(tempfile.mkdtemp(prefix="cb-"))
    try:
        user = User(folder / "plane/home")
        with boxes(folder, [folder / "plane"]) as pair:
            for box in pair:
                user.may_use(box)
            user.trusts(*pair)
            os.environ |= {"HOME": str(user.home), "CIUIC_STATE_DIR": f"{folder}/plane/state"}
            os.environ |= {"CIUIC_RUNTIME_DIR": f"{folder}/plane/run", "CIUIC_WARM_START": "false"}
            (folder / "plane/state").mkdir(mode=0o700)
            for name, box in zip(("gpu1", "gpu2"), pair, strict=True):
                machine = SshMachine(name, f"root@{box.address}", python=PYTHON)
                ssh_machines.add(folder / "plane/state" / ssh_machines.FILE, machine)
            yield pair, user, folder / "plane"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def step(label: str, work: object, *cables: Box) -> None:
    """Print the seconds of a step and the bytes it moved."""
    before, begun = sum(map(moved, cables)), time.perf_counter()
    work()  # type: ignore[operator]
    seconds = time.perf_counter() - begun
    print(f"| {label} | {seconds:.2f} s | {(sum(map(moved, cables)) - before) / 1e6:.2f} MB |", flush=True)


def main(megabytes: int) -> None:
    """Measure and print the tables."""
    if (why := needs()) is not None:
        raise SystemExit(why)
    with setting() as (pair, user, folder):
        one, two = pair
        round_trips(one, user, folder)
        client = PlaneClient.ensure()
        try:
            for session, instance in (("here", "local.cpu"), ("far", "gpu1")):
                work = [lambda: client.create(session, instance=instance), lambda: run(client, session, "pass")]  # noqa: B023
                step(f"start on {instance}, to the end of its first cell", lambda: [part() for part in work], one)  # noqa: B023
                tell(f"a cell `pass` on {instance}", [1000 * run(client, session, "pass") for _ in range(100)])
            client.release("here", discard=True)
            run(client, "far", FILL.format(megabytes=megabytes))
            for there, box, back in (("gpu1", one, "gpu2"), ("gpu2", two, "gpu1"), ("gpu1", one, "gpu2")):
                seq = int(client.session("far")["last_seq"])
                if there == "gpu1" and not client.session("far")["suspended"] and not client.session("far")["busy"]:
                    client.run("far", uuid.uuid4().hex, LOOP)
                first_output(client, "far", seq)
                step(f"pause in mid-cell on {there}, to stopped", lambda: client.pause("far"), box)
                saved = client.session("far")["checkpoint"]["seconds"]
                print("  of it: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in saved.items()))
                seq = int(client.session("far")["last_seq"])
                other = two if box is one else one
                resume = [lambda: client.create("far", instance=back), lambda: first_output(client, "far", seq)]  # noqa: B023
                step(f"resume on {back}, to the next step's output", lambda: [part() for part in resume], other)  # noqa: B023
            client.release("far", discard=True)
        finally:
            client.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 64)
