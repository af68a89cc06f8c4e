"""The same as in the scenario faults: the server, a fault under load, the table at the end."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "faults/tests"))

from fixtures import fault, pytest_sessionstart, pytest_terminal_summary, server

__all__ = ["fault", "pytest_sessionstart", "pytest_terminal_summary", "server"]
