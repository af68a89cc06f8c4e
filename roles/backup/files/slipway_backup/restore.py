"""Bring the database back: to its latest state, to a time, or to a restore point.

The backup is fetched beside the cluster that serves. Then the applications and PostgreSQL stop; the
new cluster recovers, still beside, with nobody connected and nothing archived, and is looked at;
only then the two change their names. So whatever fails, and whenever the power goes, it is the old
one that is in its place and starts. `restore.json` holds how far a run came.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from slipway_backup import applications, backup, common, plans
from slipway_backup.common import BackupError, Settings, pgbackrest, problem
from slipway_backup.drill import need_space
from slipway_backup.plans import Plan, Wanted
from slipway_backup.server import Server, stop_whoever_runs_on

JOURNAL = "restore.json"
KEPT_RESTORES = 100
ROOM = Path("/run/slipway-restore")
RECOVERY_SECONDS = 12 * 3600
SEGMENT = re.compile("[0-9A-F]{24}")
SECRET = re.compile(r"^SECRET_KEY=.*$", re.MULTILINE)


def restore(settings: Settings, wanted: Wanted, ask: bool) -> None:
    """Restore. It ends well only if the restored database serves.

    :raises BackupError: where it does not; then the former one serves, if it did before.
    """
    with common.alone(60):
        put_back_interrupted(settings)
        chosen = plans.plan(settings, wanted)
        print(chosen.text, flush=True)
        if ask:
            confirm()
        began = time.time()
        if wanted.files:  # what they are now can be had back
            backup.back_up_files(settings, repository_of(settings, chosen))
        fetch(settings, chosen)
        stopped = time.time()
        replace(settings, chosen)
        try:
            if wanted.files:
                restore_files(settings, chosen)
        finally:
            applications.start(settings)
        down = time.time() - stopped
        facts = {"step": "done", "label": chosen.label, "stopped": common.now()}
        common.record(JOURNAL, facts | {"seconds": round(time.time() - began, 1)})
        print(f"Restored: {common.shown_rows(common.measure())}")
        print(f"It took {time.time() - began:.1f} s, {down:.1f} s of them without the database.")
    # What was promised of the old time line does not hold for the new one.
    subprocess.run(["systemctl", "start", "--no-block", "slipway-backup.service"])


def confirm() -> None:
    """Ask the person at the terminal.

    :raises BackupError: where there is none, or the answer is no.
    """
    if sys.stdin.isatty() and input("Go on? Type yes: ").strip() == "yes":
        return
    raise problem("Nothing was done.", "the answer", "yes.", "say yes, or add --yes.")


def fetch(settings: Settings, chosen: Plan) -> None:
    """Fetch the backup beside the cluster that serves, which goes on."""
    place = plans.beside(settings)
    shutil.rmtree(place, ignore_errors=True)
    need_space(settings.data.parent, chosen.size_bytes)
    common.record(JOURNAL, {"step": "fetching", "started": common.now()})
    # By its own user: in a folder of that user's, what root makes might be another thing by then.
    common.as_postgres(["mkdir", "--mode=0700", str(place)])
    pgbackrest(
        "restore",
        f"--repo={chosen.repository}",
        f"--set={chosen.label}",
        f"--pg1-path={place}",
        *chosen.target,
    )


def replace(settings: Settings, chosen: Plan) -> None:
    """Recover the fetched cluster, look at it, put it in place, and let it serve.

    :raises BackupError: where it does not hold; the old one serves again then.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    journal = {
        "step": "replacing",
        "started": common.now(),
        "aside": str(settings.data.with_name(f"main.replaced-{stamp}")),
        "was_running": common.succeeds(["systemctl", "--quiet", "is-active", settings.unit]),
    }
    common.record(JOURNAL, journal)
    try:
        applications.stop(settings)
        end_the_log()
        with without_archiving(bool(chosen.lost)):
            stop_postgresql(settings)
        recover(settings, chosen)
        must_be_stopped(settings)
        change_names(settings, Path(journal["aside"]))
    except BaseException:  # Ctrl-C and a lost connection, too
        put_back(settings, journal)
        raise
    common.record(JOURNAL, {**journal, "step": "starting"})
    line = {"timeline": time_line_of(settings), "moment": chosen.moment, "since": time.time()}
    common.record(plans.RESTORES, {"restores": [*plans.restores(), line][-KEPT_RESTORES:]})
    subprocess.run(["systemctl", "reset-failed", settings.unit], capture_output=True)
    common.run(["systemctl", "start", settings.unit])
    wait_for_postgresql()


@contextlib.contextmanager
def without_archiving(wanted: bool) -> Iterator[None]:
    """Let PostgreSQL stop without its archiver's last try at a repository that does not answer.

    What it has not archived comes along.
    """
    if not wanted:
        yield
        return
    pgbackrest("stop", "--force")
    try:
        yield
    finally:
        pgbackrest("start")


def must_be_stopped(settings: Settings) -> None:
    """Leave the old cluster where it is, if somebody has started it meanwhile.

    It would go on in the folder that is put aside, and what it writes there would be lost.

    :raises BackupError: where it runs.
    """
    show = ["systemctl", "show", "--value", "--property=ActiveState", settings.unit]
    if common.run(show).strip() not in ("inactive", "failed"):
        raise problem(
            "PostgreSQL was started while its database was restored: nothing was replaced.",
            settings.unit,
            "a PostgreSQL that stays stopped until the restore is done.",
            "wait until site.yml, or whoever else started it, has ended; then restore again.",
        )


def change_names(settings: Settings, aside: Path) -> None:
    """Put the new cluster in the place of the old one."""
    if settings.data.exists():
        settings.data.rename(aside)
    plans.beside(settings).rename(settings.data)


def end_the_log() -> None:
    """Write one transaction more, if PostgreSQL answers, which then archives all as it stops.

    A recovery to a time needs to see one that is later.
    """
    with contextlib.suppress(BackupError):
        common.psql("SELECT txid_current()")


def system_of(settings: Settings, data: Path) -> int:
    """Return what tells a cluster from all others."""
    shown = common.as_postgres([settings.program("pg_controldata"), str(data)])
    return int(re.search(r"system identifier: +(\d+)", shown)[1])


def time_line_of(settings: Settings) -> int:
    """Return the number of the time line that a cluster that was stopped goes on with."""
    shown = common.as_postgres([settings.program("pg_controldata"), str(settings.data)])
    return int(re.search(r"TimeLineID: +(\d+)", shown)[1])


def take_along(settings: Settings, new: Path) -> None:
    """Copy the segments that the old cluster has not archived, if it was the same cluster."""
    system = system_of(settings, new)
    for segment in settings.data.glob("pg_wal/*"):
        archived = segment.parent / "archive_status" / f"{segment.name}.done"
        if not SEGMENT.fullmatch(segment.name) or archived.exists():
            continue
        with segment.open("rb") as file:
            (owner,) = struct.unpack("=Q", file.read(32)[24:].ljust(8, b"\0"))
        if owner == system:
            common.as_postgres(["cp", "--archive", str(segment), str(new / "pg_wal")])


def stop_postgresql(settings: Settings) -> None:
    """Stop the cluster that serves, also one whose data directory is gone."""
    subprocess.run(["systemctl", "stop", settings.unit], capture_output=True)
    stop_whoever_runs_on(settings, settings.data)


def recover(settings: Settings, chosen: Plan) -> None:
    """Recover with nobody connected, look at everything, and archive the new time line."""
    new = plans.beside(settings)
    take_along(settings, new)
    server = Server(settings, new, ROOM, hot_standby="off")
    try:
        server.start(RECOVERY_SECONDS)
        common.measure(str(ROOM))
    finally:
        server.stop()
    if not chosen.lost:
        adopt(settings, new, chosen)
    for history in new.glob("pg_wal/*.history"):
        archive(new, history, later=bool(chosen.lost))


def archive(new: Path, history: Path, later: bool) -> None:
    """Archive the history of the new time line; later PostgreSQL does it, as it serves."""
    if not later:
        pgbackrest("archive-push", "--no-archive-async", f"--pg1-path={new}", str(history))
        return
    ready = new / "pg_wal/archive_status" / f"{history.name}.ready"
    ready.touch(mode=0o600)
    shutil.chown(ready, "postgres", "postgres")


def adopt(settings: Settings, new: Path, chosen: Plan) -> None:
    """Make every repository the restored cluster's; on a new host some are of the empty one."""
    system = system_of(settings, new)
    of = common.owners(common.info())
    foreign = [number for number, owner in of.items() if owner != system]
    if foreign:  # without a backup, as `plan` has seen
        pgbackrest("stop")
        try:
            for number in foreign:
                pgbackrest("stanza-delete", f"--repo={number}", "--force")
        finally:
            pgbackrest("start")
    if foreign or len(of) < len(settings.repositories):
        pgbackrest("stanza-create", "--no-online", f"--pg1-path={new}")


def wait_for_postgresql() -> None:
    """Return once PostgreSQL answers.

    :raises BackupError: where it does not within two minutes.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            common.psql("SELECT 1")
            return
        except BackupError:
            time.sleep(0.2)
    raise BackupError("PostgreSQL does not answer: journalctl --unit 'postgresql@*'.")


def put_back(settings: Settings, journal: dict) -> None:
    """Let the old cluster serve again; what was fetched goes.

    Where the new one has its place already, it was found to be well, and stays.
    """
    aside = Path(journal["aside"])
    if aside.exists() and not settings.data.exists():
        aside.rename(settings.data)
    remove_fetched(settings)
    common.record(JOURNAL, {"step": "done", "stopped": common.now(), "result": "put back"})
    if not journal["was_running"]:
        return
    try:
        common.run(["systemctl", "start", settings.unit])
        wait_for_postgresql()
        applications.start(settings)
    except BackupError as error:
        print(f"What was there before does not start again: {error}", file=sys.stderr)


def remove_fetched(settings: Settings) -> None:
    """Remove what was fetched, also what a killed run has left."""
    stop_whoever_runs_on(settings, plans.beside(settings))
    shutil.rmtree(plans.beside(settings), ignore_errors=True)


def put_back_interrupted(settings: Settings) -> None:
    """Take back what a run that was killed has left."""
    journal = common.read(JOURNAL)
    if journal.get("step") == "replacing":
        pgbackrest("start")
        put_back(settings, journal)
    elif journal.get("step") == "starting":
        with contextlib.suppress(BackupError):  # it is about to be replaced
            common.run(["systemctl", "start", settings.unit])
            applications.start(settings)
    remove_fetched(settings)


def repository_of(settings: Settings, chosen: Plan) -> dict:
    """Return the repository that a plan takes the backup from."""
    return next(x for x in settings.repositories if x["number"] == chosen.repository)


def restore_files(settings: Settings, chosen: Plan) -> None:
    """Bring back the folders of the applications.

    An application may have left a link in a folder of its own, and restic writes through it. So
    what belongs to an application is written by its own user, who gets no further than it did.
    """
    repository = repository_of(settings, chosen)
    for app in settings.applications:  # whose folders may be gone
        folders = f"/etc/tmpfiles.d/{app['name']}.conf"
        subprocess.run(["systemd-tmpfiles", "--create", folders], capture_output=True)
    (known,) = json.loads(backup.restic(repository, "snapshots", "--json", chosen.snapshot))
    for path in known["paths"]:
        user = writer(settings, path)
        if user == "root":
            include = f"--include={path}"
            backup.restic(repository, "restore", chosen.snapshot, "--target=/", include)
        elif user:
            unpack_as(user, repository, chosen.snapshot, path)
        else:
            print(f"Not restored: {path}, which is no folder of an application here.")
    for app in settings.applications:
        # A release has its own copy of the key.
        key = Path("/etc", app["name"], "secret_key")
        for environment in Path("/srv", app["name"]).glob("releases/*/environment"):
            text = environment.read_text()
            if key.exists() and 'RELEASE_ID="' in text:
                line = f'SECRET_KEY="{key.read_text().strip()}"'
                given = SECRET.search((key.parent / "environment").read_text())
                if not given:
                    environment.write_text(SECRET.sub(lambda _, line=line: line, text))


def writer(settings: Settings, path: str) -> str:
    """Return who may write what is restored to a path: root to its own, or an application."""
    if path == str(backup.MEASURED) or path in [f"/etc/{x['name']}" for x in settings.applications]:
        return "root"
    for app in settings.applications:
        if path in app["folders"] or path in [str(Path(x).resolve()) for x in app["folders"]]:
            return app["name"]
    return ""


def unpack_as(user: str, repository: dict, of: str, path: str) -> None:
    """Write the content of a folder of a snapshot, as a user; same names are replaced.

    :raises BackupError: where it cannot be read or written.
    """
    dump = ["restic", "--quiet", "dump", of, path]
    unpack = ["tar", "--extract", "--preserve-permissions", "--no-same-owner", "--directory=/"]
    who = {"user": user, "group": user, "extra_groups": []}
    with tempfile.TemporaryFile("w+") as complaints:
        pipe = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": complaints}
        environment = backup.restic_environment(repository)
        with subprocess.Popen(dump, cwd="/", env=environment, **pipe) as source:
            ends = {"stdin": source.stdout, "stdout": complaints, "stderr": complaints}
            tar = subprocess.run(unpack, cwd="/", env={"PATH": os.defpath}, **who, **ends)
            source.stdout.close()
        if source.returncode or tar.returncode:
            complaints.seek(0)
            said = "\n".join(complaints.read().splitlines()[-common.MANY_LINES :])
            raise BackupError(common.explained(f"{path} cannot be restored as {user}:\n{said}"))


def replaced(settings: Settings) -> list[Path]:
    """List the clusters that restores have kept aside, also those of an earlier version."""
    return sorted(settings.data.parents[1].glob("*/main.replaced-*"))


def remove_replaced(settings: Settings) -> list[str]:
    """Delete the clusters that restores have kept aside; return them.

    :raises BackupError: while a restore needs one, or was interrupted.
    """
    with common.alone(0):
        if common.read(JOURNAL).get("step", "done") != "done":
            raise problem(
                "A restore was interrupted.",
                f"{common.STATE / JOURNAL}",
                "to remove what it kept aside once it is over.",
                "run the same restore again.",
            )
        aside = replaced(settings)
        for path in aside:
            shutil.rmtree(path)
    return [f"removed {path}" for path in aside]
