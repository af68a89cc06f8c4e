"""What may stand in the way of another version of PostgreSQL, found while the old one serves."""

from __future__ import annotations

import locale
import re
import shutil
from pathlib import Path

from slipway_backup import common
from slipway_backup.cluster import PORT, PROGRAMS, Cluster, is_empty
from slipway_backup.common import STATE, BackupError, problem

DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
EXTENSIONS = Path("/usr/share/postgresql")
SCRATCH = STATE / "upgrade"
LOCALE = """SELECT pg_encoding_to_char(encoding), datcollate, datctype
    FROM pg_database WHERE datname = 'template1'"""
USED = "SELECT extname FROM pg_extension ORDER BY 1"


def must_be_possible(old: Cluster, new: Cluster) -> None:
    """Refuse versions that do not fit, and a second cluster that holds something.

    :raises BackupError: with what does not fit.
    """
    if new.version < old.version:
        raise problem(
            f"PostgreSQL {new.version} is older than {old.version}, which serves.",
            "postgresql_version",
            "a newer version.",
            "remove postgresql_version from the inventory. Back to a version that was kept aside: "
            "-e backup_upgrade_revert=true.",
        )
    if not new.program("postgres").exists():
        raise problem(
            f"PostgreSQL {new.version} is not installed.",
            f"{PROGRAMS}/{new.version}",
            f"its server beside that of {old.version}.",
            f"apt-get install postgresql-{new.version}, on Debian's release that has it.",
        )
    serving = int(common.psql("SHOW server_version_num")) // 10000
    if serving != old.version or old.port != PORT:
        raise problem(
            f"PostgreSQL {serving} answers, and not {old.version}, which the settings name.",
            f"the port {PORT}; pg_lsclusters shows all",
            "one cluster that serves: main, on that port.",
            "site.yml with postgresql_version as it is; then run again.",
        )
    if new.exists and not is_empty(new.data):
        raise problem(
            f"There is a cluster {new.version}/main already, and it holds something.",
            f"{new.data}",
            "none, or the empty one that Debian's package makes.",
            f"slipway-backup remove-replaced if an earlier way back has left it; else look at it, "
            f"and pg_dropcluster --stop {new.version} main.",
        )


def must_have_extensions(new: Cluster) -> list[str]:
    """Return the extensions in use.

    :raises BackupError: where the new version lacks one.
    """
    used = {name for database in common.psql(DATABASES).splitlines()
            for name in common.psql(USED, database).splitlines()}  # fmt: skip
    folder = EXTENSIONS / str(new.version) / "extension"
    if missing := sorted(name for name in used if not (folder / f"{name}.control").exists()):
        raise problem(
            f"PostgreSQL {new.version} lacks extensions in use: {', '.join(missing)}.",
            f"{folder}",
            "all that a database has made.",
            f"apt-get install their packages for {new.version} (apt-cache search postgresql-"
            f"{new.version}), or DROP EXTENSION what nobody needs.",
        )
    return sorted(used)


def must_have_locale(name: str) -> None:
    """Refuse a locale that the new system does not know; the old cluster would not start again.

    :raises BackupError: where it does not.
    """
    try:
        locale.setlocale(locale.LC_COLLATE, name)
    except locale.Error:
        raise problem(
            f"This system does not know the locale of the databases, {name}.",
            "locale -a",
            "those of before the upgrade of the system.",
            "write it into /etc/locale.gen as locale-gen wants it (en_US.UTF-8 UTF-8, say), run "
            "locale-gen, and then this again.",
        ) from None
    finally:
        locale.setlocale(locale.LC_COLLATE, "C")


def must_pass_check(old: Cluster, new: Cluster) -> None:
    """Let pg_upgrade look at the cluster that serves, with a scratch cluster as its target.

    :raises BackupError: with what it found.
    """
    encoding, collate, ctype = common.psql(LOCALE).split("|")
    for name in (collate, ctype):
        must_have_locale(name)
    control = common.as_postgres([str(old.program("pg_controldata")), str(old.data)])
    has_checksums = not re.search(r"Data page checksum version: +0$", control, re.MULTILINE)
    shutil.rmtree(SCRATCH, ignore_errors=True)
    SCRATCH.mkdir(mode=0o700, parents=True)
    shutil.chown(SCRATCH, "postgres", "postgres")
    data = SCRATCH / "data"
    try:
        initdb = [str(new.program("initdb")), "--no-sync", "--auth=peer", f"--encoding={encoding}"]
        initdb += [f"--lc-collate={collate}", f"--lc-ctype={ctype}", f"--pgdata={data}"]
        common.as_postgres(initdb + (["--data-checksums"] if has_checksums else []))
        check = [str(new.program("pg_upgrade")), "--check", f"--old-port={PORT}"]
        check += [f"--old-bindir={old.program('')}", f"--new-bindir={new.program('')}"]
        check += [f"--old-datadir={old.configuration}", f"--new-datadir={data}"]
        try:
            common.as_postgres(check, shown="pg_upgrade --check", cwd=SCRATCH)
        except BackupError as error:
            details = [path.read_text() for path in data.glob("pg_upgrade_output.d/*/*.txt")]
            raise problem(
                f"PostgreSQL {old.version} cannot become {new.version} as it is.",
                "\n".join([str(error), *details]),
                "a cluster that pg_upgrade accepts.",
                "mend what it names, and run again; nothing was changed.",
            ) from None
    finally:
        shutil.rmtree(SCRATCH, ignore_errors=True)
