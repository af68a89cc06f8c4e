"""What the tests of the security scenario share: the host outside, and the servers' addresses."""

import contextlib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HOST = Path(__file__).parents[2] / "hosts/host"


def on_outside(command: str, seconds: float = 120) -> subprocess.CompletedProcess:
    """Run a shell command on the host outside; its line ends stay as they are."""
    done = subprocess.run(
        [HOST, "exec", "outside", "sh", "-c", command],
        capture_output=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


@pytest.fixture(scope="module")
def outside() -> Callable[..., subprocess.CompletedProcess]:
    """Return a function that runs a shell command on the host outside."""
    return on_outside


@pytest.fixture(scope="module")
def address(host) -> str:
    """Return the server's address among the hosts, as the host outside sees it."""
    return "10.127.18." + host.backend.host.removeprefix("closed")


@pytest.fixture(scope="module")
def name(host) -> str:
    """Return the server's domain."""
    return f"{host.backend.host}.example.org"


class Attacker:
    """Sends whatever bytes it likes to the HTTPS port of a server."""

    def __init__(self, address: str, name: str):
        self.address, self.name = address, name
        self.context = ssl.create_default_context()
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE  # the certificate has tests of its own

    def send(self, payload: bytes, seconds: float = 10) -> bytes:
        """Return all that the server says until it closes the connection, or nothing comes."""
        with (
            socket.create_connection((self.address, 443), timeout=seconds) as plain,
            self.context.wrap_socket(plain, server_hostname=self.name) as connection,
        ):
            answer = b""
            with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
                connection.sendall(payload)
            with contextlib.suppress(TimeoutError, ConnectionError, ssl.SSLError):
                while part := connection.recv(65536):
                    answer += part
            return answer

    def request(
        self, path: str, *headers: str, method: str = "GET", body: bytes = b"", host: str = ""
    ) -> tuple[int, bytes]:
        """Send one request; return the status, 0 for none, and the whole answer."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host or self.name}", "Connection: close"]
        lines += [*headers, *([f"Content-Length: {len(body)}"] if body else [])]
        answer = self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return int(answer.split()[1]) if answer.startswith(b"HTTP/") else 0, answer


@pytest.fixture(scope="module")
def attacker(address, name) -> Attacker:
    """Return somebody with bad intentions."""
    return Attacker(address, name)


@pytest.fixture
def forgiven(host):
    """Let sshd forget the failed logins of other tests, and fail2ban ignore those of this one."""
    forget = "systemctl reset-failed; systemctl restart ssh && fail2ban-client unban --all"
    ignore = "fail2ban-client set sshd addignoreip 10.127.0.1"
    command = [HOST, "exec", host.backend.host, "sh", "-c", f"{forget} && {ignore}"]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def inside(host) -> Callable[[str], str]:
    """Return a function that runs a command on the server, past its network."""

    def run(command: str) -> str:
        words = [HOST, "exec", host.backend.host, "sh", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    return run


@pytest.fixture
def put_back_by_the_timer(inside) -> Callable[[], bool]:
    """Return a function: whether the guard's timer has run since the test began."""
    look = f"journalctl --no-pager --unit slipway-guard.service --since @{inside('date +%s')}"
    return lambda: "nobody confirmed the new settings" in inside(look)
