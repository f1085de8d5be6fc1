"""A kernel's namespace to a store and back: one object graph with the process's state beside it."""

from __future__ import annotations

import gc
import mmap
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from ciuic_jupyter.checkpoint import ahead, context, loader, modules, paths, process, survey
from ciuic_jupyter.checkpoint.graph import Graph, Plan, Restart
from ciuic_jupyter.checkpoint.placeholder import Placeholder
from ciuic_jupyter.checkpoint.store import Reader, Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError

FORMAT = 1
NEVER = frozenset({"__builtins__", "__builtin__", "__name__", "__doc__", "__loader__", "__spec__", "__package__"})
HIDDEN = NEVER | {
    *("In", "Out", "get_ipython", "exit", "quit", "open", "_", "__", "___", "_i", "_ii", "_iii", "_ih", "_oh", "_dh"),
}
_APART = 1 << 20  # bytes; a larger buffer has chunks of its own, smaller ones share some
_ALIGN = 64  # bytes; where a small buffer starts
_OWN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # memory that a process forked later does not share
_RESTARTS = 100  # walks; then whole variables are given up instead of single objects
_STACK = 512 << 20  # bytes of address space of the thread for deeply nested objects
_FRAME = 2048  # bytes of stack that one level of recursion may take
_PLAIN = (dict, list, tuple, set, frozenset, str, bytes, bytearray, int, float)  # the pickler asks nobody about these
_STATE = "state"
# what a reader calls Out is deep inside the state
_KNOWN_AS = {
    re.escape(f"{_STATE}['outputs']"): "Out",
    r"process\['logging'\]\['handlers'\]\['([\w.]*)'\]\[0\]": r"logging.getLogger('\1').handlers",
    r"process\['modules'\]\['([\w.]+)'\]\['globals'\]\['(\w+)'\]": r"\1.\2",
    r"process\['modules'\]\['([\w.]+)'\]\['attributes'\]\['(\w+)'\]\['(\w+)'\]": r"\1.\2.\3",
    r"process\['modules'\]\['([\w.]+)'\]\['caches'\]\['(\w+)'\]": r"\1.\2",
    r"process\['hooks'\]": "hooks",
    r"process\['shell'\]": "get_ipython()",
    r"process\['context'\]": "contextvars.copy_context()",
}


@dataclass
class Restored:
    """What came back: names, what did not as {name, path, reason}, warnings, and the `state` given to `capture`."""

    names: list[str] = field(default_factory=list)
    placeholders: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    state: dict[str, Any] | None = None
    failed: dict[str, str] = field(default_factory=dict)  # path -> reason, of what could be saved but not made here


@dataclass
class _Walk:
    graph: Graph
    segments: list[dict[str, Any]]


@dataclass
class _Job:
    """What one save is about, and what its walks have learnt."""

    namespace: dict[str, Any]
    values: dict[str, Any]
    state: Mapping[str, Any] | None
    records: dict[str, Any]
    inputs: list[str]
    whole: list[Any]  # modules that go with their code
    plan: Plan = field(default_factory=Plan)
    last: str = ""  # the segment under way

    def give_up(self, forced: Mapping[str, str]) -> None:
        """Put placeholders where the names or paths of `forced` lead."""
        for path, reason in forced.items():
            try:
                name, target = paths.resolve(path, self.values)
            except KeyError:
                name, target = context.entry(path, reason)["name"], None
            if target is None or type(target) in _PLAIN:
                self.plan.given_up[name] = reason
            else:
                self.plan.refuse(target, reason)

    def segments(self, graph: Graph) -> _Walk:
        """Walk once: variables in their order, then what is beside them."""
        found = [self._segment(graph, "other", "whole", self.whole)]  # first: an import must find them
        found += [self._segment(graph, "name", name, value) for name, value in self.values.items()]
        found.append(self._segment(graph, "other", _STATE, self.state))
        records = process.needed(self.records, graph.packages, self.inputs)
        found.append(self._segment(graph, "other", "process", records))
        found.append(self._segment(graph, "other", "sources", process.sources(graph.sources)))
        found.append(self._segment(graph, "other", "hashed", graph.hashed))
        return _Walk(graph, found)

    def _segment(self, graph: Graph, kind: str, name: str, value: object) -> dict[str, Any]:
        self.last = name
        if name in self.plan.given_up:
            value = Placeholder(name, self.plan.given_up[name])
        return {"kind": kind, "name": name, "start": graph.segment(name, value)}


# saving


def capture(
    namespace: dict[str, Any],
    store: Store,
    *,
    hidden: Collection[str] = HIDDEN,
    state: Mapping[str, Any] | None = None,
    force_placeholders: Mapping[str, str] | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Save the variables of `namespace` but `hidden` ones and return the manifest's body, for `write_manifest`.

    `state` is saved in the same graph and comes back from `restore`. `force_placeholders` maps names or paths
    (`cfg['db']`) to the reason why they are given up, as `verify` reports them. What can't be saved is in the body's
    `placeholders`; SaveFailed only if the disk refuses. Nothing of the user's may run meanwhile. `tell` is called with
    the bytes done and in all, after each chunk.
    """
    with walked(namespace, hidden=hidden, state=state, force_placeholders=force_placeholders) as walk:
        with store.save() as save:
            if tell is not None:
                total = _size(walk.graph.stream, walk.graph.buffers)
                save.tell = lambda done: tell(done, total)
            written = write(walk.graph.stream, walk.graph.buffers, save)
        return {**walk.head, **written}


@dataclass(frozen=True)
class Walked:
    """One walk done: the structure is pickled, the buffers are still the memory of the variables."""

    graph: Graph
    head: dict[str, Any]  # the manifest's body without what `write` adds


@contextmanager
def walked(
    namespace: dict[str, Any],
    *,
    hidden: Collection[str] = HIDDEN,
    state: Mapping[str, Any] | None = None,
    force_placeholders: Mapping[str, str] | None = None,
) -> Iterator[Walked]:
    """Walk as `capture` does; its buffers stay what they are inside the block, if nothing of the user's runs there."""
    skipped = NEVER | set(hidden)
    values = {name: value for name, value in namespace.items() if isinstance(name, str) and name not in skipped}
    inputs = [text for text in (state or {}).get("inputs") or () if isinstance(text, str)]
    report: list[dict[str, str]] = []
    plain = process.plain_record(report, inputs)
    collecting = gc.isenabled()
    seen = survey.look(process.words(inputs))
    mine = modules.own(process.added_path(), seen)
    with modules.saved_whole(mine, seen) as whole:
        job = _Job(namespace, values, state, process.records(report, seen, mine), inputs, whole)
        job.give_up(force_placeholders or {})
        gc.disable()
        try:
            walk = _walk(job)
            yield Walked(walk.graph, _head(walk, job, plain, report))
        finally:
            if collecting:
                gc.enable()


def _head(walk: _Walk, job: _Job, plain: dict[str, Any], report: Sequence[dict[str, str]]) -> dict[str, Any]:
    graph = walk.graph
    return {
        "format": FORMAT,
        **process.place(),
        "packages": process.packages(graph.packages),
        "names": list(job.values),
        "types": {name: type_name(value) for name, value in job.values.items()},
        "placeholders": [*_unique(graph.report), *report],
        "process": plain,
        "segments": walk.segments,
        "loose": graph.loose,
    }


def type_name(value: object) -> str:
    """Return the class of `value`, builtins and the notebook's own without their module."""
    kind = type(value)
    known = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if known else f"{kind.__module__}.{kind.__qualname__}"


def _unique(report: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    lines = {(line["path"], line["reason"]): line for line in report}
    for line in lines.values():
        for inside, known in _KNOWN_AS.items():
            line["path"] = re.sub("^" + inside, known, line["path"])
            line["name"] = context.entry(line["path"], "")["name"]
    return list(lines.values())


def _walk(job: _Job) -> _Walk:
    deep = False
    for count in range(1_000_000):

        def once() -> _Walk:
            return job.segments(Graph(job.namespace, job.plan))

        try:
            return _in_deep_thread(once) if deep else _with_stack(once)
        except Restart:
            if count > _RESTARTS:
                job.plan.given_up[job.last] = "too many of its parts can't be saved"
        except RecursionError:
            if deep:
                job.plan.given_up[job.last] = "it is nested too deeply to be saved"
            deep = True
    raise CheckpointError("the variables can't be saved; this should not happen")


def _with_stack(work: Callable[[], _Walk]) -> _Walk:
    """Run `work` with the recursion that 8 MiB of stack, which a main thread has, can hold."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 3_000))
    try:
        return work()
    finally:
        sys.setrecursionlimit(limit)


def _in_deep_thread(work: Callable[[], _Walk]) -> _Walk:
    results: list[_Walk] = []
    errors: list[BaseException] = []

    def run() -> None:
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, _STACK // _FRAME))
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            errors.append(error)
        finally:
            sys.setrecursionlimit(limit)

    size = threading.stack_size(_STACK)
    try:
        thread = threading.Thread(target=run, name="checkpoint of deep objects")
        thread.start()
    finally:
        threading.stack_size(size)
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Sink(Protocol):
    """What a `Save` is to the writer."""

    def add(self, data: bytes | bytearray | memoryview) -> dict[str, Any]:
        """Store `data`; return what a reader needs to find it."""

    @property
    def bytes_total(self) -> int:
        """Bytes taken so far."""

    @property
    def bytes_written(self) -> int:
        """Bytes of them that the store did not have."""


def write(stream: Iterable[bytes | memoryview], views: Iterable[memoryview], save: Sink) -> dict[str, Any]:
    """Store the bytes of one walk; return the rest of the manifest's body. It needs nothing of the objects."""
    small = bytearray()
    buffers: list[dict[str, Any]] = []
    for view in views:
        if view.nbytes >= _APART:
            buffers.append(save.add(view))
        else:
            small += bytes(-len(small) % _ALIGN)
            buffers.append({"size": view.nbytes, "small": len(small)})
            small += view
    blobs = {"pickle": save.add(b"".join(stream)), "small": save.add(small)}
    return {"blobs": blobs, "buffers": buffers, "bytes_total": save.bytes_total, "bytes_written": save.bytes_written}


def _size(stream: Iterable[bytes | memoryview], views: Iterable[memoryview]) -> int:
    """Return the bytes that `write` will store."""
    small = total = 0
    for view in views:
        if view.nbytes >= _APART:
            total += view.nbytes
        else:
            small += -small % _ALIGN + view.nbytes
    return total + small + sum(len(part) for part in stream)


# restoring


def restore(body: Mapping[str, Any], store: Store, namespace: dict[str, Any]) -> Restored:
    """Put the variables of a manifest's body, whose signature was checked, into `namespace`, and set the process.

    CheckpointError if it is of another Python, CheckpointDamaged if bytes are missing or altered. An object that
    can't be made here becomes a placeholder and is reported.
    """
    _check_place(body)
    ahead.read_ahead(body, store.root)
    reader = store.reader()
    try:
        state = context.Loading(namespace, _filler(body, reader), body["buffers"])
        with context.loading(state), _no_collection(state), _all_or_nothing(state):
            return _restore(body, reader, state)
    except CheckpointDamaged as error:
        error.bad_packs = set(reader.bad_packs)  # type: ignore[attr-defined]
        raise
    finally:
        reader.close()


@contextmanager
def _all_or_nothing(state: context.Loading) -> Iterator[None]:
    """Put the namespace and the plain state of the process back as they were if the block raises.

    The variables are put into the live dict one by one, because code of the user's that runs while they are made, such
    as a __setstate__, needs those before it.
    """
    before = dict(state.namespace)
    try:
        with process.plain_or_before():
            yield
    except BaseException:
        state.namespace.clear()
        state.namespace.update(before)
        for step in reversed(state.undo):
            step()
        raise


@contextmanager
def _no_collection(state: context.Loading) -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting and state.collects:
            gc.enable()


def _check_place(body: Mapping[str, Any]) -> None:
    here = process.place()
    if body.get("format") != FORMAT:
        made = body.get("format")
        raise CheckpointError(f"this checkpoint has format {made}, not {FORMAT}; load it with the version that made it")
    if body["python"] != here["python"]:
        raise CheckpointError(
            f"this checkpoint was made by Python {body['python']} and this is {here['python']}: code and objects of "
            f"one can't be read by the other; resume on a machine with Python {body['python']}"
        )


def _restore(body: Mapping[str, Any], reader: Reader, state: context.Loading) -> Restored:
    restored = Restored(warnings=state.warnings, placeholders=state.placeholders)
    stream = reader.read(body["blobs"]["pickle"], "the variables")
    process.apply_plain(body["process"], state)
    records: dict[str, Any] = {}

    def take(segment: Mapping[str, Any], value: Any) -> None:
        name = segment["name"]
        if segment["kind"] == "name":
            state.namespace[name] = value
        else:
            records[name] = value

    try:
        loader.load_fast(stream, _loose(body, state), body["segments"], take)
    except CheckpointDamaged:
        raise
    except Exception:  # noqa: BLE001 - whatever an object of the user's raises: find out which, and keep the rest
        state.placeholders.clear()
        state.later.clear()
        restored.failed = loader.load_slowly(stream, _loose(body, state), body["segments"], take)
        state.placeholders += [context.entry(path, reason) for path, reason in restored.failed.items()]
    loader.rehash(records.get("hashed"))
    state.finish()
    process.import_again(body["process"], state)
    restored.names = list(body["names"])
    saved = records.get(_STATE)
    restored.state = saved if isinstance(saved, dict) else None
    _compare_packages(body, state)
    parts = records.get("process")
    state.collects = process.collects(parts)
    _apply_process({**(parts if isinstance(parts, dict) else {}), "sources": records.get("sources")}, state)
    return restored


def _apply_process(records: Mapping[str, Any], state: context.Loading) -> None:
    for name in process.ORDER:
        if name not in records:
            continue
        try:
            process.apply(name, records[name])
        except Exception as error:  # noqa: BLE001 - an option that another version lacks must not cost the rest
            state.warn(f"the state of {name} was not restored: {type(error).__name__}: {error}")


def _compare_packages(body: Mapping[str, Any], state: context.Loading) -> None:
    here = process.packages(body["packages"])
    for name, version in body["packages"].items():
        if name in here and here[name] != version:
            state.warn(f"{name} is {here[name]} here and was {version} when this was saved")
    if body["platform"] != process.place()["platform"]:
        state.warn(f"this is {process.place()['platform']}, it was saved on {body['platform']}")


def _filler(body: Mapping[str, Any], reader: Reader) -> Callable[[int, memoryview], None]:
    small: list[bytearray] = []

    def fill(number: int, target: memoryview) -> None:
        entry = body["buffers"][number]
        if "small" not in entry:
            reader.read_into(entry, target, f"buffer {number}")
            return
        if not small:
            small.append(reader.read(body["blobs"]["small"], "the small buffers"))
        if target.nbytes != entry["size"]:
            raise CheckpointDamaged(f"buffer {number} has {entry['size']} bytes where {target.nbytes} are needed")
        target[:] = memoryview(small[0])[entry["small"] : entry["small"] + entry["size"]]

    return fill


def _loose(body: Mapping[str, Any], state: context.Loading) -> Iterator[memoryview]:
    for number in body["loose"]:
        size = body["buffers"][number]["size"]
        memory = memoryview(mmap.mmap(-1, size, flags=_OWN) if size >= _APART else bytearray(size))
        state.fill(number, memory)
        yield memory
