"""What agent and kernel both say about a cell that is paused in its middle."""

from __future__ import annotations

HOLD = "ciuic_hold"  # asked on the control channel, and what comes of it on iopub
RESUME = "ciuic_resume"  # metadata of an execute_request: go on with the cell that was restored
TRACE = "ciuic_trace"  # metadata of an execute_request: modules to pause inside, too
FLOPS = "ciuic_flops"  # metadata of an execute_request: count them; and what was counted, in its reply


def is_position(path: str) -> bool:
    """Tell whether what sits at `path` of a save may belong to the position of the cell that holds."""
    return path.startswith("state['position']") or path in ("state", "state ...")
