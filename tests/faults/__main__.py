"""`python -m tests.faults SEED [SEED ...]` plays histories and tells what happens in them."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

from tests.faults.doubles import MemoryLedger
from tests.faults.history import Broken, History, disk


class Told(logging.Handler):
    """Prints the plane's log on turned time."""

    def __init__(self, history: History) -> None:
        super().__init__()
        self._time = history.time

    def emit(self, record: logging.LogRecord) -> None:
        _say(f"{self._time.now:9.3f}  {record.getMessage()}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def tell(seed: int) -> bool:
    """Play one history; return whether every law held."""
    logger = logging.getLogger("ciuic_jupyter")
    with disk(), tempfile.TemporaryDirectory() as directory:
        place = Path(directory) / "state"
        place.mkdir(mode=0o700)
        history = History(seed, place)
        _say(f"history {seed}: {history.script}; crashes at step {history.crashes}")
        told, level = Told(history), logger.level
        logger.addHandler(told)
        logger.setLevel(logging.INFO)
        try:
            history.played()
        except Broken as error:
            _say(f"BROKEN: {error}")
        finally:
            logger.removeHandler(told)
            logger.setLevel(level)
        query = "select id, kind, session, machine, body from entries"
        for row in MemoryLedger.disk.connection.exec_driver_sql(query):
            _say("  ".join(str(field)[:160] for field in row))
        return not history.broken


if __name__ == "__main__":
    sys.exit(0 if all([tell(int(seed)) for seed in sys.argv[1:]]) else 1)
