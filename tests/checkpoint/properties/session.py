# ruff: noqa
# %% In, Out, _ __ ___ and the number of the cell
answer = 41
answer + 1
# -- after
outs = [number for number, value in Out.items() if value == 42]
assert len(outs) == 1 and In[outs[0]].startswith("answer = 41") and get_ipython().execution_count > len(outs)
assert eval(f"_{outs[0]}") == 42 and eval(f"_i{outs[0]}") == In[outs[0]] and callable(exit)

# %% an output is the same object as its variable
listed = [1, 2]
listed
# -- after
assert any(value is listed for value in Out.values())

# %% %precision
get_ipython().run_line_magic("precision", "3")
# about: get_ipython()
# -- after
assert get_ipython().display_formatter.formatters["text/plain"](3.14159265) == "3.142"

# %% %matplotlib inline and %config InlineBackend
get_ipython().run_line_magic("matplotlib", "inline")
get_ipython().run_line_magic("config", "InlineBackend.figure_formats = ['svg']")
# about: get_ipython()
# -- after
import matplotlib.pyplot as plt
from matplotlib_inline.backend_inline import flush_figures
from matplotlib_inline.config import InlineBackend

assert plt.get_backend() == "inline" and flush_figures in get_ipython().events.callbacks["post_execute"]
assert InlineBackend.instance().figure_formats == {"svg"}
drawn = plt.figure()
drawn.add_subplot()
pixels = get_ipython().display_formatter.format(drawn)[0]
plt.close("all")
assert "image/svg+xml" in pixels and "image/png" not in pixels

# %% %autoreload and other extensions
get_ipython().run_line_magic("load_ext", "autoreload")
get_ipython().run_line_magic("autoreload", "2")
# about: get_ipython()
# -- after
reloader = get_ipython().magics_manager.registry["AutoreloadMagics"]._reloader
assert (
    "IPython.extensions.autoreload" in get_ipython().extension_manager.loaded
    and reloader.enabled
    and reloader.check_all
)

# %% %alias and %macro
get_ipython().run_line_magic("alias", "greet echo hello %s")
get_ipython().run_cell("stored = 5", store_history=True)
get_ipython().run_line_magic("macro", "-q again 1")
# about: get_ipython()
# -- after
assert "greet" in dict(get_ipython().alias_manager.aliases) and "answer = 41" in again.value

# %% %config InteractiveShell.ast_node_interactivity, %xmode, %pdb
get_ipython().run_line_magic("config", "InteractiveShell.ast_node_interactivity = 'last_expr_or_assign'")
get_ipython().run_line_magic("xmode", "Verbose")
# about: get_ipython()
# -- after
assert get_ipython().ast_node_interactivity == "last_expr_or_assign"
assert get_ipython().InteractiveTB.mode == "Verbose"

# %% magics of the notebook
import IPython.core.magic


@IPython.core.magic.register_line_magic
def shout(text):
    return text.upper() + "!"


@IPython.core.magic.magics_class
class Mine(IPython.core.magic.Magics):
    total = 5

    @IPython.core.magic.line_magic
    def tell(self, text):
        return self.total, answer


get_ipython().register_magics(Mine)
# about: get_ipython()
# -- after
assert get_ipython().run_line_magic("shout", "a") == "A!" and get_ipython().run_line_magic("tell", "") == (5, 41)


# %% display formatters of the notebook
class Money:
    def __init__(self, amount):
        self.amount = amount


get_ipython().display_formatter.formatters["text/html"].for_type(Money, lambda money: f"<b>{money.amount}</b>")
# about: get_ipython()
# -- after
assert get_ipython().display_formatter.format(Money(3))[0]["text/html"] == "<b>3</b>"

# %% callbacks of events (pre_run_cell)
ran = []


def before_each_cell(info):
    ran.append(1)


get_ipython().events.register("pre_run_cell", before_each_cell)
# about: get_ipython()
# -- after
assert before_each_cell in get_ipython().events.callbacks["pre_run_cell"] and ran


# %% input transformers and custom exceptions handlers of the notebook
def no_bang(lines):
    return [line.replace("£", "$") for line in lines]


get_ipython().input_transformers_cleanup.append(no_bang)
# about: get_ipython()
# -- after
assert no_bang in get_ipython().input_transformers_cleanup

# %% the shell itself in a variable
shell = get_ipython()
# -- after
assert shell is get_ipython()

# %% module aliases, submodules, dotted imports
import concurrent.futures as futures
import json as js
import os.path
import xml.etree.ElementTree

# -- after
import json

assert js is json and futures.Future.__name__ == "Future" and xml.etree.ElementTree.fromstring("<a/>").tag == "a"
assert os.path.join("a", "b") == "a/b"

# %% a module beside the notebook: its classes, functions and changed state
open("helper_mod.py", "w").write(
    "import functools\nLEVEL = 1\ncache = {}\nitems = []\n"
    "class Helper:\n    made = 0\n    def __init__(self): Helper.made += 1\n"
    "def put(key, value): cache[key] = value\n"
    "@functools.lru_cache\ndef slow(x):\n    items.append(x)\n    return [x]\n"
)
import sys

sys.path.insert(0, os.getcwd())
import helper_mod
from helper_mod import cache as helper_cache

helper_mod.LEVEL = 5
helper_mod.put("k", [1])
helped = helper_mod.Helper()
helper_slow = helper_mod.slow(3)
# about: helper_mod
# -- after
assert type(helped) is helper_mod.Helper and helper_mod.LEVEL == 5 and helper_cache is helper_mod.cache
helper_mod.put("n", 2)
assert helper_cache == {"k": [1], "n": 2} and helper_mod.Helper.made == 1
assert helper_mod.slow(3) is helper_slow and helper_mod.items == [3]


# %% a module that imports one that was edited since
open("low_mod.py", "w").write("def low(): return 'old'\n")
open("high_mod.py", "w").write("import low_mod\nfrom low_mod import low\ndef high(): return low_mod.low(), low()\n")
import high_mod

high = high_mod.high
open("low_mod.py", "w").write("def low(): return 'new'\n# edited\n")
# -- after
import low_mod

assert high() == ("old", "old") and high_mod.low_mod is low_mod and low_mod.low() == "old"

# %% a module with locks, loggers, instances and class state that was edited since
open("rich_mod.py", "w").write(
    "import threading, logging\nlock = threading.Lock()\nlog = logging.getLogger(__name__)\n"
    "class Rich:\n    n = 0\n    def up(self):\n        with lock: Rich.n += 1\n        return Rich.n\n"
)
import rich_mod

rich = rich_mod.Rich()
rich.up()
open("rich_mod.py", "a").write("# more\n")
# -- after
assert rich.up() == 2 and type(rich) is rich_mod.Rich and rich_mod.__file__.endswith("rich_mod.py")

# %% enums, sentinels and registries of a module beside the notebook
open("types_mod.py", "w").write(
    "import enum\nclass E(enum.Enum):\n    A = 1\nregistry = {}\n_sentinel = object()\n"
    "def register(cls): registry[cls.__name__] = cls; return cls\n"
)
import types_mod

member, sentinel = types_mod.E.A, types_mod._sentinel


@types_mod.register
class Registered:
    pass


# -- after
assert member is types_mod.E.A and sentinel is types_mod._sentinel and types_mod.registry == {"Registered": Registered}

# %% names that %run and exec made
open("script.py", "w").write("ran_list = [1]\ndef from_script(): return ran_list\n")
get_ipython().run_line_magic("run", "script.py")
exec("def executed(): return answer")
# -- after
assert from_script() is ran_list and executed() == answer


# %% a function of the notebook put into a module (monkeypatch)
def patched(key, value):
    return "patched"


open("patched_mod.py", "w").write("def put(key, value): return 'original'\n")
import patched_mod

patched_mod.put = patched
# about: patched_mod
# -- after
assert patched_mod.put(1, 2) == "patched"

# %% a module beside the notebook that was edited after its import
open("edited_mod.py", "w").write("def version(): return 1\n")
import edited_mod

old_version = edited_mod.version
open("edited_mod.py", "w").write("def version(): return 2  # longer\n")
# about: edited_mod
# -- after
assert edited_mod.version() == 1 and old_version() == 1

# %% a module beside the notebook whose file is gone
open("lost_mod.py", "w").write("class Lost:\n    kept = 1\n")
import lost_mod

lost = lost_mod.Lost()
os.unlink("lost_mod.py")
# about: lost_mod
# -- after
assert lost.kept == 1 and type(lost) is lost_mod.Lost

# %% a package beside the notebook, with relative imports and state in a submodule
os.makedirs("own_pkg", exist_ok=True)
open("own_pkg/__init__.py", "w").write("from .core import registry\n")
open("own_pkg/core.py", "w").write("registry = {}\n")
import own_pkg.core

own_pkg.registry["a"] = own_pkg
# about: own_pkg
# -- after
assert own_pkg.core.registry == {"a": own_pkg} and own_pkg.registry is own_pkg.core.registry

# %% a module that was made in the notebook (types.ModuleType)
import types

made_module = types.ModuleType("made_module")
exec("value = 3\ndef get(): return value", vars(made_module))
sys.modules["made_module"] = made_module
# -- after
made_module.value = 4
assert made_module.get() == 4 and sys.modules["made_module"] is made_module

# %% the folder, the environment, the search path
os.makedirs("deeper", exist_ok=True)
os.chdir("deeper")
os.environ["FIDELITY"] = "yes"
os.environ.pop("LANGUAGE", None)
sys.path.append("/somewhere/else")
folder = os.getcwd()
# -- after
assert os.getcwd() == folder and os.environ["FIDELITY"] == "yes" and sys.path[-1] == "/somewhere/else"

# %% a secret in the environment
os.environ["SERVICE_TOKEN"] = "hidden"
# about: SERVICE_TOKEN
# -- after
assert os.environ["SERVICE_TOKEN"] == "hidden"

# %% sys.path without an entry that was there
removed_entry = next(entry for entry in sys.path if entry.endswith("site-packages"))
kept_path = [entry for entry in sys.path if entry != "/somewhere/between"]
# -- after
assert removed_entry in sys.path and kept_path == sys.path

# %% random: its global generator and one of its own
import random

random.seed(5)
random.random()
own_random = random.Random(6)
own_random.random()
global_truth = random.Random()
global_truth.setstate(random.getstate())
own_truth = random.Random(6)
own_truth.random()
# -- after
assert random.random() == global_truth.random() and own_random.gauss(0, 1) == own_truth.gauss(0, 1)
assert own_random.gauss(0, 1) == own_truth.gauss(0, 1)

# %% numpy's global generator, with half a pair of normals
import numpy as np

np.random.seed(5)
np.random.normal()
numpy_truth = np.random.RandomState()
numpy_truth.set_state(np.random.get_state())
# -- after
assert np.random.normal() == numpy_truth.normal() and np.random.rand() == numpy_truth.rand()

# %% logging: levels, and handlers of root and of named loggers
import logging

logging.basicConfig(level=logging.WARNING, format="%(message)s", filename="root.log")
logging.getLogger("app").setLevel(logging.DEBUG)
logging.getLogger("app").propagate = False
logging.getLogger("app").addHandler(logging.FileHandler("app.log"))
logging.getLogger("app").handlers[0].setFormatter(logging.Formatter("<%(message)s>"))
logging.getLogger("app.deep").disabled = True
logging.getLogger("app").info("before")
# about: logging
# -- after
logging.getLogger("app").info("after")
logging.getLogger("app.deep").info("never")
logging.getLogger("other").warning("to root")
assert open("app.log").read() == "<before>\n<after>\n" and open("root.log").read() == "to root\n"


# %% logging: filters and adapters of the notebook
class OnlyLong(logging.Filter):
    def filter(self, record):
        return len(record.getMessage()) > 3


filtered_logger = logging.getLogger("filtered")
filtered_logger.addFilter(OnlyLong())
adapter = logging.LoggerAdapter(filtered_logger, {"who": "me"})
# -- after
assert adapter.logger is logging.getLogger("filtered") and type(filtered_logger.filters[0]) is OnlyLong

# %% warnings filters
import warnings

warnings.filterwarnings("error", message="of the notebook", category=UserWarning)
# -- after
try:
    warnings.warn("of the notebook")
except UserWarning:
    pass
else:
    raise AssertionError("it was not raised")

# %% print options of numpy and pandas
import pandas as pd

np.set_printoptions(precision=2, suppress=True)
np.seterr(divide="ignore", invalid="call")


def on_numpy_error(kind, flag):
    pass


np.seterrcall(on_numpy_error)
pd.set_option("display.max_rows", 7, "display.float_format", "{:.1f}".format)
# -- after
assert repr(np.array([1.23456])) == "array([1.23])" and np.geterr()["divide"] == "ignore"
assert np.geterrcall() is on_numpy_error
assert (
    pd.get_option("display.max_rows") == 7
    and "1.2" in repr(pd.Series([1.234]))
    and "1.23" not in repr(pd.Series([1.234]))
)

# %% the decimal context
import decimal

decimal.getcontext().prec = 9
decimal.getcontext().traps[decimal.Inexact] = False
# -- after
assert str(decimal.Decimal(1) / 3) == "0.333333333"

# %% locale
import locale

locale.setlocale(locale.LC_NUMERIC, "C.UTF-8")
# -- after
assert locale.setlocale(locale.LC_NUMERIC) == "C.UTF-8"

# %% gc settings
import gc

gc.disable()
gc.set_threshold(500, 5, 5)
# -- after
assert not gc.isenabled() and gc.get_threshold()[:2] == (500, 5)
gc.enable()

# %% limits of the interpreter: recursion, digits of ints, switch interval
sys.setrecursionlimit(4321)
sys.set_int_max_str_digits(9999)
sys.setswitchinterval(0.01)
# -- after
assert sys.getrecursionlimit() >= 4321 and sys.get_int_max_str_digits() == 9999
assert abs(sys.getswitchinterval() - 0.01) < 1e-6

# %% sys.excepthook, threading.excepthook, sys.displayhook of the notebook
import threading

thread_errors = []


def note_thread_error(args):
    thread_errors.append(args.exc_value)


threading.excepthook = note_thread_error
# about: excepthook
# -- after
failing = threading.Thread(target=lambda: 1 / 0)
failing.start()
failing.join()
assert len(thread_errors) == 1

# %% signal handlers of the notebook
import signal

signals = []


def on_signal(number, frame):
    signals.append(number)


signal.signal(signal.SIGUSR1, on_signal)
# about: signal
# -- after
assert signal.getsignal(signal.SIGUSR1) is on_signal
signal.raise_signal(signal.SIGUSR1)
assert signals == [signal.SIGUSR1]

# %% atexit callbacks of the notebook
import atexit


def at_end():
    open("ended", "w").close()


atexit.register(at_end)
# about: atexit
# -- after
references = sys.getrefcount(at_end)
atexit.unregister(at_end)
assert sys.getrefcount(at_end) < references

# %% socket.setdefaulttimeout, umask, multiprocessing start method
import socket

socket.setdefaulttimeout(12.5)
os.umask(0o027)
# -- after
assert socket.getdefaulttimeout() == 12.5 and os.umask(0o027) == 0o027

# %% time zone of the process
import time

os.environ["TZ"] = "Asia/Tokyo"
time.tzset()
# -- after
assert time.tzname[0] == "JST"

# %% a name of IPython that the notebook took over
quit = "mine"
_ = "taken"
# -- after
assert quit == "mine" and _ == "taken"


# %% functions of the notebook put into a library's module and class (monkeypatch)
def shorter(text):
    return text[:3]


def double_sum(self):
    return 2 * self.sum()


js.shorter = shorter
pd.Series.double_sum = double_sum
futures.Future.twice = property(lambda self: 2)
# about: json, pandas
# -- after
assert js.shorter("abcdef") == "abc" and pd.Series([1, 2]).double_sum() == 6 and futures.Future().twice == 2

# %% a mock that unittest.mock.patch has put somewhere
import unittest.mock

import colorsys

patcher = unittest.mock.patch("colorsys.rgb_to_hsv", return_value="mocked")
patched_hsv = patcher.start()
colorsys.rgb_to_hsv(0, 1, 0)
# about: colorsys
# -- after
assert colorsys.rgb_to_hsv(1, 0, 0) == "mocked" and colorsys.rgb_to_hsv is patched_hsv and patched_hsv.call_count == 2
patcher.stop()
assert colorsys.rgb_to_hsv(1, 0, 0) == (0, 1, 1)

# %% a builtin that the notebook replaced
import builtins

builtins.fidelity_marker = [1]
# about: builtins
# -- after
assert fidelity_marker == [1]

# %% names of levels of logging, adapters of sqlite3
import sqlite3


class Spot:
    def __init__(self, x):
        self.x = x


logging.addLevelName(25, "NOTICE")
sqlite3.register_adapter(Spot, lambda spot: spot.x)
# -- after
assert logging.getLevelName("NOTICE") == 25
assert sqlite3.connect(":memory:").execute("select ?", (Spot(3),)).fetchone() == (3,)

# %% an error handler registered with codecs
import codecs

codecs.register_error("mine", lambda error: ("?", error.end))
# about: codecs
# -- after
assert "ü".encode("ascii", "mine") == b"?"
