"""What an agent is told at its start: one frozen record, read from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ciuic_jupyter.errors import UsageError

SUN_PATH_LIMIT = 107  # bytes of a unix socket's path


@dataclass(repr=False)
class Secrets:
    """What only the agent's own process may know."""

    token: str
    key: bytes

    def forget(self) -> None:
        """Drop them from this process: for a forked child that will run user code."""
        self.token, self.key = "", b""


@dataclass(frozen=True)
class AgentConfig:
    """The parts of an agent's config; its secrets never show in its repr."""

    machine: str
    session: str
    socket: Path
    directory: Path
    store: Path
    secrets: Secrets = field(repr=False)
    intent: str = ""
    first_seq: int = 1
    checkpoint: int | None = None
    remote: str | None = None  # address of this session's checkpoints elsewhere; a save counts when it is there too
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    lease_seconds: float = 600.0
    sample_hz: float = 10.0
    deadline: float | None = None  # seconds from the agent's start that a machine nobody hears may still run a cell
    verify_seconds: float = 900.0
    save_failure_seconds: float = 1800.0
    last_resort: str = "keep"
    earlier_checkpoints: int = 2  # that are kept beside the newest; a save removes those before them
    preempt_seconds: float = 20.0  # that a machine which must leave waits for its cell to hold; 0: none
    warm: bool = False

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> AgentConfig:
        """Read the JSON form; UsageError names what is missing or wrong."""
        try:
            values = {f.name: config[f.name] for f in fields(cls) if config.get(f.name) is not None}
            values["secrets"] = Secrets(str(config["token"] or ""), bytes.fromhex(config["key_hex"]))
            for name in ("socket", "directory", "store"):
                values[name] = Path(values[name])
            made = cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the agent's config is wrong: {error!r}; write it anew and start the machine") from error
        longest = made.socket.parent / "k-1"
        if max(len(bytes(made.socket)), len(bytes(longest))) > SUN_PATH_LIMIT:
            raise UsageError(
                f"the socket path {made.socket} is over {SUN_PATH_LIMIT} bytes; "
                "set CIUIC_RUNTIME_DIR to a shorter place"
            )
        if not made.secrets.token or len(made.secrets.key) < 16:
            raise UsageError("the agent's config holds no token or a short key; write it anew and start the machine")
        return made

    @property
    def ipc_stem(self) -> str:
        """Where the kernel's five sockets lie: this plus -1 to -5, in the 0700 directory of the agent's socket."""
        return str(self.socket.parent / "k")
