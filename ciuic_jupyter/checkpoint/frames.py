"""pandas: blocks and indexes that share memory know of each other again, so that copy-on-write still copies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ciuic_jupyter.checkpoint.graph import Graph


def handler_for(kind: type) -> Callable[[Graph, Any], Any] | None:
    """Return what reduces objects of `kind`, if they are pandas' own carriers of memory."""
    internals = sys.modules.get("pandas._libs.internals")
    pandas = sys.modules.get("pandas")
    if internals is None or not hasattr(pandas, "Index"):
        return None
    if kind is internals.BlockValuesRefs:
        return _references
    if issubclass(kind, internals.Block):
        return _block
    if (kind.__module__, kind.__name__) == ("pandas.core.internals.managers", "SingleBlockManager"):
        return _series
    if issubclass(kind, pandas.Index) and not issubclass(kind, (pandas.MultiIndex, pandas.RangeIndex)):  # type: ignore[union-attr]
        return _index
    return None


def _references(_: Graph, __: Any) -> Any:
    return _make_references, ()


def _make_references() -> Any:
    from pandas._libs.internals import BlockValuesRefs  # noqa: PLC0415 - only where frames were saved

    return BlockValuesRefs()


def _block(graph: Graph, block: Any) -> Any:
    graph.uses("pandas")
    return _make_block, (type(block), block.values, block.mgr_locs.indexer, block.ndim, block.refs)


def _make_block(kind: type, values: Any, places: Any, ndim: int, references: Any) -> Any:
    from pandas._libs.internals import BlockPlacement  # noqa: PLC0415 - only where frames were saved

    return kind(values, BlockPlacement(places), ndim, references)


def _series(_: Graph, manager: Any) -> Any:
    return type(manager), (manager.blocks[0], manager.axes[0])


def _index(graph: Graph, index: Any) -> Any:
    graph.uses("pandas")
    reduced = graph.default(index)
    references = getattr(index, "_references", None)
    if references is None or not isinstance(reduced, tuple) or any(reduced[2:]):
        return reduced
    return _make_index, (*reduced[:2], references)


def _make_index(function: Callable[..., Any], args: tuple[Any, ...], references: Any) -> Any:
    index = function(*args)
    index._references = references  # noqa: SLF001 - nothing public sets it
    references.add_index_reference(index)
    return index
