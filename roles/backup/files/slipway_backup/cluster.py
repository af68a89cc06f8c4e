"""A cluster of PostgreSQL, as Debian's tools know it."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from slipway_backup import common

CONFIGURATION = Path("/etc/postgresql")
PORT = 5432
PROGRAMS = Path("/usr/lib/postgresql")
FIRST_OID = 16384  # of what is not PostgreSQL's own


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

    @property
    def runs(self) -> bool:
        """Tell whether it runs."""
        return common.succeeds(["pg_ctlcluster", str(self.version), "main", "status"])

    @property
    def control(self) -> str:
        """Return a digest of its control file, which each start and each checkpoint changes."""
        return hashlib.sha256((self.data / "global/pg_control").read_bytes()).hexdigest()

    def starts(self, how: str) -> None:
        """Say whether it starts at boot: auto or manual."""
        (self.configuration / "start.conf").write_text(f"{how}\n")

    def drop(self) -> None:
        """Remove it, its settings and its log; also half of one."""
        subprocess.run(["systemctl", "stop", self.unit], capture_output=True)
        subprocess.run(["pg_dropcluster", "--stop", str(self.version), "main"], capture_output=True)
        for path in (self.data, self.configuration):
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # where there is another one of its version
            self.configuration.parent.rmdir()


def is_empty(data: Path) -> bool:
    """Tell whether nobody has put anything into a cluster; its package makes such a one."""
    names = [path.name for path in [*data.glob("base/*"), *data.glob("base/*/*")]]
    numbers = [int(name) for name in re.findall(r"\b\d+\b", " ".join(names))]
    return bool(numbers) and max(numbers) < FIRST_OID


def newest_installed() -> int:
    """Return the newest version whose server is installed."""
    return max(int(path.parent.parent.name) for path in PROGRAMS.glob("*/bin/postgres"))
