"""What the tests of both scenarios get, the container's and the machine's."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from faults import PROJECT, Server, Table, fault_under_load

SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
PLATFORM = yaml.safe_load((PROJECT / "molecule" / SCENARIO / "molecule.yml").read_text())
PLATFORM = PLATFORM["platforms"][0]
TABLE = Table(SCENARIO)
# An emulated machine is ten times slower: it is asked for survival, not for seconds.
LIMITS = {"within": 300, "patience": 10, "clients": 1} if PLATFORM.get("kind") == "vm" else {}


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Return the server; its connection ends with the tests."""
    with tempfile.TemporaryDirectory(prefix="faults-") as sockets:
        yield Server(PLATFORM["name"], PLATFORM["address"], Path(sockets))


@pytest.fixture
def fault(server) -> Callable:
    """Return a function: a fault under load, which becomes a row of the table."""
    return lambda name, **options: fault_under_load(server, name, TABLE, **(LIMITS | options))


def pytest_sessionstart(session) -> None:
    """Forget an earlier run, unless a person asked for some tests only."""
    if not session.config.option.keyword:
        TABLE.clear()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table."""
    terminalreporter.section("faults")
    terminalreporter.write_line(TABLE.text())
