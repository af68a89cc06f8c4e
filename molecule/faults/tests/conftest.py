"""The server, a fault under load, the table at the end."""

from fixtures import fault, pytest_sessionstart, pytest_terminal_summary, server

__all__ = ["fault", "pytest_sessionstart", "pytest_terminal_summary", "server"]
