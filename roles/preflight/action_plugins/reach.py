"""Log in to a host for the first time, and refuse one without the Python that Ansible needs there.

It needs no Python itself: one shell command.
"""

from __future__ import annotations

import shlex

from ansible import constants
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

# A word, as a host that lets nobody in may end with any code; what it says is told by the facts.
MISSING = "interpreter-is-missing"


class ActionModule(ActionBase):
    """Look for the interpreter; one that Ansible is to discover itself is left to it."""

    def run(self, tmp=None, task_vars=None):
        """Fail where it is not there; change nothing."""
        super().run(tmp, task_vars)
        asked = constants.config.get_config_value("INTERPRETER_PYTHON", variables=task_vars)
        python = str(self._templar.template(asked))
        look = f"test -e {shlex.quote(python)} || echo {MISSING}"
        seen = self._low_level_execute_command(look if python.startswith("/") else "true")
        if MISSING in seen["stdout"].splitlines():
            host = task_vars["inventory_hostname"]
            raise AnsibleActionFail(
                f"{host} has no {python}; nothing was changed.\n"
                "Seen in: ansible_python_interpreter, else interpreter_python of ansible.cfg.\n"
                "Allowed: a Python 3 that is installed there.\n"
                f"Fix: on {host}, as root: apt-get install python3"
            )
        return {"changed": False}
