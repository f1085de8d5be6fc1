"""Classes of the notebook by value: made empty, filled when they are in the memo, no hook of the user's run again."""

from __future__ import annotations

import abc
import enum
import importlib
import operator
import sys
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph

_ENUM_KEEPS = ("_name_", "__objclass__", "_sort_order_")


def reduce_class(graph: Graph, kind: type) -> Any:
    """Return the reduction of the class `kind`: by name where its module has it, else by value."""
    load_home(kind)
    foreign = _foreign_type(kind)
    if foreign is not None:
        return foreign
    reduced = cloudpickle._class_reduce(kind)  # noqa: SLF001 - its rules are the ones to keep
    if reduced is NotImplemented:
        graph.uses(kind.__module__)
        return reduced
    if len(reduced) == 2:  # NoneType and friends
        return reduced
    _, made, (names, slots), *_ = reduced
    for function in names.values():
        if isinstance(function, types.FunctionType):
            graph.sources.add(function.__code__.co_filename)
    order = {key: index for index, key in enumerate(vars(kind))}  # cloudpickle sorts them by name
    names = dict(sorted(names.items(), key=lambda item: order.get(item[0], len(order))))
    names = {key: value for key, value in names.items() if not _is_field(value)}  # made by _fields_
    if issubclass(kind, enum.Enum):
        return _make_enum, _enum_arguments(kind), _enum_state(kind, names), None, None, _fill_enum
    meta, name, bases, keywords, *_ = made
    if (
        "__slots__" in vars(kind) and typing.NamedTuple not in bases
    ):  # they shape the instances, so that they can't be set later
        keywords = {**keywords, "__slots__": _slots(kind)}
        names = {key: value for key, value in names.items() if not _is_slot(kind, value)}
    plain = _is_ours(meta)
    quiet = any(_is_ours(base) for base in kind.__mro__[1:] if "__init_subclass__" in vars(base))
    return _make_class, (meta, name, bases, keywords, plain, quiet), (names, slots), None, None, _fill_class


def load_home(obj: Any) -> None:
    """Load the submodule that a library's class or function calls its home, if nobody has yet: it is found there."""
    module = getattr(obj, "__module__", None)
    if isinstance(module, str) and module not in sys.modules and module.partition(".")[0] in sys.modules:
        with suppress(Exception):  # then it is saved by value
            importlib.import_module(module)


def _foreign_type(kind: Any) -> Any:
    """Return how a class of ctypes that no module has under its name is found again; None for any other class."""
    ctypes = sys.modules.get("ctypes")
    if ctypes is None or not (issubclass(kind, type) or type(kind).__module__ == "_ctypes"):
        return None
    pointer, function = ctypes._Pointer, ctypes._CFuncPtr  # noqa: SLF001 - they have no other name
    for base in (ctypes.Structure, ctypes.Union, ctypes.Array, ctypes.c_int, pointer, function):
        if kind is type(base):
            return type, (base,)
    if ctypes.Array in kind.__bases__:
        return operator.mul, (kind._type_, kind._length_)
    if pointer in kind.__bases__:
        return ctypes.POINTER, (kind._type_,)
    return None


def _is_field(value: object) -> bool:
    return type(value).__module__ == "_ctypes" and type(value).__name__ == "CField"


def _slots(kind: type) -> Any:
    slots = vars(kind)["__slots__"]
    if isinstance(slots, (str, tuple, list, dict)):
        return slots
    own = [name for name, value in vars(kind).items() if _is_slot(kind, value)]  # it was an iterator
    return (*own, *(name for name in ("__dict__", "__weakref__") if name in vars(kind)))


def _is_slot(kind: type, value: object) -> bool:
    return isinstance(value, types.MemberDescriptorType) and value.__objclass__ is kind


def _is_ours(kind: type) -> bool:
    return kind.__module__ != "_ctypes" and not cloudpickle._should_pickle_by_reference(kind)  # noqa: SLF001


def _make_class(
    meta: type, name: str, bases: tuple[Any, ...], keywords: dict[str, Any], plain: bool, quiet: bool
) -> type:
    """Return an empty class; `plain`: skip the notebook's metaclass, `quiet`: skip its __init_subclass__.

    What these did when the class was made is part of the state that follows.
    """
    resolved = types.resolve_bases(bases)
    names = dict(keywords)
    if resolved is not bases:
        names["__orig_bases__"] = bases
    with _silenced(resolved if quiet else ()):
        if not plain:
            return types.new_class(name, bases, {"metaclass": meta}, lambda space: space.update(keywords))
        library = next(base for base in meta.__mro__ if not _is_ours(base))
        made: type = library.__new__(meta, name, resolved, names)
        return made


@contextmanager
def _silenced(bases: tuple[type, ...]) -> Iterator[None]:
    everyone = {owner for base in bases for owner in base.__mro__}
    owners = {owner for owner in everyone if "__init_subclass__" in vars(owner) and _is_ours(owner)}
    kept = {owner: vars(owner)["__init_subclass__"] for owner in owners}
    for owner in owners:
        owner.__init_subclass__ = classmethod(lambda cls, **_: None)  # type: ignore[assignment]
    try:
        yield
    finally:
        for owner, hook in kept.items():
            owner.__init_subclass__ = hook  # type: ignore[method-assign]


def _fill_class(kind: type, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    names, _ = state
    registered = names.pop("_abc_impl", ())
    setter = type(kind).__setattr__ if type(kind).__module__ == "_ctypes" else type.__setattr__  # it makes the fields
    for name, value in sorted(names.items(), key=lambda item: item[0] == "_fields_"):
        setter(kind, name, value)  # the notebook's metaclass saw this when the class was made
    if "__abstractmethods__" in names:
        kind.__abstractmethods__ = names["__abstractmethods__"]  # type: ignore[attr-defined]
    for subclass in registered:
        abc.ABCMeta.register(kind, subclass)  # type: ignore[arg-type]


# enums


def reduce_member(graph: Graph, member: Any) -> Any:
    """Return the reduction of a member of an enum: by its name, which is there before values and attributes are."""
    kind = type(member)
    if _is_ours(kind) and kind.__members__.get(member._name_) is member:
        return _member, (kind, member._name_)
    return graph.default(member)


def _member(kind: Any, name: str) -> Any:
    return kind.__members__[name]


def _enum_arguments(kind: Any) -> tuple[Any, ...]:
    mixed_in = kind._member_type_
    if mixed_in is not object and _own_creator(kind) is not None:  # what it is made of is not its value
        values = {name: mixed_in.__new__(mixed_in, member) for name, member in kind.__members__.items()}
    else:
        values = {name: member._value_ for name, member in kind.__members__.items()}
    return kind.__bases__, kind.__name__, kind.__qualname__, values, kind.__module__, getattr(kind, "_boundary_", None)


def _enum_state(kind: type[enum.Enum], names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    made_by_enum = {*kind.__members__, "_generate_next_value_", "_member_names_", "_member_map_", "_member_type_"}
    made_by_enum |= {"_value2member_map_", "_unhashable_values_", "_use_args_", "_value_repr_", "_flag_mask_"}
    made_by_enum |= {"_singles_mask_", "_all_bits_", "_inverted_", "_boundary_", "__new__", "__new_member__"}
    made_by_enum |= {"_hashable_values_", "_unhashable_values_map_", "__dict__", "__weakref__"}
    kept = {name: value for name, value in names.items() if name not in made_by_enum}
    members = {name: vars(member) for name, member in kind.__members__.items() if member.name == name}
    own = {name: {k: v for k, v in values.items() if k not in _ENUM_KEEPS} for name, values in members.items()}
    creator = _own_creator(kind)
    if creator is not None:
        kept["__new_member__"] = creator
    return kept, own


def _own_creator(kind: type[enum.Enum]) -> Any:
    """Return the __new__ that the notebook wrote into the enum, or None."""
    creator = vars(kind).get("__new_member__")
    function = creator.__func__ if isinstance(creator, staticmethod) else creator
    if isinstance(function, types.FunctionType) and not cloudpickle._should_pickle_by_reference(function):  # noqa: SLF001
        return creator
    return None


def _make_enum(
    bases: tuple[type, ...], name: str, qualname: str, values: dict[str, Any], module: str, boundary: Any
) -> type:
    meta: Any = type(bases[-1])
    space = meta.__prepare__(name, bases)
    for key, value in values.items():
        space[key] = value
    arguments = {} if boundary is None else {"boundary": boundary}
    made: type = meta.__new__(meta, name, bases, space, **arguments)
    made.__module__, made.__qualname__ = module, qualname
    return made


def _fill_enum(kind: Any, state: tuple[dict[str, Any], dict[str, dict[str, Any]]]) -> None:
    names, own = state
    for name, value in names.items():
        type.__setattr__(kind, name, value)
    for name, values in own.items():
        member = kind.__members__[name]
        vars(member).update(values)
        with suppress(TypeError):  # a value that can't be hashed is searched for
            kind._value2member_map_.setdefault(member._value_, member)
