"""Make backups: the database by pgBackRest, the applications' files by restic."""

from __future__ import annotations

import json
import os
import pwd
import re
import secrets
import shutil
import time
from pathlib import Path

from slipway_backup import common
from slipway_backup.common import STATE, BackupError, Settings, pgbackrest, psql

POINT = re.compile(r"[a-z][a-z0-9-]{0,38}")
KEPT_MEASURES = 60
LEAST_FREE_MIB = 64


def prepare(settings: Settings) -> str:
    """Make folders and stanza, so that PostgreSQL can archive; say how it went.

    A repository of another cluster is left as it is: on a new host it is what will be restored.
    """
    for repository in settings.repositories:
        if repository["path"]:
            path = Path(repository["path"])
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            own = path / "pgbackrest"
            own.mkdir(mode=0o750, exist_ok=True)
            if own.stat().st_uid != pwd.getpwnam("postgres").pw_uid:  # new, or of another host
                common.run(["chown", "--recursive", "postgres:postgres", str(own)])
            (path / "files").mkdir(mode=0o700, exist_ok=True)
            password = Path(repository["password_file"])
            if not password.exists():
                with open(os.open(password, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                    file.write(secrets.token_urlsafe(32) + "\n")
    if common.read("restore.json").get("step") in ("replacing", "checking"):
        return "A restore was interrupted; the repository is left alone."
    try:
        pgbackrest("stanza-create", timeout=300)
    except BackupError as error:
        if "of another cluster" in str(error) or "does not answer" in str(error):
            return str(error)
        raise
    return "ready"


def point(name: str) -> str:
    """Name this moment; return the name, which holds the time too.

    :raises BackupError: where the name is none, or PostgreSQL does not answer.
    """
    if not POINT.fullmatch(name):
        raise common.problem(
            f"{name!r} is no name for a restore point.",
            "the command line",
            "a to z, 0 to 9 and -, at most 39, a letter first",
            "choose another name.",
        )
    full = f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    psql(f"SELECT pg_create_restore_point('{full}')")
    return full


def is_full_due(stanza: dict, repository: int, days: int) -> bool:
    """Tell whether the newest full backup of a repository is missing or too old."""
    stops = [
        one["timestamp"]["stop"]
        for one in stanza.get("backup", [])
        if one["type"] == "full" and one["database"]["repo-key"] == repository
    ]
    # Half a day early, so that the timer's random minute does not put it off by a day.
    return not stops or time.time() - max(stops) > (days - 0.5) * 86400


def run(settings: Settings, full: bool) -> None:
    """Make one backup into each repository, and write down how it went, whatever happens."""
    began = time.time()
    facts = {"result": "failed", "started": common.as_time(began)}
    try:
        with common.alone(7200):
            prepared = prepare(settings)
            if prepared != "ready":
                raise BackupError(prepared)
            need_room(settings)
            for repository in settings.repositories:
                number = repository["number"]
                stanza = common.info(number)
                kind = "full" if full or is_full_due(stanza, number, settings.full_days) else "diff"
                pgbackrest("backup", f"--repo={number}", f"--type={kind}")
                newest = common.backups(common.info(number))[-1]
                facts |= described(newest)
            facts["measured"] = measured_at_a_point(facts["label"])
            pgbackrest("check")
            for repository in settings.repositories:
                back_up_files(settings, repository)
        facts["result"] = "ok"
    except BackupError as error:
        facts["error"] = str(error)
        raise
    finally:
        facts |= {"stopped": common.now(), "seconds": round(time.time() - began, 1)}
        common.record("backup.json", facts)


def need_room(settings: Settings) -> None:
    """Refuse to begin on a full disk: pgBackRest would only tell of a segment that never came.

    :raises BackupError: where hardly anything is free.
    """
    for path in filter(None, (repository["path"] for repository in settings.repositories)):
        free = shutil.disk_usage(path).free // 2**20
        if free < LEAST_FREE_MIB:
            raise common.problem(
                "The disk of the repository is full.",
                f"{path}, where {free} MiB are free",
                f"{LEAST_FREE_MIB} MiB or more.",
                "free space, enlarge the disk, or lower backup_keep_days; the archive goes on by "
                "itself then.",
            )


def described(backup: dict) -> dict:
    """Return what is told of a backup."""
    sizes = backup["info"]
    return {
        "label": backup["label"],
        "type": backup["type"],
        "size_bytes": sizes["size"],
        "repository_bytes": sizes["repository"]["delta"],
    }


def measured_at_a_point(label: str) -> str:
    """Count all rows before and after a restore point; return the point's name.

    The drill goes to that point, and finds as many rows, or a number between the two.
    """
    name = f"backup-{label}"
    before = common.measure()
    lsn = psql(f"SELECT pg_create_restore_point('{name}')")
    after = common.measure()
    folder = STATE / "measured"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    facts = {"point": name, "lsn": lsn, "before": before, "after": after}
    common.record(f"measured/{label}.json", facts)
    for old in sorted(folder.glob("*.json"))[:-KEPT_MEASURES]:
        old.unlink()
    return name


def restic(repository: dict, *command: str, **options) -> str:
    """Run restic on one repository.

    :raises BackupError: where it fails.
    """
    environment = {
        **os.environ,
        **repository["environment"],
        "RESTIC_REPOSITORY": repository["restic"],
        "RESTIC_PASSWORD_FILE": repository["password_file"],
        "RESTIC_CACHE_DIR": "/var/cache/slipway-backup",
        "GOMAXPROCS": "1",
    }
    secret = Path(repository["environment_file"])
    if secret.exists():
        environment |= json.loads(secret.read_text())
    try:
        return common.run(
            ["restic", "--quiet", *command],
            shown=f"restic {command[0]}",
            env=environment,
            **options,
        )
    except BackupError as error:
        if "wrong password" in str(error):
            raise BackupError(common.explained("decrypt: restic: wrong password")) from None
        raise BackupError(common.explained(str(error))) from None


def back_up_files(settings: Settings, repository: dict) -> None:
    """Back up the folders of the applications, and what was measured of the databases."""
    folders = [str(STATE / "measured")]
    folders += [path for app in settings.applications for path in app["folders"]]
    there = [path for path in folders if Path(path).exists()]
    try:
        restic(repository, "cat", "config")
    except BackupError as error:
        if "Is there a repository" not in str(error):
            raise
        restic(repository, "init")
    restic(repository, "unlock")  # of a run that is gone; we are alone here
    restic(repository, "backup", "--host=slipway", "--one-file-system", *there)
    keep = ["--keep-within", f"{settings.keep_days}d"]
    restic(repository, "forget", "--host=slipway", "--group-by=host", "--prune", *keep)
