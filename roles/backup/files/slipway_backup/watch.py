"""Judge whether what was promised still holds, by another timer than the one that makes backups."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time

from slipway_backup import common, elsewhere, restore, upgrade
from slipway_backup.common import BackupError, Settings, psql

FILES = "files.json"
CLOCK_SECONDS = 60  # so far back a clock may be set without a word
HINT = "journalctl --unit=slipway-backup --lines=30"


def status() -> dict:
    """Return what the last check found."""
    return common.read("status.json")


def shown_age(seconds: float) -> str:
    """Return an age as people say it."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 172800 else f"{seconds / 86400:.0f} days"


def newest_of(settings: Settings, known: list[dict]) -> dict | None:
    """Return the newest backup of the repository whose newest is oldest; None: one has none."""
    by_repository = {one["database"]["repo-key"]: one for one in known}  # the oldest come first
    newest = [by_repository.get(repository["number"]) for repository in settings.repositories]
    return None if None in newest else min(newest, key=lambda one: one["timestamp"]["stop"])


def failure(last: dict, is_busy: bool) -> str:
    """Say how the last run failed; "" where it did not, or is still at work."""
    if last.get("result") == "failed":
        return last.get("error", "it was killed")
    return "it was killed" if last.get("result") == "running" and not is_busy else ""


def judge_backup(
    settings: Settings, newest: dict | None, last: dict, is_busy: bool = False
) -> tuple[str, str, str]:
    """Judge the newest backup in the repository, where it is, and how the last run ended."""
    if said := failure(last, is_busy):
        return "bad", f"the last backup failed: {said}", HINT
    if newest is None and last.get("result") == "ok":
        return "bad", "a repository has none, although one was made.", HINT
    if newest is None:
        return "warn", "the first one is being made.", HINT
    age = time.time() - newest["timestamp"]["stop"]
    if age < -CLOCK_SECONDS:
        said = f"the newest is dated {shown_age(-age)} from now: the clock is wrong, or was."
        return "bad", said, "timedatectl, then slipway-backup run."
    if age > settings.max_age_hours * 3600:
        fix = "systemctl start slipway-backup; systemctl status slipway-backup.timer."
        return "bad", f"the newest is {shown_age(age)} old.", fix
    size = newest["info"]["size"] // 2**20
    where = ", only on this machine's disk" if is_only_here(settings) else ""
    return "ok", f"{shown_age(age)} old, of {size} MiB{where}.", ""


def is_only_here(settings: Settings) -> bool:
    """Tell whether all backups would be lost together with this machine."""
    return not settings.ssh and all(one["path"] for one in settings.repositories)


def is_anothers(stanza: dict, archive: dict) -> bool:
    """Tell whether a repository belongs to another cluster than the one that serves."""
    of = common.owners(stanza).values()
    return "system" in archive and any(owner != archive["system"] for owner in of)


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


def judge_drill(
    settings: Settings, drill: dict, oldest: dict | None, is_busy: bool = False
) -> tuple[str, str, str]:
    """Judge the last drill, and whether it is long ago."""
    fix = "systemctl start slipway-drill; journalctl --unit=slipway-drill."
    if said := failure(drill, is_busy):
        return "bad", f"the last drill failed: {said}", fix
    since = drill.get("stopped") or (
        common.as_time(oldest["timestamp"]["stop"]) if oldest else common.now()
    )
    age = time.time() - common.seconds_of(since)
    if age > settings.drill_max_days * 86400:
        return "bad", f"the last drill is {shown_age(age)} ago.", fix
    if "seconds" not in drill:
        return "ok", "no drill yet.", ""
    said = f"the drill of {shown_age(age)} ago took {drill['seconds']:.0f} s"
    if drill.get("compared") is False:
        return "ok", f"{said}; rows not compared, as a table was written to all the time.", ""
    return "ok", f"{said}.", ""


def judge_copy(settings: Settings, last: dict) -> tuple[str, str, str]:
    """Judge the copy on the other machine, by its last success and the time between two."""
    fix = "journalctl --unit=slipway-copy --lines=30"
    error = last.get("error", "")
    if not last.get("copied"):
        return ("bad", error, fix) if error else ("warn", "the first copy is being made.", fix)
    age = time.time() - common.seconds_of(last["copied"])
    if age > (settings.ssh["minutes"] + settings.archive_max_minutes) * 60:
        said = f"the copy on {settings.ssh['host']} is {shown_age(age)} old"
        return "bad", f"{said}: {error}" if error else f"{said}.", fix
    return "ok", f"copied to {settings.ssh['host']} {shown_age(age)} ago.", ""


def judge_files(last: dict, most: dict[str, int]) -> tuple[str, str, str]:
    """Judge whether a folder that held files has been backed up without any."""
    now = last.get("files", {})
    empty = [f"{path} (once {many})" for path, many in most.items() if many and not now.get(path)]
    if empty:
        fix = "bring them back: --files of a restore; if it is right: slipway-backup accept-empty."
        return "bad", f"backed up without a file: {', '.join(empty)}.", fix
    held = ", ".join(f"{path} {many}" for path, many in now.items())
    return "ok", f"{held or 'none'}.", ""


def most_files(last: dict) -> dict[str, int]:
    """Return the most files that each folder was ever backed up with, and write it down."""
    known = common.read(FILES)
    now = last.get("files", {})
    most = {path: max(many, known.get(path, 0)) for path, many in now.items()}
    if most != known:
        common.record(FILES, most)
    return most


def accept_empty() -> str:
    """Take what the folders hold now for all that they shall hold; say what."""
    now = common.read("backup.json").get("files", {})
    common.record(FILES, now)
    return ", ".join(f"{path} {many}" for path, many in now.items()) or "nothing"


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
    # Whoever ends or begins meanwhile is at work before, or after.
    is_busy = is_at_work()
    last, drill = common.read("backup.json"), common.read("drill.json")
    restored, upgraded = common.read("restore.json"), common.read("upgrade.json")
    is_busy = is_busy or is_at_work()
    archive = archive_state(settings)
    lines, newest, oldest = {}, None, None
    try:
        stanza = common.info()
        known = common.backups(stanza)
        newest, oldest = newest_of(settings, known), known[0] if known else None
    except BackupError as error:
        lines["repository"] = ("bad", str(error), HINT)
    else:
        lines["backup"] = judge_backup(settings, newest, last, is_busy)
        if is_anothers(stanza, archive):
            fix = "playbooks/restore-database.yml, or another backup_path."
            lines["repository"] = ("bad", "it holds the backups of another cluster.", fix)
    lines["archive"] = judge_archive(settings, archive)
    lines["drill"] = judge_drill(settings, drill, oldest, is_busy)
    if settings.ssh:
        lines["copy"] = judge_copy(settings, common.read(elsewhere.RECORD))
    if "files" in last:
        lines["files"] = judge_files(last, most_files(last))
    if restored.get("step", "done") != "done" and not is_busy:
        said = f"a restore was interrupted ({restored['step']})."
        lines["restore"] = ("bad", said, "run the same restore again.")
    if upgraded.get("step", "done") != "done" and not is_busy:
        said = f"an upgrade of PostgreSQL was interrupted ({upgraded['step']})."
        lines["upgrade"] = ("bad", said, "run it again: ./ops upgrade-database.")
    aside = [path.name for path in restore.replaced(settings)]
    if cluster := upgrade.kept(settings):
        aside.append(f"{cluster.version}/main")
    if aside:
        said = f"kept aside: {', '.join(aside)}."
        lines["replaced"] = ("warn", said, "slipway-backup remove-replaced, once all is well.")
    state = max((line[0] for line in lines.values()), key=("ok", "warn", "bad").index)
    facts = {
        "state": state,
        "checked": common.now(),
        "lines": {name: dict(zip(("state", "said", "fix"), line, strict=True))
                  for name, line in lines.items()},
        "backup": last,
        "drill": drill,
        "archive": archive,
    }  # fmt: skip
    before = status().get("told", "ok")
    told = tell(settings, facts, before)
    common.record("status.json", facts | {"told": told})
    if newest is None and not last and "backup" in lines:
        subprocess.run(["systemctl", "start", "--no-block", "slipway-backup.service"])
    return 1 if state == "bad" else 0


def is_at_work() -> bool:
    """Tell whether a backup, a restore or a drill is at work."""
    try:
        with common.alone(0):
            return False
    except BackupError:
        return True


def tell(settings: Settings, facts: dict, before: str) -> str:
    """Print what is not well; run the alert command when red begins or ends.

    :param before: the state that was told last.
    :returns: the state that is told now: the former one where the alert command fails, so that it
        is run again by the next check.
    """
    wrong = [
        f"{name}: {line['said']} Fix: {line['fix']}"
        for name, line in facts["lines"].items()
        if line["state"] != "ok"
    ]
    text = "\n".join(wrong) or "backup, archive and drill are well"
    is_red, was_red = facts["state"] == "bad", before == "bad"
    print(text, file=sys.stderr if is_red else sys.stdout)
    if is_red == was_red or not settings.alert_command:
        return facts["state"]
    subject = "backup is RED" if is_red else "backup is well again"
    command = ["/bin/sh", "-c", settings.alert_command]
    message = f"{subject}\n{text}\n{json.dumps(facts['lines'])}\n"
    try:
        subprocess.run(command, input=message, text=True, timeout=60, check=True)
    except subprocess.SubprocessError as error:
        print(f"The alert command failed, and is run again: {error}", file=sys.stderr)
        return before
    return facts["state"]
