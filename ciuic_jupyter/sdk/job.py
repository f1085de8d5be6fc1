"""A training on a session's machine: started, paused and resumed from a script, a notebook, or its own cell.

    job = TrainingJob(instance_type="gpu.2xlarge", checkpoint_interval=30, cost_alert=100)
    with job:                                  # a machine is there; leaving saves and gives it back
        model = job.run(train, epochs=100)     # runs there, prints here

In a cell of a session the job is that cell: `with job:` starts nothing, `job.pause()` stops it at its next boundary.
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from ciuic_jupyter.core.money import NANO
from ciuic_jupyter.core.session import check_name
from ciuic_jupyter.errors import AgentUnavailable, PlaneUnavailable, RemoteError, UsageError
from ciuic_jupyter.kernels import variables
from ciuic_jupyter.sdk import place
from ciuic_jupyter.sdk.outcome import JobPaused, Outcome, follow
from ciuic_jupyter.train.job import Job

_CALLED, _POSITIONAL, _NAMED, _RESULT = "ciuic_called", "ciuic_positional", "ciuic_named", "ciuic_result"
_CODE = f"{_RESULT} = {_CALLED}(*{_POSITIONAL}, **{_NAMED})"

View = dict[str, Any]


class TrainingJob(Job):
    """One session and what runs in it; `checkpoint_callback` and `restored` as in `train.Job`."""

    def __init__(
        self,
        instance_type: str | None = None,
        checkpoint_interval: float = 30,
        cost_alert: Any = None,
        *,
        session: str | None = None,
    ) -> None:
        """Ask for nothing yet. `checkpoint_interval` is in minutes, `cost_alert` in the currency's units.

        `session` defaults to the script's name, in a cell to the cell's own. UsageError for what can't be.
        """
        super().__init__()
        self.instance_type = instance_type
        self.checkpoint_seconds = place.minutes(checkpoint_interval)
        self.alert_nano = None if cost_alert is None else place.amount(cost_alert)
        self.session = check_name(session) if session is not None else place.default_session()
        self.watched: list[Callable[[], None]] = []  # by monitors, at each call of checkpoint_callback in a cell
        self._way = place.Way()
        self._outcome: Outcome | None = None

    def __getstate__(self) -> View:
        """Leave what watches outside: a copy that travels into a cell is watched there by nobody, or twice."""
        state = dict(vars(self))
        if place.inside() is None:
            state.update(watched=[], _outcome=None)
        return state

    # -- the machine

    def start(self) -> TrainingJob:
        """Have a machine, started or resumed, and return when it is ready; in a cell it is there already."""
        if place.inside() is not None:
            self._begin_here()
            return self
        client = self._way.client
        client.create(self.session, instance=self.instance_type, cwd=os.getcwd())
        self._check(client.resume(self.session, wait=True))
        return self

    def _begin_here(self) -> None:
        """Take the cell's checkpoints as often as wanted; UsageError if its machine is not the type asked for."""
        try:
            view = self._way.client.session(self.session)
            if self.instance_type not in (None, view["instance"]):
                raise UsageError(
                    f"this cell runs on {view['instance']}, not on {self.instance_type}; the cell chooses the machine: "
                    f"%%ciuic_train --instance {self.instance_type}"
                )
            self._way.client.every(self.session, self.checkpoint_seconds)
        except PlaneUnavailable as error:
            sys.stderr.write(f"ciuic: {error}; checkpoint_interval and cost_alert do nothing here\n")

    def __enter__(self) -> TrainingJob:
        return self.start()

    def __exit__(self, *how: object) -> None:
        """Save and give the machine back, whatever happened inside; in a cell the machine stays, the cell goes on."""
        if place.inside() is None:
            self.pause()

    def pause(self) -> View:
        """Save and give the machine back; return the session's view.

        What runs stops at its next boundary and goes on with `resume`. Outside it returns when nothing is billed any
        more; in a cell at once, and the cell stops at its next loop turn or `checkpoint_callback`.
        """
        return self._way.client.pause(self.session, wait=place.inside() is None)

    def resume(self) -> TrainingJob:
        """Have a machine again, everything as it was; what was stopped goes on, and `wait` returns its result."""
        if place.inside() is None:
            self._check(self._way.client.resume(self.session, wait=True))
        return self

    def close(self) -> None:
        """Save, give the machine back and end the session; its checkpoint is kept."""
        self._way.client.close_session(self.session)

    def _check(self, view: View) -> None:
        if view["state"] != "running":
            raise RemoteError(f"session {self.session} is {view['state']}: {view.get('message') or view.get('text')}")

    # -- what runs there

    def run(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """Call `function` on the machine and return what it returns; what it prints is printed here.

        It travels with the functions and globals it uses, its result comes back. JobPaused if the session is paused in
        its middle; RemoteError for what it raises. In a cell it is just called.
        """
        if place.inside() is not None:
            return function(*arguments, **named)
        self.submit(function, *arguments, **named)
        return self.wait()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> str:
        """Begin what `run` does and return the run's id; `wait` gives the result."""
        client, run = self._way.client, uuid.uuid4().hex
        parts = variables.dump({_CALLED: function, _POSITIONAL: arguments, _NAMED: named})
        view = client.create(self.session, instance=self.instance_type, cwd=os.getcwd())
        try:
            client.push(self.session, parts)
        except AgentUnavailable as error:
            raise JobPaused(f"nothing was begun: {error}. resume() and run it again") from error
        client.run(self.session, run, _CODE, checkpoint_every=self.checkpoint_seconds)
        self._outcome = Outcome(self.session, run, int(view["last_seq"]))
        return run

    def wait(self) -> Any:
        """Return the result of what was begun last, printing what it prints; errors as in `run`.

        After JobPaused and a `resume` it can be called again, and goes on where it was.
        """
        if self._outcome is None:
            raise UsageError("nothing was begun with this job; call run or submit first")
        follow(self._way.client, self._outcome)
        return variables.load(self._way.client.pull(self.session, [_RESULT]))[_RESULT]

    def checkpoint_callback(self, step: Any = None, /, **state: Any) -> None:
        """Be a boundary, as `train.Job` says; in a cell also the moment at which costs are looked at."""
        if place.inside() is not None:
            for watch in self.watched:
                watch()
        super().checkpoint_callback(step, **state)

    # -- facts

    @property
    def view(self) -> View:
        """What the plane says of the session."""
        return self._way.client.session(self.session)

    @property
    def state(self) -> str:
        """requested, starting, running, saving, stopping, paused, failed or closed."""
        return str(self.view["state"])

    @property
    def cost(self) -> Decimal:
        """What the session has cost so far, in units of its currency."""
        return Decimal(int(self.view["spent_nano"])) / NANO
