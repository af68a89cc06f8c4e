# Source: roles/base/module_utils/host_look.py
"""What a look at a host needs, for whoever tells it: the status, the doctor and the metrics.

The role monitoring installs a copy of this file on the host; so it needs nothing but Python.
"""

from __future__ import annotations

import calendar
import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path

# The end of a line of nginx's log format `timed`; what a client writes cannot contain a quote.
LINE = re.compile(
    rb'" (?P<status>\d{3}) \d+ "[^"]*" "[^"]*" \S+ \S+ [\d.]+ (?P<times>[-\d., :]+) '
    rb"(?P<app>\S+) (?P<at>\d+\.\d{3})$"
)
WHEN = "%Y-%m-%dT%H:%M:%SZ"
NOT_AFTER = "%b %d %H:%M:%S %Y GMT"
REBOOT_REQUIRED = Path("/run/reboot-required")
# What backup, drill and check go by, if there is a backup; and what its check last found.
BACKUP_SETTINGS = Path("/etc/slipway/backup/settings.json")
BACKUP = Path("/var/lib/slipway/backup/status.json")
# Who watches this host, if anybody does: the settings of Prometheus, and what it says is wrong.
WATCHER = Path("/etc/slipway/monitoring/prometheus.yml")
ALERTS = "http://127.0.0.1:9090/api/v1/alerts"
# Says best which thing an alert is about; the first that it has.
SUBJECTS = ("app", "mountpoint", "unit", "name", "line", "job")


def seconds_of(moment: str) -> int:
    """Return a moment as we write it (2026-11-22T23:30:00Z) in seconds of the epoch."""
    return calendar.timegm(time.strptime(moment, WHEN))


def seconds_taken(times: bytes) -> float:
    """Return how long the application took, whatever the client's line did before and after.

    :param times: as nginx notes it, of each try; `-` where it was not asked.
    """
    return round(sum(map(float, re.findall(rb"\d+\.\d+", times))), 3)


def manifest(app: str) -> dict:
    """Return what is recorded of the release that serves."""
    try:
        return json.loads(Path("/srv", app, "current/release.json").read_text())
    except OSError:
        return {}


def promised_workers(app: str) -> int:
    """Return how many workers the release shall have."""
    try:
        settings = Path("/srv", app, "current/gunicorn.conf.py").read_text()
    except OSError:
        return 0
    found = re.search(r"^workers = (\d+)$", settings, re.MULTILINE)
    return int(found[1]) if found else 0


def units(names: list[str], properties: str) -> dict[str, dict]:
    """Return what systemd says of units; a name may be a pattern."""
    if not names:
        return {}
    command = ["systemctl", "show", f"--property=Id,{properties}", *names]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
    rows = [
        dict(line.split("=", 1) for line in paragraph.splitlines() if "=" in line)
        for paragraph in output.strip().split("\n\n")
    ]
    return {row["Id"]: row for row in rows if "Id" in row}


def children(pid: str) -> int:
    """Count the child processes of a process that live; one that died may lie there for a while."""
    try:
        pids = Path("/proc", pid, "task", pid, "children").read_text().split()
    except OSError:
        return 0
    return sum(state_of(child) not in "XZ" for child in pids)


def state_of(pid: str) -> str:
    """Return the letter of the kernel for the state of a process; X where it is gone."""
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return "X"


def certificate_end(path: Path) -> int | None:
    """Return when a certificate ends, in seconds of the epoch; None where it is broken."""
    show = ["openssl", "x509", "-noout", "-enddate", "-in", str(path)]
    try:
        said = subprocess.run(show, capture_output=True, text=True).stdout
    except OSError:
        return None
    end = re.search("notAfter=(.*)", said)
    return calendar.timegm(time.strptime(end[1], NOT_AFTER)) if end else None


def certificate_ends(folder: Path, apps: list[str]) -> dict[str, int | None]:
    """Return when the certificate of each application ends that has one."""
    paths = {app: folder / app / "fullchain.pem" for app in apps}
    return {app: certificate_end(path) for app, path in paths.items() if path.exists()}


def backup() -> dict | None:
    """Return what is known of backup, archive and drill; None where there is none yet."""
    try:
        return json.loads(BACKUP.read_text())
    except OSError:
        return None


def alerts() -> dict | None:
    """Return which alerts are firing; None where nobody watches this host.

    Prometheus is asked, not Alertmanager: that one would say that all is well once the first has
    been gone for some minutes.
    """
    if not WATCHER.exists():
        return None
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(ALERTS, timeout=2) as answer:
            rows = json.load(answer)["data"]["alerts"]
    except (OSError, ValueError) as error:
        return {"error": f"Prometheus does not answer: {error}", "firing": []}
    firing = []
    for row in rows:
        if row["state"] == "firing":
            labels = row["labels"]
            subject = next((labels[name] for name in SUBJECTS if name in labels), "")
            name = labels["alertname"]
            severity, said = labels["severity"], row["annotations"]["summary"]
            one = {"alert": name, "subject": subject, "severity": severity, "said": said}
            firing.append(one | {"fix": row["annotations"]["fix"]})
    return {"error": "", "firing": sorted(firing, key=lambda one: (one["alert"], one["subject"]))}
