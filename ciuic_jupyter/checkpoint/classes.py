"""Classes of the notebook by value: made empty, filled when they are in the memo, no hook of the user's run again."""

from __future__ import annotations

import abc
import enum
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cloudpickle import cloudpickle

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph

_ENUM_KEEPS = ("_name_", "_value_", "__objclass__", "_sort_order_")


def reduce_class(graph: Graph, kind: type) -> Any:
    """Return the reduction of the class `kind`: by name where its module has it, else by value."""
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
    if issubclass(kind, enum.Enum):
        return _make_enum, _enum_arguments(kind), _enum_state(kind, names), None, None, _fill_enum
    meta, name, bases, keywords, *_ = made
    plain = _is_ours(meta)
    quiet = any(_is_ours(base) for base in kind.__mro__[1:] if "__init_subclass__" in vars(base))
    return _make_class, (meta, name, bases, keywords, plain, quiet), (names, slots), None, None, _fill_class


def _is_ours(kind: type) -> bool:
    return not cloudpickle._should_pickle_by_reference(kind)  # noqa: SLF001


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
    for name, value in names.items():
        type.__setattr__(kind, name, value)  # the notebook's metaclass saw this when the class was made
    if "__abstractmethods__" in names:
        kind.__abstractmethods__ = names["__abstractmethods__"]  # type: ignore[attr-defined]
    for subclass in registered:
        abc.ABCMeta.register(kind, subclass)  # type: ignore[arg-type]


# enums


def _enum_arguments(kind: type[enum.Enum]) -> tuple[Any, ...]:
    values = {name: member._value_ for name, member in kind.__members__.items()}
    return kind.__bases__, kind.__name__, kind.__qualname__, values, kind.__module__, getattr(kind, "_boundary_", None)


def _enum_state(kind: type[enum.Enum], names: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    made_by_enum = {*kind.__members__, "_generate_next_value_", "_member_names_", "_member_map_", "_member_type_"}
    made_by_enum |= {"_value2member_map_", "_unhashable_values_", "_use_args_", "_value_repr_", "_flag_mask_"}
    made_by_enum |= {"_singles_mask_", "_all_bits_", "_inverted_", "_boundary_", "__new__", "__new_member__"}
    made_by_enum |= {"_hashable_values_", "_unhashable_values_map_", "__dict__", "__weakref__"}
    kept = {name: value for name, value in names.items() if name not in made_by_enum}
    extra = {name: vars(member) for name, member in kind.__members__.items() if member.name == name}
    own = {name: {k: v for k, v in values.items() if k not in _ENUM_KEEPS} for name, values in extra.items()}
    creator = vars(kind).get("__new_member__")
    if isinstance(creator, (staticmethod, types.FunctionType)) and "__new_member__" in vars(kind):
        function = creator.__func__ if isinstance(creator, staticmethod) else creator
        if isinstance(function, types.FunctionType) and _is_local(function):
            kept["__new_member__"] = creator
    return kept, {name: values for name, values in own.items() if values}


def _is_local(function: types.FunctionType) -> bool:
    return not cloudpickle._should_pickle_by_reference(function)  # noqa: SLF001


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
        vars(kind.__members__[name]).update(values)
