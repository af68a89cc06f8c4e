"""What a run of Ansible did; and one that ends as if its computer had lost its power."""

import contextlib
import os
import re
import signal
import subprocess

# The one task that may refuse wrong input: what ends elsewhere has crashed.
REFUSES = "preflight : judge | Refuse everything that cannot work"


def last_task(said: str) -> str:
    """Return the name of the last task of a run, and what came of it."""
    return said.rpartition("TASK [")[2]


def changed(said: str) -> int:
    """Return how many tasks changed something, on all hosts of a run together, by its recap."""
    hosts = re.findall(r"^\S+ +: ok=\d+ +changed=(\d+)", said, re.MULTILINE)
    if not hosts:
        raise AssertionError(f"no recap in:\n{said}")
    return sum(map(int, hosts))


def kill(run: subprocess.Popen) -> None:
    """Kill a run with its workers, which it puts into sessions of their own.

    What it does on the server goes on.
    """
    os.kill(run.pid, signal.SIGSTOP)
    pids = [run.pid]
    for pid in pids:
        found = subprocess.run(["pgrep", "--parent", str(pid)], capture_output=True, text=True)
        pids += [int(child) for child in found.stdout.split()]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.communicate()
