#!/usr/bin/env python3
"""What a loss costs: seconds of writing that are gone, seconds until the database serves again.

On one fresh host made by site.yml, with a database of 10 MB and then of 1 GB, while a client
writes without a pause. The figures go to docs/backup.md; without `make`:

    .venv/bin/python tests/benchmarks/restore.py [--rounds N | --quick]
"""

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import (
    LIMIT_SECONDS,
    ROOT,
    BenchmarkError,
    fresh_host,
    inventory,
    main,
    play,
    say,
    spread,
    ssh,
    table,
)

COMMAND = "make bench-backup"
NAME, ADDRESS = "bench-backup", "127.0.24.31"
PAGE = ROOT / "docs/backup.md"
SIZES = {"10 MB": 10, "1 GB": 1000}
DATA = "/var/lib/postgresql/15/main"
PSQL = "psql --dbname=webapp -qAtX"
# A row of 100 bytes that do not compress well, as those of most applications.
FILL = """
DROP TABLE IF EXISTS filler;
CREATE TABLE filler AS SELECT n, md5(n::text) || md5((n + 1)::text) AS text
    FROM generate_series(1, {rows}) AS n;
CREATE TABLE IF NOT EXISTS written (at timestamptz);
"""
ROWS_PER_MB = 10200
WRITE_SECONDS = 75  # longer than archive_timeout
WRITER = "while :; do echo 'INSERT INTO written VALUES (clock_timestamp());'; sleep 0.02; done"
TOOK = re.compile(r"It took ([\d.]+) s, ([\d.]+) s of them without the database")


class Restored(NamedTuple):
    """What one restore took, and how much of what was written before the loss it did not have."""

    seconds: float
    down: float
    lost: float


class Figures(NamedTuple):
    """What was measured with a database of one size."""

    full: list[float]
    differential: list[float]
    bytes: list[int]
    drill: list[float]
    dropped: list[Restored]
    crashed: list[Restored]
    lost_disk: list[Restored]
    empty: list[Restored]


class Server:
    """The host, and what befalls it."""

    def __init__(self, host: dict, work: Path):
        self.host = host
        seconds = play(ROOT / "site.yml", inventory(work, host), {}, work / "site.log")
        say(f"site.yml took {seconds:.0f} s")

    def ask(self, command: str) -> str:
        """Run a shell command on the host and return what it prints."""
        done = subprocess.run(
            ssh(self.host, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
        )
        if done.returncode != 0:
            raise BenchmarkError(f"{command} ended with {done.returncode}\n{done.stderr}")
        return done.stdout.strip()

    def sql(self, query: str) -> str:
        """Ask the database as its superuser."""
        return self.ask(f'cd / && runuser -u postgres -- {PSQL} --command "{query}"')

    def fill(self, mb: int) -> None:
        """Make the database of a size, and begin anew with its backups."""
        self.wait()
        for query in FILL.format(rows=mb * ROWS_PER_MB).strip().split(";")[:-1]:
            self.sql(query.strip().replace("\n", " "))
        self.sql("CHECKPOINT")
        self.ask("slipway-backup remove-replaced")

    def write(self) -> None:
        """Start the client that writes."""
        self.ask(
            "systemctl reset-failed bench-writer 2>/dev/null; systemd-run --quiet "
            "--unit=bench-writer --uid=postgres --property=WorkingDirectory=/ "
            f'sh -c "({WRITER}) | {PSQL} -f -"'
        )

    def last_written(self) -> float:
        """Return the time of the last row that is there."""
        return float(self.sql("SELECT extract(epoch FROM max(at)) FROM written"))

    def timed(self, command: str) -> float:
        """Return the seconds of a command."""
        began = time.monotonic()
        self.ask(command)
        return time.monotonic() - began

    def backup(self, kind: str) -> tuple[float, int]:
        """Make a backup; return its seconds and bytes."""
        self.wait()
        seconds = self.timed(f"slipway-backup run {kind}")
        facts = json.loads(self.ask("cat /var/lib/slipway/backup/backup.json"))
        return seconds, facts["repository_bytes"]

    def wait(self) -> None:
        """Wait for the backup that follows a first run or a restore."""
        busy = "systemctl show --property=ActiveState --value slipway-backup | grep -q activating"
        self.ask(f"while {busy}; do sleep 0.5; done")

    def restore(self, options: str, lost_at: float) -> Restored:
        """Restore; return what it took, and the time between the loss and the last row."""
        told = TOOK.search(self.ask(f"slipway-backup restore --yes {options}"))
        lost = lost_at - self.last_written()
        self.wait()
        self.ask("slipway-backup remove-replaced")
        return Restored(float(told[1]), float(told[2]), max(lost, 0.0))

    def drop(self) -> Restored:
        """Drop a table, and go back to the moment before."""
        self.write()
        time.sleep(5)
        self.ask("systemctl stop bench-writer")
        moment = float(self.sql("SELECT extract(epoch FROM clock_timestamp())"))
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(moment))
        stamp += f"{moment % 1:.6f}"[1:]
        last = self.last_written()
        self.sql("DROP TABLE written")
        return self.restore(f"--time '{stamp}'", last)

    def crash(self, destroy: str) -> Restored:
        """Kill PostgreSQL while a client writes, destroy something, and restore."""
        self.write()
        time.sleep(WRITE_SECONDS)
        lost_at = float(
            self.ask(
                f"pkill -9 -o -u postgres postgres; date +%s.%N; {destroy}; "
                "systemctl stop bench-writer || :"
            ).splitlines()[0]
        )
        return self.restore("", lost_at)

    def empty(self) -> Restored:
        """Put a cluster of its own in the place of ours, as on a new server, and restore."""
        self.sql("SELECT pg_switch_wal()")
        self.ask("cd / && runuser -u postgres -- pgbackrest --stanza=main check")
        last = self.last_written()
        self.ask(
            "cd /; systemctl stop webapp.target postgresql@15-main && "
            f"rm -rf {DATA} /var/lib/slipway/backup/*.json && "
            f"runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -k -D {DATA} && "
            "systemctl start postgresql@15-main"
        )
        return self.restore("--files", last)


def few(values: list[float], digits: int = 1) -> str:
    """Write figures with their range, if there are several."""
    return spread(values, digits) if len(values) > 1 else f"{values[0]:.{digits}f}"


def measure_size(server: Server, mb: int, rounds: int) -> Figures:
    """Measure everything with a database of one size."""
    figures = Figures([], [], [], [], [], [], [], [])
    server.fill(mb)
    for number in range(rounds):
        seconds, size = server.backup("--full")
        figures.full.append(seconds)
        figures.bytes.append(size)
        figures.differential.append(server.backup("")[0])
        figures.drill.append(server.timed("slipway-backup drill"))
        figures.dropped.append(server.drop())
        figures.crashed.append(server.crash(f"mv {DATA}/global /root/global.$RANDOM"))
        figures.lost_disk.append(server.crash(f"rm -rf {DATA}"))
        figures.empty.append(server.empty())
        say(f"{mb} MB, round {number + 1} of {rounds}: {figures}")
    return figures


def section(results: dict[str, Figures], rounds: int, machine: str) -> str:
    """Write our section of the page."""

    def row(title: str, shown) -> list[str]:
        return [title, *(shown(figures) for figures in results.values())]

    def restored(title: str, name: str) -> list[list[str]]:
        def of(field: str):
            return lambda figures: few([getattr(x, field) for x in getattr(figures, name)])

        return [
            row(f"{title}: until it serves again, s", of("seconds")),
            row("… of them without the database, s", of("down")),
            row("… seconds of writing lost", of("lost")),
        ]

    rows = [
        row("full backup, s", lambda figures: few(figures.full)),
        row("… its size in the repository, MB",
            lambda figures: few([size / 1e6 for size in figures.bytes], 0)),
        row("differential backup, s", lambda figures: few(figures.differential)),
        row("drill, s", lambda figures: few(figures.drill)),
        *restored("`DROP TABLE`, restored to the moment before", "dropped"),
        *restored("data directory damaged, its log still there", "crashed"),
        *restored("data directory and log deleted", "lost_disk"),
        *restored("an empty server, from the repository, with the files", "empty"),
    ]  # fmt: skip
    times = f"Median [minimum-maximum] of {rounds}." if rounds > 1 else "Each was done once."
    return f"""## Measured

`{COMMAND}` on {machine}.

In a Debian 12 container, the repository on the same disk, while a client writes some 40 rows a
second until the loss. {times} With PostgreSQL's own log gone too, what was written
since the last segment is lost: 60 s (`postgresql_archive_timeout_seconds`) and the time it takes to
archive that.

{table(["", *results], rows)}"""


def measured(rounds: int, machine: str, write: bool) -> str:
    """Measure, and return our section of the page; the quick form has the small database alone."""
    sizes = list(SIZES.items()) if write else list(SIZES.items())[:1]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        fresh_host(NAME, ADDRESS) as host,
    ):
        server = Server(host, Path(folder))
        results = {name: measure_size(server, mb, rounds) for name, mb in sizes}
    return section(results, rounds, machine)


if __name__ == "__main__":
    main("backup", __doc__, measured, page=PAGE, rounds=1)
