"""The server, a fault under load, and the table at the end."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import Server, Table, fault_under_load

NAME, ADDRESS = "faulty", "127.0.21.1"
TABLE = Table("faults")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Return the server; its connection ends with the tests."""
    with tempfile.TemporaryDirectory(prefix="faults-") as sockets:
        yield Server(NAME, ADDRESS, Path(sockets))


@pytest.fixture
def fault(server) -> Callable:
    """Return a function: a fault under load, which becomes a row of the table."""
    return lambda name, **options: fault_under_load(server, name, TABLE, **options)


def pytest_sessionstart(session) -> None:
    """Forget an earlier run, unless a person asked for some tests only."""
    if not session.config.option.keyword:
        TABLE.clear()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table."""
    terminalreporter.section("faults")
    terminalreporter.write_line(TABLE.text())
