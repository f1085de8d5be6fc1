"""Other users of the same machine: they reach no file, no socket, no port but the guarded one, and no secret."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ciuic_jupyter.control import daemon
from ciuic_jupyter.control.client import PlaneClient
from ciuic_jupyter.control.clock import Clock
from ciuic_jupyter.control.ledger import Ledger
from ciuic_jupyter.errors import LedgerError, ProtocolError, UsageError
from ciuic_jupyter.providers.local import LocalPlaces, LocalProvider
from ciuic_jupyter.settings import Settings, private_directory, read_private
from tests.security import strangers
from tests.security.conftest import CANARY, Site
from tests.security.strangers import UID, needs_root
from tests.security.table import Room
from tests.ui.servers import until

ROOM = Room("Other users of the machine")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in which everybody can look and write, as in /tmp."""
    with tempfile.TemporaryDirectory(prefix="ciuic-p-") as made:
        Path(made).chmod(0o1777)
        yield Path(made)


@ROOM.attack(
    "another user reads, writes, links or lists anything in the state and runtime directories", "EACCES for each"
)
@needs_root
def test_files(site: Site) -> None:
    roots = [site.settings.state_dir, site.settings.runtime_dir]
    paths = [str(path) for root in roots for path in [root, *root.rglob("*")]]
    assert {"key", "owner", "plane.json", "ledger.db", "agent.json"} <= {Path(path).name for path in paths}
    code = f"""
done = []
for path in {paths!r}:
    for name, work in (
        ("read", lambda: open(path, "rb")), ("write", lambda: open(path, "ab")), ("list", lambda: os.listdir(path)),
        ("link", lambda: os.link(path, "/tmp/ciuic-stolen")), ("remove", lambda: os.unlink(path)),
        ("rename", lambda: os.rename(path, path + "x")),
    ):
        try:
            work()
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR):
                done.append((name, path, str(error)))
        else:
            done.append((name, path))
print(json.dumps(done))
"""
    assert json.loads(strangers.says(code)) == []


@ROOM.attack("the modes of all these files, with a umask of 000 too", "0700 and 0600; nothing for others")
def test_modes(site: Site, place: Path) -> None:
    before = os.umask(0)
    try:
        private_directory(place / "state")
        daemon.secret(place / "state" / "key")
        Ledger(place / "state" / "ledger.db", Clock()).close()
    finally:
        os.umask(before)
    for root in (site.settings.state_dir, site.settings.runtime_dir, place / "state"):
        for path in [root, *root.rglob("*")]:
            assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path


@ROOM.attack("another user connects to the agent's, the kernel's and the warm parent's unix sockets", "EACCES for each")
@needs_root
def test_sockets(site: Site) -> None:
    found = [str(path) for path in site.settings.runtime_dir.rglob("*") if path.is_socket()]
    assert len(found) >= 7  # agent.sock, k-1 to k-6
    code = f"""
for path in {found!r}:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
    except PermissionError:
        continue
    print(path)
"""
    assert strangers.says(code) == ""


@ROOM.attack("sockets without a file (abstract ones) of a session's processes", "there are none")
def test_abstract_sockets(site: Site) -> None:
    pids = {process.pid for process in site.processes()} - {site.jupyter.process.pid}
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            inodes |= {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()}
    assert len(inodes) > 10
    listed = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    abstract = [
        line for line in listed if len(line) > 7 and line[7].startswith("@") and f"socket:[{line[6]}]" in inodes
    ]
    assert abstract == []


@ROOM.attack(
    "a plaintext ZMQ or TCP port of a running session, on any interface",
    "none: the plane's and Jupyter's alone, on loopback",
)
def test_ports(site: Site) -> None:
    site.run("ports", "import socket")
    expected = {int(site.plane.netloc.rpartition(":")[2]), int(site.jupyter.base.split(":")[2].split("/")[0])}
    found = []
    for process in site.processes():
        with suppress(psutil.NoSuchProcess):
            for line in process.net_connections("inet"):
                if line.status == psutil.CONN_LISTEN or line.type == socket.SOCK_DGRAM:
                    found.append((process.cmdline()[:4], line.laddr))
    assert {address.port for _, address in found} == expected, found
    assert {address.ip for _, address in found} == {"127.0.0.1"}


@ROOM.attack("another user asks the plane over loopback, without and with a guessed token", "401")
@needs_root
def test_loopback(site: Site) -> None:
    code = f"""
for head in ("", "Authorization: Bearer guess\\r\\n"):
    line = socket.create_connection(("127.0.0.1", {site.plane.netloc.rpartition(":")[2]}))
    line.sendall(("GET /v1/sessions HTTP/1.1\\r\\nHost: {site.plane.netloc}\\r\\n" + head + "\\r\\n").encode())
    print(line.recv(12).decode())
"""
    assert strangers.says(code) == "HTTP/1.1 401\nHTTP/1.1 401"


def secrets_of(site: Site) -> list[bytes]:
    state = site.settings.state_dir
    config = json.loads((site.machine / "agent.json").read_text())
    kept = [(state / name).read_text() for name in ("key", "metrics.token")]
    texts = [site.plane.token, *kept, config["token"], CANARY]
    return [text.strip().encode() for text in texts]


@ROOM.attack("tokens and keys in the command line of any of our processes, which everybody can read", "none")
def test_command_lines(site: Site) -> None:
    for line in site.read("cmdline").values():
        assert not [secret for secret in secrets_of(site) if secret in line], line


@ROOM.attack("another user reads `/proc/PID/environ`, `mem` and `fd` of our processes", "EACCES for each")
@needs_root
def test_proc(site: Site) -> None:
    pids = [process.pid for process in site.processes()]
    code = f"""
for pid in {pids!r}:
    for name, work in (("environ", lambda p: open(p, "rb").read()), ("mem", lambda p: open(p)), ("fd", os.listdir)):
        try:
            work(f"/proc/{{pid}}/{{name}}")
        except (PermissionError, FileNotFoundError):  # or it has ended
            continue
        print(pid, name)
"""
    assert len(pids) >= 4
    assert strangers.says(code) == ""


@ROOM.attack(
    "`CIUIC_TOKEN` and `CIUIC_URL` of who started the plane, looked for by a cell", "hidden from kernel and agent"
)
def test_environment(site: Site) -> None:
    assert CANARY.encode() in Path(f"/proc/{site.plane_pid}/environ").read_bytes()
    seen = site.home / "seen"
    site.run("env", f"import os; open({str(seen)!r}, 'w').write(repr(dict(os.environ)))")
    assert "CIUIC_MACHINE" in seen.read_text()
    for secret in secrets_of(site):
        assert secret.decode() not in seen.read_text()
    for pid, variables in site.read("environ").items():
        if pid not in (site.plane_pid, site.jupyter.process.pid):
            assert CANARY.encode() not in variables, psutil.Process(pid)


@ROOM.attack("tokens and keys in the logs of server, plane, agent and kernel", "none")
def test_logs(site: Site) -> None:
    logs = [*site.home.rglob("*.log")]
    assert {"plane.log", "agent.log", "kernel.log", "server.log"} <= {path.name for path in logs}
    for path in logs:
        text = path.read_bytes()
        assert not [secret for secret in secrets_of(site) if secret in text], path


@ROOM.attack("another user signals the plane, the agent and the kernel", "EPERM")
@needs_root
def test_signals(site: Site) -> None:
    pids = [process.pid for process in site.processes()]
    code = f"""
for pid in {pids!r}:
    try:
        os.kill(pid, signal.SIGKILL)
    except (PermissionError, ProcessLookupError):
        continue
    print(pid)
"""
    assert strangers.says(code) == ""


# a state directory that others had their hands in


@pytest.mark.parametrize(
    "what",
    ROOM.cases(
        {
            "the state directory is a link": ("refused, named", "link"),
            "the state directory is a file": ("refused", "file"),
            "the state directory belongs to another user": ("refused, named", "theirs"),
        }
    ),
)
@needs_root
def test_directories(place: Path, what: str) -> None:
    path = place / "state"
    if what == "link":
        (place / "other").mkdir(0o700)
        path.symlink_to(place / "other")
    elif what == "file":
        path.touch()
    else:
        path.mkdir(0o700)
        os.chown(path, UID, UID)
    with pytest.raises((UsageError, FileExistsError)):
        private_directory(path)
    with pytest.raises((UsageError, FileExistsError, NotADirectoryError)):
        daemon.take_lock(Settings(state_dir=path, runtime_dir=place / "r"))


@ROOM.attack(
    "the state directory was open to all, and another user left a file in it",
    "refused and named, each time; an empty one is closed",
)
@needs_root
def test_open_directory(place: Path) -> None:
    path = place / "state"
    path.mkdir()
    path.chmod(0o777)
    assert strangers.says(f"open({str(path / 'key')!r}, 'w').write('ab' * 32)") == ""
    for _ in range(2):
        with pytest.raises(UsageError, match="key there belongs to another user"):
            private_directory(path)
    (path / "key").unlink()
    assert stat.S_IMODE(private_directory(path).stat().st_mode) == 0o700


@ROOM.attack(
    "another user leaves a `plane.json` of its own plane, which proves its own token",
    "refused: no cell, no variable goes there",
)
@needs_root
def test_planted_plane(place: Path, site: Site) -> None:
    path = place / "state"
    path.mkdir()
    path.chmod(0o777)
    known = json.dumps({"url": f"http://{site.plane.netloc}", "token": site.plane.token})
    assert strangers.says(f"open({str(path / 'plane.json')!r}, 'w').write({known!r})") == ""
    settings = Settings(state_dir=path, runtime_dir=place / "r")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"plane\.json"):
            PlaneClient.find(settings)
    os.chown(path / "plane.json", os.getuid(), os.getgid())
    (path / "plane.json").chmod(0o600)
    assert PlaneClient.find(settings) is not None  # it was the owner that was wrong


@pytest.mark.parametrize(
    ("name", "what"),
    ROOM.cases(
        {
            f"`{name}` is {what}": ("refused, and nothing waits for it", name, what)
            for name in ("plane.json", "key")
            for what in ("a link", "a pipe", "open to others", "a folder")
        }
    ),
)
def test_bent_files(place: Path, name: str, what: str) -> None:
    state = private_directory(place / "state")
    path, aside = state / name, place / "aside"
    aside.write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "x"}) if name == "plane.json" else "ab" * 32)
    aside.chmod(0o600)
    if what == "a link":
        path.symlink_to(aside)
    elif what == "a pipe":
        os.mkfifo(path, 0o600)
    elif what == "a folder":
        path.mkdir(0o700)
    else:
        path.write_text(aside.read_text())
        path.chmod(0o644)
    with pytest.raises(UsageError, match=str(path)):
        daemon.secret(path) if name == "key" else daemon.find(Settings(state_dir=state, runtime_dir=place / "r"))
    with pytest.raises(UsageError):
        read_private(path)


@pytest.mark.parametrize(
    "what",
    ROOM.cases(
        {
            "the ledger is a link": ("refused", "link"),
            "the ledger is a pipe": ("refused, and nothing waits for it", "pipe"),
            "the ledger belongs to another user": ("refused", "theirs"),
        }
    ),
)
@needs_root
def test_bent_ledger(place: Path, what: str) -> None:
    path, aside = place / "ledger.db", place / "aside"
    Ledger(aside, Clock()).close()
    if what == "link":
        path.symlink_to(aside)
    elif what == "pipe":
        os.mkfifo(path, 0o600)
    else:
        aside.rename(path)
        os.chown(path, UID, UID)
    with pytest.raises(LedgerError, match="remove it"):
        Ledger(path, Clock())


@ROOM.attack("another user writes to the ledger", "EACCES; the plane goes on")
@needs_root
def test_ledger_by_another(site: Site) -> None:
    ledger = str(site.settings.state_dir / "ledger.db")
    code = f"""
try:
    sqlite3.connect({ledger!r}).execute("delete from entries")
except sqlite3.OperationalError as error:
    print(error)
"""
    assert strangers.says(code) == "unable to open database file"
    assert site.client.cost("s")["spent_nano"] > 0


@ROOM.attack("a second plane on the same ledger", "it finds the first one and ends")
def test_second_plane(site: Site) -> None:
    command = [sys.executable, "-m", "ciuic_jupyter.control.cli", "serve"]
    done = subprocess.run(command, env=site.jupyter.env, capture_output=True, text=True, timeout=120, check=False)
    assert "a control plane runs already" in done.stdout
    assert site.client.health()["pid"] == site.plane_pid


@ROOM.attack(
    "another user takes the runtime directory's place and listens where the agent did",
    "the plane says no token and sends no cell",
)
@needs_root
async def test_squatted_socket(place: Path) -> None:
    from ciuic_jupyter.control.link import _line_to

    path = place / "agent.sock"
    code = f"""
line = socket.socket(socket.AF_UNIX)
line.bind({str(path)!r})
os.chmod({str(path)!r}, 0o666)
line.listen()
print("listens", flush=True)
print(repr(line.accept()[0].recv(1000)))
"""
    listener = strangers.start(code)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "listens\n"
    with pytest.raises(ProtocolError, match=f"user {UID}, not you"):
        await _line_to(path)
    out, err = listener.communicate(timeout=20)
    assert (out, err) == ("b''\n", "")


def marked(machine: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"CIUIC_MACHINE": machine})


@ROOM.attack(
    "another user's process carries a machine's mark, to be killed with it by root's plane", "it is left alone"
)
@needs_root
async def test_marked_stranger(place: Path) -> None:
    stranger = strangers.start("print('lives', flush=True)\nsys.stdin.read()", CIUIC_MACHINE="victim")
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == "lives\n"
    own = marked("victim")
    provider = LocalProvider(LocalPlaces(place / "machines", place / "sockets"), [])
    (place / "machines" / "victim").mkdir(parents=True)
    until(lambda: b"CIUIC_MACHINE" in Path(f"/proc/{own.pid}/environ").read_bytes(), "the process's start")
    await provider.stop("victim")
    assert own.wait(20) == -signal.SIGKILL
    assert own.stdin is not None
    own.stdin.close()
    assert stranger.poll() is None
    stranger.communicate(timeout=20)
    assert stranger.returncode == 0


@pytest.mark.parametrize(
    "machine",
    ROOM.cases(
        {
            "a stop of the machine `../../x`": ("refused: no such id", "../../x"),
            "a stop of the machine `` (all of them)": ("refused", ""),
            "a stop of the machine `/etc`": ("refused", "/etc"),
            "a stop of the machine `a; reboot`": ("refused", "a; reboot"),
        }
    ),
)
async def test_hostile_machines(place: Path, machine: str) -> None:
    from ciuic_jupyter.errors import ProviderError

    provider = LocalProvider(LocalPlaces(place / "machines", place / "sockets"), [])
    for work in (provider.stop, provider.look, provider.connect):
        with pytest.raises(ProviderError, match="is not the id of a local machine"):
            await work(machine)
