"""Frames: what was encoded comes back, and nothing else is accepted."""

from __future__ import annotations

import json
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic_jupyter.errors import ProtocolError
from ciuic_jupyter.kernels import protocol
from ciuic_jupyter.kernels.protocol import decode, encode

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text().filter(lambda k: k not in ("type", "buffers")), json_values),
    st.lists(st.binary(max_size=40), max_size=5),
)
def test_what_was_encoded_comes_back(header: dict[str, object], buffers: list[bytes]) -> None:
    frame = decode(encode({**header, "type": "event"}, buffers))
    assert frame.header == {**header, "type": "event"}
    assert [bytes(buffer) for buffer in frame.buffers] == buffers
    assert frame.type == "event"


def test_a_lone_surrogate_of_a_users_output_survives() -> None:
    assert decode(encode({"type": "x", "text": "a\ud800b"})).header["text"] == "a\ud800b"


def test_buffers_of_wider_items_travel_as_bytes() -> None:
    import array

    (buffer,) = decode(encode({"type": "x"}, [memoryview(array.array("d", [1.5, 2.5]))])).buffers
    assert bytes(buffer) == array.array("d", [1.5, 2.5]).tobytes()


@pytest.mark.parametrize(
    "header",
    [
        {"type": "x", "value": float("nan")},
        {"type": "x", "value": float("inf")},
        {"type": "x", "value": object()},
        {"value": 1},
        {"type": 3},
    ],
)
def test_what_json_has_not_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        encode(header)


def test_frames_over_the_limits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_HEADER", 100)
    monkeypatch.setattr(protocol, "MAX_FRAME", 1000)
    encode({"type": "x"}, [b"a" * 900])
    with pytest.raises(ProtocolError, match="over the limit"):
        encode({"type": "x"}, [b"a" * 1000])
    with pytest.raises(ProtocolError, match="over the limit"):
        encode({"type": "x", "text": "a" * 100})


def raw(header: object, tail: bytes = b"") -> bytes:
    packed = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack(">I", len(packed)) + packed + tail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff{}",
        raw(b"\xff\xfe"),
        raw(b"{"),
        raw(b"[" * 100_000),
        raw([1]),
        raw({"buffers": []}),
        raw({"type": "x"}),
        raw({"type": "x", "buffers": 3}),
        raw({"type": "x", "buffers": [-1]}),
        raw({"type": "x", "buffers": [True]}, b"a"),
        raw({"type": "x", "buffers": [1.0]}, b"a"),
        raw({"type": "x", "buffers": [2]}, b"a"),
        raw({"type": "x", "buffers": []}, b"a"),
        raw(b'{"type":"x","buffers":[],"v":NaN}'),
        raw(b'{"type":"x","buffers":[],"v":-Infinity}'),
        raw(b'{"type":"x","buffers":[],"v":' + b"9" * 5000 + b"}"),
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_else(data: bytes) -> None:
    with suppress(ProtocolError):
        decode(data)


@given(st.integers(0, 60), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_another_frame(position: int, flip: int) -> None:
    data = bytearray(encode({"type": "event", "text": "0123456789"}, [b"0123456789"]))
    data[position % len(data)] ^= flip
    with suppress(ProtocolError):
        decode(bytes(data))
