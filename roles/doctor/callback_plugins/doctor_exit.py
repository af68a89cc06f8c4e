"""Let the exit code tell the worst state: 0 nothing, 1 a warning; a bad one fails by itself (2)."""

from __future__ import annotations

import sys

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: doctor_exit
type: aggregate
short_description: The exit code of playbooks/doctor.yml
description: Ends ansible-playbook with 1 if the role doctor only warned. Other runs are let be.
"""
WARNED = 1


class CallbackModule(CallbackBase):
    """Is loaded only by a playbook that calls the role doctor."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "doctor_exit"

    def __init__(self):
        super().__init__()
        self.worst = "ok"

    def v2_runner_on_ok(self, result):
        """Remember the worst state that was reported."""
        if result.task.action == "report":
            self.worst = result.result["worst"]

    def v2_playbook_on_stats(self, stats):
        """End with it, unless Ansible has a worse one of its own."""
        if self.worst == "warn" and not stats.failures and not stats.dark:
            sys.exit(WARNED)
