# ruff: noqa
# %% big ints
big = -(7**900)
# -- after
assert big == -(7**900)

# %% NaN with a payload, the sign of -0.0, infinities, subnormals
import math, struct

odd_floats = [struct.unpack("<d", struct.pack("<Q", 0x7FF8DEADBEEF0001))[0], -0.0, float("-inf"), 5e-324]
# -- after
assert struct.pack("<d", odd_floats[0]) == struct.pack("<Q", 0x7FF8DEADBEEF0001)
assert math.copysign(1, odd_floats[1]) == -1 and odd_floats[2] == -math.inf and odd_floats[3] == 5e-324

# %% complex numbers with -0.0
zero = complex(-0.0, -0.0)
# -- after
assert str(zero) == "(-0-0j)"

# %% strings with lone surrogates and NUL
odd_text = "a\udc80\0ü\U0001f600"
# -- after
assert odd_text == "a\udc80\0ü\U0001f600"


# %% subclasses of str, int, list, dict with attributes
class Text(str):
    pass


class Number(int):
    __slots__ = ()


class Row(list):
    pass


class Table(dict):
    def __setitem__(self, key, value):
        super().__setitem__(key, value * 2)


text, number, row, table = Text("abc"), Number(5), Row([1]), Table()
text.origin = row
row.origin = text
table["a"] = 2


class Loud(set):
    def __init__(self, *, volume):
        self.volume = volume


loud = Loud(volume=3)
loud.add(1)
# -- after
assert loud == {1} and loud.volume == 3
assert type(text) is Text and text.origin is row and row.origin is text and row == [1] and type(number) is Number
assert dict(table) == {"a": 4} and type(table) is Table

# %% one object under two names
first = {"k": [1]}
second = first
nested = [first["k"], (first, second)]
# -- after
assert second is first and nested[0] is first["k"] and nested[1][0] is nested[1][1] is first


# %% cycles through lists, dicts, tuples, sets and attributes
class Node:
    pass


ring = Node()
ring.parts = [ring, (ring, {"me": ring}), {ring}]
tangled = ([],)
tangled[0].append(tangled)
# -- after
assert ring.parts[0] is ring and ring.parts[1][1]["me"] is ring and ring in ring.parts[2] and tangled[0][0] is tangled

# %% order of dicts
letters = {"z": 1, "a": 2, "m": 3}
letters["b"] = letters.pop("z")
# -- after
assert list(letters) == ["a", "m", "b"]


# %% set and dict of objects with a hash of their own
class Point:
    def __init__(self, x):
        self.x = x

    def __hash__(self):
        return hash(self.x)

    def __eq__(self, other):
        return self.x == other.x


points, by_point = {Point(1), Point(2)}, {Point(3): "three"}
# -- after
assert Point(1) in points and len(points) == 2 and by_point[Point(3)] == "three"


# %% set of children whose hash needs them whole, and who know their parent
class Parent:
    def __init__(self):
        self.children = set()
        self.names = {}


class Child:
    def __init__(self, parent, name):
        self.parent, self.name = parent, name
        parent.children.add(self)
        parent.names[self] = name

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return self.name == other.name


eldest = Child(Parent(), "Ada")
family = eldest.parent
# -- after
assert eldest in family.children and len(family.children) == 1 and family.names[eldest] == "Ada"
assert eldest.parent is family


# %% set of children with a hash that does not fail before they are whole
class Leaf:
    name = ""

    def __init__(self, parent, name):
        self.parent, self.name = parent, name
        parent.children.add(self)
        parent.names[self] = name

    def __hash__(self):
        return hash(self.name)

    def __eq__(self, other):
        return self.name == other.name


first_leaf = Leaf(Parent(), "Ada")
second_leaf = Leaf(first_leaf.parent, "Bob")
# -- after
siblings = first_leaf.parent
assert first_leaf in siblings.children and second_leaf in siblings.children and len(siblings.children) == 2
assert siblings.names[first_leaf] == "Ada" and siblings.names[second_leaf] == "Bob"

# %% recursive defaultdict
import collections


def tree():
    return collections.defaultdict(tree)


forest = tree()
forest["a"]["b"]["c"] = 1
# -- after
assert forest["a"]["b"] == {"c": 1} and forest["x"]["y"] == {} and forest.default_factory is tree

# %% ChainMap on live dicts
base_layer, top_layer = {"a": 1}, {"b": 2}
chained = collections.ChainMap(top_layer, base_layer)
# -- after
base_layer["z"] = 26
chained["new"] = 1
assert chained["z"] == 26 and top_layer["new"] == 1

# %% Counter, deque with maxlen, OrderedDict
counts, recent = collections.Counter("abca"), collections.deque([1, 2, 3], maxlen=3)
ordered = collections.OrderedDict(b=1, a=2)
ordered.move_to_end("b")
# -- after
counts.update("a")
recent.append(4)
assert counts["a"] == 3 and counts["nothing"] == 0 and list(recent) == [2, 3, 4] and recent.maxlen == 3
assert list(ordered) == ["a", "b"] and type(ordered) is collections.OrderedDict

# %% views of dicts stay views
source_dict = {"a": 1}
key_view, item_view = source_dict.keys(), source_dict.items()
# -- after
source_dict["b"] = 2
assert list(key_view) == ["a", "b"] and ("b", 2) in item_view

# %% bytearray and memoryview share
backing = bytearray(b"abcdef")
window = memoryview(backing)[2:4]
# -- after
backing[2] = ord("X")
assert bytes(window) == b"Xd" and window.obj is backing


# %% exceptions with __cause__, __context__, notes and attributes
class Trouble(Exception):
    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code, self.hint = code, hint


def make_trouble():
    trouble = Trouble(3, hint=["look"])
    trouble.__cause__ = KeyError("inner")
    trouble.__context__ = ValueError("before")
    trouble.add_note("at noon")
    return trouble


trouble = make_trouble()
# -- after
assert type(trouble) is Trouble and trouble.code == 3 and trouble.hint == ["look"] and trouble.args == ("code 3",)
assert trouble.__cause__.args == ("inner",) and trouble.__context__.args == ("before",)
assert trouble.__notes__ == ["at noon"] and trouble.__suppress_context__

# %% exception group
troubles = ExceptionGroup("several", [ValueError("a"), ExceptionGroup("inner", [KeyError("b")])])
# -- after
assert str(troubles) == "several (2 sub-exceptions)" and troubles.exceptions[1].exceptions[0].args == ("b",)


# %% traceback of a caught exception
def fail():
    raise RuntimeError("here")


try:
    fail()
except RuntimeError as caught_here:
    caught = caught_here
# -- after
assert caught.args == ("here",) and caught.__traceback__.tb_next.tb_frame.f_code is fail.__code__

# %% datetime with zoneinfo, folds and fixed offsets
import datetime, zoneinfo

berlin = zoneinfo.ZoneInfo("Europe/Berlin")
moment = datetime.datetime(2025, 10, 26, 2, 30, tzinfo=berlin, fold=1)
offset = datetime.timezone(datetime.timedelta(hours=5, minutes=30), "X")
# -- after
assert moment.tzinfo is berlin is zoneinfo.ZoneInfo("Europe/Berlin") and moment.utcoffset().seconds == 3600
assert moment.fold == 1 and offset.tzname(None) == "X"

# %% pathlib, uuid, fractions, decimals, ranges, slices, Ellipsis
import decimal, fractions, pathlib, uuid

plain_things = [pathlib.Path("a/../b"), uuid.UUID(int=5), fractions.Fraction(1, 3), decimal.Decimal("1.20")]
plain_things += [range(1, 9, 3), slice(1, None, 2), ..., NotImplemented, None]
# -- after
assert [str(each) for each in plain_things[:4]] == ["a/../b", str(uuid.UUID(int=5)), "1/3", "1.20"]
assert plain_things[4] == range(1, 9, 3) and plain_things[5] == slice(1, None, 2) and plain_things[6] is ...
assert plain_things[7] is NotImplemented and plain_things[8] is None

# %% compiled regex
import re

pattern = re.compile(r"(?P<word>\w+)", re.IGNORECASE)
# -- after
assert pattern.match("Ab")["word"] == "Ab" and pattern.flags & re.IGNORECASE

# %% match of a regex
found = re.compile(r"(?P<word>\w+)").match("abc def")
# -- after
assert found["word"] == "abc"

# %% ast trees and code objects
import ast

syntax, bytecode = ast.parse("a + 1"), compile("[x * 2 for x in range(3)]", "<made>", "eval")
# -- after
assert ast.unparse(syntax) == "a + 1" and eval(bytecode) == [0, 2, 4] and bytecode.co_filename == "<made>"

# %% ctypes values and structures
import ctypes


class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_double)]


pair, vector = Pair(1, 2.5), (ctypes.c_int * 3)(1, 2, 3)
# -- after
assert (pair.a, pair.b) == (1, 2.5) and type(pair) is Pair and list(vector) == [1, 2, 3]

# %% ctypes pointer
to_int = ctypes.pointer(ctypes.c_int(3))
# -- after
assert to_int.contents.value == 3

# %% ctypes library and its function
libc = ctypes.CDLL(None)
c_abs = libc.abs
# -- after
assert libc.abs(-3) == 3 and c_abs(-4) == 4

# %% mock objects with what they were called with
import unittest.mock

mock = unittest.mock.Mock(side_effect=[1, 2, 3])
mock(5, key="v")
magic = unittest.mock.MagicMock(name="m")
magic.inner.return_value = 8
# -- after
assert mock.call_args == unittest.mock.call(5, key="v") and mock() == 2
assert magic.inner() == 8 and magic.inner.call_count == 1

# %% sentinel objects of the notebook and of libraries
import dataclasses, inspect

missing = object()
marks = [missing, dataclasses.MISSING, inspect.Parameter.empty, unittest.mock.sentinel.mine]
# -- after
assert marks[0] is missing and marks[1] is dataclasses.MISSING and marks[2] is inspect.Parameter.empty
assert marks[3] is unittest.mock.sentinel.mine

# %% types.SimpleNamespace, MappingProxy, GenericAlias, unions
import types, typing

hints = [list[int], int | None, typing.Optional[str], typing.Callable[[int], str], types.SimpleNamespace(a=1)]
frozen_view = types.MappingProxyType(source_dict)
# -- after
assert hints[:4] == [list[int], int | None, typing.Optional[str], typing.Callable[[int], str]] and hints[4].a == 1
source_dict["c"] = 3
assert frozen_view["c"] == 3

# %% email, urllib, ipaddress, string.Template and other small library objects
import argparse, email.message, ipaddress, string, urllib.parse

letter = email.message.EmailMessage()
letter["To"] = "a@b"
parser = argparse.ArgumentParser(prog="p")
parser.add_argument("--n", type=int, default=3)
small_things = [ipaddress.ip_network("10.0.0.0/8"), string.Template("$a"), urllib.parse.urlparse("http://a/b")]
# -- after
assert letter["To"] == "a@b" and parser.parse_args(["--n", "5"]).n == 5 and small_things[1].substitute(a=1) == "1"
assert str(small_things[0]) == "10.0.0.0/8" and small_things[2].netloc == "a"

# %% io.StringIO and io.BytesIO with their positions
import io

words, blob = io.StringIO("a\r\nb\nc", newline=""), io.BytesIO(b"abcdef")
words.readline(), blob.seek(2)
# -- after
assert words.read() == "b\nc" and blob.read() == b"cdef" and words.getvalue() == "a\r\nb\nc"

# %% array.array, struct.Struct, zlib and hashlib objects
import array, hashlib, zlib

machine, layout = array.array("d", [1, 2]), struct.Struct("<if")
# -- after
assert machine.tolist() == [1, 2] and layout.unpack(layout.pack(1, 2.5)) == (1, 2.5)

# %% hash under way
running_hash = hashlib.sha256(b"ab")
# -- after
running_hash.update(b"c")
assert running_hash.hexdigest() == hashlib.sha256(b"abc").hexdigest()

# %% compressor under way
compressor = zlib.compressobj()
compressed = compressor.compress(b"abc" * 100)
# -- after
assert zlib.decompress(compressed + compressor.flush()) == b"abc" * 100

# %% nested structure of 50 000 levels
deep = []
for _ in range(50_000):
    deep = [deep]
# -- after
depth, inside = 0, deep
while inside:
    depth, inside = depth + 1, inside[0]
assert depth == 50_000

# %% tracemalloc goes on tracing
import tracemalloc

tracemalloc.start(2)
# -- after
assert tracemalloc.is_tracing() and tracemalloc.get_traceback_limit() == 2
tracemalloc.stop()
