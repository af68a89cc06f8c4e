"""Print a text as it is, without the frame that Ansible draws around what a task returns."""

from __future__ import annotations

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display


class ActionModule(ActionBase):
    """Runs on the control node only."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Print `text`."""
        super().run(tmp, task_vars)
        Display().display(self._task.args["text"])
        return {"changed": False}
