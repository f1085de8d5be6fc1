# ruff: noqa
# %% a generator in the middle
def numbers():
    yield from range(5)


generator = numbers()
next(generator)
# -- after
assert next(generator) == 1

# %% a generator expression and an asynchronous generator
squares = (n * n for n in range(5))


async def ticks():
    yield 1


async_ticks = ticks()
# -- after
assert next(squares) == 0

# %% a coroutine and a task of asyncio
import asyncio


async def wait_for_it():
    await asyncio.sleep(3600)


waiting = wait_for_it()
task = asyncio.get_running_loop().create_task(wait_for_it()) if asyncio._get_running_loop() else None
# about: asyncio task
# -- after
assert waiting.cr_frame is not None and (task is None or not task.done())

# %% asyncio queues, events, locks
async_queue, async_event = asyncio.Queue(), asyncio.Event()
async_queue.put_nowait(1)
async_event.set()
# -- after
assert async_queue.get_nowait() == 1 and async_event.is_set()

# %% iterators of list, tuple, str, range, dict, set in the middle
source_list = [1, 2, 3, 4]
source_map = {"a": 1, "b": 2, "c": 3}
over_list, over_range, over_text, over_map = iter(source_list), iter(range(10)), iter("abc"), iter(source_map)
over_items = iter(source_map.items())
for started in (over_list, over_range, over_text, over_map, over_items):
    next(started)
# -- after
source_list.append(5)
assert list(over_list) == [2, 3, 4, 5] and next(over_range) == 1 and next(over_text) == "b"
assert list(over_map) == ["b", "c"] and list(over_items) == [("b", 2), ("c", 3)]

# %% zip, enumerate, map, filter, reversed in the middle
zipped, numbered = zip([1, 2, 3], "abc"), enumerate("abc", 5)
mapped, filtered, turned = map(abs, [-1, -2, -3]), filter(None, [0, 1, 0, 2]), reversed([1, 2, 3])
for started_too in (zipped, numbered, mapped, filtered, turned):
    next(started_too)
# -- after
assert next(zipped) == (2, "b") and next(numbered) == (6, "b") and list(mapped) == [2, 3]
assert list(filtered) == [2] and list(turned) == [2, 1]

# %% itertools in the middle: count, cycle, chain, islice, product, permutations, combinations, accumulate
import itertools

counting, cycling, chaining = itertools.count(5, 2), itertools.cycle("abc"), itertools.chain([1, 2], [3, 4])
slicing, crossing = itertools.islice(range(10), 2, None), itertools.product("ab", "cd")
choosing, adding = itertools.combinations("abc", 2), itertools.accumulate([1, 2, 3])
for started_as_well in (counting, cycling, chaining, slicing, crossing, choosing, adding):
    next(started_as_well)
# -- after
assert next(counting) == 7 and [next(cycling) for _ in range(3)] == ["b", "c", "a"] and list(chaining) == [2, 3, 4]
assert next(slicing) == 3 and next(crossing) == ("a", "d") and next(choosing) == ("a", "c") and next(adding) == 3

# %% itertools.tee, groupby, zip_longest, starmap, takewhile, batched
first_tee, second_tee = itertools.tee(iter([1, 2, 3]))
next(first_tee)
groups = itertools.groupby("aabb")
key_of_first, first_group = next(groups)
longest = itertools.zip_longest([1, 2, 3], [4])
next(longest)
# -- after
assert next(first_tee) == 2 and next(second_tee) == 1 and next(groups)[0] == "b" and next(longest) == (2, None)

# %% two variables for one iterator
line_numbers = iter(range(100))
same_numbers = line_numbers
paired = zip(line_numbers, line_numbers)
next(paired)
# -- after
assert next(same_numbers) == 2 and next(paired) == (3, 4)

# %% an iterator of the callable kind and one over __getitem__
left_over = [3, 2, 1, 0]
until_zero = iter(left_over.pop, 3)


class Indexed:
    def __getitem__(self, index):
        if index > 3:
            raise IndexError
        return index * 10


over_indexed = iter(Indexed())
next(over_indexed)
# -- after
assert next(until_zero) == 0 and next(over_indexed) == 10 and left_over == [3, 2, 1]

# %% free locks, RLocks, Conditions, Events, Semaphores, Barriers
import threading

lock, rlock, condition, event = threading.Lock(), threading.RLock(), threading.Condition(), threading.Event()
semaphore, barrier = threading.Semaphore(2), threading.Barrier(1)
event.set()
semaphore.acquire()
# -- after
assert lock.acquire(blocking=False) and rlock.acquire() and event.is_set() and barrier.wait() == 0
assert semaphore.acquire(blocking=False) and not semaphore.acquire(blocking=False)
with condition:
    condition.notify_all()

# %% a lock shared by a Condition, a dict and a closure
shared_lock = threading.RLock()
on_shared = threading.Condition(shared_lock)
locked_holder = {"lock": shared_lock}
# -- after
assert on_shared._lock is shared_lock is locked_holder["lock"]
with shared_lock:
    on_shared.notify_all()

# %% a lock that is held
held = threading.Lock()
held.acquire()
# -- after
assert held.locked()

# %% queues with what is in them
import queue

tasks, ranked, simple = queue.Queue(maxsize=3), queue.PriorityQueue(), queue.SimpleQueue()
tasks.put([1])
ranked.put((2, "b")), ranked.put((1, "a"))
# -- after
assert tasks.get_nowait() == [1] and tasks.maxsize == 3 and ranked.get_nowait() == (1, "a")
tasks.put(1)

# %% SimpleQueue
simple_queue = queue.SimpleQueue()
simple_queue.put(1)
# -- after
assert simple_queue.get_nowait() == 1

# %% thread-local and context variables
import contextvars

local = threading.local()
local.value = [1]
level = contextvars.ContextVar("level", default="low")
bare_level = contextvars.ContextVar("bare")
level_alias = [level]
# -- after
assert local.value == [1] and level.get() == "low" and level_alias[0] is level and level.name == "level"
try:
    bare_level.get()
except LookupError:
    pass

# %% the value of a context variable
context_level = contextvars.ContextVar("context_level", default="low")
context_token = context_level.set("high")
persists = contextvars.copy_context()
# -- after
assert persists[context_level] == "high"

# %% the value of a context variable that was set in an earlier cell
carried = contextvars.ContextVar("carried")
carried.set(["kept"])
# -- after
assert carried.get() == ["kept"]

# %% a text file that is read: position, encoding, newline
with open("text.txt", "w", encoding="latin-1", newline="") as out_text:
    out_text.write("erste\r\nzweite ü\r\ndritte\n")
reader = open("text.txt", encoding="latin-1", newline="")
universal = open("text.txt", encoding="latin-1")
first_line = reader.readline(), universal.readline()
# -- after
assert reader.readline() == "zweite ü\r\n" and reader.encoding == "latin-1" and universal.readline() == "zweite ü\n"

# %% a text file in the middle of a loop
looped = open("text.txt", encoding="latin-1", newline="\r\n")
for _ in looped:
    break
# -- after
assert next(looped) == "zweite ü\r\n" and next(looped) == "dritte\n"

# %% a text file that is written with newline= and errors=
writer = open("out.txt", "w", newline="\r\n", encoding="ascii", errors="replace")
writer.write("one\n")
# -- after
writer.write("twö\n")
writer.flush()
assert open("out.txt", "rb").read() == b"one\r\ntw?\r\n" and writer.mode == "w" and writer.errors == "replace"

# %% a file that is appended to, one that is read and written, unbuffered ones
appender, both = open("append.bin", "ab"), open("both.bin", "w+b")
appender.write(b"abc")
both.write(b"hello")
both.seek(2)
unbuffered = open("raw.bin", "wb", buffering=0)
unbuffered.write(b"12")
# -- after
appender.write(b"def")
appender.flush()
unbuffered.write(b"3")
assert open("append.bin", "rb").read() == b"abcdef" and both.read() == b"llo" and open("raw.bin", "rb").read() == b"123"
both.seek(0)
both.write(b"J")
both.flush()
assert open("both.bin", "rb").read() == b"Jello"

# %% a text file, its buffer and its raw file in variables
both_ways = open("both.txt", "w+")
both_ways.write("one\n")
its_buffer, its_raw = both_ways.buffer, both_ways.buffer.raw
# -- after
assert both_ways.buffer is its_buffer and its_buffer.raw is its_raw
both_ways.write("two\n")
both_ways.flush()
both_ways.seek(0)
assert both_ways.read() == "one\ntwo\n"

# %% a closed file
closed = open("text.txt")
closed.close()
# -- after
assert closed.closed and closed.name == "text.txt"

# %% a file that was deleted while open
import os

unlinked = open("gone.txt", "w+")
os.unlink("gone.txt")
# -- after
unlinked.write("x")

# %% gzip, bz2 and zip files that are open
import gzip, zipfile

zipped_file = gzip.open("data.gz", "wb")
zipped_file.write(b"abc")
archive = zipfile.ZipFile("a.zip", "w")
archive.writestr("a.txt", "abc")
# -- after
zipped_file.write(b"def")
zipped_file.close()
assert gzip.open("data.gz").read() == b"abcdef"
archive.close()

# %% zip archives that are read and written, shelves
import shelve

growing, shelf = zipfile.ZipFile("grows.zip", "w"), shelve.open("shelf")
growing.writestr("a", "1")
shelf["a"] = 1
with zipfile.ZipFile("read.zip", "w") as read_zip:
    read_zip.writestr("a", "abc")
reading_zip = zipfile.ZipFile("read.zip")
member = reading_zip.open("a")
member.read(1)
# -- after
growing.writestr("b", "2")
growing.close()
assert zipfile.ZipFile("grows.zip").namelist() == ["a", "b"] and reading_zip.read("a") == b"abc"
assert member.read() == b"bc" and shelf["a"] == 1

# %% csv readers and writers on a file
import csv

table_file = open("rows.csv", "w", newline="")
rows = csv.writer(table_file)
rows.writerow([1, 2])
# -- after
rows.writerow([3, 4])
table_file.flush()
assert open("rows.csv").read() == "1,2\n3,4\n"

# %% csv.DictWriter, temporary files and folders
import tempfile

scratch = tempfile.NamedTemporaryFile("w+", dir=".")
scratch.write("abc")
scratch_folder = tempfile.TemporaryDirectory(dir=".")
# -- after
scratch.seek(0)
assert scratch.read() == "abc" and os.path.isdir(scratch_folder.name)

# %% sys.stdout, a redirected print
import sys

out, say = sys.stdout, print
# -- after
assert out is sys.stdout and say is print

# %% sys.stderr with something of the notebook in its place
import io


class Tee(io.StringIO):
    pass


caught_errors = Tee()
caught_errors.write("before ")
sys.stderr = caught_errors
# -- after
assert sys.stderr is caught_errors
print("after", end="", file=sys.stderr)
assert "before after" in caught_errors.getvalue()
sys.stderr = sys.__stderr__

# %% sockets
import socket

sock = socket.socket()
# -- after
assert sock.fileno() > 0

# %% a running child process and a finished one
import subprocess

child = subprocess.Popen(["sleep", "600"])
done = subprocess.run(["echo", "x"], capture_output=True)
# about: sleep
# -- after
assert done.stdout == b"x\n"
assert child.poll() is None

# %% a running thread, a timer, a finished thread
stop = threading.Event()
running = threading.Thread(target=stop.wait, args=(600,), name="waiter", daemon=True)
running.start()
# about: waiter
# -- after
assert running.is_alive()

# %% a thread that has not started, and one that has ended
unstarted = threading.Thread(target=source_list.append, args=(99,))
finished = threading.Thread(target=int)
finished.start()
finished.join()
# -- after
unstarted.start()
unstarted.join()
assert source_list[-1] == 99 and not finished.is_alive()

# %% thread pools, process pools and futures
import concurrent.futures

pool = concurrent.futures.ThreadPoolExecutor(2)
future = pool.submit(int, "5")
future.result()
# -- after
assert pool.submit(int, "3").result() == 3

# %% a future that is done, and one that was made by hand
ready = concurrent.futures.Future()
ready.set_result([5])
# -- after
assert ready.done() and ready.result() == [5]

# %% weak references: alive, dead, with a callback, to methods
import weakref


class Thing:
    def method(self):
        return 1


thing = Thing()
deaths = []
alive, dead = weakref.ref(thing, lambda ref: deaths.append(1)), weakref.ref(Thing())
to_method, thing_proxy = weakref.WeakMethod(thing.method), weakref.proxy(thing)
# -- after
assert alive() is thing and dead() is None and to_method()() == 1 and thing_proxy.method() == 1

# %% the callback of a weak reference
doomed, farewells = Thing(), []
watch_doomed = weakref.ref(doomed, lambda ref: farewells.append(1))
# -- after
del doomed
assert farewells == [1]

# %% WeakValueDictionary, WeakKeyDictionary, WeakSet
by_name, by_thing, weak_things = weakref.WeakValueDictionary(), weakref.WeakKeyDictionary(), weakref.WeakSet()
by_name["t"], by_thing[thing] = thing, [1]
weak_things.add(thing)
# -- after
assert by_name["t"] is thing and by_thing[thing] == [1] and thing in weak_things
extra = Thing()
by_name["extra"] = extra
del extra
assert "extra" not in by_name

# %% a value that only a WeakValueDictionary knew has gone
faded = weakref.WeakValueDictionary(x=Thing())
# -- after
assert "x" not in faded

# %% weakref.finalize
finalizer = weakref.finalize(thing, deaths.append, "end")
# -- after
assert finalizer.alive

# %% sqlite: a connection to memory
import sqlite3

memory_db = sqlite3.connect(":memory:")
memory_db.execute("create table t (a)")
memory_db.execute("insert into t values (1)")
# -- after
assert memory_db.execute("select a from t").fetchall() == [(1,)]

# %% sqlite: a connection to a file, a cursor
file_db = sqlite3.connect("file.db")
file_db.execute("create table t (a)")
cursor = file_db.cursor()
# -- after
assert file_db.execute("select count(*) from t").fetchone() == (0,)

# %% mmap and shared memory
import mmap
import multiprocessing

area, mp_queue = mmap.mmap(-1, 10), multiprocessing.Queue()
area[:3] = b"abc"
# -- after
assert area[:3] == b"abc"


# %% a frame, a traceback
def get_frame():
    return sys._getframe()


frame = get_frame()
# -- after
assert frame.f_code is get_frame.__code__

# %% context managers: ExitStack, suppress, closing, nullcontext
import contextlib

stack = contextlib.ExitStack()
stack.callback(source_list.append, 100)
silent = contextlib.suppress(ValueError)
# -- after
with silent:
    raise ValueError
stack.close()
assert source_list[-1] == 100


# %% a context manager made of a generator function
@contextlib.contextmanager
def opened():
    source_list.append("in")
    yield 1
    source_list.append("out")


# -- after
with opened() as value_inside:
    assert value_inside == 1
assert source_list[-2:] == ["in", "out"]
