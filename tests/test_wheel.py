"""The wheel, built from this checkout, has the panel in it and needs no Node where it is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = "ciuic_jupyter-{version}.data/data/"
PANEL = "share/jupyter/labextensions/ciuic-jupyter/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel; the front end is built anew if it is older than its source."""
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        [*build, "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(ROOT)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (found,) = out.glob("*.whl")
    return found


def test_wheel_has_the_panel_its_settings_and_languages_and_nothing_of_its_building(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    version = wheel.name.split("-")[1]
    data = {name.removeprefix(DATA.format(version=version)) for name in names if ".data/data/" in name}
    for wanted in ("package.json", "install.json", "static/style.js", "schemas/ciuic-jupyter/plugin.json"):
        assert PANEL + wanted in data
    assert any(re.fullmatch(re.escape(PANEL) + r"static/remoteEntry\.\w+\.js", name) for name in data)
    assert "etc/jupyter/jupyter_server_config.d/ciuic_jupyter.json" in data
    for language in ("fr_FR", "zh_CN"):
        assert f"ciuic_jupyter/locale/{language}/LC_MESSAGES/ciuic_jupyter.json" in names
    built = [name for name in names if name.endswith((".map", ".tsbuildinfo")) or "build_log.json" in name]
    assert built == []
    assert [name for name in names if name.startswith("ciuic_jupyter/labextension") or "node_modules" in name] == []


def test_wheel_without_node_gives_panel_and_server_extension(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)],
        check=True,
        timeout=120,
    )
    # its dependencies are the ones of this environment, our editable installation is not among them
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    home = {"HOME": str(tmp_path), "PATH": str(python.parent), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}

    def listed(module: str) -> str:
        done = subprocess.run([str(python), "-m", module, "list"], env=home, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return re.sub(r"\x1b\[\d+m", "", done.stdout + done.stderr)

    assert re.search(r"ciuic-jupyter v\S+ enabled OK \(python, ciuic_jupyter\)", listed("jupyterlab.labextensions"))
    assert re.search(r"ciuic_jupyter \S+ OK", listed("jupyter_server.extension.serverextension"))
