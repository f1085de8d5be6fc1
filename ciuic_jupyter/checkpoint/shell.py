"""What a notebook did to its IPython: magics, aliases, extensions, formatters, events, %config, the backend of plots.

Nothing of IPython is imported: a shell is there or it is not.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

_PLAIN = (str, bytes, int, float, bool, type(None), list, tuple, dict, set, frozenset)
_LISTS = ("input_transformers_cleanup", "input_transformers_post", "ast_transformers")
_INLINE = "flush_figures"  # the callback that shows figures at the end of a cell

_began: dict[str, dict[str, Any]] = {}


def running() -> Any:
    """Return the shell of this process, or None."""
    return getattr(sys.modules.get("IPython.core.getipython"), "get_ipython", lambda: None)()


def remember_start() -> None:
    """Take the options of now as those that every shell has by itself."""
    _began.clear()
    shell = running()
    if shell is not None:
        _began.update(_options(shell))


def record() -> dict[str, Any] | None:
    """Return what the notebook changed in its shell; None if there is none."""
    shell = running()
    if shell is None:
        return None
    here = _options(shell)
    changed = {name: _difference(values, _began.get(name, {})) for name, values in here.items()}
    return {
        "options": {name: values for name, values in changed.items() if values},
        "aliases": [tuple(alias) for alias in shell.alias_manager.aliases],
        "extensions": sorted(shell.extension_manager.loaded - _began.get("extensions", {}).keys()),
        "reload": _reload(shell),
        "magics": _magics(shell),
        "formatters": {name: _own(each.type_printers) for name, each in shell.display_formatter.formatters.items()},
        "precision": shell.display_formatter.formatters["text/plain"].float_precision,
        "events": {name: [each for each in found if is_own(each)] for name, found in shell.events.callbacks.items()},
        "lists": {name: [each for each in getattr(shell, name) if is_own(each)] for name in _LISTS},
        "tracebacks": shell.InteractiveTB.mode,
        "pdb": shell.call_pdb,
        "plots": _plots(shell),
    }


def apply(value: Mapping[str, Any]) -> None:
    """Do the same to the shell of this process, where there is one; report each part that fails, then raise."""
    shell = running()
    if shell is None:
        return
    failed = []
    for name, step in _STEPS.items():
        try:
            step(shell, value[name])
        except Exception as error:  # noqa: BLE001 - an extension of the user's may raise anything
            failed.append(f"{name} ({type(error).__name__}: {error})")
    if failed:
        raise RuntimeError(f"of the shell {', '.join(failed)}")


def is_own(obj: object) -> bool:
    """Tell whether `obj` is a function, a method or an instance of a class of the notebook."""
    return "__main__" in (getattr(obj, "__module__", None), type(obj).__module__)


# options: the traits that %config sets


def _configurables(shell: Any) -> dict[str, Any]:
    found = {type(each).__name__: each for each in shell.configurables}
    found |= {type(each).__name__: each for each in shell.display_formatter.formatters.values()}
    inline = getattr(sys.modules.get("matplotlib_inline.config"), "InlineBackend", None)
    if inline is not None and inline.initialized():
        found["InlineBackend"] = inline.instance()
    found[type(shell).__name__] = shell
    return found


def _options(shell: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, owner in _configurables(shell).items():
        values = {}
        for trait in owner.trait_names(config=True):
            with suppress(Exception):  # one that can't be read has not been set
                value = getattr(owner, trait)
                if isinstance(value, _PLAIN):
                    values[trait] = value.copy() if isinstance(value, (dict, list, set)) else value
        found[name] = values
    found["extensions"] = dict.fromkeys(shell.extension_manager.loaded)
    return found


def _difference(values: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in before or before[name] != value}


def _set_options(shell: Any, options: Mapping[str, Mapping[str, Any]]) -> None:
    owners = _configurables(shell)
    for name, values in options.items():
        owner = owners.get(name)
        for trait, value in values.items():
            if owner is not None and getattr(owner, trait) != value:
                setattr(owner, trait, value)


# the rest


def _own(printers: Mapping[type, Any]) -> dict[type, Any]:
    return {kind: printer for kind, printer in printers.items() if is_own(printer)}


def _magics(shell: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = shell.magics_manager.magics
    return {kind: {name: each for name, each in names.items() if is_own(each)} for kind, names in found.items()}


def _set_magics(shell: Any, magics: Mapping[str, Mapping[str, Any]]) -> None:
    for kind, names in magics.items():
        shell.magics_manager.magics[kind].update(names)


def _set_aliases(shell: Any, aliases: list[tuple[str, str]]) -> None:
    have = dict(shell.alias_manager.aliases)
    for name, command in aliases:
        if have.get(name) != command:
            shell.alias_manager.define_alias(name, command)


def _load_extensions(shell: Any, names: list[str]) -> None:
    for name in names:
        shell.extension_manager.load_extension(name)


_RELOAD = ("enabled", "check_all", "autoload_obj", "modules", "skip_modules")


def _reload(shell: Any) -> dict[str, Any] | None:
    magics = shell.magics_manager.registry.get("AutoreloadMagics")
    reloader = getattr(magics, "_reloader", None)
    return None if reloader is None else {name: getattr(reloader, name) for name in _RELOAD if hasattr(reloader, name)}


def _set_reload(shell: Any, state: Mapping[str, Any] | None) -> None:
    magics = shell.magics_manager.registry.get("AutoreloadMagics")
    for name, value in (state or {}).items():
        setattr(magics._reloader, name, value)  # noqa: SLF001 - nothing public tells


def _set_formatters(shell: Any, formatters: Mapping[str, Mapping[type, Any]]) -> None:
    for name, printers in formatters.items():
        for kind, printer in printers.items():
            shell.display_formatter.formatters[name].for_type(kind, printer)


def _set_precision(shell: Any, precision: str) -> None:
    formatter = shell.display_formatter.formatters["text/plain"]
    if formatter.float_precision != precision:
        formatter.float_precision = precision


def _set_events(shell: Any, events: Mapping[str, list[Any]]) -> None:
    for name, callbacks in events.items():
        for callback in callbacks:
            shell.events.register(name, callback)


def _set_lists(shell: Any, lists: Mapping[str, list[Any]]) -> None:
    for name, values in lists.items():
        getattr(shell, name).extend(values)


def _set_tracebacks(shell: Any, mode: str) -> None:
    if shell.InteractiveTB.mode != mode:
        shell.InteractiveTB.set_mode(mode=mode)


def _set_pdb(shell: Any, on: bool) -> None:
    shell.call_pdb = on


# plots


def _plots(shell: Any) -> str | None:
    """Return "inline" where figures are shown after a cell, else the backend that was chosen; None: none yet."""
    callbacks = shell.events.callbacks.get("post_execute", ())
    if any(getattr(each, "__name__", "") == _INLINE for each in callbacks):
        return "inline"
    matplotlib = sys.modules.get("matplotlib")
    backend = None if matplotlib is None else dict.get(getattr(matplotlib, "rcParams", {}), "backend")
    return backend if isinstance(backend, str) else None


def _set_plots(shell: Any, backend: str | None) -> None:
    if backend == "inline":
        shell.enable_matplotlib("inline")
    elif backend is not None:
        import matplotlib as mpl  # noqa: PLC0415 - it was loaded there

        mpl.use(backend)


_STEPS: dict[str, Callable[[Any, Any], None]] = {
    "extensions": _load_extensions,
    "reload": _set_reload,
    "plots": _set_plots,
    "options": _set_options,
    "aliases": _set_aliases,
    "magics": _set_magics,
    "formatters": _set_formatters,
    "precision": _set_precision,
    "events": _set_events,
    "lists": _set_lists,
    "tracebacks": _set_tracebacks,
    "pdb": _set_pdb,
}
