"""Which backup a restore takes, to which moment, and what will be lost. Nothing is changed."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from slipway_backup import backup, common
from slipway_backup.common import BackupError, Settings, pgbackrest, problem

RESTORES = "restores.json"
POINT_TIME = re.compile(r"(\d{8})[T-](\d{6})[DFIZ]$")
A_BACKUP = re.compile(r"backup-(\d{8}-\d{6}F\S*)$")  # the point that each backup has
UTC = timezone(timedelta())


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


def beside(settings: Settings) -> Path:
    """Return where a cluster is fetched to."""
    return settings.data.with_name("main.restore")


def snapshot(settings: Settings, number: int, moment: float | None) -> dict:
    """Return id and time of the newest snapshot of the files, of those from before a moment.

    :raises BackupError: where there is none.
    """
    repository = next(x for x in settings.repositories if x["number"] == number)
    known = json.loads(backup.restic(repository, "snapshots", "--no-lock", "--json"))
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
