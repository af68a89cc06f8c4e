"""Ask an instance of an application what a release must answer before it may take traffic."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path

ANSWER_SECONDS = 5


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float):
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(path: Path, gate: dict, seconds: float = ANSWER_SECONDS) -> str:
    """Ask an instance once; return "" if it may take traffic, or what is in the way.

    :param gate: `path`, `host` (the Host header), `highest_status` that counts as healthy.
    :param seconds: longest wait for the answer.
    """
    connection = UnixConnection(path, timeout=seconds)
    headers = {"Host": gate["host"], "X-Forwarded-Proto": "https"}
    try:
        connection.request("GET", gate["path"], headers=headers)
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
        said = f"GET {gate['path']} for {gate['host']} said {answer.status}: {body}"
        return "" if 200 <= answer.status <= gate["highest_status"] else said
    except (OSError, http.client.HTTPException) as error:
        return f"GET {gate['path']}: {error}"
    finally:
        connection.close()


def is_healthy(app: str, seconds: float = ANSWER_SECONDS) -> bool:
    """Tell whether the release of an application that serves answers so.

    :param seconds: longest wait for the answer.
    """
    try:
        gate = json.loads(Path("/etc", app, "operate.json").read_text())["gate"]
    except OSError:
        return False
    return ask(Path("/run", app, "current.sock"), gate, seconds) == ""
