"""The one way to the control plane, from a notebook, a server or a shell: HTTP for calls, WebSocket for streams."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from websockets.asyncio.client import connect as connect_here
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from ciuic_jupyter.errors import CiuicError, PlaneUnavailable, by_name
from ciuic_jupyter.kernels.protocol import MAX_FRAME, Frame, decode, encode
from ciuic_jupyter.settings import Settings

_CONNECT_SECONDS = 5.0
_QUICK = 30.0  # seconds a call may take that waits for nothing but the plane
_LONG = 3600.0  # seconds a call may take that waits for a cell to end or a machine to go
_LOOK_SECONDS = 1.0  # between two looks at a pause that waits
_PIECE = 4 << 20
_SILENT = 25.0  # seconds without a word of a watched plane, which says something each 10 s

View = dict[str, Any]
Told = Callable[[View], None]


class Stream:
    """The numbered events of a session from one point on, then live; iterate for frames.

    It ends with PlaneUnavailable when the line breaks: open another with `after` = the last event's seq.
    """

    def __init__(self, url: str, token: str) -> None:
        """Connect; PlaneUnavailable if nobody answers, or the plane's own error if it refuses."""
        try:
            opened = connect(
                url,
                additional_headers={"Authorization": f"Bearer {token}"},
                open_timeout=_CONNECT_SECONDS,
                max_size=MAX_FRAME,
                compression=None,
                ping_interval=10,
                ping_timeout=10,
                close_timeout=1,
                proxy=None,
            )
            self._socket = opened.__enter__()  # websockets from 17.1 on warns without; close() does what leaving would
        except (OSError, WebSocketException, TimeoutError) as error:
            raise PlaneUnavailable(f"the control plane does not answer ({error}); run `ciuic status`") from error

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.recv()) is not None:
            yield frame

    def recv(self, timeout: float | None = None) -> Frame | None:
        """Return the next frame, or None after `timeout` seconds without one."""
        try:
            data = self._socket.recv(timeout, decode=False)
        except TimeoutError:
            return None
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd is not None else ""
            kind, _, message = reason.partition(": ")
            if error.rcvd is not None and error.rcvd.code == 4404:
                raise by_name(kind)(message or reason) from error
            raise PlaneUnavailable(f"the line to the control plane broke ({reason or error}); connect again") from error
        except (OSError, WebSocketException) as error:
            raise PlaneUnavailable(f"the line to the control plane broke ({error}); connect again") from error
        return decode(data)

    def request(self, op: str, *, buffers: Sequence[bytes | memoryview] = (), **fields: Any) -> str:
        """Send a request (comm, input, interrupt) and return its id; its reply comes as a frame."""
        request = uuid.uuid4().hex
        try:
            self._socket.send(encode({"type": "request", "id": request, "op": op, **fields}, buffers))
        except (OSError, WebSocketException) as error:
            raise PlaneUnavailable(f"the line to the control plane broke ({error}); connect again") from error
        return request

    def close(self) -> None:
        """Close the line; the session goes on."""
        with suppress(OSError, WebSocketException):
            self._socket.close()


class PlaneClient:
    """Calls to one control plane; errors come back as the classes they were raised as."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._token = token
        self._http = requests.Session()
        self._http.trust_env = False  # no proxy and no netrc between us and loopback
        self._http.headers["Authorization"] = f"Bearer {token}"

    @classmethod
    def ensure(cls, settings: Settings | None = None) -> PlaneClient:
        """Return a client of the plane of `settings`, started now if none runs."""
        from ciuic_jupyter.control import daemon  # noqa: PLC0415 - only who starts a plane needs it

        return cls(*daemon.ensure(settings or Settings()))

    find_or_start = ensure

    @classmethod
    def find(cls, settings: Settings | None = None) -> PlaneClient | None:
        """Return a client of the running plane, None if none runs; starts nothing."""
        from ciuic_jupyter.control import daemon  # noqa: PLC0415 - only who starts a plane needs it

        found = daemon.find(settings or Settings())
        return cls(*found) if found is not None else None

    def _call(self, method: str, path: str, **options: Any) -> requests.Response:
        answer = self._answer(method, path, **options)
        if answer.status_code >= 400:
            _raise(answer)
        return answer

    def _answer(self, method: str, path: str, *, timeout: float = _QUICK, **options: Any) -> requests.Response:
        try:
            return self._http.request(
                method, f"{self.url}/v1{path}", timeout=(_CONNECT_SECONDS, timeout), allow_redirects=False, **options
            )
        except requests.RequestException as error:
            raise PlaneUnavailable(
                f"the control plane at {self.url} does not answer ({type(error).__name__}); "
                "runs and machines go on: `ciuic status` tells, `ciuic serve` starts it"
            ) from error

    def relay(self, method: str, path: str, **options: Any) -> tuple[int, bytes]:
        """Pass a call on and return the plane's own status and JSON; `path` is below /v1 and quoted."""
        answer = self._answer(method, path, **options)
        return answer.status_code, answer.content

    def _json(self, method: str, path: str, **options: Any) -> Any:
        return self._call(method, path, **options).json()

    def _session(self, name: str, action: str = "") -> str:
        return f"/sessions/{quote(name, safe='')}{action}"

    def health(self) -> View:
        """Return version, pid and boot of the plane."""
        return dict(self._json("GET", "/health"))

    def sessions(self) -> list[View]:
        """Return the views of all sessions."""
        return list(self._json("GET", "/sessions"))

    def session(self, name: str) -> View:
        """Return the view of one session; UnknownSession if there is none."""
        return dict(self._json("GET", self._session(name)))

    def create(
        self, name: str, *, instance: str | None = None, budget_nano: int | None = None, cwd: str | None = None
    ) -> View:
        """Create a session and start its machine, or resume it, or return it as it runs."""
        body = {"name": name, "instance": instance, "budget_nano": budget_nano, "cwd": cwd}
        return dict(self._json("POST", "/sessions", json=body))

    def take_in(self, name: str, path: str, *, trust: bool = False) -> View:
        """Make a paused session of the newest checkpoint in the folder `path` (absolute, where the plane is).

        `trust`: take one that another key signed, too; when it is resumed its code runs as you.
        """
        body = {"path": path, "trust": trust}
        return dict(self._json("POST", self._session(name, "/import"), json=body, timeout=_LONG))

    def run(
        self,
        name: str,
        run: str,
        code: str,
        *,
        cell_id: str | None = None,
        detach: bool = False,
        **options: Any,
    ) -> View:
        """Queue a cell; `run` is the caller's own id for it, so that calling twice runs it once.

        `checkpoint_every`: seconds between checkpoints in the middle of it; `grace`: seconds a pause waits for a loop
        boundary before the session's view has choices; `trace`: names of modules to pause inside, too; `flops`: count.
        """
        body = {"run": run, "code": code, "cell_id": cell_id, "detach": detach, **options}
        return dict(self._json("POST", self._session(name, "/runs"), json=body))

    submit = run

    def runs(self, name: str) -> list[View]:
        """Return the runs of a session, newest last."""
        return list(self._json("GET", self._session(name, "/runs")))

    def pause(self, name: str, wait: bool = True, *, now: bool = False, past_grace: Told | None = None) -> View:
        """Save and release at the cell's next loop boundary, or its end; with `wait`, return when billing has stopped.

        `now` waits for neither: the session goes back to a checkpoint of the cell, or the cell is interrupted.
        `past_grace` is called once, from another thread, with the view whose `pause` says what `now` would lose.
        """
        body, over = {"wait": wait, "now": now}, threading.Event()
        if past_grace is not None and wait and not now:
            beside = PlaneClient(self.url, self._token)  # of its own: a connection serves one thread
            threading.Thread(target=beside._tell_choice, args=(name, past_grace, over), daemon=True).start()
        try:
            return dict(self._json("POST", self._session(name, "/pause"), json=body, timeout=_LONG))
        finally:
            over.set()

    def _tell_choice(self, name: str, tell: Told, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            with suppress(CiuicError):
                view = self.session(name)
                if view.get("pause") and not over.is_set():
                    tell(view)
                    return

    def resume(
        self,
        name: str,
        wait: bool = False,
        *,
        drop_cell: bool = False,
        instance: str | None = None,
        run_budget_nano: int | None = None,
    ) -> View:
        """Start a machine for a paused session and restore it; a suspended cell goes on unless `drop_cell`.

        `instance`: of another type than it had; `run_budget_nano`: what the cell that goes on may cost instead.
        """
        body = {
            "wait": wait,
            "cell": "drop" if drop_cell else "continue",
            "instance": instance,
            "run_budget_nano": run_budget_nano,
        }
        return dict(self._json("POST", self._session(name, "/resume"), json=body, timeout=_LONG))

    def release(self, name: str, discard: bool = False, wait: bool = True) -> View:
        """Interrupt what runs, save (unless `discard`), and let the machine go."""
        body = {"discard": discard, "wait": wait}
        return dict(self._json("POST", self._session(name, "/release"), json=body, timeout=_LONG))

    def close_session(self, name: str, wait: bool = True) -> View:
        """Save, release, and end the session; its checkpoint is kept."""
        return dict(self._json("POST", self._session(name, "/close"), json={"wait": wait}, timeout=_LONG))

    close = close_session

    def keep(self, name: str, seconds: float) -> View:
        """Let no idle rule release the machine for so long."""
        return dict(self._json("POST", self._session(name, "/keep"), json={"seconds": seconds}))

    def every(self, name: str, seconds: float) -> View:
        """Let the cell under way be saved so often from now on."""
        return dict(self._json("POST", self._session(name, "/every"), json={"seconds": seconds}))

    def interrupt(self, name: str, run: str | None = None) -> View:
        """Send the kernel what Ctrl-C sends."""
        return dict(self._json("POST", self._session(name, "/interrupt"), json={"run": run}))

    def input(self, name: str, run: str, value: str) -> View:
        """Answer an input() of a run."""
        return dict(self._json("POST", self._session(name, "/input"), json={"run": run, "value": value}))

    def names(self, name: str) -> dict[str, str]:
        """Return the variables of the kernel, or the saved ones of a paused session: name -> type."""
        return dict(self._json("GET", self._session(name, "/names"))["names"])

    def checkpoint(self, name: str) -> View:
        """Return what a session's newest checkpoint holds: variables, types, bytes, what was not saved."""
        return dict(self._json("GET", self._session(name, "/checkpoint"), timeout=_LONG))

    def push(self, name: str, parts: Iterable[bytes | bytearray | memoryview], names: Sequence[str] = ()) -> View:
        """Send a stream made by `kernels.variables` into the kernel's namespace."""
        query = {"names": ",".join(names)} if names else {}
        path = self._session(name, "/variables")
        return dict(self._json("PUT", path, data=_pieces(parts), params=query, timeout=_LONG))

    def pull(self, name: str, names: Sequence[str]) -> Any:
        """Return a binary file of the named variables, for `kernels.variables`; a paused session stays paused."""
        path = self._session(name, "/variables")
        answer = self._call("GET", path, params={"names": ",".join(names)}, stream=True, timeout=_LONG)
        return answer.raw

    def receipts(self, name: str) -> list[View]:
        """Return the receipts of a session's pauses, newest last."""
        return list(self._json("GET", self._session(name, "/receipts")))

    def cost(self, name: str | None = None) -> View:
        """Return what a session, or all of them, cost and did not cost."""
        return dict(self._json("GET", self._session(name, "/cost") if name else "/cost"))

    def usage(self, what: str) -> View:
        """Return the machine time of a session or of a run, by its name or id."""
        return dict(self._json("GET", "/usage", params={"of": what}))

    def report(self, by: str, session: str | None = None) -> View:
        """Return what was spent by day, session, run or machine (its type), beside the same hours always on."""
        query = {"by": by} | ({"session": session} if session else {})
        return dict(self._json("GET", "/report", params=query))

    def history(self, session: str | None = None, limit: int = 10_000) -> View:
        """Return runs and pauses, newest first, and what each day of the last month cost."""
        query: dict[str, Any] = {"limit": limit} | ({"session": session} if session else {})
        return dict(self._json("GET", "/history", params=query))

    def advice(self, session: str | None = None) -> View:
        """Return what the measurements of a session, or of all, say could cost less."""
        return dict(self._json("GET", "/advice", params={"session": session} if session else {}))

    def same_cell(self, run: str) -> View:
        """Return all runs of the cell that a run is of, oldest first."""
        return dict(self._json("GET", "/same", params={"run": run}))

    def quote(
        self,
        code: str | None = None,
        *,
        run: str | None = None,
        cell_id: str | None = None,
        session: str | None = None,
    ) -> View:
        """Return what one more run of a cell would cost on each machine type; nothing is started."""
        asked = {"code": code, "run": run, "cell_id": cell_id, "session": session}
        return dict(self._json("POST", "/quote", json={name: value for name, value in asked.items() if value}))

    def shutdown(self) -> View:
        """End the plane; machines and runs go on until it is started again."""
        return dict(self._json("POST", "/shutdown"))

    def _socket(self, path: str) -> str:
        parts = urlsplit(self.url)
        scheme = "wss" if parts.scheme == "https" else "ws"
        return f"{scheme}://{parts.netloc}{parts.path}/v1{path}"

    def stream(self, name: str, after: int = 0) -> Stream:
        """Open the session's events after `after`."""
        return Stream(f"{self._socket(self._session(name, '/stream'))}?after={after}", self._token)

    async def watch(self) -> AsyncGenerator[View, None]:
        """Yield a snapshot of the plane, then what changes; PlaneUnavailable when the line breaks or goes silent."""
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            async with connect_here(
                self._socket("/watch"),
                additional_headers=headers,
                open_timeout=_CONNECT_SECONDS,
                max_size=MAX_FRAME,
                compression=None,
                close_timeout=1,
                proxy=None,
            ) as socket:
                while True:
                    async with asyncio.timeout(_SILENT):
                        message = await socket.recv()
                    yield json.loads(message)
        except (OSError, WebSocketException, TimeoutError) as error:
            text = f"the line to the control plane broke ({type(error).__name__}: {error}); it is opened again"
            raise PlaneUnavailable(text) from error


def _raise(answer: requests.Response) -> None:
    try:
        said = answer.json()["error"]
        kind, message = str(said["type"]), str(said["message"])
    except (ValueError, KeyError, TypeError):
        kind, message = "CiuicError", f"the control plane answered {answer.status_code}: {answer.text[:200]}"
    raise by_name(kind)(message)


def _pieces(parts: Iterable[bytes | bytearray | memoryview]) -> Iterator[memoryview]:
    for part in parts:
        view = memoryview(part).cast("B")
        for start in range(0, len(view), _PIECE):
            yield view[start : start + _PIECE]
