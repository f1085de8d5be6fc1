"""Frames between the plane and an agent: u32 header length, JSON header, raw buffers."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ciuic_jupyter.errors import ProtocolError

HEARTBEAT = 2.0  # seconds between beats, both ways
DEAD_AFTER = 6.0  # seconds of silence after which a connection is dead
MAX_HEADER = 64 << 20  # bytes; a picture travels as base64 inside its header
MAX_FRAME = 256 << 20  # bytes
MAX_BUFFERS = 65536
BLOB_CHUNK = 1 << 20  # bytes of one frame on a blob's own websocket; larger ones are slower

_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Frame:
    """One decoded message; `buffers` are views into the received bytes."""

    header: dict[str, Any]
    buffers: list[memoryview]

    @property
    def type(self) -> str:
        return str(self.header["type"])


def _json_bytes(header: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(header, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        try:
            return text.encode()
        except UnicodeEncodeError:  # a lone surrogate in a user's output: escapes carry it unharmed
            return json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a {header.get('type', 'nameless')} frame can't be written as JSON: {error}") from error


def encode(header: Mapping[str, Any], buffers: Sequence[bytes | bytearray | memoryview] = ()) -> bytes:
    """Return the bytes of one frame; ProtocolError for NaN, values JSON has not, and anything over the limits."""
    if not isinstance(header.get("type"), str):
        raise ProtocolError("a frame's header needs a type; name it")
    views = [memoryview(buffer).cast("B") for buffer in buffers]
    packed = _json_bytes({**header, "buffers": [view.nbytes for view in views]})
    size = _LENGTH.size + len(packed) + sum(view.nbytes for view in views)
    if len(packed) > MAX_HEADER or size > MAX_FRAME or len(views) > MAX_BUFFERS:
        raise ProtocolError(
            f"a {header['type']} frame of {size} bytes (header {len(packed)}, {len(views)} buffers) is over the limit "
            f"of {MAX_FRAME} ({MAX_HEADER}, {MAX_BUFFERS}); write big data to a file and send its path"
        )
    return b"".join([_LENGTH.pack(len(packed)), packed, *views])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _header_of(raw: memoryview) -> dict[str, Any]:
    try:
        header = json.loads(bytes(raw).decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"a frame's header is not JSON ({error}); the connection can't be trusted") from error
    if not isinstance(header, dict) or not isinstance(header.get("type"), str):
        raise ProtocolError("a frame's header is not an object with a type; the connection can't be trusted")
    return header


def decode(data: bytes | bytearray | memoryview) -> Frame:
    """Return the frame in `data`; ProtocolError for anything that `encode` would not have written."""
    view = memoryview(data).cast("B")
    if not _LENGTH.size < view.nbytes <= MAX_FRAME:
        raise ProtocolError(f"a frame of {view.nbytes} bytes; close the connection")
    (length,) = _LENGTH.unpack_from(view)
    start = _LENGTH.size + length
    if length > MAX_HEADER or start > view.nbytes:
        raise ProtocolError(f"a frame's header of {length} bytes in {view.nbytes}; close the connection")
    header = _header_of(view[_LENGTH.size : start])
    lengths = header.pop("buffers", None)
    if not isinstance(lengths, list) or len(lengths) > MAX_BUFFERS:
        raise ProtocolError("a frame does not list its buffers; close the connection")
    buffers = []
    for size in lengths:
        if type(size) is not int or not 0 <= size <= view.nbytes - start:
            raise ProtocolError(f"a buffer of {size!r} bytes does not fit its frame; close the connection")
        buffers.append(view[start : start + size])
        start += size
    if start != view.nbytes:
        raise ProtocolError(f"{view.nbytes - start} bytes behind a frame's last buffer; close the connection")
    return Frame(header, buffers)
