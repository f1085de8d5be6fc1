"""The event log: no gap, nothing lost at any byte a process may die at, nothing twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciuic_jupyter.errors import ProtocolError
from ciuic_jupyter.kernels import eventlog
from ciuic_jupyter.kernels.eventlog import EventLog
from ciuic_jupyter.kernels.protocol import decode, encode
from ciuic_jupyter.providers.files import behind


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    with EventLog(tmp_path / "events") as made:
        yield made


def texts(log: EventLog, after: int = 0) -> list[tuple[int, str]]:
    return [(seq, decode(frame).header["text"]) for seq, frame in log.read(after)]


def test_events_are_numbered_and_come_back(log: EventLog) -> None:
    assert (log.first_seq, log.last_seq) == (1, 0)
    assert log.append({"kind": "note", "text": "a"}) == 1
    assert log.append({"kind": "note", "text": "b"}, [b"raw"]) == 2
    assert texts(log) == [(1, "a"), (2, "b")]
    assert texts(log, after=1) == [(2, "b")]
    assert texts(log, after=2) == []
    frame = decode(next(log.read(1))[1])
    assert frame.header["type"] == "event" and frame.header["seq"] == 2 and frame.header["at"] > 1.6e9
    assert bytes(frame.buffers[0]) == b"raw"


def test_reopened_it_goes_on_and_first_seq_counts_for_an_empty_one(tmp_path: Path) -> None:
    with EventLog(tmp_path, first_seq=41) as log:
        assert (log.first_seq, log.last_seq) == (41, 40)
        log.append({"text": "a"})
    with EventLog(tmp_path, first_seq=7) as log:
        assert (log.first_seq, log.last_seq) == (41, 41)
        assert log.append({"text": "b"}) == 42
        assert texts(log, after=40) == [(41, "a"), (42, "b")]


def test_what_the_log_never_held_is_refused(tmp_path: Path) -> None:
    with EventLog(tmp_path, first_seq=41) as log, pytest.raises(ProtocolError, match="begins with 41"):
        list(log.read(39))


def test_a_reader_sees_what_is_appended_while_it_reads(log: EventLog) -> None:
    log.append({"text": "a"})
    reader = log.read(0)
    assert next(reader)[0] == 1
    log.append({"text": "b"})
    assert next(reader)[0] == 2
    with pytest.raises(StopIteration):
        next(reader)


def test_a_mirror_ignores_what_it_has_and_refuses_a_gap(tmp_path: Path, log: EventLog) -> None:
    for text in "abc":
        log.append({"text": text})
    frames = dict(log.read(0))
    with EventLog(tmp_path / "mirror") as mirror:
        assert mirror.append_frame(1, frames[1])
        assert not mirror.append_frame(1, frames[1])
        with pytest.raises(ProtocolError, match="after=1"):
            mirror.append_frame(3, frames[3])
        assert mirror.append_frame(2, frames[2]) and mirror.append_frame(3, frames[3])
        assert list(mirror.read(0)) == list(log.read(0))


def test_one_writer_a_directory(tmp_path: Path) -> None:
    with EventLog(tmp_path), pytest.raises(ProtocolError, match="another process writes"):
        EventLog(tmp_path)
    EventLog(tmp_path).close()


def test_files_are_ours_alone(log: EventLog) -> None:
    log.append({"text": "a"})
    assert log.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in log.directory.iterdir()} == {0o600}


def test_old_segments_are_read_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(eventlog, "RECENT_BYTES", 500)
    with EventLog(tmp_path) as log:
        for number in range(200):
            log.append({"text": str(number)})
        assert len(list(tmp_path.glob("*.log"))) > 5
        for after in range(0, 200, 7):
            assert texts(log, after) == [(seq, str(seq - 1)) for seq in range(after + 1, 201)]
    with EventLog(tmp_path) as log:
        assert texts(log, 3) == [(seq, str(seq - 1)) for seq in range(4, 201)]


def test_what_a_dead_writer_left_is_read_from_the_files_that_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eventlog, "SEGMENT_BYTES", 1000)
    with EventLog(tmp_path / "log", 5) as log:
        for number in range(100):
            log.append({"text": str(number)})
        whole = list(log.read(4))
    names = sorted(path.name for path in (tmp_path / "log").glob("*.log"))
    with (tmp_path / "log" / names[-1]).open("ab") as file:
        file.write(b"\0\0\1torn")
    for after in range(4, 105):
        copied = tmp_path / f"copy-{after}"
        copied.mkdir()
        for name in behind([*names, "writer", "../1.log"], after):
            shutil.copyfile(tmp_path / "log" / name, copied / name)
        assert list(eventlog.left(copied, after)) == [one for one in whole if one[0] > after]
        assert len(list(copied.iterdir())) <= sum(int(name[:16]) > after for name in names) + 1
    assert behind([], 7) == []
    broken = tmp_path / "log" / names[1]
    broken.write_bytes(broken.read_bytes()[:-1])
    seqs = [seq for seq, _ in eventlog.left(tmp_path / "log", 4)]
    assert int(names[2][:16]) - 1 not in seqs, "a hole, which a mirror refuses"


def test_a_damaged_old_segment_is_named_and_never_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventlog, "SEGMENT_BYTES", 1000)
    with EventLog(tmp_path) as log:
        for number in range(100):
            log.append({"text": str(number)})
    first = sorted(tmp_path.glob("*.log"))[0]
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    with EventLog(tmp_path) as log, pytest.raises(ProtocolError, match=first.name):
        list(log.read(0))


def test_a_full_disk_leaves_no_torn_record_before_the_next(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append({"text": "a"})
    write = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) > 10:
            return write(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(eventlog.os, "write", lambda fd, data: half(fd, data[: len(data) // 2]))
        with pytest.raises(OSError, match="No space"):
            log.append({"text": "lost"})
    log.append({"text": "b"})
    directory = log.directory
    log.close()
    with EventLog(directory) as again:
        assert texts(again) == [(1, "a"), (2, "b")]


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 300), min_size=1, max_size=8), data=st.data())
def test_torn_at_any_byte_the_whole_records_stay(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("log")
    ends = []
    with EventLog(directory) as log:
        for size in sizes:
            log.append({"text": "x" * size})
            ends.append((directory / f"{1:016d}.log").stat().st_size)
    file = directory / f"{1:016d}.log"
    cut = ends[-1] * data.draw(st.integers(0, 1000)) // 1000
    garbage = data.draw(st.binary(max_size=12))
    written = file.read_bytes()
    if garbage and cut < len(written):
        garbage = bytes([written[cut] ^ 1]) + garbage
    file.write_bytes(written[:cut] + garbage)
    whole = sum(end <= cut for end in ends)
    with EventLog(directory) as log:
        assert log.last_seq == whole
        assert [len(text) for _, text in texts(log)] == sizes[:whole]
        assert log.append({"text": "next"}) == whole + 1
    with EventLog(directory) as log:
        assert texts(log)[-1] == (whole + 1, "next")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=60))
def test_any_order_of_repeats_mirrors_to_the_same_log(
    tmp_path_factory: pytest.TempPathFactory, offered: list[int]
) -> None:
    frames = {seq: encode({"type": "event", "seq": seq}) for seq in range(1, 13)}
    with EventLog(tmp_path_factory.mktemp("mirror")) as mirror:
        for seq in offered:
            before = mirror.last_seq
            if seq > before + 1:
                with pytest.raises(ProtocolError):
                    mirror.append_frame(seq, frames[seq])
            else:
                assert mirror.append_frame(seq, frames.get(seq, b"")) == (seq == before + 1)
        assert list(mirror.read(0)) == [(seq, frames[seq]) for seq in range(1, mirror.last_seq + 1)]


WRITER = """
import sys
from pathlib import Path
from ciuic_jupyter.kernels.eventlog import EventLog
log = EventLog(Path(sys.argv[1]))
while True:
    print(log.append({"kind": "note", "text": "x" * (log.last_seq % 3000)}), flush=True)
"""


@pytest.mark.parametrize("lines", [1, 50, 1000])
def test_a_killed_writer_loses_nothing_it_reported(tmp_path: Path, lines: int) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(lines):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        reported = [int(line) for line in writer.stdout.read().split("\n")[:-1]] or [lines]
    with EventLog(tmp_path) as log:
        assert log.last_seq >= reported[-1]
        assert [seq for seq, _ in log.read(0)] == list(range(1, log.last_seq + 1))
