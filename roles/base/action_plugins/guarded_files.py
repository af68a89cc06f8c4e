"""Change what one logs in through; log in anew; only then confirm. Otherwise the old state returns.

What the module of the same name does on the host is held between these two: its timer restores the
old state whatever becomes of this run.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display

# A way in of its own: nothing of the connection that this run has open is used.
ALONE = "-o ControlMaster=no -o ControlPath=none -o ServerAliveInterval=5 -o ServerAliveCountMax=2"
TRIES = 2
CONNECT_SECONDS = 8


def known_host(name: str, files: list[Path]) -> list[str]:
    """Return the host keys, as `type key`, that known_hosts files hold for a name."""
    keys = []
    for file in files:
        find = ["ssh-keygen", "-F", name, "-f", str(file)]
        found = subprocess.run(find, capture_output=True, text=True).stdout
        lines = [line.split() for line in found.splitlines() if not line.startswith(("#", "@"))]
        keys += [" ".join(words[1:3]) for words in lines if len(words) > 2]
    return keys


def known_as(host: str, port: int) -> str:
    """Return the name under which ssh knows the key of a host."""
    return host if port == 22 else f"[{host}]:{port}"


class ActionModule(ActionBase):
    """Begin on the host, log in from here, then confirm or restore on the host."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Return what the module returns; fail where nobody gets in with the new settings."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        login = arguments.pop("login")
        result = self.on_host(task_vars, step="begin", **arguments)
        if result.get("refused"):
            result["msg"] = (
                f"{task_vars['inventory_hostname']} did not take the new settings; the old ones "
                f"are back.\nSeen in: {result['msg']}\nAllowed: settings that its own check "
                "accepts.\nFix: correct the inputs of this role in your inventory, and run again."
            )
        if result.get("failed") or not result.get("guarded"):
            self.name_rewritten(result, task_vars)
            return result
        complaint = self.log_in(login)
        ended = {}
        try:
            ended = self.on_host(
                task_vars,
                step="restore" if complaint else "confirm",
                token=result.pop("token"),
                services=arguments.get("services", []),
            )
        except AnsibleConnectionFailure as lost:
            complaint = complaint or f"ssh said: {lost.message}"
        if ended.get("late"):
            complaint = f"the login took more than {arguments.get('seconds', 60)} s"
        elif ended.get("failed"):
            complaint = ended.get("msg", "the host failed")
        if not complaint:
            self.name_rewritten(result, task_vars)
            return result
        seconds = arguments.get("seconds", 60)
        is_back = ended and (ended.get("late") or not ended.get("failed"))
        back = "are back" if is_back else f"come back by themselves within {seconds} s"
        result |= {
            "failed": True,
            "msg": f"Nobody could log in with the new settings, so the old ones {back}.\n"
            f"Seen in: {complaint}\n"
            f"Allowed: settings with which {login['user']} gets in anew "
            f"({', '.join(result['files'])}).\n"
            "Fix: correct the inputs of this role in your inventory (docs/access.md), or what "
            "stands between this computer and the host, and run again.",
        }
        return result

    def name_rewritten(self, result: dict, task_vars: dict) -> None:
        """Name the files that stood otherwise, as the action plugin `write_files` does."""
        if not result.get("failed"):
            done = "would rewrite" if self._task.check_mode else "rewrote"
            for path in result["rewritten"]:
                Display().display(f"{task_vars['inventory_hostname']}: {done} {path}")

    def on_host(self, task_vars: dict, **arguments) -> dict:
        """Run the module."""
        return self._execute_module("guarded_files", arguments, task_vars=task_vars)

    def log_in(self, login: dict) -> str:
        """Log in anew; return what went wrong, or "".

        :param login: `user`, `command` (what must succeed there), `keys_only`, and `port` as the
            host sees it, with `port_in_use`, the one of this run's connection as the host sees it.
            Where these are the same the port from here is the same too, whatever maps it.
        """
        if self._connection.transport != "ssh":
            return ""
        options = self._connection.get_options()
        here = options["port"] or 22
        moved = int(login["port"]) != int(login["port_in_use"])
        port = int(login["port"]) if moved else int(here)
        options |= {
            "control_path": None,
            "port": port,
            "reconnection_retries": 0,
            "remote_user": login["user"],
            "ssh_args": ALONE,
            "timeout": CONNECT_SECONDS,
        }
        if login["keys_only"]:
            options["password"] = None
        connection = connection_loader.get("ansible.builtin.ssh", PlayContext())
        connection.set_options(direct=options)
        if moved:
            self.introduce(connection, int(here), port)
        complaint = ""
        for attempt in range(TRIES):
            time.sleep(attempt)
            try:
                code, _, error = connection.exec_command(login["command"], sudoable=False)
            except AnsibleError as problem:
                complaint = f"{login['user']}, port {port}: {problem.message}"
                continue
            if code == 0:
                return ""
            said = error.decode(errors="replace").strip()
            complaint = (
                f"{login['user']}, port {port}: {login['command']} ended with {code}: {said}"
            )
        return complaint

    def introduce(self, connection, old_port: int, new_port: int) -> None:
        """Tell this computer that the host it knows on the old port is the one on the new port.

        ssh files host keys under name and port; without this the first login on a new port ends
        with a question that nobody is there to answer. Only keys that are known already are used.
        """
        host = connection.get_option("host")
        asked = connection._build_command("ssh", "ssh", "-G", host)
        shown = subprocess.run(asked, capture_output=True, text=True).stdout
        settings = dict(line.partition(" ")[::2] for line in shown.splitlines())
        if "hostkeyalias" in settings:
            return
        own = [Path(os.path.expanduser(f)) for f in settings["userknownhostsfile"].split()]
        files = own + [Path(f) for f in settings["globalknownhostsfile"].split()]
        name = settings["hostname"]
        keys = known_host(known_as(name, old_port), files)
        if keys and own and not known_host(known_as(name, new_port), files):
            with own[0].open("a") as file:
                file.writelines(f"{known_as(name, new_port)} {key}\n" for key in keys)
