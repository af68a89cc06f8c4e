"""Judge whether what was promised still holds, by another timer than the one that makes backups."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from datetime import datetime

from slipway_backup import common
from slipway_backup.common import BackupError, Settings, psql

HINT = "journalctl --unit=slipway-backup --lines=30"


def status() -> dict:
    """Return what the last check found."""
    return common.read("status.json")


def age_seconds(when: str) -> float:
    """Return how long a recorded time is ago."""
    parsed = datetime.strptime(when.replace("Z", "+0000"), "%Y-%m-%dT%H:%M:%S%z")
    return time.time() - parsed.timestamp()


def shown_age(seconds: float) -> str:
    """Return an age as people say it."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def judge_backup(settings: Settings, newest: dict | None, last: dict) -> tuple[str, str, str]:
    """Judge the newest backup in the repository, and how the last run ended."""
    if last.get("result") == "failed":
        return "bad", f"the last backup failed: {last.get('error', 'it was killed')}", HINT
    if newest is None:
        return "warn", "the first one is being made.", HINT
    age = time.time() - newest["timestamp"]["stop"]
    if age > settings.max_age_hours * 3600:
        fix = "systemctl start slipway-backup; systemctl status slipway-backup.timer."
        return "bad", f"the newest is {shown_age(age)} old.", fix
    size = newest["info"]["size"] // 2**20
    return "ok", f"{shown_age(age)} old, of {size} MiB.", ""


def is_anothers(stanza: dict, archive: dict) -> bool:
    """Tell whether a repository belongs to another cluster than the one that serves."""
    owners = {one["repo-key"]: one["system-id"] for one in stanza.get("db", [])}
    return "system" in archive and any(owner != archive["system"] for owner in owners.values())


def judge_archive(settings: Settings, archive: dict) -> tuple[str, str, str]:
    """Judge whether PostgreSQL's log arrives in the repository."""
    fix = "grep archive /var/log/postgresql/*.log; then df, and the repository."
    if archive.get("error"):
        return "bad", archive["error"], "systemctl status 'postgresql@*'."
    if archive["mode"] != "on" or "pgbackrest" not in archive["command"]:
        return "bad", "PostgreSQL does not archive.", "ansible-playbook site.yml."
    waiting = archive["waiting_seconds"]
    if waiting > settings.archive_max_minutes * 60:
        said = f"the archive stands still: {archive['waiting']} segments wait"
        return "bad", f"{said}, one for {shown_age(waiting)}.", fix
    return "ok", "the archive follows.", ""


def judge_drill(settings: Settings, drill: dict, oldest: dict | None) -> tuple[str, str, str]:
    """Judge the last drill, and whether it is long ago."""
    fix = "systemctl start slipway-drill; journalctl --unit=slipway-drill."
    if drill.get("result") == "failed":
        return "bad", f"the last drill failed: {drill.get('error', 'it was killed')}", fix
    since = drill.get("stopped") or (
        common.as_time(oldest["timestamp"]["stop"]) if oldest else common.now()
    )
    age = age_seconds(since)
    if age > settings.drill_max_days * 86400:
        return "bad", f"the last drill is {shown_age(age)} ago.", fix
    if not drill:
        return "ok", "no drill yet.", ""
    return "ok", f"the drill of {shown_age(age)} ago took {drill['seconds']:.0f} s.", ""


def archive_state(settings: Settings) -> dict:
    """Return what PostgreSQL tells of its archiver."""
    try:
        system, mode, command = psql(
            "SELECT system_identifier, current_setting('archive_mode'), "
            "current_setting('archive_command') FROM pg_control_system()"
        ).split("|", 2)
    except BackupError as error:
        return {"error": f"PostgreSQL does not answer: {str(error).splitlines()[-1]}"}
    ready = settings.data.joinpath("pg_wal/archive_status").glob("*.ready")
    times = []
    for path in ready:
        with contextlib.suppress(FileNotFoundError):  # it has just been archived
            times.append(path.stat().st_mtime)
    waiting = time.time() - min(times) if times else 0
    facts = {"system": int(system), "mode": mode, "command": command, "waiting": len(times)}
    return {**facts, "waiting_seconds": round(waiting)}


def check(settings: Settings) -> int:
    """Judge everything, write it down, call the alert where it changed; 1 where it is red."""
    last, drill = common.read("backup.json"), common.read("drill.json")
    archive = archive_state(settings)
    lines, newest, oldest = {}, None, None
    try:
        stanza = common.info()
        known = common.backups(stanza)
        newest, oldest = (known[-1], known[0]) if known else (None, None)
    except BackupError as error:
        lines["repository"] = ("bad", str(error), HINT)
    else:
        lines["backup"] = judge_backup(settings, newest, last)
        if is_anothers(stanza, archive):
            fix = "playbooks/restore-database.yml, or another backup_path."
            lines["repository"] = ("bad", "it holds the backups of another cluster.", fix)
    lines["archive"] = judge_archive(settings, archive)
    lines["drill"] = judge_drill(settings, drill, oldest)
    restore = common.read("restore.json")
    if restore.get("step", "done") != "done" and not is_restoring():
        said = f"a restore was interrupted ({restore['step']})."
        lines["restore"] = ("bad", said, "run the same restore again.")
    aside = sorted(settings.data.parent.glob("main.replaced-*"))
    if aside:
        said = f"kept aside: {', '.join(path.name for path in aside)}."
        lines["replaced"] = ("warn", said, "slipway-backup remove-replaced, once all is well.")
    only_here = all(repository["path"] for repository in settings.repositories)
    state = max((line[0] for line in lines.values()), key=("ok", "warn", "bad").index)
    facts = {
        "state": state,
        "checked": common.now(),
        "only_here": only_here,
        "lines": {name: dict(zip(("state", "said", "fix"), line, strict=True))
                  for name, line in lines.items()},
        "backup": last,
        "drill": drill,
        "archive": archive,
    }  # fmt: skip
    before = status().get("state", "ok")
    common.record("status.json", facts)
    if newest is None and not last and "backup" in lines:
        subprocess.run(["systemctl", "start", "--no-block", "slipway-backup.service"])
    return tell(settings, facts, before)


def is_restoring() -> bool:
    """Tell whether a restore (or a backup) is at work."""
    try:
        with common.alone(0):
            return False
    except BackupError:
        return True


def tell(settings: Settings, facts: dict, before: str) -> int:
    """Print what is not well; run the alert command when red begins or ends."""
    wrong = [
        f"{name}: {line['said']} Fix: {line['fix']}"
        for name, line in facts["lines"].items()
        if line["state"] != "ok"
    ]
    text = "\n".join(wrong) or "backup, archive and drill are well"
    is_red, was_red = facts["state"] == "bad", before == "bad"
    print(text, file=sys.stderr if is_red else sys.stdout)
    if is_red != was_red and settings.alert_command:
        subject = "backup is RED" if is_red else "backup is well again"
        subprocess.run(
            ["/bin/sh", "-c", settings.alert_command],
            input=f"{subject}\n{text}\n{json.dumps(facts['lines'])}\n",
            text=True,
            timeout=60,
        )
    return 1 if is_red else 0
