"""The schema of the database that a release works on: its revision, its dump, its migration."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.releases import Application, ReleaseError, run

# What libpq calls the parts of a URL; what is not here is not needed to connect.
PARAMETERS = {
    "host": "PGHOST",
    "port": "PGPORT",
    "user": "PGUSER",
    "password": "PGPASSWORD",
    "sslmode": "PGSSLMODE",
    "sslrootcert": "PGSSLROOTCERT",
}
HAS_REVISION = "SELECT to_regclass('alembic_version') IS NOT NULL"
REVISION = "SELECT string_agg(version_num, ', ' ORDER BY version_num) FROM alembic_version"
# Any number will do, as long as it is the same for every release: ASCII "slip".
ADVISORY_LOCK = 0x736C6970


class Database:
    """The PostgreSQL database of an application, as the application itself reaches it."""

    def __init__(self, app: Application, url: str):
        """Take SQLAlchemy's URL apart; a password goes into the environment, never into ps."""
        parts = urllib.parse.urlsplit(url)
        given = {
            "host": parts.hostname,
            "port": parts.port,
            "user": urllib.parse.unquote(parts.username or ""),
            "password": urllib.parse.unquote(parts.password or ""),
            **dict(urllib.parse.parse_qsl(parts.query)),
        }
        environment = {PARAMETERS[name]: str(value) for name, value in given.items()
                       if value and name in PARAMETERS}  # fmt: skip
        environment["PGDATABASE"] = urllib.parse.unquote(parts.path.lstrip("/"))
        environment["PGCONNECT_TIMEOUT"] = "10"
        environment["PATH"] = os.environ["PATH"]
        self.as_owner = app.as_owner(env=environment)

    def ask(self, query: str) -> str:
        """Return the first value that a query gives.

        :raises ReleaseError: where the database does not answer.
        """
        psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", query]
        # A warning is no value: after an upgrade of the system each answer comes with one.
        options = {"stderr": subprocess.PIPE, "timeout": 30}
        return run(psql, shown="psql", **options, **self.as_owner).strip()

    def revision(self) -> str:
        """Return the revision that Alembic has noted, or "" where it has noted none."""
        return self.ask(REVISION) if self.ask(HAS_REVISION) == "t" else ""

    def size_mib(self) -> int:
        """Return the size of the database on the disk, in MiB."""
        return int(self.ask("SELECT pg_database_size(current_database()) / 1048576"))

    def dump(self, path: Path) -> None:
        """Write schema and data into a file that only root reads."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        new = path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            options = {"stdout": file, "stderr": subprocess.PIPE}
            run(["pg_dump", "--format=custom"], **options, **self.as_owner)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)

    @contextlib.contextmanager
    def alone(self, seconds: int) -> Iterator[None]:
        """Keep every other host's migration of this database waiting outside.

        :raises ReleaseError: where another one is at work for longer than that.
        """
        psql = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
        with subprocess.Popen(psql, **pipes, **self.as_owner) as session:
            session.stdin.write(
                "\\set ON_ERROR_STOP on\n"
                f"SET statement_timeout = '{seconds}s';\n"
                f"SELECT 'alone' FROM pg_advisory_lock({ADVISORY_LOCK});\n"
            )
            session.stdin.flush()
            try:
                if session.stdout.readline().strip() != "alone":
                    raise ReleaseError(
                        f"Another migration of this database is at work for {seconds} s now."
                    )
                yield
            finally:
                session.stdin.close()


def database_of(app: Application, release: str) -> Database | None:
    """Return the PostgreSQL database of a release, or None where it has none."""
    environment = (app.folder(release) / "environment").read_text()
    found = re.search(r'^DATABASE_URL="(postgresql.*)"$', environment, re.MULTILINE)
    return Database(app, re.sub(r"\\(.)", r"\1", found[1])) if found else None


def migrations_hash(app: Application, release: str, settings: dict) -> str:
    """Return what tells whether there is something to migrate; "" where nothing can tell."""
    folder = app.folder(release) / "source" / settings["folder"]
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc")
    if not files:
        return ""
    listed = run(["sha256sum", *(str(path.relative_to(folder)) for path in files)], cwd=folder)
    return f"{settings['command']}\n{listed}"


def is_up_to_date(app: Application, release: str, settings: dict, database: Database) -> bool:
    """Tell whether the database already is where the migrations of the release lead."""
    before = app.manifest(app.current())
    wanted = migrations_hash(app, release, settings)
    known = wanted and before.get("migrations") == wanted and before.get("schema")
    return bool(known) and database.revision() == known


def migrate(app: Application, release: str, settings: dict) -> dict:
    """Bring the schema to what the release expects, after a dump; wait for locks a while only.

    What cannot be imported does not get to touch the schema of what serves.

    :param settings: `command`, `folder`, `seconds`, `lock_seconds`, `dump`, `dump_max_mib`,
        `import_seconds`, `point_command`.
    :returns: the schema's revision `before` and `after`, the restore `point` and the `dump`, as far
        as there are any.
    :raises ReleaseError: where it cannot be imported, the dump not be made, or the command fails.
    """
    database = database_of(app, release)
    facts = {"migrations": migrations_hash(app, release, settings)}
    if database and is_up_to_date(app, release, settings, database):
        app.record(release, schema=database.revision(), **facts)
        return {}
    if app.current():
        app.must_import(release, settings["import_seconds"])
    if not database:
        run_command(app, release, settings)
        return {}
    with database.alone(settings["seconds"]):
        before = database.revision()
        result = {"before": before}
        if settings["point_command"] and (before or app.current()):
            named = run(shlex.split(settings["point_command"]), stderr=subprocess.PIPE)
            result["point"] = named.strip()
        if settings["dump"] and (before or app.current()):
            refuse_large(app, database, settings["dump_max_mib"])
            database.dump(app.dump(release))
            result["dump"] = str(app.dump(release))
        try:
            run_command(app, release, settings)
        except ReleaseError as error:
            raise ReleaseError(f"{error}\n{state_after_failure(database, result)}") from None
        result["after"] = database.revision()
    facts |= {"point": result["point"]} if "point" in result else {}
    app.record(release, schema=result["after"], schema_before=before, **facts)
    return result


def run_command(app: Application, release: str, settings: dict) -> None:
    """Run the migration command as the application, with a limit for its waits on locks."""
    limits = f"-c lock_timeout={settings['lock_seconds']}s -c statement_timeout=0"
    command = shlex.split(settings["command"])
    app.run_in_release(release, command, settings["seconds"], PGOPTIONS=limits)


def refuse_large(app: Application, database: Database, limit_mib: int) -> None:
    """Refuse a dump that is larger than allowed, or than the disk."""
    size, free = database.size_mib(), shutil.disk_usage(app.root).free // 2**20
    if size > limit_mib or size > free:
        raise ReleaseError(
            f"The database has {size} MiB; that is too large to be dumped before each migration.\n"
            f"Seen in: pg_database_size; {free} MiB are free in {app.root}.\n"
            f"Allowed: {limit_mib} MiB (flask_app_migration_dump_max_mib), and free disk for it.\n"
            "Fix: raise the limit, or set flask_app_migration_dump: false and rely on your backup."
        )


def state_after_failure(database: Database, result: dict) -> str:
    """Tell whether a migration that failed has left the schema as it was."""
    try:
        after = database.revision()
    except ReleaseError:
        return "Whether the schema has changed cannot be told: the database does not answer."
    ways = f" Dump: {result['dump']}" if "dump" in result else ""
    ways += f" Restore point: {result['point']}" if "point" in result else ""
    if after == result["before"]:
        return f"The schema is still at revision {after or 'none'}.{ways}"
    return f"The schema has moved from {result['before'] or 'none'} to {after}!{ways}"
