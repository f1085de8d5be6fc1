# ruff: noqa
# %% numpy: slices and strided views share memory
import numpy as np

grid = np.arange(12_000.0).reshape(100, 120).copy()
block, every_third, backwards = grid[10:20], grid[::3, ::2], grid[::-1]
# -- after
grid[12, 0], grid[99, 0] = -1, -2
assert block[2, 0] == -1 and every_third[4, 0] == -1 and backwards[0, 0] == -2 and block.base is grid
assert grid.flags.owndata and every_third.strides == (2880, 16)

# %% numpy: transposed and reshaped views share memory
turned, flat, bits = grid.T, grid.ravel(), grid.view(np.uint64)
# -- after
turned[5, 7] = 123
assert grid[7, 5] == 123 and flat[7 * 120 + 5] == 123 and np.shares_memory(bits, grid)

# %% numpy: masked arrays share data and masks
measured = np.arange(1000.0)
masked = np.ma.array(measured, mask=np.zeros(1000, bool), copy=False)
masked[3] = np.ma.masked
masked_part = masked[:10]
hard = np.ma.array([1.0, 2.0], mask=[0, 1], hard_mask=True, fill_value=-9)
# -- after
measured[1] = -5
masked_part[2] = -6
masked[4] = np.ma.masked
assert masked[1] == -5 and masked_part[1] == -5 and measured[2] == -6 and masked_part.mask[4] and masked.mask[3]
hard[1] = 5
assert hard.mask[1] and hard.fill_value == -9 and hard.hardmask and masked_part[3] is np.ma.masked

# %% numpy: masked arrays with records and objects
masked_record = np.ma.array([(1, 2.0), (3, 4.0)], mask=[(0, 1), (0, 0)], dtype=[("a", "i4"), ("b", "f8")])
masked_objects = np.ma.array([[1], None, "x"], mask=[0, 1, 0], dtype=object)
# -- after
assert masked_record[0].tolist() == (1, None) and masked_record["a"].tolist() == [1, 3]
assert masked_objects.tolist() == [[1], None, "x"] and masked_objects.mask.tolist() == [False, True, False]

# %% numpy: np.ma.masked is one object
nothing_there = np.ma.masked
# -- after
assert nothing_there is np.ma.masked

# %% numpy: structured arrays and their fields share
people = np.array([(1, 2.5, "ab"), (2, 3.5, "cd")] * 50, dtype=[("i", "i4"), ("f", "f8"), ("s", "U4")])
heights, as_rec = people["f"], people.view(np.recarray)
# -- after
heights[0] = 9
assert people["f"][0] == 9 and as_rec.f[0] == 9 and people["s"][1] == "cd" and as_rec[1].s == "cd"

# %% numpy: memmap goes on writing its file, its views too
mapped = np.memmap("mapped.bin", dtype="f4", mode="w+", shape=(1000,))
mapped[:] = 1
mapped_part = mapped[5:10]
# -- after
mapped_part[0] = 7
mapped.flush()
assert type(mapped) is np.memmap and mapped[5] == 7 and np.fromfile("mapped.bin", "f4")[5] == 7

# %% numpy: copy-on-write memmap
np.arange(10, dtype="f4").tofile("private.bin")
private = np.memmap("private.bin", dtype="f4", mode="c")
private[3] = -1
# -- after
assert private[3] == -1 and private[4] == 4 and np.fromfile("private.bin", "f4")[3] == 3

# %% numpy: object arrays share elements and views
things = np.array([[1], {"k": 2}, None, "x"], dtype=object)
things_view, a_thing = things[1:], things[0]
# -- after
things_view[0] = "new"
assert things[1] == "new" and things[0] is a_thing


# %% numpy: subclasses with attributes
class Signal(np.ndarray):
    def __array_finalize__(self, source):
        self.rate = getattr(source, "rate", None)


signal = np.arange(300.0).view(Signal)
signal.rate = 44
signal_part = signal[5:7]
# -- after
assert type(signal) is Signal and signal.rate == 44 and signal_part.rate == 44
signal_part[0] = -1
assert signal[5] == -1

# %% numpy: arrays on bytes, bytearrays and array.array
import array

raw = bytearray(b"\1\2\3\4")
on_raw, machine_ints = np.frombuffer(raw, "u1"), array.array("i", [1, 2, 3])
on_machine = np.frombuffer(machine_ints, "i4")
# -- after
raw[0] = 9
machine_ints[1] = 8
assert on_raw[0] == 9 and on_machine[1] == 8

# %% numpy: read-only arrays, broadcast views, 0-d, empty, dtypes
locked = np.arange(5)
locked.flags.writeable = False
spread = np.broadcast_to(np.float32(2), (3, 4))
odd_arrays = [np.array(5), np.empty((0, 3)), np.arange(3, dtype=">i2"), np.array(["2020-01-01", "NaT"], "M8[D]")]
odd_arrays += [np.float16(1.5), np.array([np.nan, -0.0]), np.array(["a", "bc"], np.dtypes.StringDType())]
# -- after
assert not locked.flags.writeable and spread.strides == (0, 0) and odd_arrays[0].shape == ()
assert odd_arrays[1].shape == (0, 3) and odd_arrays[2].dtype == ">i2" and np.isnat(odd_arrays[3][1])
assert type(odd_arrays[4]) is np.float16 and np.signbit(odd_arrays[5][1]) and odd_arrays[6].tolist() == ["a", "bc"]

# %% numpy: arrays over memory of several owners (np.lib.stride_tricks)
ramp = np.arange(100.0)
windows = np.lib.stride_tricks.sliding_window_view(ramp, 10, writeable=True)
# -- after
ramp[10] = -1
assert windows[1, 9] == -1 and windows[10, 0] == -1

# %% numpy: generators with their position, one bit generator in two
rng = np.random.default_rng(3)
rng.normal(size=5)
twin = np.random.Generator(rng.bit_generator)
rng_truth = np.random.default_rng(3).normal(size=8)[5:].tolist()
# -- after
assert [rng.normal(), twin.normal(), rng.normal()] == rng_truth

# %% numpy: nditer, flatiter and vectorize
walker, vectorized = grid.flat, np.vectorize(lambda x: x + 1)
next(walker), next(walker)
# -- after
assert next(walker) == 2.0 and vectorized([1, 2]).tolist() == [2, 3]

# %% numpy: polynomials, ufuncs, dtypes with metadata
poly, function, tagged_type = np.polynomial.Polynomial([1, 2]), np.add, np.dtype("i4", metadata={"unit": "m"})
own_ufunc = np.frompyfunc(lambda a, b: a + b, 2, 1)
# -- after
assert poly(2) == 5 and function is np.add and tagged_type.metadata == {"unit": "m"}
assert own_ufunc(1, 2) == 3

# %% pandas: frames, aliases, dtypes
import pandas as pd

frame = pd.DataFrame({"a": np.arange(200.0), "s": ["x", "y"] * 100})
frame["c"] = pd.Categorical(frame["s"], categories=["y", "x", "z"], ordered=True)
frame["t"] = pd.date_range("2020-01-01", periods=200, tz="Europe/Berlin")
frame["n"] = pd.array([1, None] * 100, dtype="Int64")
same_frame = frame
frame_copy = frame.copy()
# -- after
assert same_frame is frame and frame.equals(frame_copy) and frame.dtypes.equals(frame_copy.dtypes)
assert frame["c"].cat.ordered and list(frame["c"].cat.categories) == ["y", "x", "z"] and frame["n"][1] is pd.NA
assert str(frame["t"].dt.tz) == "Europe/Berlin"

# %% pandas: views are copied on write as before
column, shallow = frame["a"], frame.copy(deep=False)
# -- after
first_value = frame["a"].iloc[0]
column.iloc[0] = -1
assert frame["a"].iloc[0] == first_value == shallow["a"].iloc[0]
shallow.loc[1, "a"] = -2
assert frame.loc[1, "a"] != -2

# %% pandas: memory is still shared until somebody writes
shared_series = pd.Series(np.arange(1000.0))
shared_slice = shared_series[:500]
# -- after
assert np.shares_memory(shared_series.to_numpy(), shared_slice.to_numpy())

# %% pandas: MultiIndex, named and frequency indexes, attrs
indexed = frame.set_index(["s", "c"])[["a"]]
indexed.attrs["source"] = ["lab"]
daily = pd.Series(range(3), index=pd.date_range("2024", periods=3, freq="D", name="day"), name="v")
indexed.columns.name = "columns"
# -- after
assert (
    indexed.index.names == ["s", "c"] and indexed.attrs == {"source": ["lab"]} and indexed.loc[("x", "x")].size == 100
)
assert daily.index.freq == "D" and daily.index.name == "day" and daily.name == "v" and indexed.columns.name == "columns"

# %% pandas: groupby, rolling, sparse, intervals, periods, NaT and NA
grouped, rolled = frame.groupby("s")["a"], daily.rolling(2)
odd_pandas = [pd.NaT, pd.NA, pd.Interval(1, 2), pd.Period("2020", "Y"), pd.Series([0, 0, 1]).astype("Sparse[int]")]
# -- after
assert grouped.mean().shape == (2,) and rolled.sum().iloc[2] == 3
assert odd_pandas[0] is pd.NaT and odd_pandas[1] is pd.NA and odd_pandas[2].mid == 1.5 and odd_pandas[3].year == 2020
assert odd_pandas[4].sparse.density == 1 / 3


# %% pandas: an accessor registered by the notebook
@pd.api.extensions.register_series_accessor("shout")
class Shout:
    def __init__(self, series):
        self.series = series

    def loud(self):
        return self.series.astype(str) + "!"


# about: accessor
# -- after
assert pd.Series(["a"]).shout.loud().tolist() == ["a!"]

# %% pandas: Styler and plots' options
styled = frame.head(2)[["a"]].style.format("{:.1f}")
# -- after
assert "0.0" in styled.to_html()
