"""Faults of the memory of a whole machine: it is back without a human."""

import time

testinfra_hosts = ["ansible://application"]

# One connection stays with one worker: it alone is guilty.
LEAK = """
import http.client, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/webapp/current.sock")
for number in range(100):
    try:
        connection.request("GET", "/leak/64")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        break
print(number)
"""

VICTIMS = (
    "pgrep --newest --parent {main}",
    "pgrep --newest --full 'postgres: 15/main: webapp'",
    "pgrep --newest nginx",
)


def oom_kills(server, since: str) -> str:
    """Return what the kernel has said of the processes that it killed since then."""
    return server.must(f"journalctl --dmesg --no-pager --since=@{since} --grep='Killed process'")


def test_a_leak_takes_only_the_guilty_worker_along(host, server, fault):
    before, main = server.workers(), server.master()
    server.must(f"cat > /run/leak.py <<'END'\n{LEAK}END")
    with fault("a worker leaks until `MemoryMax`") as seen:
        since = server.must("date +%s")
        seen.begins()
        number = int(server.must("python3 /run/leak.py", seconds=300))
        seen.ends()
    assert 2 < number < 16  # times 64 MiB
    assert oom_kills(server, since).count("Killed process") == 1
    assert server.master() == main
    assert len(seen.failed) <= 2  # what the guilty one had in hand
    assert len(set(before) & set(server.workers())) == len(before) - 1
    assert len(server.workers()) == len(before)


def test_the_oom_killer_is_survived(host, server, fault):
    with fault("the OOM killer takes a worker, a process of PostgreSQL and one of nginx") as seen:
        since = server.must("date +%s")
        seen.begins()
        for victim in VICTIMS:
            pid = server.must(victim.format(main=server.master()))
            server.must(f"echo 1000 > /proc/{pid}/oom_score_adj")  # as if it had most of the memory
            server.must("echo f > /proc/sysrq-trigger")  # as when memory is short
            time.sleep(10)
            assert f"Killed process {pid} " in oom_kills(server, since)
        seen.ends()
    assert oom_kills(server, since).count("Killed process") == len(VICTIMS)
    for unit in ("nginx", "postgresql@15-main", f"webapp@{server.release()}"):
        assert server.must(f"systemctl is-active {unit}") == "active"
