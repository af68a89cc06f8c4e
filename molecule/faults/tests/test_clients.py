"""Too many clients, or slow ones: the others are served, and who is refused learns it at once."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

testinfra_hosts = ["ansible://application"]

FLOOD = str(Path(__file__).with_name("flood.py"))
WAIT_MILLISECONDS = 200
TIMES, SECONDS = 10, 60


def slow_connections(address: str, number: int, text: str) -> list[socket.socket]:
    """Begin requests which do not end."""
    connections = []
    for _ in range(number):
        connection = socket.create_connection((address, 80), timeout=10)
        connection.sendall(text.format(address=address).encode())
        connections.append(connection)
    return connections


def test_slow_clients_by_the_hundred_disturb_nobody(host, server, fault):
    head = "POST /users HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    with fault("600 slow clients for 20 s, half of them with a slow body") as seen:
        seen.begins()
        headers = slow_connections(server.address, 300, head)
        bodies = slow_connections(server.address, 300, head + "Content-Length: 9000\r\n\r\n")
        alive = 0
        for number in range(20):
            time.sleep(1)
            for connection, drop in [(c, b"X-A: b\r\n") for c in headers] + [
                (c, b" ") for c in bodies
            ]:
                try:
                    connection.sendall(drop)
                    alive += number == 10
                except OSError:
                    pass  # nginx has had enough of it
        for connection in headers + bodies:
            connection.close()
        seen.ends()
    assert alive > 500  # they were there indeed
    assert seen.failed == []
    assert len(seen.slow) <= len(seen.answers) // 100


def test_ten_times_the_load_is_refused_quickly_and_over_in_five_seconds(
    host, server, fault, variables
):
    """The application waits in each request, so what the host can carry is known: its threads."""
    threads = len(server.workers()) * 2
    carried = threads * 1000 // WAIT_MILLISECONDS
    with fault(f"{TIMES} times the load it can carry, for a minute") as seen:
        seen.begins()
        path = f"/slow/{WAIT_MILLISECONDS}"
        flood = [sys.executable, FLOOD, server.address, path, str(TIMES * carried), str(SECONDS)]
        done = subprocess.run(flood, capture_output=True, text=True, timeout=SECONDS + 80)
        told = json.loads(done.stdout)
        seen.over = told["last"]
        print(done.stdout)
    accepted, refused = told["statuses"].pop("200"), told["statuses"].pop("503")
    assert told["statuses"] == {}  # nothing but these two
    assert told["per_second"] > 0.9 * TIMES * carried
    assert accepted["number"] > 0.7 * carried * SECONDS
    assert refused["median"] < 0.1
    assert refused["p99"] < 2  # the asking shares its processors with the answering
    assert accepted["longest"] < 5  # 128 in the queue, 50 answers in a second
    assert {answer.status for answer in seen.failed} <= {503}
    assert seen.seconds < 5
