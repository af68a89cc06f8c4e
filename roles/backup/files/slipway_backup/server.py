"""A PostgreSQL of our own on a restored data directory, which nobody else can reach."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import time
from pathlib import Path

from slipway_backup import common
from slipway_backup.common import BackupError, Settings, problem, psql

HBA = "local all postgres peer\n"
# Whatever the restored cluster has been told: it archives nothing, and nobody comes in.
PRIVATE = {
    "archive_mode": "off",
    "external_pid_file": "",
    "listen_addresses": "",
    "log_destination": "stderr",
    "logging_collector": "off",
    "ssl": "off",
    "cluster_name": "slipway-restore",
}
# For a scratch cluster beside the one that serves.
SMALL = {
    "autovacuum": "off",
    "fsync": "off",
    "hot_standby": "off",
    "huge_pages": "off",
    "maintenance_work_mem": "16MB",
    "max_connections": "10",
    "max_parallel_workers": "0",
    "max_parallel_workers_per_gather": "0",
    "max_wal_size": "128MB",
    "shared_buffers": "32MB",
    "shared_preload_libraries": "",
}


class Server:
    """It runs from `start` to `stop`; its log is what an error tells."""

    def __init__(self, settings: Settings, data: Path, room: Path, **options: str):
        """Use a folder `room` for socket, log and rules; `options` win over all other settings."""
        self.settings, self.data, self.room, self.options = settings, data, room, options
        self.process: subprocess.Popen | None = None
        self.reader: io.TextIOBase | None = None

    @property
    def log(self) -> Path:
        """Return its log."""
        return self.room / "log"

    def start(self, wait_seconds: float) -> None:
        """Start it, and return once it has reached its target and takes writes.

        :raises BackupError: where it ends before that.
        """
        shutil.rmtree(self.room, ignore_errors=True)
        self.room.mkdir(mode=0o700, parents=True)
        for name, text in (("hba", HBA), ("ident", ""), ("conf", "")):
            (self.room / name).write_text(text)
        options = {
            "unix_socket_directories": str(self.room),
            "hba_file": str(self.room / "hba"),
            "ident_file": str(self.room / "ident"),
            "config_file": str(self.room / "conf"),
            **PRIVATE,
            **self.options,
        }
        # Opened while the folder is root's: later its owner may put a link in the place of the log.
        log, self.reader = self.log.open("w"), self.log.open(errors="replace")
        shutil.chown(self.room, "postgres", "postgres")
        command = [self.settings.program("postgres"), "-D", str(self.data)]
        command += [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user="postgres",
                group="postgres",
                extra_groups=[],
            )
        deadline = time.monotonic() + wait_seconds
        while not self.takes_writes():
            if self.process.poll() is not None:
                raise self.failure()
            if time.monotonic() > deadline:
                self.stop()
                raise BackupError(f"Recovery took more than {wait_seconds:.0f} s.\n{self.said()}")
            time.sleep(0.2)

    def takes_writes(self) -> bool:
        """Tell whether recovery has ended."""
        try:
            return psql("SELECT pg_is_in_recovery()", socket=str(self.room)) == "f"
        except BackupError:
            return False

    def said(self) -> str:
        """Return the end of its log."""
        return "\n".join(self.written().splitlines()[-12:])

    def written(self) -> str:
        """Return its log."""
        self.reader.seek(0)
        return self.reader.read()

    def failure(self) -> BackupError:
        """Return why it ended by itself."""
        log = self.written()
        if "recovery ended before configured recovery target was reached" in log:
            last = re.findall(r"last completed transaction was at log time (.+)", log)
            until = f"; the last transaction that it holds is of {last[-1]}" if last else ""
            return problem(
                "The archive ends before the target.",
                f"PostgreSQL's recovery{until}",
                "a time or a restore point that the archive has reached.",
                "take an earlier time, or restore to the latest state.",
            )
        fatal = [line for line in log.splitlines() if re.search("FATAL|PANIC", line)]
        return problem(
            "The restored cluster does not start.",
            (fatal or ["its log"])[-1],
            "a backup and an archive that are whole.",
            f"read on in its log, of which this is the end:\n{self.said()}",
        )

    def stop(self) -> None:
        """Stop it cleanly."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(2)  # SIGINT is a fast shutdown
            try:
                self.process.wait(300)
            except subprocess.TimeoutExpired:
                self.process.send_signal(3)
                self.process.wait(60)
        self.process = None


def stop_whoever_runs_on(settings: Settings, data: Path) -> None:
    """Stop a PostgreSQL that a run of ours has left on a data directory."""
    if (data / "postmaster.pid").exists():
        stop = [settings.program("pg_ctl"), "stop", "--mode=fast", "--pgdata", str(data)]
        with contextlib.suppress(BackupError):
            common.as_postgres(stop)
