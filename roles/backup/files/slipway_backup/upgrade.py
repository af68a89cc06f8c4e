"""Move the cluster to a newer major version of PostgreSQL, and back.

A backup is made. Then the applications stop, with a page in their place, and Debian's
pg_upgradecluster copies the cluster. The copy is looked at where nobody can connect; only then do
the two change their ports. What fails before the applications have answered lets the old cluster
serve again, which is kept until somebody says otherwise. `upgrade.json` holds how far a run came.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from slipway_backup import applications, backup, common, obstacles, plans, restore
from slipway_backup.cluster import CONFIGURATION, PORT, Cluster, newest_installed
from slipway_backup.common import BackupError, Settings, pgbackrest, problem
from slipway_backup.server import Server

JOURNAL = "upgrade.json"
PGBACKREST = Path("/etc/pgbackrest/pgbackrest.conf")
ROOM = Path("/run/slipway-upgrade")
BOOT = Path("/proc/sys/kernel/random/boot_id")
SPARE_BYTES = 512 * 2**20
START_SECONDS = 600
OUTDATED = """SELECT name FROM pg_available_extensions
    WHERE installed_version <> default_version ORDER BY 1"""
# The C library sorts text; another release of it may sort it otherwise.
SORTED_OTHERWISE = """SELECT datname FROM pg_database WHERE datallowconn
    AND datcollversion <> pg_database_collation_actual_version(oid) ORDER BY 1"""
# All that is sorted by another collation than C and POSIX (and none, for numbers).
SORTED_INDEXES = """SELECT format('%I.%I', n.nspname, c.relname)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'i' AND n.nspname NOT IN ('pg_catalog', 'pg_toast')
    AND EXISTS (SELECT FROM unnest(i.indcollation) o WHERE o NOT IN (0, 950, 951)) ORDER BY 1"""
COLLATIONS = """SELECT format('%I.%I', n.nspname, c.collname)
    FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
    WHERE c.collversion <> pg_collation_actual_version(c.oid) ORDER BY 1"""


# -- before anything stops


def plan(settings: Settings, to: int) -> str:
    """Check all that can be checked while the cluster serves; tell what will be done.

    :returns: "" where the version serves already.
    :raises BackupError: with what is in the way.
    """
    old, new = Cluster(settings.version), Cluster(to or newest_installed())
    journal = common.read(JOURNAL)
    if journal.get("step", "done") != "done":
        return (
            f"An upgrade from PostgreSQL {journal['from']} to {journal['to']} was interrupted "
            f"({journal['step']}).\nIt is brought to its end, or taken back."
        )
    if new.version == old.version:
        return ""
    obstacles.must_be_possible(old, new)
    size = int(common.psql(backup.SIZE))
    free = shutil.disk_usage("/var/lib/postgresql").free
    if free < size + SPARE_BYTES:
        raise problem(
            f"A copy of the cluster, of {size // 2**20} MiB, does not fit on the disk.",
            f"/var/lib/postgresql, where {free // 2**20} MiB are free",
            f"its size and {SPARE_BYTES // 2**20} MiB to spare.",
            "free space (slipway-backup remove-replaced), or enlarge the disk.",
        )
    extensions = obstacles.must_have_extensions(new)
    for app in applications.served(settings):
        applications.must_start(app)
    obstacles.must_pass_check(old, new)
    otherwise = common.psql(SORTED_OTHERWISE).split()
    lines = [
        f"Upgrade: PostgreSQL {old.version} to {new.version}, by a copy of {size // 2**20} MiB; "
        f"{free // 2**20} MiB are free",
        f"Serving now: {common.shown_rows(common.measure())}",
        f"Checked: pg_upgrade --check; extensions {', '.join(extensions)}; the applications",
        "First: a backup",
    ]
    if new.exists:
        lines.append(f"Removed: the cluster {new.version}/main, which is empty")
    if otherwise:
        said = "the C library of this system sorts otherwise"
        lines.append(f"Built anew: indexes of text in {', '.join(otherwise)}, since {said}")
    apps = ", ".join(app["name"] for app in settings.applications) or "none"
    lines.append(f"Stopped meanwhile: applications: {apps}; visitors see a page")
    lines.append(
        f"Kept aside: the cluster {old.version}/main, until slipway-backup remove-replaced"
    )
    return "\n".join(lines)


# -- forwards


def upgrade(settings: Settings, to: int, ask: bool) -> None:
    """Upgrade; it ends well only if the applications answer from the new cluster.

    :raises BackupError: where they do not; then the old one serves.
    """
    settings = recover(settings)
    text = plan(settings, to)
    if not text:
        print(f"Nothing to do: PostgreSQL {settings.version} serves.")
        return
    print(text, flush=True)
    if ask:
        restore.confirm()
    backup.run(settings, full=False)
    old, new = Cluster(settings.version), Cluster(to or newest_installed())
    with common.alone(60):
        began = time.time()
        if new.exists:
            new.drop()
        journal = {
            "step": "copying",
            "from": old.version,
            "to": new.version,
            "started": common.now(),
            "boot": BOOT.read_text(),
            "start": (old.configuration / "start.conf").read_text(),
            "restores": plans.restores(),
            "pages": applications.pages(settings),
        }
        common.record(JOURNAL, journal)
        try:
            applications.show_pages(journal)
            applications.stop(settings)
            journal["before"] = common.measure()
            common.record(JOURNAL, journal)
            copy(old, new)
            # One that was started meanwhile runs.
            journal["control"] = "" if old.runs else old.control
            look(replace(settings, version=new.version), new, journal["before"])
            journal["step"] = "switching"
            common.record(JOURNAL, journal)
            subprocess.run(["systemctl", "stop", old.unit], capture_output=True)
            must_not_have_run(old, journal)
            settings = switch(settings, old, new)
            applications.pass_gate(settings)
        except BaseException:  # Ctrl-C and a lost connection, too
            try:
                undo(settings, journal)
            except BackupError as error:
                print(f"What was there before does not start again: {error}", file=sys.stderr)
            raise
        opened = open_again(settings, journal)
        print(f"Interrupted for {opened - began:.1f} s.", flush=True)
        settle(settings, journal)
    say_how_it_is(settings, journal)


def copy(old: Cluster, new: Cluster) -> None:
    """Let Debian's tool copy the cluster; the old one keeps its port, and neither runs afterwards.

    :raises BackupError: where it fails.
    """
    restore.end_the_log()
    jobs = f"--jobs={os.cpu_count()}"
    command = ["pg_upgradecluster", "--method=upgrade", jobs, "--keep-port", "--no-start"]
    command += ["-v", str(new.version), str(old.version), "main"]
    common.run(command, env={**os.environ, "LC_ALL": "C.UTF-8"})
    new.starts("manual")
    old.starts("auto")
    common.run(["systemctl", "daemon-reload"])
    # Debian's tool takes the settings of postgresql.conf along, and those of conf.d not.
    for path in old.configuration.glob("conf.d/*"):
        common.run(["cp", "--archive", str(path), str(new.configuration / "conf.d")])


def look(settings: Settings, new: Cluster, before: dict) -> None:
    """Look at the copy where nobody can connect, and mend what a new system asks for.

    :raises BackupError: where it does not hold what the old one held.
    """
    server = Server(settings, new.data, ROOM, autovacuum="off")
    try:
        server.start(START_SECONDS)
        after = common.measure(str(ROOM))
        if after != before:
            raise problem(
                "The copy does not hold what the old cluster holds.",
                f"rows: {common.shown_rows(before)}; copied: {common.shown_rows(after)}",
                "the same rows in each table.",
                "run it again while nobody writes past the applications.",
            )
        sort_anew(str(ROOM))
        for database in common.psql(obstacles.DATABASES, socket=str(ROOM)).splitlines():
            for name in common.psql(OUTDATED, database, str(ROOM)).splitlines():
                common.psql(f'ALTER EXTENSION "{name}" UPDATE', database, str(ROOM))
        analyze("--analyze-only", f"--host={ROOM}", target=1)
    finally:
        server.stop()


def sort_anew(room: str) -> None:
    """Build what is sorted by a C library of before anew; note the version that sorts now."""
    for database in common.psql(SORTED_OTHERWISE, socket=room).splitlines():
        for index in common.psql(SORTED_INDEXES, database, room).splitlines():
            common.psql(f"REINDEX INDEX {index}", database, room)
        for collation in common.psql(COLLATIONS, database, room).splitlines():
            common.psql(f"ALTER COLLATION {collation} REFRESH VERSION", database, room)
        common.psql(f'ALTER DATABASE "{database}" REFRESH COLLATION VERSION', database, room)


def analyze(*options: str, target: int = 0) -> None:
    """Gather statistics, which no upgrade takes along.

    :param target: how exact; 0 for PostgreSQL's default.
    """
    settings = "-c statement_timeout=0"
    settings += f" -c default_statistics_target={target}" if target else ""
    environment = {**os.environ, "PGOPTIONS": settings}
    common.as_postgres(["vacuumdb", "--all", "--quiet", *options], env=environment)


def ran_meanwhile(old: Cluster, journal: dict) -> bool:
    """Tell whether the old cluster was started since it was copied, and has its port still."""
    return old.port == PORT and old.control != journal.get("control")


def must_not_have_run(old: Cluster, journal: dict) -> None:
    """Leave the old cluster where it is, if somebody has started it: no copy holds what came then.

    :raises BackupError: where somebody has.
    """
    if ran_meanwhile(old, journal):
        raise problem(
            "PostgreSQL was started while its cluster was copied: nothing was replaced.",
            old.unit,
            "a PostgreSQL that stays stopped until the upgrade is done.",
            "wait until site.yml, or whoever else started it, has ended; then upgrade again.",
        )


def switch(settings: Settings, old: Cluster, new: Cluster) -> Settings:
    """Let the new cluster have the port, now and at boot; return the settings for it."""
    subprocess.run(["systemctl", "stop", old.unit], capture_output=True)
    free = new.port if new.port != PORT else old.port
    old.conftool("set", "port", str(free))
    new.conftool("set", "port", str(PORT))
    old.starts("manual")
    new.starts("auto")
    changed = write_settings(settings, new.version)
    common.run(["systemctl", "daemon-reload"])
    subprocess.run(["systemctl", "reset-failed", new.unit], capture_output=True)
    common.run(["systemctl", "start", new.unit])
    restore.wait_for_postgresql()
    return changed


def write_settings(settings: Settings, version: int) -> Settings:
    """Write the version where the role backup has written it, as it will write it next time."""
    changes = (
        (common.SETTINGS, r'("version": )\d+', rf"\g<1>{version}"),
        (PGBACKREST, r"(pg1-path=/var/lib/postgresql/)\d+", rf"\g<1>{version}"),
    )
    for path, pattern, text in changes:
        seen = path.stat()
        new = path.with_name(f".{path.name}.new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(re.sub(pattern, text, path.read_text()))
            os.fchown(file.fileno(), seen.st_uid, seen.st_gid)
            os.fchmod(file.fileno(), seen.st_mode & 0o7777)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    return replace(settings, version=version)


def open_again(settings: Settings, journal: dict) -> float:
    """Let visitors in; from here on what they write would be lost by going back.

    :returns: when they came in.
    """
    if journal["step"] == "switching":
        common.record(plans.RESTORES, {"restores": []})  # its time lines begin anew
        journal |= {"step": "settling", "stopped": common.now()}
        common.record(JOURNAL, journal)
    applications.remove_pages(journal)
    opened = time.time()
    applications.start(settings)
    return opened


def settle(settings: Settings, journal: dict) -> None:
    """Give the repository the new cluster, gather statistics, and begin a backup."""
    pgbackrest("stanza-upgrade")
    analyze("--analyze-in-stages")
    common.record(JOURNAL, {**journal, "step": "done"})
    subprocess.run(["systemctl", "start", "--no-block", "slipway-backup.service"])


def say_how_it_is(settings: Settings, journal: dict) -> None:
    """Say what serves, and what comes next."""
    print(f"Serving: PostgreSQL {settings.version}: {common.shown_rows(common.measure())}")
    print(f"Kept aside: the cluster {journal['from']}/main. When all is well: "
          "slipway-backup remove-replaced")  # fmt: skip


# -- back


def undo(settings: Settings, journal: dict) -> None:
    """Let the old cluster serve as before; the copy, in which nobody has written, goes."""
    old, new = Cluster(journal["from"]), Cluster(journal["to"])
    with contextlib.suppress(BackupError):
        applications.stop(settings)
        common.run(
            ["systemctl", "stop", *map(applications.instance, applications.served(settings))]
        )
    new.drop()
    old.conftool("set", "port", str(PORT))
    (old.configuration / "start.conf").write_text(journal["start"])
    settings = write_settings(settings, old.version)
    common.run(["systemctl", "daemon-reload"])
    subprocess.run(["systemctl", "reset-failed", old.unit], capture_output=True)
    common.run(["systemctl", "start", old.unit])
    restore.wait_for_postgresql()
    common.record(JOURNAL, {"step": "done", "stopped": common.now(), "result": "taken back"})
    try:
        applications.start(settings)
    finally:
        applications.remove_pages(journal)


def recover(settings: Settings) -> Settings:
    """Bring a run that was killed to an end: back, or forwards where the new cluster may be in use.

    :returns: the settings of the cluster that serves now.
    :raises BackupError: where neither can be done without a decision.
    """
    journal = common.read(JOURNAL)
    step = journal.get("step", "done")
    if step == "done":
        return settings
    with common.alone(60):
        old, new = Cluster(journal["from"]), Cluster(journal["to"])
        if step == "copying" or (step == "switching" and ran_meanwhile(old, journal)):
            undo(settings, journal)
            return replace(settings, version=old.version)
        if step == "reverting":
            return go_back(settings, journal)
        try:
            if step == "switching":
                settings = switch(settings, old, new)
                applications.pass_gate(settings)
            open_again(settings, journal)
            settle(settings, journal)
        except BackupError as error:
            if step == "switching" and journal["boot"] == BOOT.read_text():
                undo(settings, journal)
                return replace(settings, version=old.version)
            raise problem(
                f"PostgreSQL {new.version} serves, but the upgrade does not come to its end.",
                str(error),
                "applications that answer, and a repository that can be written.",
                "mend that and run again; or go back: -e backup_upgrade_revert=true.",
            ) from None
    return settings


def plan_back(settings: Settings) -> str:
    """Tell what going back to the cluster that was kept aside means.

    :raises BackupError: where there is none.
    """
    journal = common.read(JOURNAL)
    kept = Cluster(journal.get("from", 0))
    if journal.get("to") != settings.version or not kept.exists:
        raise problem(
            "There is no cluster to go back to.",
            f"{common.STATE / JOURNAL}, {CONFIGURATION}",
            "the one that an upgrade has kept aside.",
            "./ops restore brings an earlier state back, from a backup.",
        )
    if settings.version < kept.version:
        raise problem(
            f"PostgreSQL {settings.version} has been gone back to already.",
            f"{common.STATE / JOURNAL}",
            "to go back once.",
            "./ops upgrade-database goes forwards, after slipway-backup remove-replaced.",
        )
    since = common.seconds_of(journal.get("stopped", journal["started"]))
    before, now = counted(journal["before"]), counted(common.measure())
    rows = [f"{name} {now.get(name, 0) - before.get(name, 0):+d}" for name in sorted(before | now)
            if now.get(name, 0) != before.get(name, 0)]  # fmt: skip
    return "\n".join(
        [
            f"Back: PostgreSQL {settings.version} to {kept.version}, as it was at "
            f"{journal['started']}",
            f"LOST: all that was written in the {(time.time() - since) / 60:.1f} minutes since "
            "then; rows: " + (", ".join(rows) or "as many as then"),
            f"Kept aside: the cluster {settings.version}/main, which holds it",
            "Stopped meanwhile: applications; visitors see a page",
        ]
    )


def counted(measured: dict) -> dict[str, int]:
    """Return the rows by the names of database and table."""
    return {
        f"{database} {table.removeprefix('public.')}": rows
        for database, one in measured.items()
        for table, rows in one["rows"].items()
    }


def revert(settings: Settings, ask: bool) -> None:
    """Let the cluster that an upgrade has kept aside serve again.

    :raises BackupError: where there is none, or an application does not answer from it.
    """
    if common.read(JOURNAL).get("step") != "reverting":
        print(plan_back(settings), flush=True)
        if ask:
            restore.confirm()
    with common.alone(60):
        began = time.time()
        journal = common.read(JOURNAL)
        journal |= {"step": "reverting", "pages": applications.pages(settings) or journal["pages"]}
        common.record(JOURNAL, journal)
        applications.show_pages(journal)
        settings = go_back(settings, journal)
        print(f"Interrupted for {time.time() - began:.1f} s.", flush=True)
    print(f"Serving: PostgreSQL {settings.version}: {common.shown_rows(common.measure())}")


def go_back(settings: Settings, journal: dict) -> Settings:
    """Let the two change their ports again, and the repository its cluster.

    :raises BackupError: where an application does not answer.
    """
    kept, left = Cluster(journal["from"]), Cluster(journal["to"])
    applications.stop(settings)
    settings = switch(settings, left, kept)
    common.record(plans.RESTORES, {"restores": journal["restores"]})
    try:
        applications.pass_gate(settings)
    finally:
        applications.remove_pages(journal)
        applications.start(settings)
    pgbackrest("stanza-upgrade")
    facts = {"from": left.version, "to": kept.version, "stopped": common.now()}
    common.record(JOURNAL, {**journal, **facts, "step": "done"})
    subprocess.run(["systemctl", "start", "--no-block", "slipway-backup.service"])
    return settings


# -- what was kept aside


def kept(settings: Settings) -> Cluster | None:
    """Return the cluster that an upgrade, or the way back from one, has kept aside."""
    journal = common.read(JOURNAL)
    if journal.get("step") != "done" or journal.get("to") != settings.version:
        return None
    cluster = Cluster(journal["from"])
    return cluster if cluster.exists else None


def remove_kept(settings: Settings) -> list[str]:
    """Delete it; say so."""
    with common.alone(0):
        cluster = kept(settings)
        if cluster is None:
            return []
        cluster.drop()
        return [f"removed the cluster {cluster.version}/main"]
