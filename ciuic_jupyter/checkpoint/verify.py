"""Loading a checkpoint in a fresh process: what saves fine and dies on load is found before the machine is let go.

`python -m ciuic_jupyter.checkpoint.verify ROOT SEQ KEYFILE` does it by hand: one line of JSON, exit code 0 if whole.
"""

from __future__ import annotations

import json
import sys
import time
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ciuic_jupyter.checkpoint.namespace import restore, type_name
from ciuic_jupyter.checkpoint.placeholder import Placeholder
from ciuic_jupyter.checkpoint.store import Store
from ciuic_jupyter.errors import CheckpointDamaged, CheckpointError, CiuicError


@dataclass(frozen=True)
class VerifyReport:
    """`failed` maps names or paths (`cfg['db']`) to why they do not load; `capture` takes it to give them up."""

    ok: bool
    names: int
    seconds: float
    failed: dict[str, str] = field(default_factory=dict)
    placeholders: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def verify(root: Path, body: Mapping[str, Any]) -> VerifyReport:
    """Load everything of `body` from the store at `root` in THIS process, which must be fresh and ends afterwards.

    CheckpointDamaged names what is missing or altered; later saves no longer lean on that pack.
    """
    begun = time.monotonic()
    store = Store(root)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    namespace = vars(main)
    try:
        restored = restore(body, store, namespace)
    except CheckpointDamaged as error:
        for pack in getattr(error, "bad_packs", ()):
            store.distrust(pack)
        raise
    failed = dict(restored.failed)
    given_up = {line["path"] for line in body["placeholders"]}
    for name, expected in body["types"].items():
        if name not in namespace:
            failed.setdefault(name, "it did not come back")
        elif type(namespace[name]) is Placeholder:
            if name not in given_up and not any(path.startswith(name) for path in failed):
                failed[name] = repr(namespace[name])
        elif type_name(namespace[name]) != expected:
            failed.setdefault(name, f"it came back as {type_name(namespace[name])}, not {expected}")
    names = sum(name in namespace for name in body["types"])
    seconds = time.monotonic() - begun
    return VerifyReport(not failed, names, seconds, failed, list(restored.placeholders), list(restored.warnings))


def main(arguments: Sequence[str]) -> int:
    """Verify checkpoint SEQ (or `latest`) of the store ROOT with the key in KEYFILE (hex)."""
    if len(arguments) != 3:
        sys.stderr.write("usage: python -m ciuic_jupyter.checkpoint.verify ROOT SEQ|latest KEYFILE\n")
        return 2
    root, number, keyfile = arguments
    try:
        key = bytes.fromhex(Path(keyfile).read_text().strip())
        manifest = Store(Path(root)).read_manifest(None if number == "latest" else int(number), key)
        report = verify(Path(root), manifest.body)
    except (CheckpointError, CiuicError, OSError, ValueError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    sys.stdout.write(json.dumps({"seq": manifest.seq, **asdict(report)}) + "\n")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
