"""What all parts share: settings, running programs, one at a time, and PostgreSQL's answers."""

from __future__ import annotations

import calendar
import contextlib
import fcntl
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

STATE = Path("/var/lib/slipway/backup")
SETTINGS = Path("/etc/slipway/backup/settings.json")
LOCK = Path("/run/slipway-backup.lock")
STANZA = "main"
MANY_LINES = 25
MANY_LETTERS = 300


class BackupError(Exception):
    """Something failed; its text is for the person who reads the journal."""


def problem(what: str, seen: str, allowed: str, fix: str) -> BackupError:
    """Return an error with its four parts."""
    return BackupError(f"{what}\nSeen in: {seen}\nAllowed: {allowed}\nFix: {fix}")


@dataclass
class Settings:
    """What the role has written for this host."""

    version: int
    applications: list[dict]
    repositories: list[dict]
    full_days: int
    keep_days: int
    max_age_hours: int
    archive_max_minutes: int
    drill_max_days: int
    alert_command: str
    ssh: dict = field(default_factory=dict)

    @classmethod
    def load(cls) -> Settings:
        """Read them."""
        return cls(**json.loads(SETTINGS.read_text()))

    @property
    def data(self) -> Path:
        """Return the data directory of the cluster that serves."""
        return Path(f"/var/lib/postgresql/{self.version}/main")

    @property
    def unit(self) -> str:
        """Return the cluster's unit."""
        return f"postgresql@{self.version}-main.service"

    def program(self, name: str) -> str:
        """Return the path of one of PostgreSQL's programs."""
        return f"/usr/lib/postgresql/{self.version}/bin/{name}"


def run(command: list[str], *, shown: str = "", **options) -> str:
    """Run a program to its end and return what it printed.

    :raises BackupError: with the end of what it printed, where it fails.
    """
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": "/", **options}
    try:
        done = subprocess.run(
            command, text=True, errors="replace", stdin=subprocess.DEVNULL, **options
        )
    except FileNotFoundError:
        raise BackupError(f"{command[0]} is not installed on this host.") from None
    except subprocess.TimeoutExpired:
        raise BackupError(f"{shown or ' '.join(command)} took too long.") from None
    if done.returncode != 0:
        said = "\n".join(((done.stdout or "") + (done.stderr or "")).splitlines()[-MANY_LINES:])
        raise BackupError(f"{shown or ' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout or ""


def as_postgres(command: list[str], **options) -> str:
    """Run a program as the user postgres."""
    return run(command, user="postgres", group="postgres", extra_groups=[], **options)


def succeeds(command: list[str]) -> bool:
    """Tell whether a program ends with 0."""
    return subprocess.run(command, capture_output=True).returncode == 0


def pgbackrest(command: str, *options: str, **more) -> str:
    """Run pgBackRest; a failure says what it means where that is known."""
    line = ["pgbackrest", command, f"--stanza={STANZA}", *options]
    try:
        return as_postgres(line, shown=f"pgbackrest {command}", **more)
    except BackupError as error:
        raise BackupError(explained(str(error))) from None


MEANINGS = (
    (r"is not later than latest backup label",
     "A backup is dated later than now: the clock was ahead when it was made, or is behind.",
     "timedatectl. Where it is right now, wait until that date: the archive goes on meanwhile, so "
     "no moment is lost. Where that is too long: another backup_path."),
    (r"unable to verify certificate|unable to find hostname|x509:|certificate signed by",
     "The storage's certificate is not trusted.",
     "its name as endpoint of backup_s3; base_ca_certificates where its CA is your own."),
    # Before the next: its long answer has words of others, too.
    (r"SignatureDoesNotMatch|InvalidAccessKeyId|AccessDenied|Access Denied|403 \(Forbidden\)"
     r"|Access Key Id you provided|request signature we calculated",
     "The storage refuses the access key.",
     "access_id and access_secret of backup_s3, and what that key may do: read, write, list and "
     "delete in the bucket."),
    (r"does not match expected checksum|zstd error|lz4 error|invalid checksum",
     "A file of the repository is damaged.",
     "restore an earlier backup (a time, a point) or from another repository; then "
     "slipway-backup run --full."),
    (r"cipher header invalid|unable to flush|CryptoError|\[095\]|decrypt|found outside of section",
     "The passphrase is not the repository's (or a file of it is damaged).",
     "backup_passphrase as it was when the repository was made."),
    (r"No space left|\[Errno 28\]|unable to write.*space",
     "The disk of the repository is full.",
     "free space, enlarge the disk, or lower backup_keep_days; archiving goes on by itself."),
    (r"do not match the database|\[028\]|\[051\]|archive ID|does not match",
     "The repository holds the backups of another cluster.",
     "bring that cluster back (playbooks/restore-database.yml), or give this one another "
     "repository (backup_path, backup_s3)."),
    (r"NoSuchBucket|bucket does not exist",
     "The storage has no such bucket.",
     "make it, or correct bucket and region of backup_s3."),
    (r"HostConnectError|unable to get address|\[049\]|timeout connecting|unable to connect to"
     r"|connection refused|no such host|i/o timeout|HTTP request failed with 5|took too long",
     "The storage does not answer.",
     "its state, the name (endpoint of backup_s3) and the firewalls between; what waits is sent "
     "by itself."),
    (r"unable to find primary|could not connect|\[056\]",
     "PostgreSQL does not answer.",
     "systemctl status 'postgresql@*', and its log in /var/log/postgresql."),
)  # fmt: skip


def explained(said: str) -> str:
    """Put the meaning of an error before it, where there is one."""
    for pattern, what, fix in MEANINGS:
        if re.search(pattern, said):
            lines = said.splitlines()
            # Whatever the file held stands in the message, too.
            seen = next((x for x in lines if "ERROR" in x), lines[0]).encode("ascii", "ignore")
            seen = seen.decode()[:MANY_LETTERS]
            return str(problem(what, seen.strip(), "a repository that can be read and written.",
                               fix))  # fmt: skip
    return said


def info(repository: int = 0) -> dict:
    """Return what pgBackRest knows of the stanza.

    :raises BackupError: where a repository cannot be read.
    """
    stanza = info_of_readable(repository)
    if unreadable := unreadable_of(stanza):
        raise BackupError("\n".join(unreadable.values()))
    return stanza


def info_of_readable(repository: int = 0) -> dict:
    """Return the same of those repositories that can be read."""
    options = [f"--repo={repository}"] if repository else []
    (stanza,) = json.loads(pgbackrest("info", "--output=json", *options), strict=False) or ({},)
    return stanza


def unreadable_of(stanza: dict) -> dict[int, str]:
    """Return by the number of each repository that cannot be read why."""
    return {
        one["key"]: explained(f"repository {one['key']}: {one['status']['message']}")
        for one in stanza.get("repo", [])
        if one["status"]["code"] not in (0, 1, 2)  # fine, no stanza, no backup
    }


def backups(stanza: dict) -> list[dict]:
    """List the backups of the cluster that serves, the oldest first.

    Those of before an upgrade stay in the repository, for a PostgreSQL of that version.
    """
    clusters = {(one["repo-key"], one.get("id")): one["system-id"] for one in stanza.get("db", [])}
    now = owners(stanza)
    ours = [
        one
        for one in stanza.get("backup", [])
        for key in [(one["database"]["repo-key"], one["database"].get("id"))]
        if clusters.get(key) == now.get(key[0])
    ]
    return sorted(ours, key=lambda one: one["timestamp"]["stop"])


def owners(stanza: dict) -> dict[int, int]:
    """Return by the number of each repository the cluster that it is for."""
    return {one["repo-key"]: one["system-id"] for one in stanza.get("db", [])}


# In a database that is an application's, its functions and views must not run with the rights of
# the superuser who asks: names are those of PostgreSQL itself, and a view is not read.
SAFELY = "-c search_path=pg_catalog -c restrict_nonsystem_relation_kind=view,foreign-table"


def psql(query: str, database: str = "postgres", socket: str = "/run/postgresql") -> str:
    """Ask PostgreSQL as its superuser."""
    command = ["psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]
    command += ["--set=ON_ERROR_STOP=1", f"--host={socket}", f"--dbname={database}"]
    options = f"{SAFELY} -c statement_timeout=0"
    environment = {**os.environ, "PGOPTIONS": options, "PGCONNECT_TIMEOUT": "10"}
    command += ["--command", query]
    return as_postgres(command, shown=f"psql {database}", env=environment).strip()


DATABASES = """SELECT datname FROM pg_database
    WHERE datallowconn AND datname NOT IN ('postgres', 'template1') ORDER BY 1"""
HAS_REVISION = """SELECT count(*) FROM pg_class
    WHERE oid = to_regclass('public.alembic_version') AND relkind = 'r'"""
# Without a function or a cast: of an application's type these might be the application's own.
REVISION = "SELECT version_num FROM ONLY public.alembic_version"
# One statement sees all tables at the same moment.
ROWS = """SELECT coalesce(json_object_agg(format('%I.%I', n.nspname, c.relname),
    (xpath('/row/n/text()', query_to_xml(
        format('SELECT count(*) AS n FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')
    ))[1]::text::bigint), '{}')
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND c.relpersistence = 'p'
    AND n.nspname NOT IN ('pg_catalog', 'information_schema')"""


def measure(socket: str = "/run/postgresql") -> dict:
    """Return revision and rows of each table of each database; every row is read for that."""
    found = {}
    for database in psql(DATABASES, socket=socket).splitlines():
        known = psql(HAS_REVISION, database, socket) == "1"
        revisions = psql(REVISION, database, socket).split() if known else []
        found[database] = {
            "revision": ",".join(sorted(revisions)),
            "rows": json.loads(psql(ROWS, database, socket)),
        }
    return found


def shown_rows(measured: dict) -> str:
    """Return the rows of each table as people read them."""
    rows = [
        f"{database} {table.removeprefix('public.')} {count}"
        for database, one in measured.items()
        for table, count in one["rows"].items()
    ]
    return ", ".join(rows) or "no table"


def now() -> str:
    """Return the time in UTC."""
    return as_time(time.time())


def as_time(seconds: float) -> str:
    """Return a time in UTC, as people and programs read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def seconds_of(when: str) -> float:
    """Return the seconds of a time that `as_time` wrote."""
    return calendar.timegm(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ"))


def read(name: str) -> dict:
    """Return a record of ours; empty where there is none."""
    path = STATE / name
    return json.loads(path.read_text()) if path.exists() else {}


def record(name: str, facts: dict) -> None:
    """Write a record that everybody may read, in one rename."""
    path = STATE / name
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    with open(new, "w") as file:
        file.write(json.dumps(facts, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


@contextlib.contextmanager
def recorded(name: str, wait_seconds: int) -> Iterator[dict]:
    """Work alone, and write down how it went, whatever happens: a kill leaves "running" behind.

    :returns: the facts of a success, to be filled in; those of the last one until then.
    """
    began = time.time()
    with alone(wait_seconds):
        last = read(name)
        started = {"started": as_time(began)}
        record(name, last | started | {"result": "running"})
        facts: dict = {}
        outcome = {"result": "failed"}
        try:
            yield facts
            outcome = {"result": "ok"}
        except BackupError as error:
            outcome["error"] = str(error)
            raise
        finally:
            ended = {"stopped": now(), "seconds": round(time.time() - began, 1)}
            record(name, facts | started | outcome | ended)


@contextlib.contextmanager
def alone(wait_seconds: int) -> Iterator[None]:
    """Let nobody else back up, restore or drill meanwhile.

    :raises BackupError: where somebody else is still at work after so many seconds.
    """
    deadline = time.monotonic() + wait_seconds
    with open(LOCK, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise problem(
                        "A backup, restore or drill is at work.",
                        f"{LOCK}",
                        "one at a time.",
                        "wait for it: systemctl list-units 'slipway-*'.",
                    ) from None
                time.sleep(1)
        yield
