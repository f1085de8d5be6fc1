"""Two machines to ssh to, on this one: each a Debian sshd in namespaces of its own (network, mounts, processes).

A box has an address of its own behind a veth pair, host keys, a home, its own /tmp, and sees no folder it is told to
hide, so that what it knows came to it over ssh. Its processes die with it: `crash()` is a power cut, `part()` and
`heal()` pull and plug its cable. Needs root and sshd; `needs()` says why it can't be had here.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

SSHD = "/usr/sbin/sshd"
_SECONDS = 30.0

_CONFIG = """\
ListenAddress 0.0.0.0
Port 22
HostKey {etc}/host_key
AuthorizedKeysFile {etc}/authorized_keys
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowStreamLocalForwarding yes
Subsystem sftp internal-sftp
SetEnv HOME={home} XDG_STATE_HOME={home}/.local/state XDG_RUNTIME_DIR={home}/run
LogLevel VERBOSE
"""

_INIT = """\
set -e
mount --make-rprivate /
for place in {hidden}; do mount -t tmpfs -o size=1m,mode=0700 none "$place"; done
mkdir -p /run/sshd
read go
exec {sshd} -D -f {etc}/sshd_config -E {etc}/sshd.log
"""


def needs() -> str | None:
    """Return why there can be no boxes here, None if there can."""
    if os.geteuid() != 0:
        return "network namespaces and sshd need root, and this is not"
    if not Path(SSHD).exists():
        return f"{SSHD} is not here: `scripts/setup test` installs Debian's openssh-server"
    for tool in ("ip", "setpriv", "unshare", "nsenter", "ssh-keygen"):
        if shutil.which(tool) is None:
            return f"{tool} is not here: install Debian's iproute2, util-linux and openssh-client"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, text=True
    )
    return f"this system allows no namespaces: {probe.stderr.strip()}" if probe.returncode else None


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}"
    return done.stdout


def wait(reached: Callable[[], object], what: str, seconds: float = _SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.02)


class Box:
    """One machine; `boot` and `crash` may be called again and again, `close` ends it for good."""

    def __init__(self, folder: Path, name: str, hidden: Sequence[Path]) -> None:
        self.name, self.folder = name, folder / name
        self.etc, self.home = self.folder / "etc", self.folder / "home"
        self._hidden = list(hidden)
        for place in (self.etc, self.home, self.home / "run"):
            place.mkdir(mode=0o700, parents=True)
        self._link = f"cb{secrets.token_hex(4)}"
        self.outer, self.address = _addresses()
        self._process: subprocess.Popen[bytes] | None = None
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.etc / "host_key"))
        (self.etc / "sshd_config").write_text(_CONFIG.format(etc=self.etc, home=self.home))

    @property
    def cable(self) -> str:
        """The network interface on our side."""
        return f"{self._link}o"

    @property
    def log(self) -> str:
        """What its sshd wrote."""
        with suppress(OSError):
            return (self.etc / "sshd.log").read_text(errors="replace")
        return ""

    @property
    def host_key(self) -> str:
        """Its line of known_hosts, without the host."""
        return " ".join((self.etc / "host_key.pub").read_text().split()[:2])

    def boot(self) -> None:
        """Switch it on; it answers ssh when this returns."""
        assert self._process is None, f"{self.name} runs already"
        script = _INIT.format(hidden=" ".join(map(str, self._hidden)), etc=self.etc, sshd=SSHD)
        flags = ("--net", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
        with (self.etc / "init.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    "unshare",
                    *flags,
                    "sh",
                    "-c",
                    script,
                ],  # it dies with this process
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=log,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"},
                start_new_session=True,
            )
        try:
            self._wire(self._process)
        except BaseException:
            self.crash()
            raise
        wait(self._answers, f"sshd of {self.name}, see {self.etc}")

    def _wire(self, process: subprocess.Popen[bytes]) -> None:
        inside = ("nsenter", "-t", str(process.pid), "-n", "ip")
        ours = os.readlink("/proc/self/ns/net")
        wait(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != ours, f"namespaces of {self.name}")
        _call("ip", "link", "add", f"{self._link}o", "type", "veth", "peer", "name", f"{self._link}i")
        _call("ip", "link", "set", f"{self._link}i", "netns", str(process.pid))
        _call("ip", "addr", "add", f"{self.outer}/30", "dev", f"{self._link}o")
        _call("ip", "link", "set", f"{self._link}o", "up")
        _call(*inside, "addr", "add", f"{self.address}/30", "dev", f"{self._link}i")
        _call(*inside, "link", "set", "lo", "up")
        _call(*inside, "link", "set", f"{self._link}i", "up")
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((self.address, 22), timeout=1) as line:
            return line.recv(4).startswith(b"SSH")
        return False

    @property
    def runs(self) -> bool:
        """Tell whether it is switched on."""
        return self._process is not None and self._process.poll() is None

    def _inside(self, *command: str) -> None:
        assert self._process is not None
        _call("nsenter", "-t", str(self._process.pid), "-n", *command)

    def part(self) -> None:
        """Pull its cable: nothing comes through, either way, and neither side is told."""
        self._inside("ip", "link", "set", f"{self._link}i", "down")

    def heal(self) -> None:
        """Plug it in again; it answers when this returns."""
        self._inside("ip", "link", "set", f"{self._link}i", "up")
        wait(self._answers, f"{self.name} behind its cable")

    def processes(self, word: str) -> list[int]:
        """Return the processes in it whose command line has `word`, by their numbers out here."""
        if self._process is None:
            return []
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                inner = os.readlink(path / "ns/pid") == os.readlink(f"/proc/{self._process.pid}/ns/pid_for_children")
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if inner and state not in ("Z", "X") and word.encode() in (path / "cmdline").read_bytes():
                    found.append(int(path.name))
        return sorted(found)

    def outer_pid(self, inner: int) -> int:
        """Return by which number we know the process that is `inner` in it."""
        for pid in self.processes(""):
            with suppress(OSError):
                numbers = (Path(f"/proc/{pid}/status").read_text().split("NSpid:")[1].splitlines()[0]).split()
                if int(numbers[-1]) == inner:
                    return pid
        raise AssertionError(f"there is no process {inner} in {self.name}")

    def crash(self) -> None:
        """Cut its power: every process in it is gone when this returns."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(_SECONDS)
        if process.stdin is not None:
            process.stdin.close()
        subprocess.run(["ip", "link", "del", f"{self._link}o"], capture_output=True)

    def close(self) -> None:
        """End it, and what it wrote into no file."""
        self.crash()


def _addresses() -> tuple[str, str]:
    """Return the two ends of a small network nobody here uses (198.18.0.0/15 is kept for tests)."""
    used = _call("ip", "-o", "-4", "addr")
    while True:
        number = secrets.randbelow(1 << 15)
        stem = f"198.{18 + (number >> 14)}.{(number >> 6) & 255}"
        last = (number & 63) * 4
        if f" {stem}.{last + 1}/" not in used:
            return f"{stem}.{last + 1}", f"{stem}.{last + 2}"


class User:
    """Who uses the boxes: a home with a key, an ssh config and known_hosts."""

    def __init__(self, home: Path) -> None:
        self.home, self.ssh = home, home / ".ssh"
        self.ssh.mkdir(mode=0o700, parents=True)
        self.key = self.ssh / "id_ed25519"
        _call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))

    def may_use(self, box: Box) -> None:
        """Have the box let this user in, as the user that this process is."""
        (box.etc / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        (box.etc / "authorized_keys").chmod(0o600)

    def trusts(self, *boxes: Box) -> None:
        """Write known_hosts: these boxes, and no other."""
        lines = [f"{box.address} {box.host_key}\n" for box in boxes]
        (self.ssh / "known_hosts").write_text("".join(lines))

    def config(self, text: str) -> None:
        """Write the ssh config."""
        (self.ssh / "config").write_text(text)


@contextmanager
def boxes(folder: Path, hidden: Sequence[Path] = (), names: Sequence[str] = ("one", "two")) -> Iterator[list[Box]]:
    """Yield boxes that are switched on; none of them, nor of their processes, is left at the end."""
    made: list[Box] = []
    try:
        for name in names:
            made.append(Box(folder, name, hidden))
        for box in made:
            box.boot()
        yield made
    finally:
        for box in made:
            box.close()


PYTHON = sys.executable
