"""Print what was found on every machine: a table for a person, or one line of JSON."""

from __future__ import annotations

import json

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

STATES = ("ok", "off", "warn", "bad")  # the worst last


def worst(findings: list[dict]) -> str:
    """Return the worst state among findings; off is as good as ok."""
    found = max((finding["state"] for finding in findings), key=STATES.index, default="ok")
    return "ok" if found == "off" else found


def table(host: str, findings: list[dict]) -> str:
    """Return one aligned line for each finding, under the name of the host."""
    width = max(len(finding["check"]) for finding in findings)
    count = {state: sum(one["state"] == state for one in findings) for state in reversed(STATES)}
    lines = ["", f"{host}: " + ", ".join(f"{n} {state}" for state, n in count.items() if n)]
    for finding in findings:
        line = f"{finding['state']:4}  {finding['check']:{width}}  {finding['said']}"
        lines.append(f"{line}  Fix: {finding['fix']}" if finding["fix"] else line)
    return "\n".join(lines)


class ActionModule(ActionBase):
    """Runs on the control node only."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Print, and return the worst state of all."""
        super().run(tmp, task_vars)
        hostvars, variable = task_vars["hostvars"], self._task.args["variable"]
        found = {
            host: hostvars[host][variable]["findings"]
            for host in task_vars["ansible_play_hosts"]
            if "findings" in hostvars[host].get(variable, {})
        }
        state = worst([finding for findings in found.values() for finding in findings])
        if self._task.args["as_json"]:
            hosts = [
                {"host": host, "worst": worst(findings), "checks": findings}
                for host, findings in found.items()
            ]
            Display().display(json.dumps({"worst": state, "hosts": hosts}))
        else:
            Display().display("\n".join(table(*item) for item in found.items()) + "\n")
        return {"changed": False, "worst": state}
