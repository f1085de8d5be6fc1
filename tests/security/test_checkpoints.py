"""Pickles from strangers: whatever is wrong with a checkpoint is found before anything of it is unpickled."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.checkpoint import store as stores
from ciuic_jupyter.checkpoint.namespace import capture, restore
from ciuic_jupyter.checkpoint.pack import digest
from ciuic_jupyter.checkpoint.remote import Remote, check_url
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CheckpointUntrusted, UsageError
from tests.kernels.agent_client import KEY, machine
from tests.security.conftest import Site
from tests.security.table import Room

ROOM = Room("Checkpoints of strangers")
OURS, THEIRS = b"o" * 32, b"t" * 32


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class There:
    """A folder with two checkpoints, signed by `key`, that make `mark` when they are loaded."""

    def __init__(self, root: Path, key: bytes = OURS) -> None:
        self.root, self.mark = root / "store", root / "it-ran"
        self.store = Store(self.root)
        for number in (1, 2):
            body = capture({"evil": Evil(self.mark), "n": number, "big": os.urandom(5000)}, self.store)
            self.store.write_manifest(body, key)
        self.manifest = self.store.manifest_path(2)
        self.pack = max((self.root / "chunks").glob("*.pack"), key=lambda path: path.stat().st_mtime_ns)

    def load(self) -> None:
        """Load the newest one, as the next machine would."""
        restore(self.store.read_manifest(None, OURS).body, Store(self.root), {})


@pytest.fixture
def there(tmp_path: Path) -> There:
    return There(tmp_path)


def signed_by_another(there: There) -> None:
    data = there.manifest.read_bytes().partition(b"\n")[2]
    there.manifest.write_bytes(stores._head(data, THEIRS) + data)


def unsigned(there: There) -> None:
    head, _, data = there.manifest.read_bytes().partition(b"\n")
    there.manifest.write_bytes(b" ".join([*head.split(b" ")[:2], b""]) + b"\n" + data)


def changed(there: There) -> None:
    there.manifest.write_bytes(there.manifest.read_bytes().replace(b'"seq":2', b'"seq":3'))


def changed_with_digest(there: There) -> None:
    head, _, data = there.manifest.read_bytes().partition(b"\n")
    data = data.replace(b'"python":"', b'"python":"9')
    there.manifest.write_bytes(
        b" ".join([head.split(b" ")[0], digest(data).hex().encode(), head.split(b" ")[2]]) + b"\n" + data
    )


def older_in_its_place(there: There) -> None:
    shutil.copy(there.store.manifest_path(1), there.manifest)


def cut(there: There) -> None:
    os.truncate(there.manifest, there.manifest.stat().st_size // 2)


def bare_pickle(there: There) -> None:
    there.manifest.write_bytes(b"cos\nsystem\n(S'true'\ntR.")


def manifest_link(there: There) -> None:
    there.manifest.rename(there.root / "aside")
    there.manifest.symlink_to(there.root / "aside")


def manifest_pipe(there: There) -> None:
    there.manifest.unlink()
    os.mkfifo(there.manifest, 0o600)


def pack_link(there: There) -> None:
    there.pack.rename(there.root / "aside")
    there.pack.symlink_to(there.root / "aside")


def pack_pipe(there: There) -> None:
    there.pack.unlink()
    os.mkfifo(there.pack, 0o600)


def pack_altered(there: There) -> None:
    data = bytearray(there.pack.read_bytes())
    at = data.index(str(there.mark).encode())
    data[at : at + 4] = b"/etc"
    there.pack.write_bytes(data)


def pack_of_giants(there: There) -> None:
    """Let each entry of the index claim 4 GiB."""
    data = there.pack.read_bytes()
    magic, start, count, _ = struct.unpack("<8sQI32s", data[-52:])
    entries = [struct.unpack_from("<32sQI", data, start + 44 * each) for each in range(count)]
    table = b"".join(struct.pack("<32sQI", name, offset, 2**32 - 1) for name, offset, _ in entries)
    there.pack.write_bytes(data[:start] + table + struct.pack("<8sQI32s", magic, start, count, digest(table)))


@pytest.mark.parametrize(
    ("attack", "kind"),
    ROOM.cases(
        {
            "a manifest that another key signed": ("CheckpointUntrusted", signed_by_another, CheckpointUntrusted),
            "a manifest without a signature": ("CheckpointUntrusted", unsigned, CheckpointUntrusted),
            "a manifest with a byte changed": ("CheckpointDamaged", changed, CheckpointDamaged),
            "a manifest changed together with its digest": (
                "CheckpointUntrusted",
                changed_with_digest,
                CheckpointUntrusted,
            ),
            "an older manifest, well signed, in the place of a newer one": (
                "CheckpointUntrusted",
                older_in_its_place,
                CheckpointUntrusted,
            ),
            "a manifest cut in half": ("CheckpointDamaged", cut, CheckpointDamaged),
            "a pickle where the manifest was": ("CheckpointDamaged", bare_pickle, CheckpointDamaged),
            "a manifest that is a link": ("CheckpointError", manifest_link, CheckpointError),
            "a manifest that is a pipe": ("CheckpointError; nothing waits for it", manifest_pipe, CheckpointError),
            "a pack that is a link": ("CheckpointDamaged", pack_link, CheckpointDamaged),
            "a pack that is a pipe": ("CheckpointDamaged; nothing waits for it", pack_pipe, CheckpointDamaged),
            "a pack with other code in it": ("CheckpointDamaged", pack_altered, CheckpointDamaged),
            "a pack whose index claims 4 GiB a chunk": ("CheckpointDamaged", pack_of_giants, CheckpointDamaged),
        }
    ),
)
def test_no_byte_is_unpickled(there: There, attack: Callable[[There], None], kind: type[Exception]) -> None:
    attack(there)
    with pytest.raises(kind):
        there.load()
    assert not there.mark.exists()


@ROOM.attack("(the same checkpoint as it was made)", "loads, and does what it says: the rows above are not empty")
def test_the_marks_are_live(there: There) -> None:
    there.load()
    assert there.mark.is_dir()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@ROOM.attack(
    "a pack in an object store whose index claims 4 GiB a chunk", "CheckpointDamaged; no memory is taken for it"
)
def test_giants_elsewhere(there: There, tmp_path: Path) -> None:
    pack_of_giants(there)
    before = peak()
    with pytest.raises(CheckpointDamaged):
        Remote(f"file://{there.root}").fetch(Store(tmp_path / "here"), 2, OURS)
    assert peak() - before < 200
    assert not (tmp_path / "here" / "chunks" / there.pack.name).exists()


def big(blob: dict[str, Any]) -> None:
    blob["size"] = 1 << 60


def negative(blob: dict[str, Any]) -> None:
    blob["size"] = -1


def walking(blob: dict[str, Any]) -> None:
    blob["chunks"] = ["../../key"] * len(blob["chunks"])


@pytest.mark.parametrize(
    "change",
    ROOM.cases(
        {
            "an import whose manifest claims variables of 1 EiB (a bomb)": ("CheckpointDamaged, nothing is left", big),
            "an import whose manifest claims a size below zero": ("CheckpointDamaged", negative),
            "an import whose manifest names its chunks `../../key`": ("CheckpointDamaged", walking),
        }
    ),
)
def test_imports_that_lie(site: Site, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    made = There(tmp_path, THEIRS)
    body = made.store.read_manifest(2, THEIRS).body
    change(body["blobs"]["pickle"])
    made.store.write_manifest(body, THEIRS)
    with pytest.raises(CheckpointDamaged):
        site.client.take_in("lies", str(made.root), trust=True)
    assert site.sessions() == {"s"}


@ROOM.attack(
    "an import of another user's checkpoint, without `--trust`", "CheckpointUntrusted; nothing is copied or run"
)
def test_import_of_a_stranger(site: Site, tmp_path: Path) -> None:
    made = There(tmp_path, THEIRS)
    with pytest.raises(CheckpointUntrusted, match="--trust"):
        site.client.take_in("strange", str(made.root))
    assert not made.mark.exists()
    assert not list((site.settings.state_dir / "checkpoints").glob("strange*"))


@ROOM.attack("an import with `--trust`, then a look at what it holds", "nothing of it runs before a resume")
def test_a_look(site: Site, tmp_path: Path) -> None:
    made = There(tmp_path, THEIRS)
    site.client.take_in("looked-at", str(made.root), trust=True)
    try:
        assert {each["name"] for each in site.client.checkpoint("looked-at")["variables"]} == {"big", "evil", "n"}
        assert site.client.names("looked-at").keys() == {"big", "evil", "n"}
        assert not made.mark.exists()
    finally:
        site.client.close_session("looked-at")


@pytest.mark.parametrize(
    "path",
    ROOM.cases(
        {
            "an import from a relative path": ("UsageError", "etc"),
            "an import from a file": ("UsageError", "/etc/passwd"),
            "an import from `/proc/self/root`": ("UsageError: no checkpoint there", "/proc/self/root"),
            "an import from a path with a NUL": ("UsageError", "/tmp/\0x"),
        }
    ),
)
def test_import_paths(site: Site, path: str) -> None:
    with pytest.raises(UsageError):
        site.client.take_in("odd", path, trust=True)


@ROOM.attack(
    "the same by hand: `python -m ciuic_jupyter.checkpoint.verify` on a stranger's checkpoint",
    "exit code 1, nothing ran",
)
def test_verify(tmp_path: Path) -> None:
    made = There(tmp_path, THEIRS)
    (tmp_path / "key").write_text(OURS.hex())
    command = [sys.executable, "-m", "ciuic_jupyter.checkpoint.verify", str(made.root), "latest", str(tmp_path / "key")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr[:19]) == (1, "CheckpointUntrusted")
    assert not made.mark.exists()


@pytest.fixture(scope="module")
def deceived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[There, Any]]:
    """A real agent that was started to resume from a checkpoint which another key signed."""
    root = tmp_path_factory.mktemp("deceived")
    made = There(root, THEIRS)
    with machine(root, store=str(made.root), checkpoint=2) as agent:
        yield made, agent


@ROOM.attack("a machine that is to resume from a stranger's checkpoint", "says so, and unpickles nothing")
def test_resume(deceived: tuple[There, Any]) -> None:
    made, agent = deceived
    plane = agent.connect()
    event = plane.until(lambda each: each["kind"] == "kernel")
    assert (event["state"], event["error"][:19]) == ("failed", "CheckpointUntrusted")
    assert KEY != THEIRS
    assert not made.mark.exists()
    plane.close()


@pytest.mark.parametrize(
    "url",
    ROOM.cases(
        {
            "a checkpoint address with a password in it": ("UsageError, without the password", "s3://user:hunter2@b/f"),
            "a checkpoint address with options in it": (
                "UsageError",
                "s3://bucket/f?endpoint_url=http://evil&key=hunter2",
            ),
        }
    ),
)
def test_urls(url: str) -> None:
    with pytest.raises(UsageError) as told:
        check_url(url)
    assert "hunter2" not in str(told.value)


@ROOM.attack(
    "JSON in a signed place that repeats a key, or says NaN", "a manifest is written in one form; NaN can't stand in it"
)
def test_one_form(tmp_path: Path) -> None:
    from ciuic_jupyter.errors import SaveFailed

    with pytest.raises(SaveFailed, match="JSON can't say"):
        Store(tmp_path).write_manifest({"n": float("nan")}, OURS)
    manifest = Store(tmp_path).write_manifest({"b": 1, "a": 2}, OURS)
    text = Store(tmp_path).manifest_path(manifest.seq).read_text().partition("\n")[2]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
