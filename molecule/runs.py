"""A run of Ansible that ends as if its computer had lost its power."""

import contextlib
import os
import signal
import subprocess


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
