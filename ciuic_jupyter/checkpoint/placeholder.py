"""What stands where an object could not be saved: it raises on any use and says why."""

from __future__ import annotations

from typing import Any, NoReturn

from ciuic_jupyter.errors import CheckpointError

_SILENT = frozenset({"__class__", "__doc__", "__repr__", "__hash__", "__init__"})


class Placeholder:
    """Stands for `path` (such as `cfg['db']`), which was not saved because of `reason`.

    Only its repr, its type and its place in a set or dict work; everything else raises CheckpointError.
    """

    __slots__ = ("__weakref__", "_path", "_reason")

    def __init__(self, path: str, reason: str) -> None:
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_reason", reason)

    def __getattribute__(self, name: str) -> Any:
        if name in _SILENT:
            return object.__getattribute__(self, name)
        _refuse(self)

    def __repr__(self) -> str:
        path, reason = describe(self)
        return f"<not saved: {path}: {reason}>"

    def __hash__(self) -> int:
        return id(self)


def describe(placeholder: Placeholder) -> tuple[str, str]:
    """Return the path and the reason that `placeholder` was made with."""
    return object.__getattribute__(placeholder, "_path"), object.__getattribute__(placeholder, "_reason")


def _refuse(placeholder: Placeholder) -> NoReturn:
    path, reason = describe(placeholder)
    raise CheckpointError(f"{path} was not saved when this session was paused: {reason}; make it again")


def _refusing(name: str) -> Any:
    def method(self: Placeholder, *_: Any, **__: Any) -> NoReturn:
        _refuse(self)

    method.__name__ = name
    return method


_USES = """
str format bytes bool len length_hint iter next reversed contains getitem setitem delitem missing call setattr
delattr dir eq ne lt le gt ge int float complex index round trunc floor ceil neg pos abs invert
add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor
radd rsub rmul rtruediv rfloordiv rmod rdivmod rpow rmatmul rlshift rrshift rand ror rxor
iadd isub imul itruediv ifloordiv imod ipow imatmul ilshift irshift iand ior ixor
enter exit await aiter anext aenter aexit get set delete fspath buffer copy deepcopy reduce reduce_ex getstate sizeof
array array_ufunc array_function instancecheck subclasscheck set_name
"""
for _use in _USES.split():
    setattr(Placeholder, f"__{_use}__", _refusing(f"__{_use}__"))
