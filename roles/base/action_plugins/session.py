"""Look at the connection that this run came in by: who, whence and how, as the host sees it."""

from __future__ import annotations

import re

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# One shell command over the open connection, without a Python: it takes milliseconds.
LOOK = (
    'me=$(id -un); echo "$me"; echo "port ${SSH_CONNECTION##* }"; '
    'echo "from ${SSH_CONNECTION%% *}"; '
    'cat "$HOME"/.ssh/authorized_keys "/etc/ssh/authorized_keys.d/$me" 2>/dev/null; true'
)
KEY = re.compile(r"^(?P<options>[^#]*?)(ssh-|ecdsa-|sk-)\S+ +AAAA")


def is_open(line: str) -> bool:
    """Tell whether a line of authorized_keys holds a key that may do more than one command."""
    key = KEY.match(line)
    return bool(key) and "command=" not in key["options"]


class ActionModule(ActionBase):
    """Ask the host as the user who connects, not as root."""

    def run(self, tmp=None, task_vars=None):
        """Return `user`, `address` and `port` ("" and 0 where it is not ssh), `authorized_keys`."""
        super().run(tmp, task_vars)
        seen = self._low_level_execute_command(LOOK, sudoable=False)
        lines = seen["stdout"].splitlines()
        if seen["rc"] != 0 or len(lines) < 3:
            raise AnsibleActionFail(f"The session cannot be seen: {seen['stderr']}")
        user, port = lines[0].strip(), lines[1].removeprefix("port").strip()
        return {
            "changed": False,
            "user": user,
            "address": lines[2].removeprefix("from").strip(),
            "port": int(port or 0),
            "authorized_keys": list(dict.fromkeys(filter(is_open, map(str.strip, lines[3:])))),
        }
