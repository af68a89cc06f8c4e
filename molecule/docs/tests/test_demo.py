"""make demo, as a newcomer types it: what it prints works, again it changes nothing, it goes."""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
HOST = str(PROJECT / "molecule/hosts/host")
PORT = 18011  # 8080 may be that of a program of this computer
SECONDS = 1200


def run(*command: str) -> subprocess.CompletedProcess:
    """Run a command as from a shell of its own, not from within Molecule."""
    ours = {name: value for name, value in os.environ.items()
            if not re.match("ANSIBLE_|MOLECULE_|PYTEST_|VIRTUAL_ENV|PYTHON", name)}  # fmt: skip
    return subprocess.run(
        command, cwd=PROJECT, env=ours | {"NO_COLOR": "1"}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SECONDS,
    )  # fmt: skip


def demo() -> subprocess.CompletedProcess:
    """Type make demo."""
    return run("make", "demo", f"DEMO_PORT={PORT}")


def there() -> bool:
    """Tell whether its host is there."""
    return "demo" in [line.split()[0] for line in run(HOST, "list").stdout.splitlines()]


@pytest.fixture(scope="module")
def serving() -> Iterator[str]:
    """Make the demo; return what it printed. It is gone afterwards."""
    if there():
        pytest.fail("There is a demo, which this test would take away: make demo-down", False)
    try:
        made = demo()
        assert made.returncode == 0, made.stdout
        yield made.stdout
    finally:
        run("make", "demo-down")


def test_a_busy_port_is_refused_before_anything_is_made():
    with socket.create_server(("127.0.0.1", PORT)):
        refused = demo()
    assert refused.returncode != 0
    assert f"port {PORT} of this computer is in use" in refused.stdout
    assert f"make demo DEMO_PORT={PORT + 1}" in refused.stdout
    assert not there()


def test_what_it_prints_to_type_next_works(serving):
    assert f"Ready: http://127.0.0.1:{PORT}" in serving
    printed = dict(re.findall(r"^  (Look|Write|Log in) +((?:curl|ssh) .+)$", serving, re.MULTILINE))
    assert list(printed) == ["Look", "Write", "Log in"]
    look = run("bash", "-c", printed["Look"].replace("curl", "curl --fail", 1))
    assert look.returncode == 0, look.stdout
    write = run("bash", "-c", printed["Write"].replace("curl", "curl --fail", 1))
    assert '"Ada"' in write.stdout, write.stdout
    log_in = run("bash", "-c", f"{printed['Log in']} hostname")
    assert log_in.stdout.splitlines()[-1] == "demo", log_in.stdout


def test_once_more_it_changes_nothing_and_it_leaves_nothing(serving):
    again = demo()
    assert again.returncode == 0, again.stdout
    (recap,) = re.findall(r"^demo +: .*$", again.stdout, re.MULTILINE)
    assert re.search(r"changed=0 .*failed=0", recap), recap
    gone = run("make", "demo-down")
    assert gone.returncode == 0, gone.stdout
    assert not there()
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", PORT)):
        pass
