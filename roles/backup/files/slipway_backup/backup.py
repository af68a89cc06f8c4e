"""Make backups: the database by pgBackRest, the applications' files by restic."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import secrets
import shutil
import time
from pathlib import Path

from slipway_backup import common, elsewhere
from slipway_backup.common import STATE, BackupError, Settings, pgbackrest, psql

ANOTHERS = "A repository holds the backups of another cluster; all are left alone."
MEASURED = STATE / "measured"
POINT = re.compile(r"[a-z][a-z0-9-]{0,38}")
COUNT = Path(__file__).with_name("count.py")
KEPT_MEASURES = 120
SPARE_BYTES = 512 * 2**20  # on the disk that PostgreSQL writes to
SIZE = "SELECT sum(pg_database_size(oid)) FROM pg_database"
OTHER_SPACES = "SELECT spcname FROM pg_tablespace WHERE spcname NOT LIKE 'pg\\_%' ORDER BY 1"


def prepare(settings: Settings, stanza: dict | None = None) -> str:
    """Make folders and stanza, so that PostgreSQL can archive; say how it went.

    A repository of another cluster is left as it is: on a new host it is what will be restored.

    :param stanza: what is known of those repositories that can be read; else all must be.
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
                make_password(password)
    if common.read("restore.json").get("step") == "replacing":
        return "A restore was interrupted; the repository is left alone."
    stanza = stanza or common.info()
    must_not_begin_anew(settings, stanza)
    try:
        system = int(psql("SELECT system_identifier FROM pg_control_system()"))
    except BackupError as error:
        return f"PostgreSQL does not answer.\n{error}"
    if any(owner != system for owner in common.owners(stanza).values()):
        return ANOTHERS
    if (
        settings.ssh
        and not elsewhere.mark_here(settings)
        and elsewhere.is_anothers(settings, system)
    ):
        return ANOTHERS
    known = common.owners(stanza).keys() | common.unreadable_of(stanza).keys()
    if {repository["number"] for repository in settings.repositories} - known:
        pgbackrest("stanza-create", timeout=300)
    if settings.ssh:
        elsewhere.mark(settings, system)
    return "ready"


def make_password(path: Path) -> None:
    """Give a repository of files a password, whole and on the disk; leave one that is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # another run was faster, and may use its own by now
        os.link(draft, path)
    draft.unlink()
    os.sync()  # the name, too, before anything is encrypted with it


def must_not_begin_anew(settings: Settings, stanza: dict) -> None:
    """Refuse a repository that is empty although there were backups: its disk is not mounted, say.

    :raises BackupError: where that is so.
    """
    known = common.read("backup.json").get("repositories", [])
    there = {one["database"]["repo-key"] for one in stanza.get("backup", [])}
    there |= common.unreadable_of(stanza).keys()
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
    """Make one backup into each repository, and write down how it went, whatever happens.

    What one repository refuses is told at the end; the others get theirs all the same.
    """
    with common.recorded("backup.json", 7200) as facts:
        # Remembered whatever happens: else the next run would begin a lost repository anew.
        known = facts["repositories"] = common.read("backup.json").get("repositories", [])
        stanza = common.info_of_readable()
        prepared = prepare(settings, stanza)
        if prepared != "ready":
            raise BackupError(prepared)
        problems, labels = common.unreadable_of(stanza), []
        for repository in settings.repositories:
            if (number := repository["number"]) in problems:
                continue
            try:
                facts |= back_up_database(settings, repository, full)
                labels.append(facts["label"])
            except BackupError as error:
                problems[number] = str(error)
        if labels:
            facts["measured"] = measured_at_a_point(labels)
        facts["files"] = counted_files(settings)
        if not problems:
            pgbackrest("check")
        for repository in settings.repositories:
            if (number := repository["number"]) in problems:
                continue
            try:
                back_up_files(settings, repository)
            except BackupError as error:
                problems[number] = str(error)
        facts["repositories"] = [
            repository["restic"]
            for repository in settings.repositories
            if repository["number"] not in problems or repository["restic"] in known
        ]
        if problems:
            raise BackupError("\n".join(problems.values()))
        must_have_no_spaces()


def back_up_database(settings: Settings, repository: dict, full: bool) -> dict:
    """Make a backup into one repository; return what is told of it."""
    number = repository["number"]
    stanza = common.info(number)
    need_room(repository, settings)
    kind = "full" if full or is_full_due(stanza, number, settings.full_days) else "diff"
    pgbackrest("backup", f"--repo={number}", f"--type={kind}")
    return described(common.backups(common.info(number))[-1])


def must_have_no_spaces() -> None:
    """Tell of tablespaces: pgBackRest has backed them up, but a restore of ours refuses them.

    :raises BackupError: where there is one.
    """
    if spaces := psql(OTHER_SPACES).split():
        raise common.problem(
            "A restore of ours does not bring back tablespaces.",
            f"PostgreSQL: {', '.join(spaces)}",
            "pg_default alone.",
            "ALTER DATABASE … SET TABLESPACE pg_default (or ALTER TABLE …), then DROP TABLESPACE.",
        )


def counted_files(settings: Settings) -> dict[str, int]:
    """Return how many files are in each folder of the applications."""
    folders = [path for app in settings.applications for path in app["folders"]]
    return {path: sum(len(files) for *_, files in os.walk(path)) for path in folders}


def need_room(repository: dict, settings: Settings) -> None:
    """Refuse a backup that might fill the disk: PostgreSQL stops where its own is full.

    :raises BackupError: where a full one, at the size of the last or else of the databases, and
        something to spare do not fit.
    """
    if not repository["path"]:
        return
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


def measured_at_a_point(labels: list[str]) -> str:
    """Name a restore point, with what was counted at it; return its name.

    The drill of each of these backups goes to that point, and has to find the same.
    """
    name = f"backup-{labels[-1]}"
    command = ["/usr/bin/python3", "-I", str(COUNT), name, common.SAFELY]
    counted = common.as_postgres(command, shown="count")
    MEASURED.mkdir(mode=0o755, parents=True, exist_ok=True)
    for label in labels:
        common.record(f"measured/{label}.json", json.loads(counted))
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
