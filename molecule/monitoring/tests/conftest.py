"""What the tests of the monitoring share: asking Prometheus, waiting, and mending afterwards."""

import json
import time
from collections.abc import Callable, Iterator

import pytest

ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
SUBJECTS = ("app", "mountpoint", "unit", "name", "line", "job")


class Watch:
    """Prometheus of a host."""

    def __init__(self, host):
        self.host = host

    def ask(self, path: str) -> dict:
        """Return what its HTTP API answers; nothing where it does not."""
        done = self.host.run("python3 -c %s %s", ASK, f"http://127.0.0.1:9090{path}")
        return json.loads(done.stdout)["data"] if done.rc == 0 else {}

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that are firing, each with what it is about."""
        rows = self.ask("/api/v1/alerts").get("alerts", [])
        return {
            (labels["alertname"], next((labels[name] for name in SUBJECTS if name in labels), ""))
            for row in rows
            if row["state"] == "firing" and (labels := row["labels"])
        }

    def fires(self, alert: str, subject: str, seconds: int = 120) -> bool:
        """Wait until an alert fires."""
        return self.until(lambda: (alert, subject) in self.firing(), seconds)

    def clears(self, alert: str, subject: str, seconds: int = 180) -> bool:
        """Wait until it does not, while Prometheus answers."""
        return self.until(
            lambda: self.ask("/api/v1/alerts") and (alert, subject) not in self.firing(), seconds
        )

    def until(self, is_so: Callable[[], object], seconds: int) -> bool:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if is_so():
                return True
            time.sleep(1)
        return False


@pytest.fixture
def watch(host) -> Watch:
    """Return Prometheus of the host."""
    return Watch(host)


@pytest.fixture
def afterwards(host) -> Iterator[Callable[[str], None]]:
    """Return a function: a shell command that is run when the test is over, whatever happened."""
    commands = []
    yield commands.append
    for command in reversed(commands):
        host.run("sh -c %s", command)
