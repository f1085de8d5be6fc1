"""A numbered, append-only log of frames on disk: what was shown is never lost and never shown twice."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import time
import zlib
from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import ProtocolError
from ciuic_jupyter.kernels.protocol import MAX_FRAME, encode

SEGMENT_BYTES = 16 << 20
RECENT_BYTES = 8 << 20  # frames kept in memory, so that a live viewer reads no file

_RECORD = struct.Struct(">II")  # length and CRC-32 of the frame behind it
_NAME = re.compile(r"[0-9]{16}\.log")


class _Segment:
    """One file: the frames from `first` on, and where each begins."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        self.first = first
        self.offsets = array("Q")
        self.size = 0

    def scan(self) -> bool:
        """Find the whole records; return whether the file ends with the last of them."""
        total = self.path.stat().st_size
        with self.path.open("rb") as file:
            while (frame := _read_record(file)) is not None:
                self.offsets.append(self.size)
                self.size += _RECORD.size + len(frame)
        return self.size == total


def _read_record(file: Any) -> bytes | None:
    head = file.read(_RECORD.size)
    if len(head) < _RECORD.size:
        return None
    length, crc = _RECORD.unpack(head)
    if not 0 < length <= MAX_FRAME:
        return None
    frame: bytes = file.read(length)
    return frame if len(frame) == length and zlib.crc32(frame) == crc else None


def left(directory: Path, after: int) -> Iterator[tuple[int, bytes]]:
    """Yield (seq, frame) for every whole event behind `after` in a log, or in some of its files, that nobody writes."""
    paths = sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
    for path in paths:
        seq = int(path.stem)
        with path.open("rb") as file:
            while (frame := _read_record(file)) is not None:
                if seq > after:
                    yield seq, frame
                seq += 1


class EventLog:
    """Frames numbered without a gap from `first_seq`; one writer a directory (flock), readers in its process.

    Survives the death of its process at any byte: a torn last record is cut off at the next start. Not fsynced:
    after a power cut the machine, and what its kernel held, is gone too.
    """

    def __init__(self, directory: Path, first_seq: int = 1) -> None:
        """Open or make the log; `first_seq` counts for an empty one alone. ProtocolError if another process writes."""
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(directory / "writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise ProtocolError(f"another process writes the event log {directory}; stop it first") from error
        self._recent: deque[bytes] = deque()
        self._recent_bytes = 0
        self._file = -1
        paths = sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
        self._segments = [_Segment(path, int(path.stem)) for path in paths]
        if self._segments:
            self._open_last()
        self.first_seq = self._segments[0].first if self._segments else first_seq
        last = self._segments[-1] if self._segments else None
        self.last_seq = last.first + len(last.offsets) - 1 if last else first_seq - 1

    def _open_last(self) -> None:
        last = self._segments[-1]
        whole = last.scan()
        self._file = os.open(last.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if not whole:
            os.ftruncate(self._file, last.size)

    def append(self, header: Mapping[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> int:
        """Write one event (type, seq and at are added) and return its number; ProtocolError if it can't be encoded."""
        seq = self.last_seq + 1
        self._write(encode({**header, "type": "event", "seq": seq, "at": time.time()}, buffers))
        return seq

    def append_frame(self, seq: int, frame: bytes) -> bool:
        """Mirror a frame another log numbered `seq`; False if it is here already, ProtocolError if one is missing."""
        if seq <= self.last_seq:
            return False
        if seq != self.last_seq + 1:
            raise ProtocolError(
                f"event {seq} came after {self.last_seq} in {self.directory}; "
                f"say hello again with after={self.last_seq}"
            )
        self._write(bytes(frame))
        return True

    def _write(self, frame: bytes) -> None:
        if self._file < 0 or self._segments[-1].size >= SEGMENT_BYTES:
            self._new_segment()
        segment = self._segments[-1]
        record = _RECORD.pack(len(frame), zlib.crc32(frame)) + frame
        try:
            rest = memoryview(record)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, segment.size)  # a full disk: leave no torn record in front of the next one
            raise
        segment.offsets.append(segment.size)
        segment.size += len(record)
        self.last_seq += 1
        self._recent.append(frame)
        self._recent_bytes += len(frame)
        while self._recent_bytes > RECENT_BYTES and len(self._recent) > 1:
            self._recent_bytes -= len(self._recent.popleft())

    def _new_segment(self) -> None:
        first = self.last_seq + 1
        path = self.directory / f"{first:016d}.log"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self._segments.append(_Segment(path, first))

    def read(self, after: int) -> Iterator[tuple[int, bytes]]:
        """Yield (seq, frame) for every event behind `after`, up to the newest at the moment it is reached.

        ProtocolError if `after` is before the log's beginning or a file was damaged.
        """
        if after < self.first_seq - 1:
            raise ProtocolError(f"events behind {after} were asked; {self.directory} begins with {self.first_seq}")
        seq = after + 1
        while seq <= self.last_seq:
            oldest = self.last_seq - len(self._recent) + 1
            if seq >= oldest:
                yield seq, self._recent[seq - oldest]
                seq += 1
                continue
            for frame in self._read_segment(seq):
                yield seq, frame
                seq += 1

    def _read_segment(self, seq: int) -> Iterator[bytes]:
        position = next(i for i in range(len(self._segments) - 1, -1, -1) if self._segments[i].first <= seq)
        segment = self._segments[position]
        if not segment.offsets:
            segment.scan()
        following = self._segments[position + 1].first if position + 1 < len(self._segments) else self.last_seq + 1
        if len(segment.offsets) < following - segment.first:
            raise ProtocolError(f"{segment.path} is damaged behind event {segment.first + len(segment.offsets) - 1}")
        with segment.path.open("rb") as file:
            file.seek(segment.offsets[seq - segment.first])
            for number in range(seq, following):
                frame = _read_record(file)
                if frame is None:
                    raise ProtocolError(f"event {number} in {segment.path} is damaged; the rest of the log is whole")
                yield frame

    def close(self) -> None:
        """Close the files and let another process write."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
