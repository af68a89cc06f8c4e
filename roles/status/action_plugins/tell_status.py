"""Print the status of every machine: some lines for a person, or one line of JSON."""

from __future__ import annotations

import calendar
import json
import time

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

WHEN = "%Y-%m-%dT%H:%M:%SZ"
UNSEEN_SECONDS = 25 * 3600  # backup_check_minutes allows a day
STEPS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def duration(seconds: float) -> str:
    """Return a duration in the largest unit of which there are two."""
    size, unit = next((step for step in STEPS if seconds >= 2 * step[0]), STEPS[-1])
    return f"{seconds // size:.0f} {unit}"


def age(moment: str) -> str:
    """Return how long ago a moment was."""
    return duration(time.time() - calendar.timegm(time.strptime(moment, WHEN)))


def wrong(app: dict) -> str:
    """Say why an application does not serve as promised; "" where it does."""
    if not app["release"]:
        return "has no release yet"
    if not app["serves"]:
        return "is down"
    if not app["healthy"]:
        return "does not pass its health check"
    alive, promised = app["workers"]["alive"], app["workers"]["promised"]
    return f"has {alive} of {promised} workers" if alive < promised else ""


def app_lines(app: dict) -> list[tuple[str, str]]:
    """Return the lines of an application."""
    if not app["release"]:
        return [("release", "none yet: ansible-playbook playbooks/deploy-application.yml")]
    asked, workers = app["requests"], app["workers"]
    what = " ".join(filter(None, [app["revision"], app["version"]]))
    release = f"{app['release']} ({what}) since {app['since']}, {age(app['since'])}"
    requests = f"{asked['per_second']:g} per second"
    if asked["count"]:
        requests += f", p50 {asked['p50_ms']} ms, p99 {asked['p99_ms']} ms"
    window = duration(asked["window_seconds"])
    requests += f", {asked['answers_5xx']} answers 5xx in the last {window}"
    trouble = "" if app["healthy"] else ": ITS HEALTH CHECK FAILS"
    trouble = trouble if app["serves"] else ": IT IS DOWN"
    restarts = f", restarted {app['restarts']} times by systemd" if app["restarts"] else ""
    lines = [
        ("release", f"{release}{trouble}"),
        ("workers", f"{workers['alive']} of {workers['promised']} alive{restarts}"),
        ("requests", requests),
    ]
    if app["maintenance"]:
        lines.append(("maintenance", "ON: visitors see its page"))
    if app["releasing"]:
        lines.append(("releasing", f"{app['releasing']} has the lock"))
    return lines


def database_line(machine: dict) -> str:
    """Return the line of PostgreSQL."""
    database = machine["database"]
    if not database:
        return "does not answer" if machine["has_database"] else "none on this machine"
    line = f"{database['used']} of {database['allowed']} connections"
    for name, one in database["databases"].items():
        line += f"; {name}: {one['used']}, {one['size_mib']} MiB"
        if one["cache_hit_percent"] is not None:
            line += f", {one['cache_hit_percent']} % of reads from the cache"
    return line


def backup_line(backup: dict | None) -> str:
    """Return the line of backup and drill: all that is red, or else how old they are."""
    if backup is None:
        return "none"
    age = time.time() - calendar.timegm(time.strptime(backup["checked"], WHEN))
    if age > UNSEEN_SECONDS:
        return f"RED, nobody has looked at it for {duration(age)}"
    lines = backup["lines"].items()
    red = [f"{name}: {line['said']}" for name, line in lines if line["state"] == "bad"]
    fine = [line["said"].rstrip(".") for name, line in lines if name in ("backup", "drill")]
    return f"RED, {' '.join(red)}" if red else "; ".join(fine)


def alerts_line(alerts: dict | None) -> str:
    """Return which alerts are firing."""
    if alerts is None:
        return "none are set up: site_monitoring is false"
    if alerts["error"]:
        return f"UNKNOWN, {alerts['error']}"
    firing = [f"{one['alert']} ({one['subject']})" if one["subject"] else one["alert"]
              for one in alerts["firing"]]  # fmt: skip
    return f"{len(firing)} FIRING: {', '.join(firing)}" if firing else "none is firing"


def machine_lines(machine: dict) -> list[tuple[str, str]]:
    """Return the lines of a machine."""
    memory, waiting = machine["memory"], machine["updates"]
    disks = [f"{disk['used_percent']} % of {disk['path']} used, {disk['free_mib']} MiB free"
             for disk in machine["disks"]]  # fmt: skip
    certificates = [
        f"{one['app']} broken" if one["days"] is None else f"{one['app']} {one['days']} days"
        for one in machine["certificates"]
    ]
    updates = "apt cannot tell"
    if waiting:
        updates = f"{waiting['security']} security, {waiting['others']} others wait"
    return [
        ("database", database_line(machine)),
        ("disk", "; ".join(disks)),
        ("memory", f"{memory['available_mib']} of {memory['total_mib']} MiB available"),
        ("load", f"{machine['load']:.2f} on {machine['processors']} processors, "
                 f"up {duration(machine['uptime_seconds'])}"),
        ("certificate", ", ".join(certificates) or "none: plain HTTP"),
        ("updates", updates + (", a reboot too" if machine["reboot_required"] else "")),
        ("backup", backup_line(machine["backup"])),
        ("alerts", alerts_line(machine["alerts"])),
    ]  # fmt: skip


def page(host: dict) -> str:
    """Return the lines of one machine and its applications, aligned."""
    blocks = [(app["app"], app_lines(app)) for app in host["apps"]]
    blocks.append((host["host"], machine_lines(host["machine"])))
    lines = []
    for title, rows in blocks:
        lines += ["", title, *(f"  {name:12} {text}" for name, text in rows)]
    return "\n".join(lines)


class ActionModule(ActionBase):
    """Runs on the control node only."""

    _requires_connection = False

    def run(self, tmp=None, task_vars=None):
        """Print; fail where an application does not serve as promised."""
        super().run(tmp, task_vars)
        hostvars, variable = task_vars["hostvars"], self._task.args["variable"]
        hosts = []
        for name in task_vars["ansible_play_hosts"]:
            seen = hostvars[name].get(variable, {})
            if "machine" in seen:
                machine = seen["machine"]
                hosts.append({"host": name, "machine": machine, "apps": seen["apps"]})
        if self._task.args["as_json"]:
            Display().display(json.dumps({"hosts": hosts}))
        else:
            Display().display("\n".join(map(page, hosts)) + "\n")
        bad = [f"{app['app']} on {host['host']} {why}"
               for host in hosts for app in host["apps"] if (why := wrong(app))]  # fmt: skip
        return {"changed": False, "failed": bool(bad), "msg": "; ".join(bad)}
