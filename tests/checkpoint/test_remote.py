"""Checkpoints in a real S3 server: whole or not there, brought piece by piece, refused by name when damaged."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import fsspec
import pytest
from s3fs import S3FileSystem

from ciuic_jupyter.checkpoint.pack import CHUNK
from ciuic_jupyter.checkpoint.remote import Remote, check_url
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CheckpointUntrusted, SaveFailed, UsageError
from tests.s3_server import SECRET, make_bucket, s3_server

KEY = b"k" * 32

PUSHER = """
import os, sys
import s3fs
from pathlib import Path
from ciuic_jupyter.checkpoint.remote import Remote
from ciuic_jupyter.checkpoint.store import Store
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.write(1, b"%d\\n" % os.getpid())
        try:
            Remote(sys.argv[2]).push(Store(Path(sys.argv[1])), int(line), b"k" * 32)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.write(1, b"ended\\n")
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Mapping[str, str]]:
    with s3_server() as environment:
        make_bucket(environment, "bucket")
        yield environment


@pytest.fixture
def url(server: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    S3FileSystem.clear_instance_cache()  # one may be of another server
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/{uuid.uuid4().hex}"


def _save(store: Store, *values: bytes) -> int:
    with store.save() as save:
        blobs = [save.add(value) for value in values]
    return store.write_manifest({"blobs": {}, "buffers": blobs}, KEY).seq


def _load(store: Store, seq: int) -> list[bytes]:
    body = store.read_manifest(seq, KEY).body
    reader = store.reader()
    try:
        return [bytes(reader.read(blob, "a value")) for blob in body["buffers"]]
    finally:
        reader.close()


def _there(url: str, folder: str = "chunks") -> dict[str, int]:
    fs, path = fsspec.core.url_to_fs(f"{url}/{folder}", use_listings_cache=False)
    return {one["name"]: one["size"] for one in fs.ls(path, detail=True)} if fs.exists(path) else {}


def _change(name: str, data: bytes) -> None:
    fsspec.core.url_to_fs("s3://bucket")[0].pipe_file(name, data)


def _read(name: str) -> bytes:
    return bytes(fsspec.core.url_to_fs("s3://bucket")[0].cat_file(name))


def test_what_is_new_goes_there_and_what_is_missing_comes_back(tmp_path: Path, url: str) -> None:
    store, remote = Store(tmp_path / "here"), Remote(url)
    first, second = [os.urandom(2 * CHUNK + 5), b"a"], [b"b" * 99]
    _save(store, *first)
    assert remote.push(store, 1, KEY) > 2 * CHUNK
    _save(store, first[0], *second)
    assert remote.push(store, 2, KEY) < CHUNK  # the big one is there
    assert Remote(url).push(store, 2, KEY) < CHUNK  # another process knows that too, by what the older manifest needs
    there = Store(tmp_path / "there")
    assert Remote(url).fetch(there, 2, KEY) > 2 * CHUNK
    assert _load(there, 2) == [first[0], *second] and there.manifests() == [2]
    assert Remote(url).fetch(there, 2, KEY) == 0
    assert 0 < Remote(url).fetch(there, 1, KEY) < CHUNK  # its manifest alone: one pack has both
    assert _load(there, 1) == first
    (pack,) = [path for path in (tmp_path / "there" / "chunks").iterdir() if path.stat().st_size < CHUNK]
    pack.unlink()
    assert 0 < Remote(url).fetch(Store(tmp_path / "there"), 2, KEY) < CHUNK
    assert _load(Store(tmp_path / "there"), 2) == [first[0], *second]
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "there" / "chunks").iterdir()} == {0o600}


@pytest.mark.parametrize("how", ["flipped", "cut", "flipped in its index", "gone"])
def test_a_damaged_pack_is_refused_by_its_name_and_the_older_one_loads(tmp_path: Path, url: str, how: str) -> None:
    store, remote = Store(tmp_path / "here"), Remote(url)
    for value in (b"old" * 5000, b"new" * 5000):
        remote.push(store, _save(store, value), KEY)
    newest = next(path.name for path in {store.chunks()[name] for name in _names(store, 2)})
    (name,) = [one for one in _there(url) if one.endswith(newest)]
    data = bytearray(_read(name))
    if how == "gone":
        fsspec.core.url_to_fs("s3://bucket")[0].rm_file(name)
    else:
        if how == "cut":
            del data[-1]
        else:
            data[77 if how == "flipped" else -70] ^= 4
        _change(name, bytes(data))
    there = Store(tmp_path / "there")
    with pytest.raises(CheckpointDamaged, match="use an older checkpoint") as caught:
        Remote(url).fetch(there, 2, KEY)
    assert url in str(caught.value) and (how == "gone" or newest in str(caught.value))
    assert there.manifests() == [] and not list((tmp_path / "there" / "chunks").glob(f"*{newest}*"))
    Remote(url).fetch(there, 1, KEY)
    assert _load(there, 1) == [b"old" * 5000]


def _names(store: Store, seq: int) -> list[bytes]:
    return [bytes.fromhex(name) for blob in store.read_manifest(seq, KEY).body["buffers"] for name in blob["chunks"]]


def test_a_manifest_of_another_key_or_another_number_is_refused_before_anything_comes(tmp_path: Path, url: str) -> None:
    store = Store(tmp_path / "here")
    Remote(url).push(store, _save(store, b"a"), KEY)
    there = Store(tmp_path / "there")
    with pytest.raises(CheckpointUntrusted, match="not signed with this key"):
        Remote(url).fetch(there, 1, b"x" * 32)
    (name,) = _there(url, "manifests")
    _change(name.replace("00000001", "00000005"), _read(name))
    with pytest.raises(CheckpointUntrusted, match="belongs to checkpoint 1"):
        Remote(url).fetch(there, 5, KEY)
    with pytest.raises(CheckpointError, match="there is no checkpoint 9"):
        Remote(url).fetch(there, 9, KEY)
    assert there.manifests() == [] and not list((tmp_path / "there" / "chunks").iterdir())


def test_a_store_that_refuses_is_told_by_its_address_and_no_secret(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    seq = _save(store, b"a")
    with pytest.raises(SaveFailed, match="s3://no-such-bucket/x") as caught:
        Remote("s3://no-such-bucket/x").push(store, seq, KEY)
    assert SECRET not in str(caught.value)
    with pytest.raises(CheckpointError, match="s3://no-such-bucket/x"):
        Remote("s3://no-such-bucket/x").fetch(Store(tmp_path / "b"), seq, KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    S3FileSystem.clear_instance_cache()
    with pytest.raises(SaveFailed, match=url):
        Remote(url).push(store, seq, KEY)


@pytest.mark.parametrize("bad", ["s3://key:secret@bucket/a", "s3://bucket?token=secret", "bucket", "s3://", ""])
def test_an_address_with_credentials_or_without_a_place_is_refused(bad: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_url(bad)
    assert "secret" not in str(caught.value)


def test_a_sweep_leaves_what_is_kept(tmp_path: Path, url: str) -> None:
    store, remote = Store(tmp_path / "here"), Remote(url)
    values = [[os.urandom(5000), bytes([number])] for number in range(4)]
    values[3][0] = values[0][0]  # the newest leans on the pack of the oldest
    for value in values:
        remote.push(store, _save(store, *value), KEY)
    with pytest.raises(CheckpointUntrusted):
        remote.sweep([3, 4], b"x" * 32)
    assert len(_there(url)) == 4 and remote.manifests() == [1, 2, 3, 4]
    assert len(remote.sweep([3, 4], KEY)) == 1 and remote.manifests() == [3, 4]
    there = Store(tmp_path / "there")
    for seq in (3, 4):
        Remote(url).fetch(there, seq, KEY)
        assert _load(there, seq) == values[seq - 1]


@pytest.mark.crash
def test_killed_at_any_moment_of_an_upload_whatever_has_a_manifest_is_whole(tmp_path: Path, url: str) -> None:
    rng = random.Random(5)
    store, values = Store(tmp_path / "here"), {}
    command = [sys.executable, "-c", PUSHER, str(tmp_path / "here"), url]
    killed, longest, last = 0, 0.4, 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as pusher:
        assert pusher.stdin is not None and pusher.stdout is not None
        for _ in range(8):
            value = [os.urandom(3 * CHUNK), os.urandom(100)]
            last = _save(store, *value)
            values[last] = value
            pusher.stdin.write(f"{last}\n")
            pusher.stdin.flush()
            pid = int(pusher.stdout.readline())
            time.sleep(rng.uniform(0, longest))
            with suppress(ProcessLookupError):  # it was done
                os.kill(pid, signal.SIGKILL)
            assert pusher.stdout.readline() == "ended\n"
            whole = Remote(url).manifests()
            killed += last not in whole
            longest *= 1.3 if last not in whole else 0.8
            shutil.rmtree(tmp_path / "there", ignore_errors=True)
            for seq in whole[-2:]:
                Remote(url).fetch(Store(tmp_path / "there"), seq, KEY)
                assert _load(Store(tmp_path / "there"), seq) == values[seq]
        pusher.stdin.close()
    assert killed > 1
    Remote(url).push(store, last, KEY)
    Remote(url).sweep([last], KEY)
    Remote(url).fetch(Store(tmp_path / "last"), last, KEY)
    assert _load(Store(tmp_path / "last"), last) == values[last]


def test_another_file_system_of_fsspec_does_it_too(tmp_path: Path) -> None:
    store, remote = Store(tmp_path / "here"), Remote((tmp_path / "there").as_uri())
    remote.push(store, _save(store, b"a" * 5000), KEY)
    remote.fetch(Store(tmp_path / "back"), 1, KEY)
    assert _load(Store(tmp_path / "back"), 1) == [b"a" * 5000]
    with pytest.raises(SaveFailed, match="nothing-such"):
        Remote("nothing-such://a/b").push(store, 1, KEY)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_takes_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    store = Store(tmp_path)
    assert [_save(store, b"a"), _save(store, b"b")] == [1, 2]
    before = store.manifest_path(2).read_bytes()
    store.adopt_manifest(b"another saver's", 2)
    assert store.manifest_path(2).read_bytes() == before and _load(store, 2) == [b"b"]
    assert sorted(path.name for path in (tmp_path / "manifests").iterdir()) == [
        ".lock",
        "00000001.json",
        "00000002.json",
    ]
