"""Wheels of what runs here: whole, the same each time, and fit for the machine they go to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ciuic_jupyter.control import bundle, checkup, wheels
from ciuic_jupyter.errors import UsageError
from ciuic_jupyter.providers.machine_probe import code_digest

OURS = bundle.Target(sys.version_info[:2], platform.machine(), int(platform.libc_ver()[1].split(".")[1]))


def _install(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a folder of its own with pip, which checks its RECORD and its tags."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    done = subprocess.run([*pip, f"--target={folder}", str(wheel)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_wheel_of_what_runs_is_the_same_each_time_and_from_itself(tmp_path: Path) -> None:
    first = wheels.running_wheel(tmp_path / "a")
    again = wheels.running_wheel(tmp_path / "b")
    assert first.read_bytes() == again.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = archive.namelist()
    assert not [name for name in names if "labextension/" in name or name.endswith((".pyc", ".env"))]
    installed = _install(first, tmp_path / "site")
    assert code_digest(installed / "ciuic_jupyter") == checkup.our_digest()

    # made by the installed copy, out of its RECORD: a stray file of the user's beside the code is not taken along
    (installed / "ciuic_jupyter" / "passwords.json").write_text("{}")
    out = str(tmp_path / "c")
    make = f"import pathlib; from ciuic_jupyter.control import wheels; wheels.running_wheel(pathlib.Path({out!r}))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", make],
        env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c" / first.name).read_bytes() == first.read_bytes()


def test_an_installed_package_becomes_its_wheel_again(tmp_path: Path) -> None:
    wheel = wheels.installed_wheel("psutil", tmp_path)  # compiled: pip takes it only by the right tags
    assert wheel is not None
    installed = _install(wheel, tmp_path / "site")
    files = [file for file in importlib.metadata.distribution("psutil").files or () if file.parts[0] == "psutil"]
    code = [file for file in files if "__pycache__" not in file.parts]
    assert any(file.suffix == ".so" for file in code)
    for file in code:
        assert (installed / file).read_bytes() == Path(str(file.locate())).read_bytes()
    assert wheels.installed_wheel("ciuic_jupyter", tmp_path) is None  # editable: its RECORD is not its code


def test_a_package_that_was_changed_after_its_installation_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheels.installed_wheel("comm", tmp_path)
    assert made is not None
    site = _install(made, tmp_path / "site")
    monkeypatch.syspath_prepend(str(site))
    (site / "comm" / "__init__.py").write_text("changed = True\n")
    assert wheels.installed_wheel("comm", tmp_path / "again") is None


def test_what_is_gathered_is_kept_and_checked(tmp_path: Path) -> None:
    pins = bundle.pins(["comm"])
    assert [pin.partition("==")[0] for pin in pins] == ["comm"]
    (first,) = bundle.gathered(pins, OURS, tmp_path)
    content, stamp = first.read_bytes(), first.stat().st_mtime_ns
    assert bundle.gathered(pins, OURS, tmp_path) == [first]
    assert first.stat().st_mtime_ns == stamp
    first.write_bytes(b"damaged")
    assert bundle.gathered(pins, OURS, tmp_path)[0].read_bytes() == content
    shutil.rmtree(tmp_path / "wheels")
    assert bundle.gathered(pins, OURS, tmp_path)[0].read_bytes() == content


def test_pins_are_a_closure_without_local_parts() -> None:
    pins = dict(pin.split("==") for pin in bundle.pins(["ipykernel", "torch"]))
    assert {"ipykernel", "torch", "pyzmq", "tornado", "traitlets", "sympy"} <= set(pins)
    assert "jupyterlab" not in pins
    assert not [version for version in pins.values() if "+" in version]
    assert bundle.pin("torch") == f"torch=={pins['torch']}"
    with pytest.raises(UsageError, match="no-such-package-here is not installed here"):
        bundle.pins(["no-such-package-here"])


def test_a_machine_that_is_not_ours_gets_wheels_by_its_own_tags() -> None:
    assert OURS.runs_ours
    assert not bundle.Target(OURS.python, OURS.machine, OURS.glibc - 1).runs_ours
    assert not bundle.Target(OURS.python, "riscv64", OURS.glibc).runs_ours
    options = bundle.Target((3, 12), "aarch64", 28).options()
    assert "--python-version=3.12" in options
    assert "--abi=cp312" in options
    assert "--platform=manylinux_2_28_aarch64" in options
    assert "--platform=manylinux_2_29_aarch64" not in options


def test_the_password_of_an_index_is_not_told() -> None:
    assert bundle.without_secrets("at https://me:hush@index.example/simple") == "at https://****@index.example/simple"
