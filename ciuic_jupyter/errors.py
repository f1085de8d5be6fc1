"""The one tree of errors. A message says what happened, to what, and what to do next.

CiuicError
├── UsageError             bad input: nothing was started, nothing was lost
│   ├── UnknownSession
│   ├── UnknownName        a variable that does not exist
│   └── NotPicklable       a variable that can't travel
├── IllegalTransition      an event a session's state does not know
├── LedgerError            the ledger can't be trusted or written
├── ProviderError          a machine could not be started, seen or stopped
│   ├── OutOfCapacity
│   └── MachineUnreachable   nobody can tell whether it lives
│       └── HostKeyRefused
├── BudgetExceeded         the cap would be crossed
├── PlaneUnavailable       no control plane answers
├── AgentUnavailable       the machine of a session does not answer
├── ProtocolError          a frame that breaks the protocol
├── CheckpointError
│   ├── CheckpointDamaged
│   ├── CheckpointUntrusted
│   └── SaveFailed
├── KernelDied             the remote kernel's process ended by itself
└── RemoteError            user code raised on the remote kernel
"""

from __future__ import annotations


class CiuicError(Exception):
    """Any failure this package reports."""


class UsageError(CiuicError):
    """The input is wrong; nothing was started and nothing was lost."""


class UnknownSession(UsageError):
    """No session has that name."""


class UnknownName(UsageError):
    """A variable with that name does not exist."""


class NotPicklable(UsageError):
    """A variable can't be sent to another process."""


class IllegalTransition(CiuicError):
    """An event that a session's state does not know."""


class LedgerError(CiuicError):
    """The ledger can't be trusted or written."""


class ProviderError(CiuicError):
    """A machine could not be started, seen or stopped."""


class OutOfCapacity(ProviderError):
    """The provider has no such machine now."""


class MachineUnreachable(ProviderError):
    """A machine can't be reached now: that proves nothing about it."""


class HostKeyRefused(MachineUnreachable):
    """The host key of a machine is not the one that the user trusts: nothing was sent to it."""


class BudgetExceeded(CiuicError):
    """What was asked would cross the cap."""


class PlaneUnavailable(CiuicError):
    """No control plane answers."""


class AgentUnavailable(CiuicError):
    """The machine of a session does not answer."""


class ProtocolError(CiuicError):
    """A frame that breaks the protocol."""


class CheckpointError(CiuicError):
    """A checkpoint can't be written or read."""


class CheckpointDamaged(CheckpointError):
    """A file of a checkpoint is not what its manifest says."""


class CheckpointUntrusted(CheckpointError):
    """A manifest is not signed by this user's key."""


class SaveFailed(CheckpointError):
    """A save did not succeed; the kernel lives on."""


class KernelDied(CiuicError):
    """The remote kernel's process ended by itself."""


class RemoteError(CiuicError):
    """User code raised on the remote kernel; subclassed with the remote class's name."""


def by_name(name: str) -> type[CiuicError]:
    """Return the class of this tree called `name`, or CiuicError itself for a name it does not hold."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, CiuicError) else CiuicError
