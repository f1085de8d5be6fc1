# ruff: noqa
# %% functions see and write live globals
factor = 3


def scaled(x):
    return factor * x


def set_factor(value):
    global factor
    factor = value


# -- after
assert scaled(2) == 6
set_factor(5)
assert factor == 5 and scaled(2) == 10
factor = 7
assert scaled(1) == 7 and scaled.__globals__ is globals()


# %% closures share a cell
def counter():
    count = 0

    def up():
        nonlocal count
        count += 1
        return count

    return up, lambda: count


count_up, count_now = counter()
count_up()
# -- after
assert count_now() == 1 and count_up() == 2 and count_now() == 2

# %% a default argument is shared with its variable
seen = [1]


def remember(x, into=seen, *, also={"n": 0}):
    into.append(x)
    also["n"] += 1
    return also["n"]


also_alias = remember.__kwdefaults__["also"]
remember(2)
# -- after
assert remember(3) == 2 and seen == [1, 2, 3] and also_alias == {"n": 2}


# %% recursive and mutually recursive functions and lambdas
def is_even(n):
    return n == 0 or is_odd(n - 1)


def is_odd(n):
    return n != 0 and is_even(n - 1)


def local_recursion():
    def fact(n):
        return 1 if n < 2 else n * fact(n - 1)

    return fact


fact = local_recursion()
# -- after
assert is_even(10) and fact(5) == 120

# %% decorators with state, functools.wraps
import functools


def counted(function):
    @functools.wraps(function)
    def inner(*args):
        inner.calls += 1
        return function(*args)

    inner.calls = 0
    return inner


@counted
def work(x):
    "doc of work"
    return x + 1


work(1)
# -- after
assert work(2) == 3 and work.calls == 2 and work.__doc__ == "doc of work" and work.__wrapped__(1) == 2


# %% annotations, type hints, source and line numbers
def hinted(a: int, *rest: "str", key: list[int] = None) -> "dict":
    return {}


# -- after
import inspect

assert hinted.__annotations__ == {"a": int, "rest": "str", "key": list[int], "return": "dict"}
assert inspect.getsource(hinted).startswith("def hinted(") and str(inspect.signature(hinted)).endswith("-> 'dict'")


# %% a class with properties, slots, class and static methods, super
class Shape:
    __slots__ = ("_side", "__weakref__")
    made = []

    def __init__(self, side):
        self._side = side
        Shape.made.append(self)

    @property
    def side(self):
        return self._side

    @side.setter
    def side(self, value):
        self._side = value

    @classmethod
    def unit(cls):
        return cls(1)

    @staticmethod
    def double(x):
        return 2 * x


class Cube(Shape):
    def __init__(self, side):
        super().__init__(side)
        self.note = "n"


cube, square = Cube(3), Shape(2)
# -- after
assert cube.side == 3 and cube.note == "n" and Shape.made == [cube, square] and isinstance(cube, Shape)
cube.side = 4
assert cube.side == 4 and type(Cube.unit()) is Cube and Shape.double(2) == 4 and not hasattr(square, "__dict__")

# %% enums: members are singletons, flags, aliases, auto
import enum


class Color(enum.Enum):
    RED = enum.auto()
    CRIMSON = RED
    BLUE = enum.auto()


class Rights(enum.IntFlag):
    R = 4
    W = 2


color, rights = [Color.BLUE, Color.CRIMSON], Rights.R | Rights.W
# -- after
assert color[0] is Color.BLUE and color[1] is Color.RED and Color(2) is Color.BLUE and rights is Rights(6)
assert {Color.RED: 1}[color[1]] == 1

# %% dataclasses: defaults, frozen, slots, order, fields
import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Version:
    major: int
    minor: int = 0
    tags: tuple = dataclasses.field(default=(), compare=False)


version = Version(1, 2, ("a",))
# -- after
assert version == Version(1, 2) and Version(0) < version and dataclasses.replace(version, minor=3).minor == 3
assert [field.name for field in dataclasses.fields(version)] == ["major", "minor", "tags"]

# %% namedtuples and TypedDict
import collections, typing

Sample = collections.namedtuple("Sample", "x y", defaults=[0])


class Reading(typing.NamedTuple):
    at: float
    unit: str = "K"


class Options(typing.TypedDict, total=False):
    depth: int


sample, reading, options = Sample(1), Reading(1.5), Options(depth=3)
# -- after
assert type(sample) is Sample and sample.y == 0 and sample._replace(x=2) == (2, 0)
assert type(reading) is Reading and reading.unit == "K" and options == {"depth": 3} and Options.__total__ is False


# %% metaclass, __init_subclass__, __set_name__, descriptors
class Registry(type):
    known = {}

    def __new__(meta, name, bases, space):
        cls = super().__new__(meta, name, bases, space)
        meta.known[name] = cls
        return cls


class Positive:
    def __set_name__(self, owner, name):
        self.name = "_" + name

    def __get__(self, obj, owner=None):
        return self if obj is None else getattr(obj, self.name)

    def __set__(self, obj, value):
        assert value > 0
        setattr(obj, self.name, value)


class Plugin(metaclass=Registry):
    size = Positive()

    def __init_subclass__(cls, **kwargs):
        cls.order = len(Registry.known)


class Fast(Plugin):
    pass


plugin = Fast()
plugin.size = 3
# -- after
assert Registry.known == {"Plugin": Plugin, "Fast": Fast} and Fast.order == 1 and plugin.size == 3
try:
    plugin.size = -1
except AssertionError:
    pass
else:
    raise RuntimeError("the descriptor is gone")

# %% abstract classes and virtual subclasses
import abc


class Model(abc.ABC):
    @abc.abstractmethod
    def fit(self): ...


@Model.register
class Foreign:
    pass


foreign = Foreign()
# -- after
assert isinstance(foreign, Model) and issubclass(Foreign, Model)
try:
    Model()
except TypeError:
    pass
else:
    raise RuntimeError("an abstract class was made")

# %% generic classes and protocols
T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, item: T):
        self.item = item


@typing.runtime_checkable
class HasItem(typing.Protocol):
    item: int


boxed = Box[int](3)
# -- after
assert (
    boxed.item == 3 and boxed.__orig_class__ == Box[int] and isinstance(boxed, HasItem) and Box.__parameters__ == (T,)
)


# %% an instance whose class was defined again later
class Config:
    level = 1

    def describe(self):
        return "old"


old_config = Config()


class Config:
    level = 2

    def describe(self):
        return "new"


new_config = Config()
# -- after
assert type(new_config) is Config and type(old_config) is not Config and old_config.describe() == "old"
assert old_config.level == 1 and new_config.describe() == "new"


# %% a function that was defined again later, an alias of the old one
def rate():
    return 1


old_rate = rate


def rate():
    return 2


# -- after
assert old_rate() == 1 and rate() == 2

# %% lru_cache and its contents
calls = []


@functools.lru_cache(maxsize=3)
def slow(x, *, y=0):
    calls.append(x)
    return [x, y]


@functools.cache
def slow_forever(*args):
    calls.append(args)
    return {"of": args}


kept_results = slow(1), slow(2, y=5), slow("s"), slow_forever(1, 2), slow_forever()
slow(1)
# -- after
before = list(calls)
assert slow.cache_info() == (1, 3, 3, 3) and slow_forever.cache_info() == (0, 2, None, 2)
assert slow(1) is kept_results[0] and slow(2, y=5) is kept_results[1] and slow("s") is kept_results[2]
assert slow_forever(1, 2) is kept_results[3] and slow_forever() is kept_results[4] and calls == before
slow(9)
slow(1)  # the oldest after the calls above: it had to go
assert calls[len(before) :] == [9, 1]


# %% lru_cache of a method, typed, and of a recursive function
class Lab:
    @functools.lru_cache(maxsize=None, typed=True)
    def measure(self, x):
        self.measured = getattr(self, "measured", 0) + 1
        return (x, self.measured)


@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


lab = Lab()
lab.measure(1), lab.measure(1.0), fib(20)
# -- after
assert lab.measure(1) == (1, 1) and lab.measure(1.0) == (1.0, 2) and lab.measured == 2
assert fib.cache_info().currsize == 21 and fib(20) == 6765 and fib.cache_info().misses == 21

# %% partial, partialmethod, singledispatch, cached_property, total_ordering
half = functools.partial(remember, into=(partial_list := []))
half.note = "mine"


@functools.singledispatch
def show(x):
    return "any"


@show.register
def _(x: int):
    return "int"


@functools.total_ordering
class Grade:
    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return self.n == other.n

    def __lt__(self, other):
        return self.n < other.n

    @functools.cached_property
    def heavy(self):
        return [self.n]

    show_as = functools.partialmethod(lambda self, how: (self.n, how), "short")


grade = Grade(3)
heavy_alias = grade.heavy
# -- after
half(8)
assert partial_list == [8] and half.note == "mine" and show(1) == "int" and show("x") == "any"
assert grade.heavy is heavy_alias and grade >= Grade(2) and grade.show_as() == (3, "short") and Grade(4).heavy == [4]

# %% bound methods and built-in methods stay attached
grow, bound_side = partial_list.append, square.__class__.side.fget
method = Fast.__init_subclass__
# -- after
grow(1)
assert partial_list[-1] == 1 and bound_side(square) == 2 and method.__self__ is Fast


# %% instances with __getattr__, __slots__ and __getstate__ of their own
class Proxy:
    def __init__(self, target):
        self.target = target

    def __getattr__(self, name):
        return getattr(self.target, name)


class Saver:
    def __init__(self):
        self.kept, self.dropped = 1, 2

    def __getstate__(self):
        return {"kept": self.kept}

    def __setstate__(self, state):
        self.__dict__.update(state, dropped="again")


proxied, saver = Proxy([1, 2]), Saver()
# -- after
assert proxied.index(2) == 1 and proxied.target == [1, 2] and saver.kept == 1 and saver.dropped in (2, "again")

# %% __setstate__ that uses the notebook's imports, constants and functions
import math as maths

SCALE = 10


def helper_of_setstate(x):
    return maths.sqrt(x) * SCALE


class Waking:
    def __init__(self):
        self.value = 4

    def __setstate__(self, state):
        self.value = state["value"]
        self.derived = helper_of_setstate(self.value)


waking = Waking()
# -- after
assert waking.value == 4 and getattr(waking, "derived", 20.0) == 20.0


# %% code that holds objects with a __reduce__ of their own among its constants
class Folded:
    def __init__(self, n):
        self.n = n

    def __reduce__(self):
        return Folded, (self.n,)


def uses_constant():
    return "a constant"


uses_constant.__code__ = uses_constant.__code__.replace(
    co_consts=tuple(Folded(5) if value == "a constant" else value for value in uses_constant.__code__.co_consts)
)
# -- after
assert type(uses_constant()) is Folded and uses_constant().n == 5

# %% code that holds constants without a hash or a plain ==
import numpy as np


def uses_unhashable():
    return "a constant"


def uses_array():
    return "a constant"


def swap_constant(function, value):
    constants = tuple(value if each == "a constant" else each for each in function.__code__.co_consts)
    function.__code__ = function.__code__.replace(co_consts=constants)


swap_constant(uses_unhashable, {"k": [1]})
swap_constant(uses_array, np.arange(3))
uses_unhashable_too = {"f": uses_unhashable, "made": compile("lambda: 5", "<x>", "eval")}
# -- after
assert uses_unhashable() == {"k": [1]} and uses_array().tolist() == [0, 1, 2]
assert uses_unhashable_too["f"] is uses_unhashable and eval(uses_unhashable_too["made"])() == 5


# %% a class whose methods hold such constants, and a closure of them
class Holding:
    def get(self):
        return "a constant"


swap_constant(Holding.get, Folded(9))
holding = Holding()


def closed_over():
    inner = holding.get
    return lambda: inner().n


closed = closed_over()
# -- after
assert holding.get().n == 9 and closed() == 9

# %% super objects, property and classmethod objects, NewType, ParamSpec, Literal
base_view = super(Cube, cube)
UserId = typing.NewType("UserId", int)
Parameters = typing.ParamSpec("Parameters")
as_property, choices = property(lambda self: 5), typing.Literal["a", "b"]
# -- after
assert base_view.side == 4 and base_view.__thisclass__ is Cube and UserId(3) == 3 and UserId.__name__ == "UserId"
assert Parameters.__name__ == "Parameters" and as_property.fget(None) == 5 and choices == typing.Literal["a", "b"]

# %% code that holds an object that can't be saved among its constants
import sys


def holds_frame():
    return "a constant"


holds_frame.__code__ = holds_frame.__code__.replace(
    co_consts=tuple(sys._getframe() if value == "a constant" else value for value in holds_frame.__code__.co_consts)
)
# -- after
assert holds_frame().f_globals is not None

# %% the namespace itself, __main__, and functions of exec with globals of their own
everything, main = globals(), sys.modules["__main__"]
apart = {"__name__": "apart", "value": 1}
exec("def look(): return value", apart)
look = apart["look"]
# -- after
apart["value"] = 2
assert everything is globals() and main.factor == factor and look() == 2


# %% a class with a reference to itself and instances in its attributes
class Singleton:
    instance = None

    def __new__(cls):
        if cls.instance is None:
            cls.instance = super().__new__(cls)
        return cls.instance


lonely = Singleton()
# -- after
assert Singleton() is lonely is Singleton.instance


# %% nested and local classes, __class__ in methods, __class__ assigned
class Outer:
    class Inner:
        def who(self):
            return "inner"

    inner = Inner()


def make_local():
    class Local:
        level = 1

        def get(self):
            return __class__.level

    return Local


Local = make_local()
local_object, morphed = Local(), Outer()
morphed.__class__ = Local
# -- after
assert isinstance(Outer.inner, Outer.Inner) and Outer.inner.who() == "inner" and local_object.get() == 1
assert type(morphed) is Local is type(local_object)


# %% private and mixed slots
class Private:
    __slots__ = ("__secret",)

    def __init__(self):
        self.__secret = 7

    def get(self):
        return self.__secret


class Mixed(Private):
    pass


private, mixed = Private(), Mixed()
mixed.more = 2
# -- after
assert private.get() == 7 and not hasattr(private, "__dict__") and mixed.get() == 7 and mixed.more == 2


# %% StrEnum, _missing_, flag boundaries, members as keys
class Mode(enum.StrEnum):
    FAST = enum.auto()

    @classmethod
    def _missing_(cls, value):
        return cls.FAST


class Bits(enum.Flag, boundary=enum.KEEP):
    X = 1


by_mode = {Mode.FAST: 1, (1, Mode.FAST): 2, frozenset({Mode.FAST}): 3}
# -- after
assert Mode("other") is Mode.FAST and Bits(8).value == 8 and f"{Mode.FAST}" == "fast"
assert by_mode[Mode.FAST] == 1 and by_mode[1, Mode.FAST] == 2 and by_mode[frozenset({Mode.FAST})] == 3

# %% classes registered with abstract classes and copyreg of the library
import collections.abc, copyreg, numbers


class Odd:
    def __init__(self, n):
        self.n = n


numbers.Number.register(Odd)
copyreg.pickle(Odd, lambda odd: (Odd, (odd.n,)))
odd = Odd(3)
# -- after
assert isinstance(odd, numbers.Number) and odd.n == 3 and Odd in copyreg.dispatch_table


# %% caches below staticmethod and classmethod, lambdas of a loop
class Cached:
    @staticmethod
    @functools.cache
    def plain(x):
        return [x]

    @classmethod
    @functools.cache
    def of_class(cls, x):
        return [x]


cached_results = Cached.plain(1), Cached.of_class(2)
late_bound = [lambda: each for each in range(3)]
# -- after
assert Cached.plain(1) is cached_results[0] and Cached.of_class(2) is cached_results[1]
assert [function() for function in late_bound] == [2, 2, 2]
assert late_bound[0].__closure__[0] is late_bound[1].__closure__[0]


# %% attributes of a class that were changed, deleted, added
class Settings:
    "doc"

    depth: int = 1
    width: int = 2


Settings.depth, Settings.added, Settings.__doc__ = 5, [1], "new doc"
del Settings.width
# -- after
assert (
    Settings.depth == 5 and Settings.added == [1] and Settings.__doc__ == "new doc" and not hasattr(Settings, "width")
)
assert [name for name in vars(Settings) if not name.startswith("__")] == ["depth", "added"]
