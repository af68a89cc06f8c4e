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
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from slipway_backup import backup, common
from slipway_backup.common import BackupError, Settings, pgbackrest, problem
from slipway_backup.drill import need_space
from slipway_backup.server import Server, stop_whoever_runs_on

JOURNAL = "restore.json"
RESTORES = "restores.json"
KEPT_RESTORES = 100
UNITS = Path("/etc/systemd/system")
ROOM = Path("/run/slipway-restore")
RECOVERY_SECONDS = 12 * 3600
POINT_TIME = re.compile(r"(\d{8})[T-](\d{6})[DFIZ]$")
A_BACKUP = re.compile(r"backup-(\d{8}-\d{6}F\S*)$")  # the point that each backup has
UTC = timezone(timedelta())
SEGMENT = re.compile("[0-9A-F]{24}")
SECRET = re.compile(r"^SECRET_KEY=.*$", re.MULTILINE)


@dataclass
class Wanted:
    """What somebody asks for; nothing is the latest state."""

    time: str
    point: str
    repository: int
    files: bool


@dataclass
class Plan:
    """What will be done, and what is told of it."""

    repository: int
    label: str
    size_bytes: int
    target: list[str]
    moment: float | None
    snapshot: str
    text: str
    lost: dict[int, str]  # repositories that cannot be read, and why


def parse_time(text: str) -> float:
    """Return the seconds of a time that names its offset, or is in UTC.

    :raises BackupError: where it is no time, or lies ahead.
    """
    try:
        when = datetime.fromisoformat(
            re.sub(r"Z$", "+00:00", re.sub(r"([+-]\d\d)$", r"\1:00", text))
        )
    except ValueError:
        raise problem(
            f"{text!r} is no time.",
            "the target",
            "as 2026-11-22 14:03:20+00, or without an offset for UTC.",
            "write it so.",
        ) from None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    if when.timestamp() > time.time():
        raise problem(
            f"{text} lies ahead.",
            f"the host's clock: {common.now()}",
            "a time that is over.",
            "leave the time out for the latest state.",
        )
    return when.timestamp()


def point_time(name: str) -> float:
    """Return when a restore point was named, from its name.

    :raises BackupError: where the name does not tell.
    """
    found = POINT_TIME.search(name)
    if found is None:
        raise problem(
            f"{name!r} is no restore point of ours.",
            "the target",
            "a name as slipway-backup point printed it: NAME-20261122T140320Z.",
            "give the whole name, or a time.",
        )
    when = datetime.strptime("".join(found.groups()), "%Y%m%d%H%M%S")
    return when.replace(tzinfo=UTC).timestamp()


def plan(settings: Settings, wanted: Wanted) -> Plan:
    """Choose the backup; tell what will be done and lost. Nothing is changed.

    :raises BackupError: where there is no backup for what is wanted.
    """
    number = wanted.repository or settings.repositories[0]["number"]
    known = common.backups(common.info(number))
    moment = None
    if wanted.time:
        moment, target = parse_time(wanted.time), "time"
        stamp = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
        options = ["--type=time", f"--target={stamp}"]
    elif wanted.point:
        moment, target = point_time(wanted.point), f"restore point {wanted.point}"
        options = ["--type=name", f"--target={wanted.point}"]
    else:
        target, options = "latest state", ["--type=default"]
    # Whole seconds are known of the end of a backup: in doubt the one before it.
    fitting = [one for one in known if moment is None or one["timestamp"]["stop"] < moment - 1]
    if named := A_BACKUP.match(wanted.point):
        fitting = [one for one in known if one["label"] == named[1]]
    fitting = [one for one in fitting if not is_abandoned(one, moment or time.time())]
    if not fitting:
        first = common.as_time(known[0]["timestamp"]["stop"]) if known else "there is none"
        raise problem(
            f"There is no backup from before {wanted.time or wanted.point or 'now'}.",
            f"repository {number}; its first backup ended at {first}",
            "a moment after the end of the first backup.",
            "choose a later moment, or another repository.",
        )
    chosen = fitting[-1]
    if moment is not None:
        options += ["--target-action=promote", f"--target-timeline={time_line_at(moment)}"]
    stanza = common.info_of_readable()
    must_be_of_one_cluster(number, stanza)
    if lost := common.unreadable_of(stanza):
        # Else each segment that is in none would be waited for.
        get = f"pgbackrest --stanza={common.STANZA} --pg1-path={beside(settings)} --repo={number}"
        options.append(f'--recovery-option=restore_command={get} archive-get %f "%p"')
    must_have_no_spaces(number, chosen["label"])
    files = snapshot(settings, number, moment) if wanted.files else {"id": "", "time": ""}
    return Plan(
        repository=number,
        label=chosen["label"],
        size_bytes=chosen["info"]["size"],
        target=options,
        moment=moment,
        snapshot=files["id"],
        text="\n".join([told(settings, chosen, target, moment, files["time"]), *lost.values()]),
        lost=lost,
    )


def restores() -> list[dict]:
    """Return the restores of this host: `moment` that each went back to, `since` when it served."""
    return common.read(RESTORES).get("restores", [])


def is_abandoned(one: dict, moment: float) -> bool:
    """Tell whether a restore from before a moment went back to before a backup.

    The time line of that backup had ended then.
    """
    stop = one["timestamp"]["stop"]
    return any(
        past["moment"] and past["moment"] < stop < past["since"] < moment for past in restores()
    )


def time_line_at(moment: float) -> str:
    """Return the time line that was written to at a moment, as PostgreSQL calls it.

    Its own default is the newest, which is that of the last restore; and that may have left out
    what is wanted now.
    """
    past = [one for one in restores() if one["since"] < moment]
    return str(past[-1]["timeline"]) if past else "current"  # that of the backup


def must_be_of_one_cluster(number: int, stanza: dict) -> None:
    """Refuse a repository beside the chosen one that holds the backups of another cluster.

    The restored cluster archives into all of them.

    :raises BackupError: where there is one.
    """
    of = common.owners(stanza)
    for one in common.backups(stanza):
        other = one["database"]["repo-key"]
        if of.get(other) != of.get(number):
            raise problem(
                f"Repository {other} holds the backups of another cluster.",
                f"its backup {one['label']}",
                "repositories of one cluster, or empty ones.",
                "give it another place (backup_path, backup_s3), run site.yml, and restore then.",
            )


def must_have_no_spaces(number: int, label: str) -> None:
    """Refuse a backup with tablespaces, whose places this restore does not know.

    :raises BackupError: where it has one.
    """
    shown = json.loads(
        pgbackrest("info", "--output=json", f"--repo={number}", f"--set={label}"), strict=False
    )
    (one,) = shown[0]["backup"]
    if spaces := one.get("tablespace"):
        raise problem(
            "A restore of ours does not bring back tablespaces.",
            f"backup {label}: {', '.join(space['name'] for space in spaces)}",
            "a backup of pg_default alone.",
            "restore by hand, each to its place: pgbackrest restore --tablespace-map=NAME=PATH.",
        )


def told(settings: Settings, chosen: dict, target: str, moment, files_time: str) -> str:
    """Say what a restore would do, in lines for a person."""
    lines = [f"Restore to: {common.as_time(moment) if target == 'time' else target}"]
    stop = common.as_time(chosen["timestamp"]["stop"])
    size = chosen["info"]["size"] // 2**20
    lines.append(f"From: backup {chosen['label']}, ended {stop}, {size} MiB, and the archive")
    try:
        lines.append(f"Serving now: {common.shown_rows(common.measure())}")
    except BackupError:
        lines.append("Serving now: PostgreSQL does not answer")
    if moment is not None:
        minutes = (time.time() - moment) / 60
        lines.append(f"LOST: all that was written in the {minutes:.1f} minutes since then")
    else:
        lines.append("LOST: what has not reached the archive, if this cluster has stopped")
    if settings.data.exists():
        lines.append(f"Kept aside: the present cluster, as {settings.data}.replaced-TIME")
    if files_time:
        folders = [path for app in settings.applications for path in app["folders"]]
        lines.append(
            f"Files: {', '.join(folders)} as of {files_time[:19]}Z; same names are replaced"
        )
    apps = ", ".join(app["name"] for app in settings.applications) or "none"
    lines.append(f"Stopped meanwhile: PostgreSQL, applications: {apps}")
    return "\n".join(lines)


def restore(settings: Settings, wanted: Wanted, ask: bool) -> None:
    """Restore. It ends well only if the restored database serves.

    :raises BackupError: where it does not; then the former one serves, if it did before.
    """
    with common.alone(60):
        put_back_interrupted(settings)
        chosen = plan(settings, wanted)
        print(chosen.text, flush=True)
        if ask:
            confirm()
        began = time.time()
        if wanted.files:  # what they are now can be had back
            backup.back_up_files(settings, repository_of(settings, chosen))
        fetch(settings, chosen)
        stopped = time.time()
        replace(settings, chosen)
        facts = {"step": "done", "label": chosen.label}
        common.record(JOURNAL, {**facts, "stopped": common.now()})
        try:
            if wanted.files:
                restore_files(settings, chosen)
        finally:
            start_applications(settings)
        down = time.time() - stopped
        seconds = {"stopped": common.now(), "seconds": round(time.time() - began, 1)}
        common.record(JOURNAL, facts | seconds)
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


def beside(settings: Settings) -> Path:
    """Return where a cluster is fetched to."""
    return settings.data.with_name("main.restore")


def fetch(settings: Settings, chosen: Plan) -> None:
    """Fetch the backup beside the cluster that serves, which goes on."""
    place = beside(settings)
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
        stop_applications(settings)
        end_the_log()
        with without_archiving(bool(chosen.lost)):
            stop_postgresql(settings)
        recover(settings, chosen)
        change_names(settings, Path(journal["aside"]))
    except BaseException:  # Ctrl-C and a lost connection, too
        put_back(settings, journal)
        raise
    common.record(JOURNAL, {**journal, "step": "starting"})
    line = {"timeline": time_line_of(settings), "moment": chosen.moment, "since": time.time()}
    common.record(RESTORES, {"restores": [*restores(), line][-KEPT_RESTORES:]})
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


def change_names(settings: Settings, aside: Path) -> None:
    """Put the new cluster in the place of the old one."""
    if settings.data.exists():
        settings.data.rename(aside)
    beside(settings).rename(settings.data)


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
    new = beside(settings)
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


def units_of_applications(settings: Settings) -> list[str]:
    """List what serves and what runs by the clock."""
    names = [app["name"] for app in settings.applications]
    patterns = [pattern for name in names for pattern in (f"{name}.target", f"{name}-*.timer")]
    return sorted(path.name for pattern in patterns for path in UNITS.glob(pattern))


def stop_applications(settings: Settings) -> None:
    """Stop what writes."""
    if units := units_of_applications(settings):
        common.run(["systemctl", "stop", *units])


def start_applications(settings: Settings) -> None:
    """Start what serves; timers with it.

    :raises BackupError: where an application does not start.
    """
    instances = [f"{app['name']}@*.service" for app in settings.applications]
    # Else systemd refuses whatever has been started some times within a minute.
    subprocess.run(["systemctl", "reset-failed", *instances], capture_output=True)
    if units := units_of_applications(settings):
        common.run(["systemctl", "start", *units])
    failed = ["systemctl", "list-units", "--state=failed", "--plain", "--no-legend", *instances]
    if instances and (broken := common.run(failed).split()):
        raise BackupError(f"{broken[0]} does not start: journalctl --unit {broken[0]}")


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
        start_applications(settings)
    except BackupError as error:
        print(f"What was there before does not start again: {error}", file=sys.stderr)


def remove_fetched(settings: Settings) -> None:
    """Remove what was fetched, also what a killed run has left."""
    stop_whoever_runs_on(settings, beside(settings))
    shutil.rmtree(beside(settings), ignore_errors=True)


def put_back_interrupted(settings: Settings) -> None:
    """Take back what a run that was killed has left."""
    journal = common.read(JOURNAL)
    if journal.get("step") == "replacing":
        pgbackrest("start")
        put_back(settings, journal)
    elif journal.get("step") == "starting":
        with contextlib.suppress(BackupError):  # it is about to be replaced
            common.run(["systemctl", "start", settings.unit])
            start_applications(settings)
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


def snapshot(settings: Settings, number: int, moment: float | None) -> dict:
    """Return id and time of the newest snapshot of the files, of those from before a moment.

    :raises BackupError: where there is none.
    """
    repository = next(x for x in settings.repositories if x["number"] == number)
    known = json.loads(backup.restic(repository, "snapshots", "--json"))
    known.sort(key=lambda one: one["time"])
    fitting = [one for one in known if moment is None or parse_snapshot(one["time"]) <= moment]
    if not fitting:
        raise problem(
            "There is no backup of the files from before that time.",
            f"repository {number}; its first is of {known[0]['time'] if known else 'never'}",
            "a moment after the first backup.",
            "choose a later moment, or restore without --files.",
        )
    return fitting[-1]


def parse_snapshot(text: str) -> float:
    """Return the seconds of restic's time, which has nanoseconds."""
    return datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")).timestamp()


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
