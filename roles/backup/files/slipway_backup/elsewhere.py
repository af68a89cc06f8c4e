"""Keep a copy of the repository on another machine, by rsync over ssh, and bring it back.

What is copied is as encrypted as the repository. The order is such that the copy can be restored
whenever the line breaks: first what a list names, then the list, and only then what no list names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from slipway_backup import common
from slipway_backup.common import BackupError, Settings, problem

LOCK = Path("/run/slipway-backup-copy.lock")
KEY = Path("/etc/slipway/backup/ssh_key")
KNOWN_HOSTS = Path("/etc/slipway/backup/known_hosts")
MARK = "cluster.json"  # tells in the folder of the repository whose it is
RECORD = "copy.json"
LISTS = "backup.info*"  # pgBackRest's, of the backups that there are
UNFINISHED = "*.pgbackrest.tmp"
# What the folder holds, and whose it is here. It is these that are copied, not the folder: its mode
# is each machine's own.
OWNERS = {"pgbackrest": "postgres", "files": "root", "files.password": "root", MARK: "root"}
MEANINGS = (
    (r"Permission denied \(publickey|Permission denied, please",
     "The other machine refuses the key of this host.",
     "an account there with the line that `slipway-backup key` prints in its authorized_keys."),
    (r"Host key verification failed|REMOTE HOST IDENTIFICATION",
     "The other machine is not the one it should be.",
     "compare host_key of backup_ssh with /etc/ssh/ssh_host_ed25519_key.pub there."),
    (r"rsync: (command )?not found|rrsync: not found|rrsync: No such file",
     "The other machine has no rsync.",
     "apt-get install rsync there."),
    (r"No space left|\(28\)|Disk quota",
     "The disk of the other machine is full.",
     "free space there; what waits is sent by itself."),
    (r"Connection (refused|timed out|closed|reset)|Could not resolve|No route to host"
     r"|Network is unreachable|timeout|connection unexpectedly closed",
     "The other machine does not answer.",
     "its state, host and port of backup_ssh, and the firewalls between; what waits is sent by "
     "itself."),
)  # fmt: skip


def folder(settings: Settings) -> Path:
    """Return the folder that is copied."""
    return Path(next(one["path"] for one in settings.repositories if one["path"]))


def place(settings: Settings, name: str = "") -> str:
    """Return the folder on the other machine as rsync names it, or something in it."""
    ssh = settings.ssh
    return f"{ssh['user']}@{ssh['host']}:{ssh['path'].rstrip('/')}/{name}"


def rsync(settings: Settings, *words: str) -> str:
    """Run rsync over ssh.

    :raises BackupError: where it fails; it says what that means where that is known.
    """
    shell = ["ssh", "-F", "none", "-p", str(settings.ssh["port"]), "-i", str(KEY)]
    for option in (
        "BatchMode=yes",
        "ConnectTimeout=20",
        "IdentitiesOnly=yes",
        "ServerAliveInterval=15",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={KNOWN_HOSTS}",
    ):
        shell += ["-o", option]
    command = ["rsync", "--recursive", "--links", "--perms", "--times", "--timeout=120"]
    try:
        return common.run([*command, f"--rsh={shlex.join(shell)}", *words], shown="rsync")
    except BackupError as error:
        raise BackupError(explained(settings, str(error))) from None


def explained(settings: Settings, said: str) -> str:
    """Put the meaning of an error before it, where there is one."""
    for pattern, what, fix in MEANINGS:
        if found := re.search(f".*({pattern}).*", said):
            where = f"{place(settings)}: {found[0].strip()[: common.MANY_LETTERS]}"
            return str(problem(what, where, "a machine that takes the copy.", fix))
    return said


@contextlib.contextmanager
def one_at_a_time(wait_seconds: int) -> Iterator[None]:
    """Let nobody else copy meanwhile."""
    deadline = time.monotonic() + wait_seconds
    with open(LOCK, "a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise BackupError("A copy is at work: systemctl status slipway-copy.") from None
                time.sleep(1)
        yield


def mark(settings: Settings, system: int) -> None:
    """Write down whose repository it is."""
    path = folder(settings) / MARK
    text = json.dumps({"system": system}) + "\n"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def mark_here(settings: Settings) -> int | None:
    """Return whose the repository here is."""
    path = folder(settings) / MARK
    return json.loads(path.read_text())["system"] if path.exists() else None


def names_there(settings: Settings) -> list[str]:
    """Return what of ours is in the folder on the other machine."""
    listed = rsync(settings, "--no-recursive", "--dirs", "--list-only", place(settings))
    found = {line.split()[-1] for line in listed.splitlines() if line.strip()}
    return [name for name in OWNERS if name in found]


def mark_there(settings: Settings) -> int | None:
    """Return whose the copy is; None where there is none.

    :raises BackupError: where the other machine does not answer.
    """
    if MARK not in names_there(settings):
        return None
    with tempfile.TemporaryDirectory() as own:
        rsync(settings, place(settings, MARK), f"{own}/")
        return json.loads(Path(own, MARK).read_text())["system"]


def is_anothers(settings: Settings, system: int) -> bool:
    """Tell whether the copy is another cluster's; no, where nobody answers.

    Then this host is to take the place of the one that has made it.
    """
    with contextlib.suppress(BackupError):
        return mark_there(settings) not in (None, system)
    return False


def send(settings: Settings, *options: str) -> str:
    """Send what is new."""
    ours = [str(folder(settings) / name) for name in OWNERS if (folder(settings) / name).exists()]
    return rsync(settings, f"--exclude={UNFINISHED}", *options, *ours, place(settings))


def bring_up_to_date(settings: Settings, *options: str) -> None:
    """Send all but the lists, which name only what is there already."""
    send(settings, f"--exclude={LISTS}", *options)


def finish(settings: Settings) -> None:
    """Send the lists too, and remove what they name no more. No backup may be at work."""
    bring_up_to_date(settings)
    if any(folder(settings).glob("pgbackrest/backup/*/backup.info")):
        send(settings, "--delete-after")


def copy(settings: Settings, repair: bool = False) -> None:
    """Copy; while a backup is made, the archive alone. Write down how it went.

    Who asks while the timer's copy is at work gets one of their own, with what is new since.
    """
    with one_at_a_time(600):
        began = common.now()
        facts = {"copied": common.read(RECORD).get("copied", "")}
        try:
            must_be_ours(settings)
            bring_up_to_date(settings, *(["--checksum"] if repair else []))
            try:
                with common.alone(0):
                    finish(settings)
            except BackupError as error:
                if "is at work" not in str(error):
                    raise
            facts = {"result": "ok", "copied": began}
        except BackupError as error:
            facts |= {"result": "failed", "error": str(error)}
            raise
        finally:
            common.record(RECORD, {"stopped": common.now(), **facts})


def must_be_ours(settings: Settings) -> None:
    """Refuse to write over the copy of another cluster; say there whose it is from now on.

    :raises BackupError: where it is another's, or there is nothing to copy.
    """
    here, there = mark_here(settings), mark_there(settings)
    if there is not None and here != there:
        raise problem(
            "The copy on the other machine is of another cluster.",
            place(settings),
            "an empty folder, or the copy of this cluster.",
            "playbooks/restore-database.yml -e backup_restore_fetch=true to take that one over, "
            "or another path or user in backup_ssh.",
        )
    if here is None:
        raise problem(
            "There is no repository to copy.",
            str(folder(settings)),
            "one that slipway-backup prepare has made.",
            "ansible-playbook site.yml; then slipway-backup prepare says what is wrong.",
        )
    if there is None:
        rsync(settings, str(folder(settings) / MARK), place(settings))


def prove(settings: Settings) -> None:
    """Compare each byte of the copy with the repository here, which has just been proved.

    :raises BackupError: where they differ.
    """
    with one_at_a_time(1800):
        must_be_ours(settings)
        finish(settings)
        told = send(settings, "--dry-run", "--checksum", "--itemize-changes")
    # A file that is new has come into the archive since.
    damaged = [line.split(maxsplit=1)[1] for line in told.splitlines()
               if line.startswith("<f") and "+++++" not in line]  # fmt: skip
    if damaged:
        raise problem(
            "The copy on the other machine is damaged.",
            f"{place(settings)}: {', '.join(damaged[:3])}",
            "files as they are here.",
            "slipway-backup copy --repair; then look at the disk there.",
        )


def fetch(settings: Settings) -> str:
    """Bring the copy here, in the place of a repository without a backup.

    :raises BackupError: where the one here has backups, or there is no copy.
    """
    if not settings.ssh:
        raise problem("There is no other machine.", "backup_ssh", "a machine with a copy.",
                      "set it, and run site.yml.")  # fmt: skip
    path = folder(settings)
    with common.alone(60), one_at_a_time(60):
        if held := sorted(one.name for one in path.glob("pgbackrest/backup/main/*F")):
            raise problem(
                "The repository here holds backups.",
                f"{path}: {held[-1]}",
                "one without a backup, as on a new server.",
                f"if they are of no use: mv {path} {path}.aside, run site.yml, and again.",
            )
        if mark_there(settings) is None:
            raise problem(
                "There is no copy on the other machine.",
                place(settings),
                "a folder that slipway-backup copy has filled.",
                "correct path and user of backup_ssh.",
            )
        for name in ("pgbackrest", "files"):
            shutil.rmtree(path / name, ignore_errors=True)
        names = names_there(settings)
        rsync(settings, *(place(settings, name) for name in names), f"{path}/")
        for name in names:
            owner = OWNERS[name]
            common.run(["chown", "--recursive", f"{owner}:{owner}", str(path / name)])
    return f"Full backups that are here now: {len(list(path.glob('pgbackrest/backup/main/*F')))}"


def line_for_key() -> str:
    """Return the line for authorized_keys there, which allows nothing but copies."""
    key = KEY.with_suffix(".pub").read_text().strip()
    return f'restrict,command="/usr/bin/rrsync FOLDER" {key}'
