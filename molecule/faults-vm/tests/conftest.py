"""The machine, its power button, a fault under load, and the table at the end."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "faults/tests"))

from faults import HOST, PROJECT, Server, Table, fault_under_load

NAME, ADDRESS = "faulty-vm", "127.0.22.1"
TABLE = Table("faults-vm")
# An emulated machine is ten times slower: it is asked for survival, not for seconds.
WITHIN_SECONDS, PATIENCE_SECONDS = 300, 10


class Machine(Server):
    """A server that has a power plug."""

    def cut_power(self) -> None:
        """Pull the plug, and put it in again."""
        subprocess.run([HOST, "kill", self.name], check=True)
        subprocess.run([HOST, "start", self.name], check=True)

    def reboot(self) -> None:
        """Boot anew, as after an update of the kernel."""
        self.run("systemctl reboot")
        time.sleep(5)
        subprocess.run([HOST, "start", self.name], check=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Machine]:
    """Return the machine; its connection ends with the tests."""
    with tempfile.TemporaryDirectory(prefix="faults-") as sockets:
        yield Machine(NAME, ADDRESS, Path(sockets))


@pytest.fixture
def fault(server) -> Callable:
    """Return a function: a fault under load, which becomes a row of the table."""

    def under_load(name: str, within: float = WITHIN_SECONDS):
        return fault_under_load(server, name, TABLE, within=within, patience=PATIENCE_SECONDS)

    return under_load


@pytest.fixture
def start_deploy() -> Callable[[], subprocess.Popen]:
    """Return a function that starts to release another source, and does not wait for the end."""

    def start() -> subprocess.Popen:
        source = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], "app")
        (source / "number.txt").write_text(f"{time.time()}\n")
        inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
        return subprocess.Popen(
            ["ansible-playbook", "--inventory", inventory, "playbooks/deploy-application.yml"],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")},
        )

    return start


def pytest_sessionstart(session) -> None:
    """Forget an earlier run, unless a person asked for some tests only."""
    if not session.config.option.keyword:
        TABLE.clear()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the table."""
    terminalreporter.section("faults")
    terminalreporter.write_line(TABLE.text())
