"""Print what the module `operate` found as it is; of a session, the ssh command that opens it."""

from __future__ import annotations

import shlex

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """Ask the host; print on the control node."""

    def run(self, tmp=None, task_vars=None):
        """Return what the module returns, and as `command` what was printed of a session."""
        super().run(tmp, task_vars)
        result = self._execute_module("operate", self._task.args, task_vars=task_vars)
        if result.get("session"):
            result["command"] = self.session(result["session"])
            Display().display(result["command"])
        elif result.get("output"):
            Display().display(result.pop("output"))
        return result

    def session(self, command: list[str]) -> str:
        """Return the ssh command that runs another one with the user's own terminal.

        It is the ssh of this very connection: address, port, user, key and options of the
        inventory, and where it still lives, its open connection.
        """
        ssh = self._connection
        if ssh.transport != "ssh":  # the host is this computer
            return shlex.join(command)
        remote = shlex.join(command)
        if ssh.get_option("remote_user") != "root":
            remote = f"sudo {remote}"
        words = ssh._build_command(ssh.get_option("ssh_executable"), "ssh", "-t", ssh.host, remote)
        return shlex.join(word.decode() for word in words)
