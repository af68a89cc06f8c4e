"""Where the releases of an application stand on its host, and what is known of each.

A release is a folder /srv/APP/releases/ID with `source`, `venv`, `environment`, `gunicorn.conf.py`,
`gunicorn.sock` (a symlink to where its instance listens) and, once it is complete, `release.json`.
The symlink /srv/APP/current is the one switch: nginx, people and the next run all follow it.
"""

from __future__ import annotations

import grp
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path


class ReleaseError(Exception):
    """A phase failed; its text is for the person who released."""


def run(command: list[str], shown: str = "", **options) -> str:
    """Run a command to its end and return its output.

    :param shown: what a message calls the command, if not by itself.
    :param options: options of subprocess.run.
    :raises ReleaseError: with the end of what it printed, where it fails or takes too long.
    """
    options.setdefault("stderr", subprocess.STDOUT)
    shown = shown or " ".join(command)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is not installed on this host.") from None
    except subprocess.TimeoutExpired as expired:
        raise ReleaseError(f"{shown} took more than {expired.timeout:.0f} s.") from None
    if done.returncode != 0:
        last_lines = "\n".join(done.stdout.strip().splitlines()[-30:])
        raise ReleaseError(f"{shown} ended with {done.returncode}:\n{last_lines}")
    return done.stdout


def text_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or "" where it is missing."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def replace_symlink(link: Path, target: Path | str) -> None:
    """Point a symlink elsewhere in one rename(2): nobody ever finds it missing."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


class Application:
    """The releases of one application on this host."""

    def __init__(self, name: str):
        self.name = name
        self.root = Path("/srv", name)
        self.configuration = Path("/etc", name)
        self.cache = Path("/var/cache", name)
        self.current_link = self.root / "current"

    def folder(self, release: str) -> Path:
        """Return the folder of a release, there or not."""
        return self.root / "releases" / release

    def unit(self, release: str) -> str:
        """Return the name of the systemd unit of a release."""
        return f"{self.name}@{release}.service"

    def socket(self, release: str) -> Path:
        """Return the Unix socket that the instance of a release listens on."""
        return Path("/run", self.name, f"{release}.sock")

    def current(self) -> str:
        """Return the release that serves, or "" before the first."""
        link = self.current_link
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def manifest(self, release: str) -> dict:
        """Return what was recorded when a release was built; empty for one that is not complete."""
        path = self.folder(release) / "release.json"
        return json.loads(path.read_text()) if release and path.exists() else {}

    def releases(self) -> list[str]:
        """List the releases on this host, complete or not, oldest first."""
        return sorted(path.name for path in (self.root / "releases").glob("*") if path.is_dir())

    def instances(self) -> list[str]:
        """List the releases whose instance runs, starts or has failed."""
        query = ["systemctl", "list-units", "--all", "--plain", "--no-legend", self.unit("*")]
        units = [line.split()[0] for line in run(query).splitlines()]
        return [unit.partition("@")[2].removesuffix(".service") for unit in units]

    def is_active(self, release: str) -> bool:
        """Tell whether the instance of a release runs."""
        question = ["systemctl", "--quiet", "is-active", self.unit(release)]
        return subprocess.run(question).returncode == 0

    def forget_failure(self, release: str) -> None:
        """Let systemd forget that an instance failed, where it did."""
        question = ["systemctl", "reset-failed", self.unit(release)]
        subprocess.run(question, stderr=subprocess.DEVNULL)

    def stop_all_but(self, release: str) -> list[str]:
        """Stop every other instance, now and at boot; return those that there were."""
        wants = Path("/etc/systemd/system", f"{self.name}.target.wants").glob(self.unit("*"))
        enabled = [path.name.partition("@")[2].removesuffix(".service") for path in wants]
        others = sorted({*enabled, *self.instances()} - {release})
        for other in others:
            run(["systemctl", "disable", "--now", "--quiet", self.unit(other)])
            self.forget_failure(other)
            self.socket(other).unlink(missing_ok=True)
        return others

    def journal(self, release: str, lines: int = 50) -> str:
        """Return the last lines that the instance of a release wrote."""
        command = ["journalctl", "--no-pager", "--output=cat", f"--lines={lines}"]
        return run([*command, f"--unit={self.unit(release)}"]).strip()

    def remove(self, release: str) -> None:
        """Stop a release's instance and delete its folder, its socket and its source archive."""
        stop = ["systemctl", "disable", "--now", "--quiet", self.unit(release)]
        subprocess.run(stop, stderr=subprocess.DEVNULL)
        self.forget_failure(release)
        folder = self.folder(release)
        # The manifest first: a folder that is half deleted is then seen to be incomplete.
        (folder / "release.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        self.socket(release).unlink(missing_ok=True)
        folder.with_name(f"{release}.tar.gz").unlink(missing_ok=True)

    def remove_incomplete(self) -> list[str]:
        """Remove what an interrupted run left behind; return the releases concerned."""
        complete = {release for release in self.releases() if self.manifest(release)}
        packed = (self.root / "releases").glob("*.tar.gz")
        archives = {path.name.removesuffix(".tar.gz") for path in packed}
        incomplete = sorted((set(self.releases()) | archives) - complete - {self.current()})
        for release in incomplete:
            self.remove(release)
        return incomplete

    def owner(self) -> tuple[int, int]:
        """Return the user and group id of the application's system user."""
        return pwd.getpwnam(self.name).pw_uid, grp.getgrnam(self.name).gr_gid

    def run_in_release(
        self, release: str, command: list[str], timeout_seconds: float, **environment: str
    ) -> str:
        """Run a command as the application, in its folder and with its environment.

        :param environment: variables beside those of the release.
        :returns: what it printed.
        :raises ReleaseError: where it fails or takes too long.
        """
        folder = self.folder(release)
        settings = {
            "User": self.name,
            "Group": self.name,
            "WorkingDirectory": folder / "source",
            "EnvironmentFile": folder / "environment",
            "NoNewPrivileges": "yes",
            "PrivateTmp": "yes",
            "ProtectHome": "yes",
            "ProtectSystem": "strict",
            "RuntimeMaxSec": int(timeout_seconds),
            "StateDirectory": self.name,
            "StateDirectoryMode": "0750",
            "UMask": "0027",
        }
        environment = {"PATH": f"{folder}/venv/bin:/usr/bin:/bin", **environment}
        properties = [f"--property={key}={value}" for key, value in settings.items()]
        variables = [f"--setenv={key}={value}" for key, value in environment.items()]
        unit = f"--unit={self.name}-task-{time.time_ns()}"
        wait = ["systemd-run", "--quiet", "--collect", "--pipe", "--wait", unit]
        # env finds the command in the release's own PATH; systemd-run would look in root's.
        command_line = [*wait, *properties, *variables, "/usr/bin/env", *command]
        return run(command_line, shown=" ".join(command), timeout=timeout_seconds + 10)
