"""Clients that never stop asking, and remember every answer. A deploy must not be noticed by them.

Without pytest, until Ctrl-C or for so many seconds:

    python molecule/deploy/tests/load.py ADDRESS [SECONDS]
"""

import contextlib
import http.client
import json
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

TIMEOUT_SECONDS = 70
PAUSE_SECONDS = 0.02


class Answer(NamedTuple):
    """One request: when it was sent, how long it took, and how it ended (0: no answer)."""

    sent: float
    seconds: float
    path: str
    status: int
    body: bytes


class Client(threading.Thread):
    """One client, which asks again as soon as it has its answer, for some minutes at most."""

    def __init__(self, address: str, headers: dict, requests: list, keep_alive: bool, load: "Load"):
        super().__init__(daemon=True)
        self.address, self.headers, self.load = address, headers, load
        self.requests, self.keep_alive = requests, keep_alive
        self.answers: list[Answer] = []
        self.connection = None

    def run(self):
        """Ask until the load is over."""
        number = 0
        while not self.load.over.is_set() and number < self.load.limit:
            method, path, body = self.requests[number % len(self.requests)]
            self.answers.append(self.ask(method, path, body))
            number += 1
            time.sleep(PAUSE_SECONDS)
        if self.connection:
            self.connection.close()

    def ask(self, method: str, path: str, body: str | Callable[[], str] | None) -> Answer:
        """Send one request; an error is an answer too."""
        began = time.monotonic()
        body = body() if callable(body) else body
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT_SECONDS)
            close = {} if self.keep_alive else {"Connection": "close"}
            headers = {"Content-Type": "application/json", **self.headers, **close}
            self.connection.request(method, path, body and body.encode(), headers)
            answer = self.connection.getresponse()
            status, said = answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            status, said = 0, repr(error).encode()
        if status == 0 or not self.keep_alive:
            self.connection.close()
            self.connection = None
        return Answer(began, time.monotonic() - began, path, status, said)


class Load:
    """Some clients at once, half of them with kept connections, and one that watches /version."""

    USUAL = (
        ("GET", "/users?per_page=5", None),
        ("GET", "/version", None),
        ("POST", "/users", '{"name": "Trần Văn Tải"}'),
    )

    def __init__(
        self,
        address: str,
        host: str = "",
        requests: tuple = USUAL,
        watched: str = "/version",
        clients: int = 4,
        limit: int = 20_000,
    ):
        self.over, self.limit = threading.Event(), limit
        headers = {"Host": host} if host else {}
        self.clients = [
            Client(address, headers, list(requests), number % 2 == 0, self)
            for number in range(clients)
        ]
        self.watcher = Client(address, headers, [("GET", watched, None)], False, self)

    def __enter__(self) -> "Load":
        """Begin."""
        for client in (*self.clients, self.watcher):
            client.start()
        return self

    def __exit__(self, *_) -> None:
        """End, once each client has its last answer."""
        self.over.set()
        for client in (*self.clients, self.watcher):
            client.join(TIMEOUT_SECONDS)

    @property
    def answers(self) -> list[Answer]:
        """Return all answers so far."""
        return [answer for client in (*self.clients, self.watcher) for answer in client.answers]

    def failed(self) -> list[Answer]:
        """Return the requests that were not answered with 2xx."""
        return [answer for answer in self.answers if not 200 <= answer.status < 300]

    def releases(self) -> list[str]:
        """Return the releases that the watcher saw, one after another, without repetitions."""
        seen = []
        for answer in self.watcher.answers:
            release = json.loads(answer.body)["release"] if answer.status == 200 else ""
            if release and seen[-1:] != [release]:
                seen.append(release)
        return seen

    def milliseconds(self, hundredth: int) -> float:
        """Return a percentile of the time that the requests took."""
        return 1000 * statistics.quantiles((a.seconds for a in self.answers), n=100)[hundredth - 1]

    def summary(self) -> str:
        """Return the figures in one line."""
        worst = max(answer.seconds for answer in self.answers) * 1000
        return (
            f"{len(self.answers)} requests, {len(self.failed())} failed, p50 "
            f"{self.milliseconds(50):.0f} ms, p99 {self.milliseconds(99):.0f} ms, worst "
            f"{worst:.0f} ms"
        )


class Slow(threading.Thread):
    """One request that takes long, in flight while other things happen."""

    def __init__(self, act: Callable[[], Answer]):
        super().__init__(daemon=True)
        self.act, self.answer = act, None
        self.start()

    def run(self):
        """Do it."""
        self.answer = self.act()

    def result(self) -> Answer:
        """Wait for its answer."""
        self.join(TIMEOUT_SECONDS)
        return self.answer


def slow_request(address: str, path: str) -> Slow:
    """Begin a request whose answer takes long."""
    client = Client(address, {}, [], False, None)
    return Slow(lambda: client.ask("GET", path, None))


def slow_upload(address: str, path: str, body: bytes, seconds: float) -> Slow:
    """Begin a POST whose body comes in slowly, in ten parts."""

    def act() -> Answer:
        began = time.monotonic()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        step = len(body) // 10 + 1
        with socket.create_connection((address, 80), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(head.encode())
            for start in range(0, len(body), step):
                time.sleep(seconds / 10)
                connection.sendall(body[start : start + step])
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            said = answer.read()
        return Answer(began, time.monotonic() - began, path, answer.status, said)

    return Slow(act)


def main() -> None:
    """Put load on an address and print what came of it."""
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    with Load(sys.argv[1]) as load, contextlib.suppress(KeyboardInterrupt):
        time.sleep(seconds)
    print(load.summary())
    print("releases seen:", *load.releases())
    for answer in load.failed()[:10]:
        print(answer)


if __name__ == "__main__":
    main()
