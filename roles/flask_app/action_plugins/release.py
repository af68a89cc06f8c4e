"""Run one phase of a release on the host, in the name of the ansible-playbook that is at work."""

from __future__ import annotations

import getpass
import os
import socket
import subprocess
from pathlib import Path

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


def started(pid: int) -> str:
    """Return when a process of this computer was started; "" where there is none (any more)."""
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}  # the same for whoever asks
    return subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip()


def computer() -> str:
    """Return what no other computer, container or boot shares: where a process id has a meaning."""
    parts = [socket.gethostname()]
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if boot.exists():  # Linux; elsewhere the name must do
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return " ".join(parts)


def holder() -> dict:
    """Say who releases: each action is a child of the ansible-playbook that a person started."""
    pid = os.getppid()
    return {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "pid": pid,
        "started": started(pid),
        "computer": computer(),
    }


def is_gone(other: dict) -> bool:
    """Tell whether a holder was a process of this computer which is no more."""
    return other.get("computer") == computer() and started(other["pid"]) != other["started"]


class ActionModule(ActionBase):
    """Give the module its holder; take over the lock of a run that was killed on this computer."""

    def run(self, tmp=None, task_vars=None):
        """Return what the module returns."""
        super().run(tmp, task_vars)
        arguments = {**self._task.args, "holder": holder()}
        result = self._execute_module("release", arguments, task_vars=task_vars)
        other = result.get("holder")
        if other and is_gone(other):
            arguments["gone"] = other
            result = self._execute_module("release", arguments, task_vars=task_vars)
        if result.get("took_over"):
            Display().warning(result["took_over"])
        return result
