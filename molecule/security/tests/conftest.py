"""What the tests of the security scenario share: the host outside, and the servers' addresses."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HOST = Path(__file__).parents[2] / "hosts/host"


def on_outside(command: str, seconds: float = 120) -> subprocess.CompletedProcess:
    """Run a shell command on the host outside."""
    return subprocess.run(
        [HOST, "exec", "outside", "sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture
def outside() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a shell command on the host outside."""
    return on_outside


@pytest.fixture
def address(host) -> str:
    """Return the server's address among the hosts, as the host outside sees it."""
    return "10.127.18." + host.backend.host.removeprefix("closed")


@pytest.fixture
def name(host) -> str:
    """Return the server's domain."""
    return f"{host.backend.host}.example.org"
