"""Restore the newest backup of each repository into a scratch cluster, check it, and remove it."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from pathlib import Path

from slipway_backup import common, elsewhere
from slipway_backup.backup import described, restic
from slipway_backup.common import STATE, BackupError, Settings, pgbackrest, problem
from slipway_backup.server import SMALL, Server, stop_whoever_runs_on

SCRATCH = STATE / "drill"
RECOVERY_SECONDS = 6 * 3600
SPARE_BYTES = 512 * 2**20


def run(settings: Settings) -> None:
    """Prove that the newest backups can be restored; write down how it went, whatever happens."""
    with common.recorded("drill.json", 7200) as facts:
        try:
            # A restore takes the first one; the last one is what is left of a lost server.
            for repository in settings.repositories:
                remove_scratch(settings)
                try:
                    facts |= prove(settings, repository)
                except BackupError as error:
                    raise BackupError(f"repository {repository['number']}: {error}") from None
            if settings.ssh:
                elsewhere.prove(settings)
                facts["copy"] = "ok"
        finally:
            remove_scratch(settings)


def remove_scratch(settings: Settings) -> None:
    """Remove the scratch cluster, also one that a killed run has left."""
    stop_whoever_runs_on(settings, SCRATCH / "data")
    shutil.rmtree(SCRATCH, ignore_errors=True)


def need_space(path: Path, size_bytes: int) -> None:
    """Refuse what would fill the disk.

    :raises BackupError: where there is too little.
    """
    free = shutil.disk_usage(path).free
    if free < size_bytes + SPARE_BYTES:
        raise problem(
            f"A restored cluster of {size_bytes // 2**20} MiB does not fit on the disk.",
            f"{path}, where {free // 2**20} MiB are free",
            f"its size and {SPARE_BYTES // 2**20} MiB to spare.",
            "free space (slipway-backup remove-replaced), or enlarge the disk.",
        )


def prove(settings: Settings, repository: dict) -> dict:
    """Restore, start, and look; return what was seen.

    :raises BackupError: with the first thing that does not hold.
    """
    number = repository["number"]
    newest = common.backups(common.info(number))[-1:]
    if not newest:
        raise problem(
            "There is no backup to restore.",
            f"repository {number}",
            "one backup or more.",
            "systemctl start slipway-backup, and read its journal.",
        )
    facts = {**described(newest[0]), "repository": number}
    measured = common.read(f"measured/{facts['label']}.json")
    if repository["path"]:  # a storage answers for what it stores
        verify(number)
    SCRATCH.mkdir(parents=True)
    need_space(SCRATCH, facts["size_bytes"])
    data, tablespaces = SCRATCH / "data", SCRATCH / "tablespaces"
    for path in (data, tablespaces):  # the folder above stays root's, so that none is exchanged
        path.mkdir(mode=0o700)
        shutil.chown(path, "postgres", "postgres")
    target = ["--type=immediate"]
    if measured:  # on the time line of the backup, not on that of a restore since
        target = ["--type=name", f"--target={measured['point']}", "--target-timeline=current"]
    began = time.time()
    options = [f"--repo={number}", f"--set={facts['label']}", f"--pg1-path={data}"]
    pgbackrest(
        "restore", *options, *target, "--target-action=promote", "--archive-mode=off",
        f"--tablespace-map-all={tablespaces}",
    )  # fmt: skip
    server = Server(settings, data, SCRATCH / "room", **SMALL)
    try:
        server.start(RECOVERY_SECONDS)
        facts["recovery_seconds"] = round(time.time() - began, 1)
        amcheck(settings, str(server.room))
        seen = common.measure(str(server.room))
    finally:
        server.stop()
    facts["rows"] = {name: sum(one["rows"].values()) for name, one in seen.items()}
    if counted := measured.get("databases"):
        compare(seen, counted)
    facts["compared"] = bool(counted)
    facts["checksums"] = checksums(settings, data)
    facts["files"] = prove_files(repository)
    return facts


def verify(number: int) -> None:
    """Read all of a repository, the log after the newest backup too.

    :raises BackupError: where a checksum does not hold; pgBackRest tells it, and ends with 0.
    """
    said = pgbackrest("verify", f"--repo={number}", "--output=text")
    if "status: error" in said:
        raise problem(
            "A file of the repository is damaged.",
            " ".join(said.split()),
            "files with the checksums that they were written with.",
            f"look at the disk, then slipway-backup run --full; pgbackrest verify --repo={number} "
            "names the files in its log.",
        )


def amcheck(settings: Settings, socket: str) -> None:
    """Look at the structure of all tables and indexes."""
    command = [settings.program("pg_amcheck"), "--all", "--install-missing", f"--host={socket}"]
    try:
        common.as_postgres(command, shown="pg_amcheck")
    except BackupError as error:
        raise problem(
            "The restored database is damaged.",
            str(error),
            "tables and indexes that are whole.",
            "look at the serving one too: pg_amcheck --all; then restore an earlier backup.",
        ) from None


def compare(seen: dict, counted: dict) -> None:
    """Compare revision and rows with what was counted at the restore point of the backup.

    :raises BackupError: where they differ.
    """
    wrong = [f"database {name}: missing" for name in counted.keys() - seen.keys()]
    for name in counted.keys() & seen.keys():
        one, promised = seen[name], counted[name]
        if one["revision"] != promised["revision"]:
            wrong.append(f"{name}: revision {one['revision']}, not {promised['revision']}")
        for table, rows in promised["rows"].items():
            if (found := one["rows"].get(table, 0)) != rows:
                wrong.append(f"{name}: {table} has {found} rows, not {rows}")
    if wrong:
        raise problem(
            "The restored database is not what was backed up.",
            "; ".join(wrong),
            "revision and rows as they were at the backup.",
            "systemctl start slipway-backup, then slipway-drill; if it stays, restore by hand.",
        )


def checksums(settings: Settings, data: Path) -> str:
    """Verify the checksum of every page, where the cluster has them."""
    shown = common.as_postgres([settings.program("pg_controldata"), str(data)])
    if "Data page checksum version:           0" in shown:
        return "off"
    check = [settings.program("pg_checksums"), "--check", "--pgdata", str(data)]
    common.as_postgres(check, shown="pg_checksums")
    return "ok"


def prove_files(repository: dict) -> int:
    """Restore the newest files beside and read the repository; return how many there are."""
    restic(repository, "check", "--read-data-subset=10%")
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=SCRATCH))
        stats = json.loads(restic(repository, "stats", "--json", "latest"))
        need_space(SCRATCH, stats["total_size"])
        restic(repository, "restore", "latest", "--target", folder, "--verify")
        return sum(path.is_file() for path in Path(folder).rglob("*"))
