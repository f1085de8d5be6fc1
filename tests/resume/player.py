"""A clean process that forks one more for each play: none of them ever saw pytest, its threads or its modules."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

Answer = dict[str, Any]
_PLAY_SECONDS = 120  # after which a play is ended, and says where it was
_SIZE = 8
_ANSWER = 100  # the file a play answers into; a constant, for a play that is gone on with has this module's globals


class Player:
    """The pytest side: `play(name, ...)` is `cells.name(...)` in a new process; an AssertionError tells its end."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        """Start the server, with `modules` imported."""
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", "from tests.resume import player; player.serve()", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **threads},
        )

    def play(self, name: str, *arguments: Any, **named: Any) -> Answer:
        """Return what the function `name` of `cells` answers."""
        assert self._process.stdin is not None and self._process.stdout is not None
        _send(self._process.stdin, (name, arguments, named))
        try:
            answer, status, errors = _receive(self._process.stdout)
        except EOFError:
            raise AssertionError(f"the server of plays ended with status {self._process.wait()}") from None
        if status or answer is None:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            raise AssertionError(f"the play {name} ended with {how}\n{errors}")
        done: Answer = answer
        return done

    def close(self) -> None:
        """End the server."""
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(timeout=30)


@contextlib.contextmanager
def playing(*modules: str) -> Iterator[Player]:
    """Have a player while a block runs."""
    player = Player(modules)
    try:
        yield player
    finally:
        player.close()


def _send(file: IO[bytes], value: Any) -> None:
    data = pickle.dumps(value)
    file.write(len(data).to_bytes(_SIZE, "big") + data)
    file.flush()


def _receive(file: IO[bytes]) -> Any:
    head = file.read(_SIZE)
    if len(head) < _SIZE:
        raise EOFError
    return pickle.loads(file.read(int.from_bytes(head, "big")))


def check(player: Player, cells: Sequence[str], store: Path, trace: Sequence[str] = ()) -> int:
    """Save at every boundary of the last cell and go on from each; return how many there were."""
    base = player.play("whole", cells, trace=trace)
    store = Path(tempfile.mkdtemp(dir=store))
    saving = player.play("until", cells, store, None, trace=trace)
    assert (saving["printed"], saving["names"]) == (base["printed"], base["names"])
    assert [first["where"] for first in saving["saved"]] == base["offered"]
    for at, first in enumerate(saving["saved"]):
        assert not first["gone"], first["gone"]
        second = player.play("onward", cells, store, first["body"], trace=trace)
        assert first["printed"] + second["printed"] == base["printed"], (at, first["where"])
        assert second["names"] == base["names"], (at, first["where"])
    return len(base["offered"])


# the server


def serve() -> None:
    """Fork a play for each request on stdin and answer on stdout, until stdin ends."""
    for module in ("tests.resume.cells", *sys.argv[1:]):
        importlib.import_module(module)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    with contextlib.suppress(EOFError):
        while True:
            name, arguments, named = _receive(requests)
            assert threading.active_count() == 1
            _send(answers, _played(partial(getattr(sys.modules["tests.resume.cells"], name), *arguments, **named)))


def _played(work: Callable[[], Answer]) -> tuple[Answer | None, int, str]:
    """Return the answer of a play, how it ended (below 0: by that signal), and what it wrote to stderr."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as errors:
        pid = os.fork()
        if not pid:
            _child(work, answer, errors)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it started must not outlive it
        for file in (answer, errors):
            file.seek(0)
        data = answer.read()
        return pickle.loads(data) if data else None, status, errors.read().decode(errors="replace")


def _child(work: Callable[[], Answer], answer: IO[bytes], errors: IO[bytes]) -> None:
    try:
        os.setpgid(0, 0)
        os.dup2(errors.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        faulthandler.register(signal.SIGALRM, file=2, chain=True)
        signal.alarm(_PLAY_SECONDS)
        os.dup2(answer.fileno(), _ANSWER)
        answer_and_die(work())
    except BaseException:  # noqa: BLE001 - told in the parent
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def answer_and_die(answer: Answer) -> None:
    """End a play, without unwinding anything, with its answer."""
    with os.fdopen(_ANSWER, "wb") as file:
        pickle.dump(answer, file)
    os._exit(0)
