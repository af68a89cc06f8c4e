"""Name the files that stood otherwise on the host, also where `no_log` hides all else of them."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """Does what the module of the same name does."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Return what the module returns."""
        super().run(tmp, task_vars)
        result = self._execute_module(module_args=self._task.args, task_vars=task_vars)
        done = "would rewrite" if self._task.check_mode else "rewrote"
        for path in result.get("rewritten", []):
            Display().display(f"{task_vars['inventory_hostname']}: {done} {path}")
        return result
