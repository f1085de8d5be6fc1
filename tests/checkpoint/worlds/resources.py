# ruff: noqa
import asyncio
import collections
import concurrent.futures
import contextlib
import csv
import ctypes
import decimal
import io
import itertools
import logging
import mmap
import os
import queue
import random
import re
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import types
import weakref
import xml.etree.ElementTree

with open("text.txt", "w") as out:
    out.write("first\nsecond\nthird\n")
reader = open("text.txt")
reader.readline()
iterated = open("text.txt", encoding="utf-8")
for line in iterated:
    break
writer = open("log.txt", "w")
writer.write("one\n")
appender = open("append.bin", "ab")
appender.write(b"abc")
both = open("both.bin", "w+b")
both.write(b"hello")
both.seek(2)
closed = open("text.txt")
closed.close()
unlinked = open("gone.txt", "w+")
os.unlink("gone.txt")
null = open(os.devnull)
later_gone = open("later.txt", "w")
out_alias = sys.stdout
lock, rlock = threading.Lock(), threading.RLock()
held = threading.Lock()
held.acquire()
event, condition, semaphore = threading.Event(), threading.Condition(), threading.Semaphore(2)
event.set()
local = threading.local()
local.value = 5
q = queue.Queue()
q.put([1])


class Thing:
    def __init__(self):
        self.x = 1

    def method(self):
        return self.x


thing = Thing()
ref, proxy, weak_method = weakref.ref(thing), weakref.proxy(thing), weakref.WeakMethod(thing.method)
dead = weakref.ref(Thing())
by_key, by_value, weak_set = weakref.WeakKeyDictionary(), weakref.WeakValueDictionary(), weakref.WeakSet()
by_key[thing], by_value["t"] = 1, thing
weak_set.add(thing)
log = logging.getLogger("mine.own")
log.setLevel(logging.DEBUG)
captured = io.StringIO()
log.addHandler(logging.StreamHandler(captured))
logging.basicConfig(level=logging.ERROR)
logging.getLogger("elsewhere").setLevel(logging.CRITICAL)

generator = (i for i in range(3))
next(generator)
started = threading.Thread(target=event.wait, daemon=True)
stop = threading.Event()
running = threading.Thread(target=stop.wait, name="busy", daemon=True)
running.start()
finished = threading.Thread(target=int)
finished.start()
finished.join()
connection = sqlite3.connect(":memory:")
cfg = {"db": connection, "name": "x", "inner": [1, {"sock": socket.socket()}]}
child = subprocess.Popen(["true"])
child.wait()
done = subprocess.run(["true"])
executor = concurrent.futures.ThreadPoolExecutor(1)


async def coro():
    pass


coroutine = coro()
coroutine.close()
frame = sys._getframe()
rows = csv.reader(["a,b"])
match = re.match("a", "a")
iterator = iter([1, 2, 3])
next(iterator)
count = itertools.count(5)
zipped = zip([1, 2], "ab")
next(zipped)
mapped = map(len, generator)
area = mmap.mmap(-1, 10)
pointer = ctypes.pointer(ctypes.c_int(3))


class Refuses:
    def __init__(self):
        self.ok = 1

    def __reduce__(self):
        raise RuntimeError("not me")


class DiesOnLoad:
    def __init__(self, n):
        self.n = n

    def __setstate__(self, state):
        raise ValueError("cannot wake up")


class NeedsArguments:
    def __new__(cls, needed):
        return super().__new__(cls)


class Lies:
    def __reduce__(self):
        return "no_such_name_anywhere"


class Short:
    def __reduce__(self):
        return (1,)


refuses, lies, short = Refuses(), Lies(), Short()
mixed = {"before": [1, 2], "bad": Refuses(), "after": thing}
wakes = {"k": [1, DiesOnLoad(3), 2]}
other = DiesOnLoad(4)
needs = [NeedsArguments(1)]
in_set = {Refuses(), 1}
manager = contextlib.nullcontext()
context = decimal.getcontext()
decimal.getcontext().prec = 9
finalizer = weakref.finalize(thing, int)
closure = (lambda c: lambda: c)(connection)
cache = tempfile.TemporaryDirectory()
environ = os.environ
os.environ["WORLD_SETTING"] = "kept"
os.environ["WORLD_API_KEY"] = "s3cret-value"
os.environ["HF_TOKEN"] = "s3cret-value"
os.makedirs("sub/pkg", exist_ok=True)
with open("sub/pkg/world_helper.py", "w") as out:
    out.write("class Helper:\n    level = 1\n")
sys.path.insert(0, os.path.abspath("sub/pkg"))
import world_helper

helper = world_helper.Helper()
os.chdir("sub")
where = os.getcwd()
random.seed(21)
random.random()
expected_random = random.Random(21)
expected_random.random()
own_random = random.Random(8)
own_random.random()
pattern = re.compile("a+")
big_int, surrogate, nan = 10**400, "a\udc80", float("nan")
simple = types.SimpleNamespace(a=[1])
chain_map = collections.ChainMap({"a": 1}, {"b": 2})
defaults = collections.defaultdict(lambda: [0])
defaults["x"].append(1)
bare = object()
bare_again = [bare]
os_module_path = os.path
Out = {3: generator}


def after_save():
    os.unlink("../later.txt")


def refused(value):
    from ciuic_jupyter.errors import CheckpointError

    uses = [
        lambda: value(),
        lambda: iter(value),
        lambda: len(value),
        lambda: bool(value),
        lambda: value[0],
        lambda: value.attribute,
        lambda: str(value),
        lambda: f"{value}",
        lambda: value == 1,
        lambda: value + 1,
        lambda: 1 + value,
        lambda: next(value),
        lambda: value.__enter__(),
        lambda: setattr(value, "a", 1),
        lambda: 1 in value,
        lambda: value < 2,
        lambda: float(value),
        lambda: os.fspath(value),
    ]
    for number, use in enumerate(uses):
        try:
            use()
        except CheckpointError as error:
            assert "was not saved" in str(error)
        else:
            raise AssertionError(f"use {number} of {value!r} did not raise")
    return repr(value)


def check_file_positions():
    assert reader.readline() == "second\n" and reader.mode == "r"
    assert iterated.readline() == "second\n" and iterated.encoding == "utf-8"
    assert both.read() == b"llo" and both.mode == "rb+"


def check_writers_go_on():
    writer.write("two\n")
    writer.flush()
    assert open("../log.txt").read() == "one\ntwo\n"
    assert writer.mode == "w"
    appender.write(b"def")
    appender.flush()
    assert appender.name == "append.bin" and open("../append.bin", "rb").read() == b"abcdef"


def check_closed_file():
    assert closed.closed
    try:
        closed.read()
    except ValueError:
        return
    raise AssertionError("read from a closed file")


def check_special_files_are_placeholders():
    assert "gone" in refused(unlinked) and "no ordinary file" in refused(null)


def check_file_gone_later():
    assert "can't be opened here" in refused(later_gone)


def check_stdout():
    assert out_alias is sys.stdout


def check_locks():
    for each in (lock, rlock, held):
        assert each.acquire(blocking=False)
        each.release()
    with condition:
        condition.notify_all()
    assert event.is_set() and semaphore.acquire(blocking=False) and local.value == 5
    assert q.get_nowait() == [1] and q.empty()


def check_weak_references():
    assert ref() is thing and proxy.x == 1 and weak_method()() == 1 and dead() is None
    assert by_key[thing] == 1 and by_value["t"] is thing and thing in weak_set


def check_loggers():
    assert log is logging.getLogger("mine.own") and log.level == logging.DEBUG
    log.debug("hello")
    assert "hello" in captured.getvalue()
    assert logging.root.level == logging.ERROR and logging.getLogger("elsewhere").level == logging.CRITICAL


def check_what_runs_is_refused():
    for value in (
        generator,
        running,
        connection,
        child,
        executor,
        coroutine,
        frame,
        rows,
        match,
        area,
        pointer,
        mapped,
    ):
        refused(value)
    refused(finalizer)
    assert done.returncode == 0 and not finished.is_alive()


def check_only_the_part_is_lost():
    refused(cfg["db"])
    refused(cfg["inner"][1]["sock"])
    assert cfg["name"] == "x" and cfg["inner"][0] == 1
    refused(mixed["bad"])
    assert mixed["before"] == [1, 2] and mixed["after"] is thing
    refused(refuses), refused(short)
    assert type(lies) is Lies
    refused(closure())
    assert 1 in in_set and len(in_set) == 2


def check_what_dies_on_load():
    refused(wakes["k"][1])
    assert wakes["k"][0] == 1 and wakes["k"][2] == 2
    refused(other)
    refused(needs[0])


def check_iterators():
    assert next(iterator) == 2 and next(count) == 5 and next(zipped) == (2, "b")


def check_process():
    assert os.getcwd() == where and os.environ["WORLD_SETTING"] == "kept" and environ is os.environ
    assert "WORLD_API_KEY" not in os.environ and "HF_TOKEN" not in os.environ
    assert type(helper) is world_helper.Helper and decimal.getcontext().prec == 9


def check_random():
    assert random.random() == expected_random.random()
    fresh = random.Random(8)
    fresh.random()
    assert own_random.random() == fresh.random()


def check_dotted_import():
    assert xml.etree.ElementTree.fromstring("<a/>").tag == "a"


def check_plain_things():
    assert pattern.match("aa") and big_int == 10**400 and surrogate == "a\udc80" and nan != nan
    assert simple.a == [1] and chain_map["b"] == 2 and defaults["new"] == [0] and defaults["x"] == [0, 1]
    assert bare_again[0] is bare and os_module_path is os.path


def check_outputs_in_state():
    refused(restored_state["outputs"][3])
