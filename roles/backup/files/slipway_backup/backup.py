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

MEASURED = STATE / "measured"
POINT = re.compile(r"[a-z][a-z0-9-]{0,38}")
KEPT_MEASURES = 60
SPARE_BYTES = 512 * 2**20  # on the disk that PostgreSQL writes to
SIZE = "SELECT sum(pg_database_size(oid)) FROM pg_database"


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
    if common.read("restore.json").get("step") == "replacing":
        return "A restore was interrupted; the repository is left alone."
    must_not_begin_anew(settings)
    try:
        system = int(psql("SELECT system_identifier FROM pg_control_system()"))
    except BackupError as error:
        return f"PostgreSQL does not answer.\n{error}"
    if any(owner != system for owner in common.owners(common.info()).values()):
        return "A repository holds the backups of another cluster; all are left alone."
    pgbackrest("stanza-create", timeout=300)
    return "ready"


def must_not_begin_anew(settings: Settings) -> None:
    """Refuse a repository that is empty although there were backups: its disk is not mounted, say.

    :raises BackupError: where that is so.
    """
    known = common.read("backup.json").get("repositories", [])
    there = {one["database"]["repo-key"] for one in common.info().get("backup", [])}
    for repository in settings.repositories:
        if repository["restic"] in known and repository["number"] not in there:
            raise common.problem(
                "The repository has lost its backups.",
                repository["restic"].removesuffix("/files"),
                "a repository that holds what was put into it.",
                f"mount its disk or bring it back; to begin anew: rm {STATE / 'backup.json'}.",
            )


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
    with common.recorded("backup.json", 7200) as facts:
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
        facts["repositories"] = [repository["restic"] for repository in settings.repositories]


def need_room(settings: Settings) -> None:
    """Refuse a backup that might fill the disk: PostgreSQL stops where its own is full.

    :raises BackupError: where a full one, at the size of the last or else of the databases, and
        something to spare do not fit.
    """
    for repository in settings.repositories:
        if not repository["path"]:
            continue
        fulls = [one for one in common.backups(common.info(repository["number"]))
                 if one["type"] == "full"]  # fmt: skip
        size = fulls[-1]["info"]["repository"]["delta"] if fulls else int(psql(SIZE))
        is_shared = os.stat(repository["path"]).st_dev == os.stat(settings.data).st_dev
        least = (size + (SPARE_BYTES if is_shared else 0)) // 2**20
        free = shutil.disk_usage(repository["path"]).free // 2**20
        if free < least:
            raise common.problem(
                "The disk of the repository is full.",
                f"{repository['path']}, where {free} MiB are free",
                f"{least} MiB or more.",
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
    MEASURED.mkdir(mode=0o755, parents=True, exist_ok=True)
    facts = {"point": name, "lsn": lsn, "before": before, "after": after}
    common.record(f"measured/{label}.json", facts)
    for old in sorted(MEASURED.glob("*.json"))[:-KEPT_MEASURES]:
        old.unlink()
    return name


def restic_environment(repository: dict) -> dict[str, str]:
    """Return the variables with which restic reaches a repository."""
    environment = {
        **os.environ,
        **repository["environment"],
        "RESTIC_REPOSITORY": repository["restic"],
        "RESTIC_PASSWORD_FILE": repository["password_file"],
        "RESTIC_CACHE_DIR": "/var/cache/slipway-backup",
        "GOMAXPROCS": "1",
    }
    secret = Path(repository["environment_file"])
    return environment | (json.loads(secret.read_text()) if secret.exists() else {})


def restic(repository: dict, *command: str, **options) -> str:
    """Run restic on one repository.

    :raises BackupError: where it fails.
    """
    try:
        return common.run(
            ["restic", "--quiet", *command],
            shown=f"restic {command[0]}",
            env=restic_environment(repository),
            **options,
        )
    except BackupError as error:
        if "wrong password" in str(error):
            raise BackupError(common.explained("decrypt: restic: wrong password")) from None
        raise BackupError(common.explained(str(error))) from None


def back_up_files(settings: Settings, repository: dict) -> None:
    """Back up the folders of the applications, and what was measured of the databases."""
    folders = [str(MEASURED)]
    folders += [path for app in settings.applications for path in app["folders"]]
    # Of a link restic would keep the link alone.
    there = [str(Path(path).resolve()) for path in folders if Path(path).exists()]
    try:
        restic(repository, "cat", "config")
    except BackupError as error:
        if "Is there a repository" not in str(error):
            raise
        restic(repository, "init")
    restic(repository, "unlock")  # of a run that is gone; we are alone here
    restic(repository, "backup", "--host=slipway", *there)
    keep = ["--keep-within", f"{settings.keep_days}d"]
    restic(repository, "forget", "--host=slipway", "--group-by=host", "--prune", *keep)
