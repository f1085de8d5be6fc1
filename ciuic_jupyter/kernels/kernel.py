"""The kernel of a session: an ipykernel that also saves, restores, and hands variables over."""

from __future__ import annotations

import random
import signal
import threading
from functools import cached_property
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from traitlets import Dict, DottedObjectName, Type
from traitlets.config import Config

from ciuic_jupyter.kernels.kernel_requests import Requests
from ciuic_jupyter.kernels.kernel_streams import SoftStream, order_iopub

REQUEST = "ciuic_request"
REPLY = "ciuic_reply"


class CiuicKernel(IPythonKernel):  # type: ignore[misc]  # ipykernel has no types
    """An IPythonKernel with one more shell message: ciuic_request {op, ...} -> ciuic_reply {status, ...}."""

    def __init__(self, **kwargs: Any) -> None:
        self._interrupted = False
        super().__init__(**kwargs)
        self._run_code, self.shell.run_code = self.shell.run_code, self._interruptible
        self.requests = Requests(self.shell)
        self.shell_handlers[REQUEST] = self.ciuic_request

    @cached_property
    def banner(self) -> str:
        """IPython's banner, drawn once.

        It holds a tip drawn from the global `random`, and every client that connects asks for it: a restored kernel
        would go on with other random numbers than the one that was never paused.
        """
        state = random.getstate()
        try:
            return str(self.shell.banner)
        finally:
            random.setstate(state)

    async def ciuic_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer one request in the main thread, between cells, leaving no trace in the history."""
        content = self.requests.answer(parent["content"])
        self.session.send(stream, REPLY, content, parent, ident)

    def pre_handler_hook(self) -> None:
        """Before each request: let Ctrl-C raise at once, but for a cell only when its own code runs.

        Raised in the moments before, ipykernel leaves the request without a reply, for which a client waits for ever,
        or IPython takes it for an error of a callback and runs the cell.
        """
        kind = self.get_parent("shell")["header"]["msg_type"]
        handler = self._interrupt_later if kind == "execute_request" else signal.default_int_handler
        self.saved_sigint_handler = signal.signal(signal.SIGINT, handler)
        self._interrupted = False

    def _interrupt_later(self, *_: Any) -> None:
        self._interrupted = True

    async def _interruptible(self, *args: Any, **kwargs: Any) -> Any:
        """In the place of the shell's run_code: here the cell's own code begins."""
        if threading.current_thread() is threading.main_thread():  # a subshell has a thread of its own
            if signal.getsignal(signal.SIGINT) == self._interrupt_later:  # else ipykernel waits for an async cell
                signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._interrupted:
                self._interrupted = False
                raise KeyboardInterrupt
        return await self._run_code(*args, **kwargs)

    async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return await super().do_execute(*args, **kwargs)
        except KeyboardInterrupt:
            return self._interrupted_reply()
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, self._interrupt_later)
            for output in (self._stdout, self._stderr):
                if isinstance(output, SoftStream):
                    output.drain()

    def _interrupted_reply(self) -> dict[str, Any]:
        """Show the interrupt that is being handled as the cell's error and return the reply to it."""
        self.shell.showtraceback()
        traceback = self.shell._last_traceback or []  # noqa: SLF001 - where ipykernel takes it from, too
        shown = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": traceback}
        count = self.shell.execution_count
        return {"status": "error", **shown, "execution_count": count, "payload": [], "user_expressions": {}}


class KernelApp(IPKernelApp):  # type: ignore[misc]  # ipykernel has no types
    """IPKernelApp for a connection that was handed over in memory: no file holds its key."""

    name = "ciuic-kernel"
    kernel_class = Type(CiuicKernel, klass=IPythonKernel).tag(config=True)
    connection = Dict()
    outstream_class = DottedObjectName("ciuic_jupyter.kernels.kernel_streams.SoftStream").tag(config=True)

    def _config_default(self) -> Config:
        config = Config()
        # a history file shared by several kernels makes them wait for each other, and belongs to the notebook's side
        config.HistoryManager.hist_file = ":memory:"
        return config

    def init_connection_file(self) -> None:
        self.load_connection_info(self.connection)

    def write_connection_file(self, **kwargs: Any) -> None:
        """Write none."""

    def log_connection_info(self) -> None:
        names = ("shell", "iopub", "stdin", "hb", "control")
        self._ports = {name: getattr(self, f"{name}_port") for name in names}

    def init_iopub(self, context: Any) -> None:
        # at zmq's default of 1000 messages a burst of output is dropped silently, and a thread that wakes the IOPub
        # thread waits for it, which must not happen under the lock of kernel_streams
        context.sndhwm = 0
        super().init_iopub(context)
        order_iopub(self.iopub_thread)
