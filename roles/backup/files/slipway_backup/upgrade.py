"""Move the cluster to a newer major version of PostgreSQL, and back.

A backup is made. Then the applications stop, with a page in their place, and Debian's
pg_upgradecluster copies the cluster. The copy is looked at where nobody can connect; only then do
the two change their ports. What fails before the applications have answered lets the old cluster
serve again, which is kept until somebody says otherwise. `upgrade.json` holds how far a run came.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import locale
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from slipway_backup import backup, common, restore
from slipway_backup.common import STATE, BackupError, Settings, pgbackrest, problem
from slipway_backup.server import Server

JOURNAL = "upgrade.json"
CONFIGURATION = Path("/etc/postgresql")
PROGRAMS = Path("/usr/lib/postgresql")
EXTENSIONS = Path("/usr/share/postgresql")
PGBACKREST = Path("/etc/pgbackrest/pgbackrest.conf")
NGINX = Path("/etc/nginx/nginx.conf")
PAGES = Path("/var/lib/slipway/maintenance")
SCRATCH = STATE / "upgrade"
ROOM = Path("/run/slipway-upgrade")
BOOT = Path("/proc/sys/kernel/random/boot_id")
PORT = 5432
SPARE_BYTES = 512 * 2**20
START_SECONDS = 600
FIRST_OID = 16384  # of what is not PostgreSQL's own
PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>Back in a few minutes</title>
<p>The database of this site gets a new version. We will be back in a few minutes.</p></html>
"""
DATABASES = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
LOCALE = """SELECT pg_encoding_to_char(encoding), datcollate, datctype
    FROM pg_database WHERE datname = 'template1'"""
USED = "SELECT extname FROM pg_extension ORDER BY 1"
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


@dataclass
class Cluster:
    """A cluster `main`, as Debian's tools know it."""

    version: int

    @property
    def configuration(self) -> Path:
        """Return the folder of its settings."""
        return CONFIGURATION / str(self.version) / "main"

    @property
    def data(self) -> Path:
        """Return its data directory."""
        return Path("/var/lib/postgresql", str(self.version), "main")

    @property
    def unit(self) -> str:
        """Return its unit."""
        return f"postgresql@{self.version}-main.service"

    @property
    def exists(self) -> bool:
        """Tell whether it is there."""
        return self.configuration.exists()

    def program(self, name: str) -> Path:
        """Return one of its version's programs."""
        return PROGRAMS / str(self.version) / "bin" / name

    def conftool(self, *words: str) -> str:
        """Ask or change its settings."""
        return common.run(["pg_conftool", str(self.version), "main", *words]).strip()

    @property
    def port(self) -> int:
        """Return its port."""
        return int(self.conftool("--short", "show", "port"))

    def starts(self, how: str) -> None:
        """Say whether it starts at boot: auto or manual."""
        (self.configuration / "start.conf").write_text(f"{how}\n")

    def drop(self) -> None:
        """Remove it, its settings and its log; also half of one."""
        subprocess.run(["systemctl", "stop", self.unit], capture_output=True)
        subprocess.run(["pg_dropcluster", "--stop", str(self.version), "main"], capture_output=True)
        for path in (self.data, self.configuration):
            shutil.rmtree(path, ignore_errors=True)


def is_empty(data: Path) -> bool:
    """Tell whether nobody has put anything into a cluster; its package makes such a one."""
    names = [path.name for path in [*data.glob("base/*"), *data.glob("base/*/*")]]
    numbers = [int(name) for name in re.findall(r"\b\d+\b", " ".join(names))]
    return bool(numbers) and max(numbers) < FIRST_OID


# -- before anything stops


def newest_installed() -> int:
    """Return the newest version whose server is installed."""
    return max(int(path.parent.parent.name) for path in PROGRAMS.glob("*/bin/postgres"))


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
    must_be_possible(old, new)
    size = int(common.psql(backup.SIZE))
    free = shutil.disk_usage("/var/lib/postgresql").free
    if free < size + SPARE_BYTES:
        raise problem(
            f"A copy of the cluster, of {size // 2**20} MiB, does not fit on the disk.",
            f"/var/lib/postgresql, where {free // 2**20} MiB are free",
            f"its size and {SPARE_BYTES // 2**20} MiB to spare.",
            "free space (slipway-backup remove-replaced), or enlarge the disk.",
        )
    extensions = must_have_extensions(new)
    for app in served(settings):
        must_start(app)
    must_pass_check(old, new)
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


# -- the applications


def served(settings: Settings) -> list[str]:
    """Return the applications that have a release."""
    names = [app["name"] for app in settings.applications]
    return [name for name in names if Path("/srv", name, "current").exists()]


def must_start(app: str) -> None:
    """Refuse a release that would not start again, or does not answer now.

    :raises BackupError: with how to release anew.
    """
    python = f"/srv/{app}/current/venv/bin/python"
    try:
        common.run([python, "-c", "import gunicorn"], user=app, group=app, extra_groups=[])
    except BackupError as error:
        raise problem(
            f"The release of {app} would not start again: its Python has changed.",
            f"{python}, which says: {str(error).splitlines()[-1]}",
            "a release that was made with the Python of this system.",
            "./ops deploy makes one, and no request is lost; then run again.",
        ) from None
    if said := asked(app):
        raise problem(
            f"{app} does not answer, so nobody could tell whether the upgrade went well.",
            said,
            "an application that is healthy before.",
            "./ops doctor, ./ops logs; then run again.",
        )


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str):
        super().__init__("localhost", timeout=5)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket instead of to a host."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def asked(app: str) -> str:
    """Ask an application whether it is healthy, past nginx; return "" or what it says."""
    gate = gate_of(app)
    connection = UnixConnection(f"/srv/{app}/current/gunicorn.sock")
    try:
        headers = {"Host": gate["host"], "X-Forwarded-Proto": "https"}
        connection.request("GET", gate["path"], headers=headers)
        answer = connection.getresponse()
        is_well = 200 <= answer.status <= gate["highest_status"]
        return "" if is_well else f"GET {gate['path']} said {answer.status}"
    except (OSError, http.client.HTTPException) as error:
        return f"GET {gate['path']}: {error}"
    finally:
        connection.close()


def gate_of(app: str) -> dict:
    """Return what a release of an application is judged by."""
    return json.loads(Path("/etc", app, "operate.json").read_text())["gate"]


def instance(app: str) -> str:
    """Return the unit of the release that serves."""
    return f"{app}@{Path('/srv', app, 'current').resolve().name}.service"


def pass_gate(settings: Settings) -> None:
    """Start what serves, without timers and commands, and wait until it answers.

    :raises BackupError: where it does not.
    """
    apps = served(settings)
    for app in apps:
        subprocess.run(["systemctl", "reset-failed", instance(app)], capture_output=True)
        common.run(["systemctl", "start", "--no-block", instance(app)])
    for app in apps:
        deadline = time.monotonic() + gate_of(app)["seconds"]
        while said := asked(app):
            has_failed = common.succeeds(["systemctl", "--quiet", "is-failed", instance(app)])
            if has_failed or time.monotonic() > deadline:
                unit = instance(app)
                raise BackupError(f"{app} is not healthy: {said}. journalctl --unit={unit}")
            time.sleep(0.1)


def pages(settings: Settings) -> list[str]:
    """Return where nginx looks for a page, for each site that has none yet."""
    known = NGINX.read_text() if NGINX.exists() else ""
    paths = [str(PAGES / f"{app['name']}.html") for app in settings.applications]
    return [path for path in paths if path in known and not Path(path).exists()]


def show_pages(journal: dict) -> None:
    """Put a page in the place of each site."""
    for path in map(Path, journal["pages"]):
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.write_text(PAGE)


def remove_pages(journal: dict) -> None:
    """Give the sites their place back."""
    for path in journal["pages"]:
        Path(path).unlink(missing_ok=True)


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
            "restores": restore.restores(),
            "pages": pages(settings),
        }
        common.record(JOURNAL, journal)
        try:
            show_pages(journal)
            restore.stop_applications(settings)
            journal["before"] = common.measure()
            common.record(JOURNAL, journal)
            copy(old, new)
            look(replace(settings, version=new.version), new, journal["before"])
            journal["step"] = "switching"
            common.record(JOURNAL, journal)
            settings = switch(settings, old, new)
            pass_gate(settings)
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
        for database in common.psql(DATABASES, socket=str(ROOM)).splitlines():
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
        common.record(restore.RESTORES, {"restores": []})  # its time lines begin anew
        journal |= {"step": "settling", "stopped": common.now()}
        common.record(JOURNAL, journal)
    remove_pages(journal)
    opened = time.time()
    restore.start_applications(settings)
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
        restore.stop_applications(settings)
        common.run(["systemctl", "stop", *map(instance, served(settings))])
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
        restore.start_applications(settings)
    finally:
        remove_pages(journal)


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
        if step == "copying":
            undo(settings, journal)
            return replace(settings, version=old.version)
        if step == "reverting":
            return go_back(settings, journal)
        try:
            if step == "switching":
                settings = switch(settings, old, new)
                pass_gate(settings)
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
        journal |= {"step": "reverting", "pages": pages(settings) or journal["pages"]}
        common.record(JOURNAL, journal)
        show_pages(journal)
        settings = go_back(settings, journal)
        print(f"Interrupted for {time.time() - began:.1f} s.", flush=True)
    print(f"Serving: PostgreSQL {settings.version}: {common.shown_rows(common.measure())}")


def go_back(settings: Settings, journal: dict) -> Settings:
    """Let the two change their ports again, and the repository its cluster.

    :raises BackupError: where an application does not answer.
    """
    kept, left = Cluster(journal["from"]), Cluster(journal["to"])
    restore.stop_applications(settings)
    settings = switch(settings, left, kept)
    common.record(restore.RESTORES, {"restores": journal["restores"]})
    try:
        pass_gate(settings)
    finally:
        remove_pages(journal)
        restore.start_applications(settings)
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
