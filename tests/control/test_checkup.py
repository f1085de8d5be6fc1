"""What the doctor says of facts: each thing that can be wrong, and what to do about it."""

from __future__ import annotations

import copy
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ciuic_jupyter.control import checkup
from ciuic_jupyter.control.checkup import Check, Expected, Ours
from ciuic_jupyter.errors import ProviderError
from ciuic_jupyter.providers import machine_probe, ssh_probe
from ciuic_jupyter.providers.ssh_probe import Probed, Python

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}.9"
GPU = {"name": "NVIDIA H100", "memory_mib": "81559", "driver": "550.54"}


def facts() -> dict[str, Any]:
    """A machine without a GPU on which nothing is wrong."""
    return {
        "python": HERE,
        "executable": "/usr/bin/python3",
        "base": None,
        "system": "Linux",
        "machine": platform.machine(),
        "libc": ["glibc", "2.36"],
        "user": "me",
        "gpus": {"devices": [], "nodes": [], "tool": 127, "error": "nvidia-smi is not here"},
        "torch": {"version": "2.13.0", "cuda": None, "error": ""},
        "package": {"version": "0.1.0", "digest": "d", "runs": True, "error": ""},
        "disk": {"path": "/home/me", "wanted": "/home/me/x", "free": 9 << 30, "inodes": 10**6, "error": ""},
        "limits": {
            "files": 4096, "soft_files": 1024, "processes": None, "address": None, "memory": 16 << 30,
            "cgroup": {"memory": None, "pids": None, "cpus": None}, "killed_at_logout": False,
        },
        "clock": {"began": 101.0, "seconds": 3.0},
    }  # fmt: skip


def looked(expected: int = 0, **changes: Any) -> dict[str, Check]:
    found = copy.deepcopy(facts())
    for key, value in changes.items():
        found[key] = {**found[key], **value} if isinstance(value, dict) else value
    probed = Probed((Python("python3", str(found["python"]), "/usr/bin/python3"),), found)
    ours = Ours(100.5, 104.5, version="0.1.0", digest="d")
    return {check.what: check for check in checkup.checks(Expected("gpu1", "python3", expected), probed, ours)}


def test_nothing_is_wrong_with_a_good_machine() -> None:
    found = looked()
    assert {check.state for check in found.values()} == {"ok"}
    assert found["gpu"].found.startswith("none")
    assert checkup.healthy(list(found.values()))


BAD: list[tuple[str, dict[str, Any], str, str]] = [
    ("python", {"python": "3.99.1"}, "3.99.1", "can't be resumed on the other"),
    ("system", {"system": "Darwin"}, "Darwin", "take a machine with Linux"),
    ("disk", {"disk": {"free": 5 << 20}}, "0.0 GiB free at /home/me", "make room"),
    ("disk", {"disk": {"error": "No space left on device"}}, "No space left on device", "make room"),
    ("disk", {"disk": {"inodes": 7}}, "7 files more", "inodes"),
    ("gpu", {"gpus": {"nodes": ["/dev/nvidia0"], "error": "Driver/library mismatch"}}, "mismatch", "driver"),
    ("torch", {"torch": {"version": None}}, "missing", "--bootstrap` installs it"),
    ("torch", {"torch": {"version": "2.1.0"}}, "too old", "2.10 is the least"),
    ("torch", {"gpus": {"devices": [GPU]}, "torch": {"cuda": None}}, "built for the CPU", "CUDA build"),
    ("torch", {"gpus": {"devices": [GPU]}, "torch": {"cuda": "13.0", "devices": 0}}, "no GPU", "550.54 is too old"),
    ("torch", {"gpus": {"devices": [GPU]}, "torch": {"error": "libcudart"}}, "libcudart", "anew"),
    ("ciuic_jupyter", {"package": {"version": None}}, "missing", "installs 0.1.0"),
    ("ciuic_jupyter", {"package": {"version": "0.0.9"}}, "0.0.9; here is 0.1.0", "installs 0.1.0"),
    ("ciuic_jupyter", {"package": {"digest": "other"}}, "other code than here", "--bootstrap"),
    ("ciuic_jupyter", {"package": {"runs": False, "error": "No module named 'zmq'"}}, "named 'zmq'", "--bootstrap"),
    ("clock", {"clock": {"began": 500.0}}, "398.5 s ahead of ours", "NTP"),
    ("clock", {"clock": {"began": 1.0}}, "99.5 s behind ours", "NTP"),
    ("limits", {"limits": {"cgroup": {"memory": 1 << 28, "pids": None, "cpus": 0.5}}}, "0.2 GiB memory", "1 GiB"),
    ("limits", {"limits": {"files": 256}}, "files", "nofile"),
    ("limits", {"limits": {"cgroup": {"memory": None, "pids": 20, "cpus": None}}}, "20 processes", "pids.max"),
    ("logout", {"limits": {"killed_at_logout": True}}, "at logout", "enable-linger me"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "changes", "found", "todo"), BAD, ids=[f"{b[0]}-{n}" for n, b in enumerate(BAD)])
def test_each_fault_is_told_with_what_to_do(what: str, changes: dict[str, Any], found: str, todo: str) -> None:
    checks = looked(**changes)
    assert checks[what].state == "bad"
    assert found in checks[what].found
    assert todo in checks[what].todo
    assert {name for name, check in checks.items() if check.state == "bad"} == {what}
    assert not checkup.healthy(list(checks.values()))


def test_gpus_are_missed_only_if_they_are_expected() -> None:
    assert looked(expected=1)["gpu"].state == "bad"
    one = {"gpus": {"devices": [GPU]}, "torch": {"cuda": "13.0", "devices": 1}}
    assert looked(expected=1, **one)["gpu"].state == "ok"
    assert "1 GPU" in looked(expected=1, **one)["torch"].found
    assert "2 expected" in looked(expected=2, **one)["gpu"].todo


def test_pythons_that_will_not_do_are_named() -> None:
    old = Python("python3", "3.9.2", "/usr/bin/python3")

    def said(*pythons: Python, there: dict[str, Any] | None = None) -> Check:
        return next(checkup.checks(Expected("gpu1", "python3", 0), Probed(pythons, there), Ours(0, 0)))

    assert said().found == "none"
    assert said(old).found == "3.9.2 at /usr/bin/python3: too old"
    other = said(old, Python("python3.11", HERE, "/opt/python3.11"), there=facts())
    assert (other.state, other.found) == ("bad", f"python3 is 3.9.2, too old; {HERE} at /opt/python3.11 is")
    assert "--bootstrap" in other.todo


def test_what_a_machine_says_moves_no_cursor() -> None:
    checks = looked(package={"runs": False, "error": "\x1b[2J\x07gone\nok"})
    assert "\x1b" not in checks["ciuic_jupyter"].found
    assert "\\x1b[2J\\x07gone ok" in checks["ciuic_jupyter"].found
    assert len(ssh_probe.plain("x" * 10_000)) < 400


def test_the_probe_runs_in_a_real_shell_past_the_noise_of_its_start(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    command = ssh_probe.command(sys.version_info[1], sys.executable)
    done = subprocess.run(
        ["sh", "-c", 'echo "welcome \033[1m"; exec "$@"', "sh", *command],
        input=ssh_probe.program(str(tmp_path / "not/yet")),
        capture_output=True, text=True, timeout=200, cwd=tmp_path, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    probed = ssh_probe.parse(done.stdout)
    assert probed.facts is not None, done.stderr
    assert probed.pythons[-1].asked == sys.executable
    assert probed.facts["package"]["digest"] == checkup.our_digest()
    assert probed.facts["package"]["runs"], probed.facts["package"]
    assert probed.facts["disk"]["path"] == str(tmp_path)
    assert probed.facts["disk"]["free"] > 0
    assert not (tmp_path / "not").exists()
    assert json.loads(json.dumps(probed.facts)) == probed.facts


def test_an_answer_that_breaks_off_is_an_error() -> None:
    with pytest.raises(ProviderError, match="can't be read"):
        ssh_probe.parse(f'{machine_probe.MARK}{{"python": ')
    assert ssh_probe.parse("bash: no\n") == Probed((), None)
