# ruff: noqa
import abc
import collections
import concurrent.futures
import dataclasses
import enum
import functools
import sys
import typing
from random import random as draw

factor = 3


def scaled(x):
    return factor * x


def setter(value):
    global factor
    factor = value


table = {"f": scaled, "g": lambda x: x + factor}


def counter():
    count = 0

    def up():
        nonlocal count
        count += 1
        return count

    def look():
        return count

    return up, look


up, look = counter()
up()


def recursive_closure():
    def fact(n):
        return 1 if n < 2 else n * fact(n - 1)

    return fact


fact = recursive_closure()


class Base(abc.ABC):
    registry = []
    shared = {"k": [1]}

    def __init_subclass__(cls, /, tag, **kwargs):
        super().__init_subclass__(**kwargs)
        Base.registry.append((cls, tag))

    @abc.abstractmethod
    def area(self): ...

    @property
    def double(self):
        return 2 * self.area()

    @classmethod
    def make(cls, *args):
        return cls(*args)

    @staticmethod
    def plain(x):
        return x * factor


class Square(Base, tag="sq"):
    __slots__ = ("side", "extra")

    def __init__(self, side):
        super().__init__()
        self.side = side

    def area(self):
        return self.side**2 * factor


square = Square(3)
square.extra = square


class Meta(type):
    made = []

    def __new__(mcls, name, bases, space, **kw):
        cls = super().__new__(mcls, name, bases, space)
        Meta.made.append(name)
        return cls


class Made(metaclass=Meta):
    value = 5


made = Made()


class Color(enum.Enum):
    RED = 1
    CRIMSON = 1
    BLUE = "b"

    def loud(self):
        return self.name + "!" * factor


class Planet(enum.Enum):
    EARTH = (6, 2)
    MARS = (3, 1)

    def __init__(self, mass, radius):
        self.mass = mass
        self.radius = radius


class Level(str, enum.Enum):
    LOW = "low"
    HIGH = "high"


class Bits(enum.Flag):
    A = enum.auto()
    B = enum.auto()


class Coordinate(bytes, enum.Enum):
    def __new__(cls, value, label):
        self = bytes.__new__(cls, [value])
        self._value_ = value
        self.label = label
        return self

    X = (0, "x")
    Y = (1, "y")


colors = [Color.RED, Color.BLUE, Planet.MARS, Level.HIGH, Bits.A | Bits.B, Coordinate.Y]


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 2
    tags: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    a: int


point, frozen = Point(1), Frozen(4)
Pair = collections.namedtuple("Pair", "left right")


class Typed(typing.NamedTuple):
    a: int
    b: str = "z"


pair, typed = Pair(1, [2]), Typed(1)
T = typing.TypeVar("T")


class Box(typing.Generic[T]):
    def __init__(self, item: T):
        self.item = item


box = Box([1])


@functools.lru_cache(maxsize=7)
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


fib(9)


class WithCache:
    @functools.cached_property
    def slow(self):
        return [1]

    @functools.lru_cache
    def method(self, x):
        return x


cached = WithCache()
cached.slow


@functools.singledispatch
def show(x):
    return "any"


@show.register(int)
def show_int(x):
    return "int"


def documented(a, b=[1], *, c: int = 4) -> "str":
    "doc"
    return a, b, c


documented.note = {"k": 1}
default_list = documented.__defaults__[0]
half = functools.partial(documented, 1, c=9)
bound = square.area
appender = default_list.append


def chained():
    try:
        try:
            1 / 0
        except ZeroDivisionError as inner:
            raise KeyError("outer") from inner
    except KeyError as error:
        return error


error = chained()


class Mistake(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code


def pool():
    return concurrent.futures.ThreadPoolExecutor


loop = []
loop.append(loop)
cyclic = {"me": None}
cyclic["me"] = (cyclic, loop)
everything = globals()
builtin = len
main = sys.modules["__main__"]
deep = []
for _ in range(900):
    deep = [deep]
sentinel = dataclasses.MISSING
module_alias = functools


class Node:
    def __init__(self, next):
        self.next = next


chain = None
for _ in range(20_000):
    chain = Node(chain)

ordered = collections.OrderedDict(a=1)
keys, items = cyclic.keys(), ordered.items()
view = memoryview(bytearray(b"abcdef"))[1:4]
buffer = view.obj
code = compile("1 + 1", "<string>", "eval")
space = {"__name__": "elsewhere"}
exec("value = 1\ndef inside():\n    return value", space)
inside = space["inside"]


def check_functions_see_and_write_live_globals():
    assert scaled(2) == 6
    setter(5)
    assert factor == 5 and scaled(2) == 10 and table["g"](1) == 6
    setter(3)
    assert table["f"] is scaled and scaled.__globals__ is globals()


def check_shared_cells():
    assert look() == 1 and up() == 2 and look() == 2


def check_recursive_closure():
    assert fact(5) == 120


def check_class_and_instance_identity():
    assert type(square) is Square and isinstance(square, Base) and square.extra is square
    assert square.area() == 27 and square.double == 54 and Square.make(1).side == 1 and Base.plain(1) == 3


def check_methods_see_live_globals():
    setter(1)
    assert square.area() == 9
    setter(3)


def check_init_subclass_ran_once():
    assert Base.registry == [(Square, "sq")]
    new = type("New", (Base,), {"area": lambda self: 1}, tag="n")
    assert Base.registry[-1] == (new, "n")
    Base.registry.pop()


def check_abc_stays_abstract():
    try:
        Base()
    except TypeError:
        return
    raise AssertionError("an abstract class was made")


def check_metaclass_ran_once():
    assert Meta.made == ["Made"] and type(Made) is Meta and made.value == 5
    assert Meta("Other", (), {}) and Meta.made == ["Made", "Other"]


def check_enum_identity():
    assert colors[0] is Color.RED and colors[1] is Color("b") and Color["CRIMSON"] is Color.RED
    assert list(Color) == [Color.RED, Color.BLUE] and Color.RED.loud() == "RED!!!"


def check_enum_members_keep_attributes():
    assert Planet.MARS.mass == 3 and Planet.EARTH.radius == 2 and colors[2] is Planet.MARS


def check_enum_mixins():
    assert Level.HIGH == "high" and colors[3] is Level.HIGH and Level("low") is Level.LOW
    assert colors[4] == Bits.A | Bits.B and Bits.A in colors[4] and (Bits.A | Bits.B) is colors[4]


def check_enum_with_new():
    assert colors[5] is Coordinate.Y and Coordinate.Y.label == "y" and Coordinate(1) is Coordinate.Y
    assert bytes(Coordinate.Y) == b"\x01"


def check_dataclasses():
    assert point == Point(1) and Point(3).tags == [] and Point(0) < point and dataclasses.asdict(point)["y"] == 2
    assert frozen == Frozen(4) and hash(frozen) == hash(Frozen(4))
    try:
        frozen.a = 1
    except dataclasses.FrozenInstanceError:
        pass
    else:
        raise AssertionError("not frozen")


def check_dataclass_can_be_inherited():
    @dataclasses.dataclass
    class Child(Point):
        z: int = 5

    assert Child(1).z == 5 and Child(1).tags == [] and sentinel is dataclasses.MISSING


def check_namedtuples():
    assert type(pair) is Pair and pair.right == [2] and pair._replace(left=5) == (5, [2])
    assert typed.b == "z" and type(typed) is Typed


def check_generic():
    assert box.item == [1] and Box[int].__origin__ is Box and Box.__parameters__ == (T,)


def check_lru_cache_holds_what_it_held():
    assert fib.cache_info() == (7, 10, 7, 7) and fib(9) == 34 and fib.__wrapped__.__globals__ is globals()


def check_caches_of_methods():
    assert cached.__dict__["slow"] is cached.slow and WithCache().method(2) == 2


def check_singledispatch():
    assert show(1) == "int" and show("x") == "any"
    show.register(str, lambda x: "str")
    assert show("x") == "str"


def check_function_details():
    assert documented.__doc__ == "doc" and documented.note == {"k": 1} and documented.__kwdefaults__ == {"c": 4}
    assert documented.__annotations__ == {"c": int, "return": "str"} and documented.__defaults__[0] is default_list
    assert half() == (1, [1], 9) and bound() == square.area() and bound.__self__ is square


def check_bound_builtin_is_attached():
    appender(7)
    assert default_list[-1] == 7 and documented(0)[1] is default_list
    default_list.pop()


def check_exception_chain():
    assert isinstance(error, KeyError) and isinstance(error.__cause__, ZeroDivisionError)


def check_submodule_is_imported():
    assert pool().__name__ == "ThreadPoolExecutor"


def check_cycles():
    assert loop[0] is loop and cyclic["me"][0] is cyclic and cyclic["me"][1] is loop


def check_globals_is_the_namespace():
    assert everything is globals() and everything["factor"] == 3 and builtin is len


def check_main_module():
    assert main is sys.modules["__main__"] and main.factor == 3


def check_deep_lists():
    depth, level = 0, deep
    while level:
        depth, level = depth + 1, level[0]
    assert depth == 900


def check_long_chain():
    length, node = 0, chain
    while node is not None:
        length, node = length + 1, node.next
    assert length == 20_000


def check_views_of_dicts_are_live():
    cyclic["new"] = 1
    assert "new" in keys
    del cyclic["new"]
    ordered["b"] = 2
    assert list(items) == [("a", 1), ("b", 2)]


def check_memoryview_shares():
    buffer[1] = ord("X")
    assert bytes(view) == b"Xcd"


def check_code_object():
    assert eval(code) == 2


def check_foreign_globals_are_live():
    space["value"] = 9
    assert inside() == 9


def check_module_alias():
    assert module_alias is functools


def check_global_random_is_attached():
    import random

    random.seed(3)
    first = draw()
    random.seed(3)
    assert random.random() == first and draw.__self__ is random._inst


def check_source_for_tracebacks():
    import inspect

    assert "factor * x" in inspect.getsource(scaled)


def check_user_pickle_works():
    import pickle

    assert pickle.loads(pickle.dumps(point)) == point


def check_state():
    assert restored_state["count"] == 7
