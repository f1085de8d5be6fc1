"""Another user of this machine: a process that gives up being root, then tries what its code says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

UID = 65534  # nobody
_DROP = f"import os\nos.setgroups([])\nos.setresgid({UID}, {UID}, {UID})\nos.setresuid({UID}, {UID}, {UID})\n"

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def start(code: str, **environment: str) -> subprocess.Popen[str]:
    """Start `code` as the other user; its standard output is a pipe."""
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-c",
            f"import encodings.idna, errno, json, socket, sqlite3, sys, signal\n{_DROP}{code}",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], **environment},
    )


def says(code: str) -> str:
    """Return what `code` prints as the other user."""
    out, err = start(code).communicate(timeout=60)
    assert not err, err
    return out.strip()
