"""What the doctor's tests share: `ciuic` as a user runs it, and a Python with torch and nothing else of ours."""

from __future__ import annotations

import base64
import importlib.metadata
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ciuic_jupyter.control import bundle
from ciuic_jupyter.control.doctor import Line
from ciuic_jupyter.providers import ssh_link

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "wheels"  # downloads, kept between runs of the tests


def keep_wheels(state: Path) -> None:
    """Have a state directory use the wheels that earlier tests made."""
    state.mkdir(mode=0o700, exist_ok=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    (state / "wheels").symlink_to(CACHE)


async def send(target: str, source: Path, place: str) -> None:
    """Copy a file to a machine as the doctor does."""
    line = Line(await ssh_link.connect(ssh_link.Target.parse(target)))
    try:
        await line.send({source: place})
    finally:
        await line.close()


def ciuic(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the shell command, in the environment of now."""
    command = [sys.executable, "-m", "ciuic_jupyter.control.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, stdin=subprocess.DEVNULL)


class Watch:
    """Looks for words in the arguments of all processes, again and again, while it is entered."""

    def __init__(self, words: Iterable[str]) -> None:
        self._words = [word.encode() for word in words]
        self.looks, self.processes = 0, 0
        self.found: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.25):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    line = path.read_bytes()
                    self.processes += 1
                    self.found.update(word for word in self._words if word in line)


def holding(words: Iterable[str], *places: Path, but: Iterable[Path] = ()) -> list[str]:
    """Return where in the files below `places` one of `words` stands, as it is, in base64 or as hex."""
    left_out = {path.resolve() for path in but}
    forms = [word.encode() for word in words]
    forms += [form for word in list(forms) for form in (base64.b64encode(word)[:-4], word.hex().encode())]
    found = []
    for path in (path for place in places for path in place.rglob("*")):
        if path.is_symlink() or not path.is_file() or path.resolve() in left_out:
            continue
        content = path.read_bytes()
        found += [f"{path}: {form.decode()}" for form in forms if form in content]
    return found


def python_with_torch(folder: Path) -> Path:
    """Make a Python that has torch and what torch needs, and none of what an agent needs besides."""
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=60)
    site = next((folder / "lib").glob("python*/site-packages"))
    for pin in bundle.pins(["torch"]):
        found = importlib.metadata.distribution(pin.partition("==")[0])
        own = Path(str(found.locate_file("")))
        tops = {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (site / top).exists():
                (site / top).symlink_to(own / top)
    return folder / "bin" / "python"
