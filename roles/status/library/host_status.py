#!/usr/bin/python
"""Look at what serves, how it serves, and what the machine has left, in one round trip."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.health_gate import is_healthy
from ansible.module_utils.host_look import (
    LINE,
    REBOOT_REQUIRED,
    alerts,
    backup,
    certificate_ends,
    children,
    manifest,
    promised_workers,
    seconds_taken,
    units,
)

BLOCK = 1 << 20
MOST_BYTES = 256 * BLOCK
PROPERTIES = "ActiveState,MainPID,NRestarts"
GATE_SECONDS = 2  # a person waits for it
# Connections that clients have, those that they may have, and hits of the buffer cache; as JSON.
DATABASE = """
SELECT json_build_object(
  'used', (SELECT count(*) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()),
  'allowed', (SELECT sum(CASE name WHEN 'max_connections' THEN setting::int ELSE -setting::int END)
    FROM pg_settings WHERE name IN ('max_connections', 'superuser_reserved_connections')),
  'databases', (SELECT json_object_agg(datname, json_build_object(
    'used', numbackends, 'size_mib', pg_database_size(datname) / 1048576,
    'cache_hit_percent',
      round(100.0 * blks_hit / nullif(blks_hit + blks_read, 0), 2)))
    FROM pg_stat_database WHERE datname IS NOT NULL))
"""
PSQL = ["runuser", "-u", "postgres", "--", "env", "--chdir=/", "PGCONNECT_TIMEOUT=2", "psql"]
PSQL += ["--no-psqlrc", "--tuples-only", "--no-align", "--command", DATABASE]
# apt takes a second to tell what waits; so its answer is kept until the packages or lists change.
APT = ["apt-get", "--simulate", "--quiet", "dist-upgrade"]
APT_KNOWS = (Path("/var/lib/dpkg/status"), Path("/var/lib/apt/lists"))
KEPT = Path("/run/slipway-updates.json")


def begin(command: list[str]) -> subprocess.Popen | None:
    """Start a command that is read later; None where it does not exist."""
    if shutil.which(command[0]) is None:
        return None
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env={**os.environ, "LC_ALL": "C.UTF-8"}, **pipes)


def answer(process: subprocess.Popen | None) -> str | None:
    """Return what a command that was begun has printed; None where it failed."""
    if process is None:
        return None
    output = process.communicate()[0]
    return output if process.returncode == 0 else None


# -- the application


def releasing(app: str) -> str:
    """Name who has the lock of the application's releases, or ""."""
    try:
        holder = json.loads(Path("/srv", app, "release.lock").read_text() or "{}").get("holder")
    except (OSError, ValueError):
        return ""
    return "{user}@{host}".format(**holder) if holder else ""


# -- the requests


def newest_lines(path: Path) -> Iterator[bytes]:
    """Read a file from its end, line by line, and no more of it than is asked for."""
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        least, rest = max(0, position - MOST_BYTES), b""
        while position > least:
            size = min(BLOCK, position - least)
            position -= size
            file.seek(position)
            lines = (file.read(size) + rest).split(b"\n")
            rest = lines.pop(0)
            yield from filter(None, reversed(lines))
        if rest:
            yield rest


def requests(log: str, seconds: int, now: float) -> dict[str, list[tuple[int, float]]]:
    """Return status and duration of each request of the last seconds, by application."""
    found = {}
    for path in (Path(log), Path(f"{log}.1")):
        if not path.exists():
            continue
        for line in newest_lines(path):
            seen = LINE.search(line)
            if not seen:
                continue
            if float(seen["at"]) < now - seconds:
                return found
            row = (int(seen["status"]), seconds_taken(seen["times"]))
            found.setdefault(seen["app"].decode(), []).append(row)
    return found


def summary(rows: list[tuple[int, float]], seconds: int) -> dict:
    """Sum requests up; the percentiles are None where there were none."""
    took = sorted(duration for _, duration in rows)
    return {
        "window_seconds": seconds,
        "count": len(rows),
        "per_second": round(len(rows) / seconds, 2),
        "p50_ms": round(1000 * took[len(took) // 2]) if took else None,
        "p99_ms": round(1000 * took[len(took) * 99 // 100]) if took else None,
        "answers_5xx": sum(status >= 500 for status, _ in rows),
    }


# -- the machine


def disks() -> list[dict]:
    """Return the room on the file systems that releases, data and the system are on."""
    seen, found = set(), []
    for path in ("/", "/srv", "/var"):
        device = os.stat(path).st_dev
        if device not in seen:
            seen.add(device)
            disk = os.statvfs(path)
            used, free = disk.f_blocks - disk.f_bfree, disk.f_bavail
            percent = round(100 * used / (used + free)) if used + free else 0
            mib = disk.f_frsize / 2**20
            row = {"path": path, "used_percent": percent, "free_mib": int(free * mib)}
            found.append(row)
    return found


def memory() -> dict:
    """Return the memory that there is, and what of it could still be had."""
    pattern = r"^(MemTotal|MemAvailable): +(\d+) kB"
    found = dict(re.findall(pattern, Path("/proc/meminfo").read_text(), re.MULTILINE))
    return {
        "total_mib": int(found["MemTotal"]) // 1024,
        "available_mib": int(found["MemAvailable"]) // 1024,
    }


def certificates(folder: str, apps: list[str]) -> list[dict]:
    """Return how many days the certificate of each application is good; None where it is broken."""
    now = time.time()
    return [
        {"app": app, "days": None if end is None else int((end - now) // 86400)}
        for app, end in certificate_ends(Path(folder), apps).items()
    ]


def apt_state() -> list[float]:
    """Return what changes when the packages or the lists do."""
    return [path.stat().st_mtime for path in APT_KNOWS if path.exists()]


def kept_updates() -> dict | None:
    """Return what apt said the last time, if it would say the same now."""
    try:
        kept = json.loads(KEPT.read_text())
    except (OSError, ValueError):
        return None
    return kept["updates"] if kept["state"] == apt_state() else None


def updates(output: str | None) -> dict | None:
    """Count what waits for an upgrade, and keep it; None where apt cannot tell."""
    if output is None:
        return None
    waiting = [line for line in output.splitlines() if line.startswith("Inst ")]
    security = sum(bool(re.search("-security", line, re.I)) for line in waiting)
    found = {"security": security, "others": len(waiting) - security}
    KEPT.write_text(json.dumps({"state": apt_state(), "updates": found}))
    return found


def database(output: str | None, apps: list[str]) -> dict | None:
    """Return what PostgreSQL says of itself; None where there is none, or it does not answer."""
    if not output or not output.strip():
        return None
    seen = json.loads(output)
    seen["databases"] = {app: seen["databases"][app] for app in apps if app in seen["databases"]}
    return seen


def main() -> None:
    """Begin what takes long, look at the rest meanwhile, and answer; nothing is judged here."""
    module = AnsibleModule(
        argument_spec={
            "apps": {"type": "list", "elements": "str", "required": True},
            "has_database": {"type": "bool", "required": True},
            "access_log": {"type": "path", "required": True},
            "window_seconds": {"type": "int", "required": True},
            "certificates_folder": {"type": "path", "required": True},
            "maintenance_folder": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    options, now = module.params, time.time()
    apps, window = options["apps"], options["window_seconds"]
    known = kept_updates()
    apt = begin(APT) if known is None else None
    psql = begin(PSQL) if options["has_database"] else None
    gates = ThreadPoolExecutor(max(1, len(apps)))
    healthy = {app: gates.submit(is_healthy, app, GATE_SECONDS) for app in apps}

    records = {app: manifest(app) for app in apps}
    unit_of = {app: f"{app}@{records[app]['release']}.service" for app in apps if records[app]}
    states = units(list(unit_of.values()), PROPERTIES)
    served = requests(options["access_log"], window, now)
    seen = []
    for app in apps:
        unit = states.get(unit_of.get(app), {})
        record = records[app]
        seen.append(
            {
                "app": app,
                "release": record.get("release", ""),
                "revision": record.get("revision", ""),
                "version": record.get("version", ""),
                "since": record.get("switched", ""),
                "serves": unit.get("ActiveState") == "active",
                "healthy": healthy[app].result(),
                "restarts": int(unit.get("NRestarts", 0)),
                "workers": {
                    "alive": children(unit.get("MainPID", "0")),
                    "promised": promised_workers(app),
                },
                "requests": summary(served.get(app, []), window),
                "maintenance": Path(options["maintenance_folder"], f"{app}.html").exists(),
                "releasing": releasing(app),
            }
        )
    module.exit_json(
        changed=False,
        apps=seen,
        machine={
            "uptime_seconds": int(float(Path("/proc/uptime").read_text().split()[0])),
            "load": os.getloadavg()[0],
            "processors": os.cpu_count(),
            "disks": disks(),
            "memory": memory(),
            "certificates": certificates(options["certificates_folder"], apps),
            "database": database(answer(psql), apps),
            "updates": updates(answer(apt)) if known is None else known,
            "reboot_required": REBOOT_REQUIRED.exists(),
            "backup": backup(),
            "alerts": alerts(),
            "has_database": options["has_database"],
        },
    )


if __name__ == "__main__":
    main()
