"""A machine's control group holds what double-forked and changed its session; nothing breaks where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from ciuic_jupyter.monitor import cgroup

ESCAPE = """
import os, sys, time
from pathlib import Path
from ciuic_jupyter.monitor import cgroup
if not cgroup.join(sys.argv[1], Path(sys.argv[2])):
    sys.exit(7)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.closerange(0, 3)
        time.sleep(600)
    os._exit(0)
os.wait()
"""


def test_what_hid_by_forking_is_found_and_the_group_goes_with_it(tmp_path: Path) -> None:
    name, note = f"test-{uuid.uuid4().hex[:12]}", tmp_path / "cgroup"
    made = subprocess.run([sys.executable, "-c", ESCAPE, name, str(note)], capture_output=True, text=True, timeout=60)
    if made.returncode == 7:
        pytest.skip("this system lets us make no control groups")
    left = cgroup.members(note)
    assert len(left) == 1
    hidden = psutil.Process(left[0])
    assert os.getsid(hidden.pid) != os.getsid(0)
    hidden.kill()
    psutil.wait_procs([hidden], timeout=10)
    for _ in range(1000):
        if not cgroup.members(note):
            break
    cgroup.remove(note)
    assert cgroup.members(note) == []


@pytest.mark.parametrize("said", ["", "/etc", "/sys/fs/cgroup/../../etc/ciuic/x", "/sys/fs/cgroup/pids/other/x"])
def test_a_note_that_names_no_group_of_ours_has_no_members(tmp_path: Path, said: str) -> None:
    note = tmp_path / "cgroup"
    assert cgroup.members(note) == []
    note.write_text(said)
    assert cgroup.members(note) == []
    cgroup.remove(note)
