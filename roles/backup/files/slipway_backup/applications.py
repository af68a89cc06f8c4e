"""The applications, while the database is away: they are stopped, asked, and stood in for."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from pathlib import Path

from slipway_backup import common
from slipway_backup.common import BackupError, Settings, problem

UNITS = Path("/etc/systemd/system")
NGINX = Path("/etc/nginx/nginx.conf")
PAGES = Path("/var/lib/slipway/maintenance")
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Back in a few minutes</title>
<p>The database of this site gets a new version. We will be back in a few minutes.</p></html>
"""


def units(settings: Settings) -> list[str]:
    """List what serves and what runs by the clock."""
    names = [app["name"] for app in settings.applications]
    patterns = [pattern for name in names for pattern in (f"{name}.target", f"{name}-*.timer")]
    return sorted(path.name for pattern in patterns for path in UNITS.glob(pattern))


def stop(settings: Settings) -> None:
    """Stop what writes."""
    if found := units(settings):
        common.run(["systemctl", "stop", *found])


def start(settings: Settings) -> None:
    """Start what serves; timers with it.

    :raises BackupError: where an application does not start.
    """
    instances = [f"{app['name']}@*.service" for app in settings.applications]
    # Else systemd refuses whatever has been started some times within a minute.
    subprocess.run(["systemctl", "reset-failed", *instances], capture_output=True)
    if found := units(settings):
        common.run(["systemctl", "start", *found])
    failed = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", *instances]
    if instances and (broken := common.run(failed).split()):
        raise BackupError(f"{broken[0]} does not start: journalctl --unit {broken[0]}")


def served(settings: Settings) -> list[str]:
    """Return the applications that have a release."""
    names = [app["name"] for app in settings.applications]
    return [name for name in names if Path("/srv", name, "current").exists()]


def must_start(app: str) -> None:
    """Refuse a release that would not start again, or does not answer now.

    :raises BackupError: with how to release anew.
    """
    python = f"/srv/{app}/current/venv/bin/python"
    try:
        common.run([python, "-c", "import gunicorn"], user=app, group=app, extra_groups=[])
    except BackupError as error:
        raise problem(
            f"The release of {app} would not start again: its Python has changed.",
            f"{python}, which says: {str(error).splitlines()[-1]}",
            "a release that was made with the Python of this system.",
            "./ops deploy makes one, and no request is lost; then run again.",
        ) from None
    if said := asked(app):
        raise problem(
            f"{app} does not answer, so nobody could tell whether the upgrade went well.",
            said,
            "an application that is healthy before.",
            "./ops doctor, ./ops logs; then run again.",
        )


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str):
        super().__init__("localhost", timeout=5)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def asked(app: str) -> str:
    """Ask an application whether it is healthy, past nginx; return "" or what it says."""
    gate = gate_of(app)
    connection = UnixConnection(f"/srv/{app}/current/gunicorn.sock")
    try:
        headers = {"Host": gate["host"], "X-Forwarded-Proto": "https"}
        connection.request("GET", gate["path"], headers=headers)
        answer = connection.getresponse()
        is_well = 200 <= answer.status <= gate["highest_status"]
        return "" if is_well else f"GET {gate['path']} said {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        return f"GET {gate['path']}: {error}"
    finally:
        connection.close()


def gate_of(app: str) -> dict:
    """Return what a release of an application is judged by."""
    return json.loads(Path("/etc", app, "operate.json").read_text())["gate"]


def instance(app: str) -> str:
    """Return the unit of the release that serves."""
    return f"{app}@{Path('/srv', app, 'current').resolve().name}.service"


def pass_gate(settings: Settings) -> None:
    """Start what serves, without timers and commands, and wait until it answers.

    :raises BackupError: where it does not.
    """
    apps = served(settings)
    for app in apps:
        subprocess.run(["systemctl", "reset-failed", instance(app)], capture_output=True)
        common.run(["systemctl", "start", "--no-block", instance(app)])
    for app in apps:
        deadline = time.monotonic() + gate_of(app)["seconds"]
        while said := asked(app):
            has_failed = common.succeeds(["systemctl", "--quiet", "is-failed", instance(app)])
            if has_failed or time.monotonic() > deadline:
                unit = instance(app)
                raise BackupError(f"{app} is not healthy: {said}. journalctl --unit={unit}")
            time.sleep(0.1)


def pages(settings: Settings) -> list[str]:
    """Return where nginx looks for a page, for each site that has none yet."""
    known = NGINX.read_text() if NGINX.exists() else ""
    paths = [str(PAGES / f"{app['name']}.html") for app in settings.applications]
    return [path for path in paths if path in known and not Path(path).exists()]


def show_pages(journal: dict) -> None:
    """Put a page in the place of each site."""
    for path in map(Path, journal["pages"]):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(PAGE)


def remove_pages(journal: dict) -> None:
    """Give the sites their place back."""
    for path in journal["pages"]:
        Path(path).unlink(missing_ok=True)
