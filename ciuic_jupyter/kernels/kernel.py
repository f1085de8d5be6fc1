"""The kernel of a session: an ipykernel that also saves, restores, and hands variables over."""

from __future__ import annotations

import ast
import asyncio
import random
import signal
import threading
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from ipykernel import kernelapp
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.error import InputRejected
from traitlets import Dict, DottedObjectName, Type
from traitlets.config import Config

from ciuic_jupyter.checkpoint import process, survey
from ciuic_jupyter.errors import CheckpointError, CiuicError, UsageError
from ciuic_jupyter.kernels.hold import Cell, Holder
from ciuic_jupyter.kernels.kernel_requests import Requests
from ciuic_jupyter.kernels.kernel_streams import PrivateIOPub, SoftStream, order_iopub
from ciuic_jupyter.kernels.pause import FLOPS, HOLD, RESUME, TRACE
from ciuic_jupyter.resume import flops
from ciuic_jupyter.resume.engine import Engine

REQUEST = "ciuic_request"
REPLY = "ciuic_reply"
_SLICE, _PAUSE = 0.005, 0.02  # seconds of a look ahead, and between two
_STORE = "store_inputs"  # of a history manager


class CiuicKernel(IPythonKernel):  # type: ignore[misc]  # ipykernel has no types
    """An IPythonKernel with one more shell message: ciuic_request {op, ...} -> ciuic_reply {status, ...}.

    Its cells can be held at the top of any loop's turn: ciuic_hold {op, ...} on the control channel is answered at once
    by ciuic_reply, and what comes of it is an iopub message ciuic_hold {state, ...} in order with the cell's output. So
    is the end of a stage that the cell's code marks.
    """

    def __init__(self, **kwargs: Any) -> None:
        self._interrupted = False
        super().__init__(**kwargs)
        self._run_code, self.shell.run_code = self.shell.run_code, self._interruptible
        self.engine = Engine()
        self.engine.install(self.shell)
        self.shell.ast_transformers[-1] = self.hooks = Hooks(self.engine.transformer)
        self.requests = Requests(self.shell, self.engine)
        self.holder = Holder(self.engine, self)
        self.shell_handlers[REQUEST] = self.ciuic_request
        self.control_handlers[HOLD] = self.ciuic_hold

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
        if parent["content"].get("op") == "modules":  # asked soon after a cell
            cells = [text for text in self.shell.user_ns.get("In", ()) if isinstance(text, str)]
            self._look_ahead(survey.ahead(process.words(cells), _SLICE))

    def _look_ahead(self, slices: Iterator[None]) -> None:
        """Look at what libraries hold, so that a save need not; between two slices a cell may begin."""
        for _ in slices:
            asyncio.get_running_loop().call_later(_PAUSE, self._look_ahead, slices)
            return

    def ciuic_hold(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer one request about the cell under way, in the control thread."""
        content = parent["content"]
        answer = self.requests.answer if content.get("op") == "modules" else self.holder.answer
        self.session.send(stream, REPLY, answer(content), parent, ident)

    def say(self, parent: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Publish a word about a hold."""
        self.session.send(self.iopub_socket, HOLD, dict(content), parent=dict(parent), ident=self._topic(HOLD))

    def flush(self) -> None:
        """Send what was printed; on return it is on its way."""
        for output in (self._stdout, self._stderr):
            if isinstance(output, SoftStream):
                output.drain()

    def save_held(self, request: Mapping[str, Any], cell: Cell, position: Any) -> dict[str, Any]:
        """Save in the middle of a cell."""
        with flops.aside():
            saved = self.requests.save_held(request, cell, position)
        return {**saved, "flops": flops.take()}

    def pre_handler_hook(self) -> None:
        """Before each request: let Ctrl-C raise at once, but for a cell only when its own code runs.

        Raised in the moments before, ipykernel leaves the request without a reply, for which a client waits for ever,
        or IPython takes it for an error of a callback and runs the cell.
        """
        parent = self.get_parent("shell")
        is_cell = parent["header"]["msg_type"] == "execute_request"
        handler = self._interrupt_later if is_cell else signal.default_int_handler
        self.saved_sigint_handler = signal.signal(signal.SIGINT, handler)
        self._interrupted = False
        if is_cell:
            self.holder.begin(parent)

    def post_handler_hook(self) -> None:
        """After each request, also one that reached no cell's code."""
        self.holder.end(self.get_parent("shell")["header"]["msg_id"])
        super().post_handler_hook()

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
            with flops.statement(args[0] if args else None):
                return await self._run_code(*args, **kwargs)
        return await self._run_code(*args, **kwargs)

    def _publish_execute_input(self, code: str, parent: dict[str, Any], execution_count: int) -> None:
        """Show a cell as begun; one that goes on was shown before and says so to the agent alone."""
        if _resumes(parent):
            self.say(parent, {"state": "resumed"})
        else:
            super()._publish_execute_input(code, parent, execution_count)

    async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():  # a subshell's
            try:
                return await super().do_execute(*args, **kwargs)
            finally:
                self.flush()
        cell = self.holder.cell
        try:
            if cell is not None:
                kwargs = self._prepare(cell, kwargs)
            reply = await super().do_execute(*args, **kwargs)
            counted = flops.end()
            return reply if counted is None else {**reply, FLOPS: counted}
        except KeyboardInterrupt:
            return self._interrupted_reply()
        except CiuicError as error:
            return {"status": "error", "ename": type(error).__name__, "evalue": str(error), **self._empty_reply()}
        finally:
            signal.signal(signal.SIGINT, self._interrupt_later)
            self.flush()
            self.hooks.must_go_on = False
            vars(self.shell.history_manager).pop(_STORE, None)
            flops.end()
            if cell is not None:
                self.holder.end(cell.message)

    def _prepare(self, cell: Cell, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Note how `cell` is run, or have it go on where it was paused; return do_execute's arguments."""
        suspended, self.requests.suspended = self.requests.suspended, None
        self.engine.trace((cell.parent.get("metadata") or {}).get(TRACE) or ())
        if not _resumes(cell.parent):
            if (cell.parent.get("metadata") or {}).get(FLOPS):
                flops.begin()
            cell.count = self.shell.execution_count
            cell.store_history = bool(kwargs.get("store_history", True))
            cell.allow_stdin = bool(kwargs.get("allow_stdin"))
            return kwargs
        if suspended is None:
            raise UsageError("no cell was restored that could go on; run it again from its beginning")
        cell.count, cell.store_history = suspended.count, suspended.store_history
        cell.allow_stdin = suspended.allow_stdin
        try:
            self.engine.arm(suspended.position)
        except (LookupError, SyntaxError, TypeError, ValueError) as error:
            raise CheckpointError(f"the cell can't go on ({error}); the variables are as they stood") from error
        if suspended.position.get("flops") is not None:
            flops.begin()
        self.hooks.must_go_on = True
        self.shell.execution_count = suspended.count
        if suspended.store_history:
            _skip_once(self.shell.history_manager, _STORE)
        return {**kwargs, "store_history": cell.store_history, "allow_stdin": cell.allow_stdin}

    def _empty_reply(self) -> dict[str, Any]:
        count = self.shell.execution_count
        return {"traceback": [], "execution_count": count, "payload": [], "user_expressions": {}}

    def _interrupted_reply(self) -> dict[str, Any]:
        """Show the interrupt that is being handled as the cell's error and return the reply to it."""
        self.shell.showtraceback()
        traceback = self.shell._last_traceback or []  # noqa: SLF001 - where ipykernel takes it from, too
        shown = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": traceback}
        return {"status": "error", **self._empty_reply(), **shown}


def _resumes(parent: Mapping[str, Any]) -> bool:
    return bool((parent.get("metadata") or {}).get(RESUME))


def _skip_once(owner: Any, method: str) -> None:
    """Make the next call of a method of `owner` do nothing."""

    def skip(*_: Any, **__: Any) -> None:
        vars(owner).pop(method, None)

    setattr(owner, method, skip)


class Hooks(ast.NodeTransformer):
    """The engine's transformer, as IPython calls it with each cell."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self.must_go_on = False  # the next tree is a cell that goes on in its middle

    def visit(self, node: ast.AST) -> Any:
        """Return the tree with hooks. InputRejected for a cell that can't go on: it must not run from its beginning."""
        must_go_on, self.must_go_on = self.must_go_on, False
        try:
            return self._transformer.visit(node)
        except Exception as error:
            if not must_go_on:
                raise
            raise InputRejected(f"the cell can't go on ({error}); the variables are as they stood") from error


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
        usual, kernelapp.IOPubThread = kernelapp.IOPubThread, PrivateIOPub
        try:
            super().init_iopub(context)
        finally:
            kernelapp.IOPubThread = usual
        order_iopub(self.iopub_thread)
