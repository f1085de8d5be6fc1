"""Values framed for another process: nothing lost, nothing shared by accident, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ciuic_jupyter.errors import NotPicklable, ProtocolError, UsageError
from ciuic_jupyter.kernels import variables


class Trickle:
    """A stream without readinto that never gives all it was asked for."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 777_777))


def through(how: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    buffers = variables.dump(values)
    if how == "file":
        path = folder / "blob"
        assert variables.write_file(buffers, path) == path.stat().st_size == variables.size(buffers)
        loaded = variables.load(path)
        path.unlink()  # what was mapped stays
        return loaded
    data = b"".join(variables.chunks(buffers))
    return variables.load(io.BytesIO(data) if how == "stream" else Trickle(data))


WAYS = pytest.mark.parametrize("how", ["file", "stream", "trickle"])


@WAYS
def test_arrays_frames_and_tensors_come_back_equal_and_writable(how: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    big = rng.random((700, 513))
    values = {
        "big": big,
        "fortran": np.asfortranarray(rng.random((300, 200))),
        "strided": big[::3, ::7],
        "small": np.arange(5),
        "empty": np.zeros((0, 4)),
        "frame": pd.DataFrame({"a": np.arange(50_000), "b": ["x", "y"] * 25_000}),
        "tensor": torch.arange(100_000.0),
        "half": torch.ones(30_000, dtype=torch.bfloat16),
        "nothing": torch.empty(0),
        "bytes": b"z" * 3_000_000,
        "plain": {"k": [1, (2, {3})]},
    }
    got = through(how, values, tmp_path)
    assert list(got) == list(values)
    for name in ("big", "fortran", "strided", "small", "empty"):
        np.testing.assert_array_equal(got[name], values[name])
        assert got[name].flags.writeable
    assert got["fortran"].flags.f_contiguous
    pd.testing.assert_frame_equal(got["frame"], values["frame"])
    assert torch.equal(got["tensor"], values["tensor"]) and torch.equal(got["half"], values["half"])
    assert got["nothing"].numel() == 0
    assert got["bytes"] == values["bytes"] and got["plain"] == values["plain"]
    got["big"][0, 0] = -1
    got["tensor"][0] = -1
    got["frame"].loc[0, "a"] = -1
    assert big[0, 0] != -1 and values["tensor"][0] == 0, "the sender's memory was written"


@WAYS
def test_what_was_one_object_stays_one(how: str, tmp_path: Path) -> None:
    shared = np.arange(200_000)
    weight = torch.nn.Linear(300, 300)
    optimizer = torch.optim.Adam(weight.parameters())
    base = torch.arange(50_000.0)
    got = through(
        how, {"x": shared, "pair": [shared, shared], "w": weight, "o": optimizer, "b": base, "v": base[10:20]}, tmp_path
    )
    assert got["x"] is got["pair"][0] is got["pair"][1]
    assert got["o"].param_groups[0]["params"][0] is got["w"].weight
    got["b"][10] = 99.0
    assert got["v"][0] == 99.0, "two views of one storage came apart"
    got["w"].weight.grad = torch.ones(300, 300)
    got["o"].step()
    assert not torch.equal(got["w"].weight, weight.weight), "the optimizer trains another model"


def test_functions_and_classes_of_a_notebook_go_along(tmp_path: Path) -> None:
    code = """
import sys
from ciuic_jupyter.kernels import variables
factor = 3
class Point:
    def __init__(self, x): self.x = x
    def times(self): return self.x * factor
def double(x): return Point(2 * x).times()
variables.write_file(variables.dump({"double": double, "p": Point(5)}), __import__("pathlib").Path(sys.argv[1]))
"""
    path = tmp_path / "blob"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    got = variables.load(path)
    assert got["double"](7) == 42
    assert got["p"].times() == 15


def test_by_name_refuses_what_has_no_module(tmp_path: Path) -> None:
    def local() -> None: ...

    assert variables.load(io.BytesIO(b"".join(variables.dump({"f": local}))))["f"]() is None
    with pytest.raises(NotPicklable, match=r"^f can't be sent"):
        variables.dump({"x": 1, "f": local}, by_value=False)


def test_every_variable_that_cannot_travel_is_named_with_its_reason() -> None:
    values = {"fine": 1, "lock": threading.Lock(), "deep": {"a": [(i for i in ())]}, "also_fine": np.zeros(9)}
    with pytest.raises(NotPicklable) as caught:
        variables.dump(values)
    message = str(caught.value)
    assert "lock can't be sent" in message and "_thread.lock" in message
    assert "deep can't be sent" in message and "generator" in message
    assert "fine can't" not in message and "Nothing was sent" in message


def test_a_reducer_that_raises_anything_is_refused_by_name() -> None:
    class Bad:
        def __reduce__(self) -> Any:
            raise ZeroDivisionError("by design")

    with pytest.raises(NotPicklable, match=r"bad can't be sent.*ZeroDivisionError: by design"):
        variables.dump({"bad": Bad()})


def test_large_arrays_are_not_copied_when_dumped() -> None:
    array = np.zeros(5_000_000)
    assert any(
        np.shares_memory(np.frombuffer(buffer, dtype=np.uint8), array)
        for buffer in variables.dump({"a": array})
        if isinstance(buffer, memoryview)
    )
    tensor = torch.zeros(5_000_000)
    assert any(
        np.frombuffer(buffer, dtype=np.uint8).ctypes.data == tensor.data_ptr()
        for buffer in variables.dump({"t": tensor})
        if isinstance(buffer, memoryview)
    )


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    variables.write_file(variables.dump({"a": 1}), path)
    assert path.stat().st_mode & 0o777 == 0o600

    code = """
import resource, sys
from pathlib import Path
from ciuic_jupyter.kernels import variables
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
variables.write_file(variables.dump({"a": b"x" * 1_000_000}), Path(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "File too large" in done.stderr
    assert os.listdir(tmp_path) == ["blob"]
    assert variables.load(path) == {"a": 1}


@pytest.mark.parametrize("how", ["file", "stream"])
def test_a_frame_cut_at_any_place_is_refused(how: str, tmp_path: Path) -> None:
    whole = b"".join(variables.dump({"a": np.arange(10_000), "b": "text"}))
    cuts = [0, 7, 15, 16, 40, 100, len(whole) // 2, len(whole) - 1]
    for cut in cuts:
        path = tmp_path / "blob"
        path.write_bytes(whole[:cut])
        with pytest.raises(ProtocolError):
            variables.load(path if how == "file" else io.BytesIO(whole[:cut]))


def test_foreign_bytes_and_damaged_headers_are_refused() -> None:
    header = variables.dump({"a": 1})[1]
    whole = b"".join(variables.dump({"a": 1}))
    for data in (
        pickle.dumps({"a": 1}).ljust(200),
        whole.replace(b'"names"', b'"namez"'),
        whole.replace(b'"buffers": []', b'"buffers": 17'),
        whole.replace(b'"buffers": []', b'"buffers":[-1'),
        whole.replace(b'"pickle": 1', b'"pickle": 1' + b"9" * 15).replace(
            len(header).to_bytes(8, "big"), (len(header) + 15).to_bytes(8, "big")
        ),
        whole.replace(b'["a"]', b'["b"]'),
    ):
        with pytest.raises(ProtocolError):
            variables.load(io.BytesIO(data))


def test_a_module_that_is_missing_here_is_said_with_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_there")
    exec("class Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_there", module)
    data = b"".join(variables.dump({"thing": module.Thing()}))
    monkeypatch.delitem(sys.modules, "only_there")
    with pytest.raises(UsageError, match=r"thing can't be loaded here: ModuleNotFoundError.*only_there"):
        variables.load(io.BytesIO(data))


def test_torch_is_not_loaded_by_a_process_without_tensors() -> None:
    code = "import io, sys; from ciuic_jupyter.kernels import variables as v; "
    code += "assert v.load(io.BytesIO(b''.join(v.dump({'a': [1]})))) == {'a': [1]}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_header_is_json_with_names_and_lengths() -> None:
    buffers = variables.dump({"a": np.zeros(100_000), "b": 2})
    header = json.loads(buffers[1])
    assert header["names"] == ["a", "b"] and header["buffers"] == [800_000]
    assert b"".join(buffers[2:])[: header["pickle"]].endswith(pickle.STOP)
