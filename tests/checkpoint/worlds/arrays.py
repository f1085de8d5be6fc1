# ruff: noqa
import array
import io
import os
import warnings
import numpy as np

rng = np.random.default_rng(5)
a = rng.normal(size=(1000, 300))
part = a[10:20, ::3]
transposed = a.T
backwards = a[::-1]
same = a
bits = a.view(np.uint8)
flat = a.reshape(-1)
broadcast = np.broadcast_to(a[0], (4, 300))
frozen = a[5]
frozen.flags.writeable = False
holder = {"x": a[3], "y": [a[3:5]]}
small = np.arange(5)
small_part = small[1:3]
fortran = np.asfortranarray(rng.normal(size=(20, 30)))
fortran_part = fortran[2:4]
permuted = rng.normal(size=(3, 4, 5)).transpose(2, 0, 1).copy(order="K")
permuted_part = permuted[1:3, 1]
objects = np.array([[1], "x", None, {"k": 2}], dtype=object)
objects_part = objects[1:]
objects_back = objects[::-1]
times = np.array(["2020-01-01", "2021-05-05"], dtype="M8[ns]")
record = np.array([(1, 2.5, "ab"), (2, 3.5, "cd")], dtype=[("i", "i4"), ("f", "f8"), ("s", "U4")])
field = record["f"]
scalar = np.float32(1.5)
zero_dim = np.array(7)
empty = np.empty((0, 3))
text = np.array(["a", "bcd"])
masked = np.ma.array([1, 2, 3], mask=[0, 1, 0])
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    matrix = np.matrix([[1, 2], [3, 4]])
rec = record.view(np.recarray)
raw_bytes = bytearray(b"\x01\x02\x03\x04")
on_bytes = np.frombuffer(raw_bytes, dtype=np.uint8)
constant = np.frombuffer(b"abcd", dtype=np.uint8)
big_endian = np.arange(4, dtype=">i4")
legacy = np.random.RandomState(3)
legacy.normal()
shared_bits = np.random.PCG64(3)
gen_a, gen_b = np.random.Generator(shared_bits), np.random.Generator(shared_bits)


class Signal(np.ndarray):
    def __new__(cls, data, rate):
        self = np.asarray(data).view(cls)
        self.rate = rate
        return self

    def __array_finalize__(self, obj):
        self.rate = getattr(obj, "rate", None)


signal = Signal(np.arange(6.0), 44)
mapped = np.memmap("mapped.bin", dtype="f4", mode="w+", shape=(10,))
mapped[:] = 3
mapped_part = mapped[2:5]
loop = np.empty(1, dtype=object)
loop[0] = loop
memory = memoryview(a)
machine = array.array("d", [1, 2])
expected = float(a.sum())
np.random.seed(11)
np.random.normal()
state = np.random.get_state()[2]
np.set_printoptions(precision=3)
np.seterr(over="ignore")
big = np.zeros(5 << 20, dtype=np.uint8)
big[::4096] = 1


def check_values():
    assert float(a.sum()) == expected and a.flags.owndata and a.flags.writeable and big.sum() == 1280


def check_views_share_memory():
    part[0, 0] = 99
    assert a[10, 0] == 99 and transposed[0, 10] == 99 and backwards[989, 0] == 99 and flat[3000] == 99
    assert same is a and part.base is a and np.shares_memory(bits, a) and broadcast.strides == (0, 8)
    holder["x"][0] = -1
    assert holder["y"][0][0, 0] == -1 and a[3, 0] == -1


def check_frozen_view():
    assert not frozen.flags.writeable and np.shares_memory(frozen, a) and not broadcast.flags.writeable


def check_small_views():
    small_part[0] = 50
    assert small[1] == 50


def check_fortran_order():
    assert fortran.flags.f_contiguous and not fortran.flags.c_contiguous and fortran.flags.owndata
    fortran_part[0, 1] = 4
    assert fortran[2, 1] == 4


def check_permuted_axes():
    assert permuted.strides[0] == 8 and permuted.shape == (5, 3, 4)
    permuted_part[0, 0] = 123
    assert permuted[1, 1, 0] == 123


def check_objects():
    assert objects[3] == {"k": 2} and objects_part[2] is objects[3] and objects_back[0] is objects[3]
    objects_part[0] = "changed"
    assert objects[1] == "changed" and objects_back[2] == "changed"


def check_dtypes():
    assert times[1] == np.datetime64("2021-05-05") and record["s"][1] == "cd" and big_endian.dtype.str == ">i4"
    assert scalar == np.float32(1.5) and type(scalar) is np.float32 and zero_dim[()] == 7 and empty.shape == (0, 3)
    assert list(text) == ["a", "bcd"] and list(big_endian) == [0, 1, 2, 3]


def check_record_field_shares():
    field[0] = 9
    assert record["f"][0] == 9 and rec.f[0] == 9 and rec.i[1] == 2


def check_subclasses():
    assert type(signal) is Signal and signal.rate == 44 and signal[2:].rate == 44 and signal.sum() == 15
    assert type(matrix) is np.matrix and matrix.shape == (2, 2) and masked.sum() == 4


def check_bytes_share():
    raw_bytes[0] = 77
    assert on_bytes[0] == 77 and bytes(constant) == b"abcd" and not constant.flags.writeable


def check_generators():
    assert gen_a.bit_generator is gen_b.bit_generator
    again = np.random.default_rng(5)
    again.normal(size=(1000, 300)), again.normal(size=(20, 30)), again.normal(size=(3, 4, 5))
    assert rng.normal() == again.normal()
    reference = np.random.RandomState(3)
    reference.normal()
    assert legacy.normal() == reference.normal()


def check_global_generator():
    reference = np.random.RandomState(11)
    reference.normal()
    assert np.random.normal() == reference.normal()


def check_memmap():
    assert type(mapped) is np.memmap and mapped.sum() == 30
    mapped_part[0] = 5
    mapped.flush()
    assert np.fromfile(mapped.filename, "f4")[2] == 5


def check_self_reference():
    assert loop[0] is loop


def check_memoryview_of_array():
    assert memory.shape == (1000, 300) and memory.format == "d" and memory.obj is a
    memory[0, 1] = 8.0
    assert a[0, 1] == 8.0


def check_array_module():
    assert machine.tolist() == [1, 2] and machine.typecode == "d"


def check_options():
    assert np.get_printoptions()["precision"] == 3 and np.geterr()["over"] == "ignore"


def check_resize_still_works():
    own = big
    own.resize(10, refcheck=False)
    assert own.shape == (10,)
