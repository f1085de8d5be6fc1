"""A notebook's process for tests: runs a world as cells of `__main__`, saves it; another one restores and checks it."""

from __future__ import annotations

import json
import linecache
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

KEY = b"k" * 32
WORLDS = Path(__file__).parent / "worlds"


def run(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Run one of the commands below in a new process and return what it says."""
    root = Path(__file__).parents[2]
    start = (
        f"import sys; sys.path.insert(0, {str(root)!r}); from tests.checkpoint.kernel import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-W", "error", "-c", start, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd or root, env=env, timeout=240, check=False)
    assert done.returncode == 0, f"{arguments[0]} left with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return dict(json.loads(done.stdout.splitlines()[-1]))


def save_and_check(world: str, folder: Path) -> dict[str, Any]:
    """Save `world` in one process, verify it in a second, check it in a third; return what all three said."""
    env = {**os.environ, "WORLD": str(folder)}
    saved = run("save", str(WORLDS / f"{world}.py"), str(folder), cwd=folder, env=env)
    verified = run("verify", str(folder), env=env)
    checked = run("check", str(folder), cwd=folder.parent, env=env)
    return {"saved": saved, "verified": verified, "checks": checked["checks"], "restored": checked}


def namespace() -> dict[str, Any]:
    """Make a `__main__` as a kernel has it and return its names."""
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return vars(module)


def execute(source: str, names: dict[str, Any], cell: str = "<cell 1>") -> None:
    """Run `source` as a cell."""
    linecache.cache[cell] = (len(source), None, source.splitlines(keepends=True), cell)
    exec(compile(source, cell, "exec", dont_inherit=True), names)


def _save(world: str, folder: str, *force: str) -> dict[str, Any]:
    from ciuic_jupyter.checkpoint import process
    from ciuic_jupyter.checkpoint.namespace import capture
    from ciuic_jupyter.checkpoint.store import Store

    process.remember_start()
    names = namespace()
    source = Path(world).read_text()
    execute(source, names)
    state = {"inputs": ["", source], "outputs": names.get("Out", {}), "count": 7}
    store = Store(Path(folder) / "store")
    forced = json.loads("".join(force) or "{}")
    body = capture(names, store, hidden={"Out", "In"}, state=state, force_placeholders=forced)
    manifest = store.write_manifest(body, KEY)
    if "after_save" in names:
        names["after_save"]()
    return {
        "seq": manifest.seq,
        "placeholders": body["placeholders"],
        "names": body["names"],
        "packages": body["packages"],
        "process": body["process"],
        "bytes_total": body["bytes_total"],
        "bytes_written": body["bytes_written"],
    }


def _verify(folder: str, seq: str = "0") -> dict[str, Any]:
    from dataclasses import asdict

    from ciuic_jupyter.checkpoint.store import Store
    from ciuic_jupyter.checkpoint.verify import verify

    root = Path(folder) / "store"
    return asdict(verify(root, Store(root).read_manifest(int(seq) or None, KEY).body))


def _check(folder: str) -> dict[str, Any]:
    from ciuic_jupyter.checkpoint.namespace import restore
    from ciuic_jupyter.checkpoint.store import Store

    store = Store(Path(folder) / "store")
    names = namespace()
    loaded_before = "torch" in sys.modules
    restored = restore(store.read_manifest(None, KEY).body, store, names)
    names["restored_state"] = restored.state
    checks: dict[str, str] = {}
    for name, check in list(names.items()):
        if name.startswith("check_"):
            try:
                check()
                checks[name] = ""
            except BaseException as error:  # noqa: BLE001 - a check is reported, not raised
                checks[name] = f"{type(error).__name__}: {error} (line {_line(error)})"
    return {
        "checks": checks,
        "placeholders": restored.placeholders,
        "warnings": restored.warnings,
        "torch": "torch" in sys.modules and not loaded_before,
    }


def _line(error: BaseException) -> int:
    trace, line = error.__traceback__, 0
    while trace is not None:
        line, trace = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<cell 1>" else line, trace.tb_next
    return line


def main(arguments: list[str]) -> None:
    """Run one command and say its result as one line of JSON."""
    command, *rest = arguments
    result = {"save": _save, "verify": _verify, "check": _check}[command](*rest)
    sys.stdout.write(json.dumps(result) + "\n")
