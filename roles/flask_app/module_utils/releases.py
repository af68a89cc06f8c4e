"""Where the releases of an application stand on its host, and what is known of each.

A release is a folder /srv/APP/releases/ID with `source`, `venv`, `environment`, `gunicorn.conf.py`,
`gunicorn.sock` (a symlink to where its instance listens) and `release.json`. The symlink
/srv/APP/current is the one switch: nginx, people and the next run all follow it.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import json
import os
import pwd
import shutil
import subprocess
import syslog
import time
from pathlib import Path

SYSTEMD = Path("/etc/systemd/system")


class ReleaseError(Exception):
    """A phase failed; its text is for the person who released."""


def run(command: list[str], shown: str = "", **options) -> str:
    """Run a command to its end and return its output.

    :param shown: what a message calls the command, if not by itself.
    :param options: options of subprocess.run.
    :raises ReleaseError: with the end of what it printed, where it fails or takes too long.
    """
    options.setdefault("stderr", subprocess.STDOUT)
    options.setdefault("stdout", subprocess.PIPE)
    shown = shown or " ".join(map(str, command))
    try:
        done = subprocess.run(command, text=True, **options)
    except FileNotFoundError:
        raise ReleaseError(f"{command[0]} is not installed on this host.") from None
    except subprocess.TimeoutExpired as expired:
        raise ReleaseError(f"{shown} took more than {expired.timeout:.0f} s.") from None
    if done.returncode != 0:
        said = (done.stdout or "") + (done.stderr or "")
        last_lines = "\n".join(said.strip().splitlines()[-30:])
        raise ReleaseError(f"{shown} ended with {done.returncode}:\n{last_lines}")
    return done.stdout or ""


def text_hash(*paths: Path) -> str:
    """Return the SHA-256 over the content of files; a missing one counts as empty."""
    return content_hash(*(path.read_bytes() if path.exists() else b"" for path in paths))


def content_hash(*contents: bytes) -> str:
    """Return the SHA-256 over contents."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content + b"\0")
    return digest.hexdigest()


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in its place in one rename(2), and on the disk before that."""
    new = path.with_name(f".{path.name}.new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def write_text(path: Path, text: str, mode: int = 0o644) -> None:
    """Do the same with text."""
    write_bytes(path, text.encode(), mode)


def put_on_disk(path: Path) -> None:
    """Have the disk hold all that was written to the file system of a path.

    Else a power cut within half a minute can leave files there that are empty.
    """
    run(["sync", "--file-system", str(path)])


def replace_symlink(link: Path, target: Path | str) -> None:
    """Point a symlink elsewhere in one rename(2): nobody ever finds it missing."""
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)


def now() -> str:
    """Return the time in UTC, as people and programs read it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Application:
    """The releases of one application on this host."""

    def __init__(self, name: str):
        self.name = name
        self.root = Path("/srv", name)
        self.configuration = Path("/etc", name)
        self.cache = Path("/var/cache", name)
        self.current_link = self.root / "current"
        self.log = Path("/var/log/slipway", f"{name}.log")

    # -- what there is

    def folder(self, release: str) -> Path:
        """Return the folder of a release, there or not."""
        return self.root / "releases" / release

    def archive(self, release: str) -> Path:
        """Return the packed source of a release, there or not."""
        return self.root / "releases" / f"{release}.tar.gz"

    def dump(self, release: str) -> Path:
        """Return the dump of the database from before the migration of a release, or its place."""
        return self.root / "dumps" / f"{release}.dump"

    def current(self) -> str:
        """Return the release that serves, or "" before the first."""
        link = self.current_link
        return os.path.basename(os.readlink(link)) if link.is_symlink() else ""

    def serving(self) -> str:
        """Return the release that serves.

        :raises ReleaseError: before the first.
        """
        if release := self.current():
            return release
        raise ReleaseError(
            f"{self.name} has no release yet.\nSeen in: {self.current_link}.\n"
            "Allowed: an application that was released.\n"
            "Fix: ansible-playbook playbooks/deploy-application.yml"
        )

    def manifest(self, release: str) -> dict:
        """Return what is recorded of a release; empty where nothing is."""
        path = self.folder(release) / "release.json"
        return json.loads(path.read_text()) if release and path.exists() else {}

    def built(self, release: str) -> str:
        """Return when a release was built; a restart gives it another name, but no other time."""
        return self.manifest(release).get("built", "")

    def record(self, release: str, /, **facts) -> None:
        """Add to what is recorded of a release."""
        manifest = {**self.manifest(release), **facts}
        write_text(self.folder(release) / "release.json", json.dumps(manifest, indent=2) + "\n")

    def folders(self) -> list[str]:
        """List the releases that have a folder, complete or not, oldest first."""
        return sorted(path.name for path in (self.root / "releases").glob("*") if path.is_dir())

    def releases(self) -> list[str]:
        """List the releases that have served, oldest first."""
        return [name for name in self.folders() if self.manifest(name).get("switched")]

    def owner(self) -> tuple[int, int]:
        """Return the user and group id of the application's system user."""
        return pwd.getpwnam(self.name).pw_uid, grp.getgrnam(self.name).gr_gid

    def as_owner(self, **options) -> dict:
        """Return the options with which a child process runs as the application's user."""
        user, group = self.owner()
        return {"user": user, "group": group, "extra_groups": [], "cwd": self.cache, **options}

    def write_log(self, **facts) -> None:
        """Add a line to the log of what was released, by whom and how it ended.

        For want of space it goes to the journal: what serves is not to fail for its log.
        """
        line = json.dumps({"time": now(), **facts})
        try:
            self.log.parent.mkdir(mode=0o755, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            with open(os.open(self.log, flags, 0o640), "a") as file:
                file.write(line + "\n")
        except OSError as error:
            syslog.syslog(syslog.LOG_WARNING, f"{self.log} was not written: {error}. {line}")

    # -- its units

    def unit(self, release: str, command: str = "") -> str:
        """Return the systemd unit of a release: its gunicorn, or one of its commands."""
        return f"{self.name}{'-' + command if command else ''}@{release}.service"

    def units(self, release: str) -> list[str]:
        """Return all units of a release; gunicorn first."""
        commands = self.manifest(release).get("commands", [])
        return [self.unit(release), *(self.unit(release, name) for name in commands)]

    def unit_files(self) -> list[Path]:
        """Return the unit files that a release runs under."""
        own = [*SYSTEMD.glob(f"{self.name}@.service"), *SYSTEMD.glob(f"{self.name}.socket")]
        sandbox = SYSTEMD.glob(f"{self.name}-.service.d/*.conf")
        return sorted([*own, *sandbox, *SYSTEMD.glob(f"{self.name}-*@.service")])

    def socket(self, release: str) -> Path:
        """Return the Unix socket that the instance of a release listens on."""
        return Path(os.readlink(self.folder(release) / "gunicorn.sock"))

    def new_socket(self, release: str) -> Path:
        """Return where a new release will listen: the role gunicorn decides, by its unit files."""
        is_shared = (SYSTEMD / f"{self.name}.socket").exists()
        return Path("/run", self.name, f"{'shared' if is_shared else release}.sock")

    def known_units(self) -> list[str]:
        """List the units of any release that run, start, have failed or start at boot."""
        patterns = [self.unit("*"), self.unit("*", "*")]
        query = ["systemctl", "list-units", "--all", "--plain", "--no-legend", *patterns]
        listed = {line.split()[0] for line in run(query).splitlines()}
        wants = SYSTEMD / f"{self.name}.target.wants"
        return sorted(listed | {path.name for pattern in patterns for path in wants.glob(pattern)})

    def is_active(self, release: str) -> bool:
        """Tell whether all units of a release run."""
        question = ["systemctl", "is-active", *self.units(release)]
        answer = subprocess.run(question, stdout=subprocess.PIPE, text=True).stdout
        return set(answer.split()) == {"active"}

    def signal(self, release: str, name: str) -> None:
        """Send a signal to the gunicorn of a release, if it runs."""
        command = ["systemctl", "kill", f"--signal={name}", self.unit(release)]
        subprocess.run(command, stderr=subprocess.DEVNULL)

    def stop(self, units: list[str], kill: bool = False) -> None:
        """Stop units, now and at boot, and let systemd forget that they failed.

        :param kill: do not wait for their requests: nobody was sent there.
        """
        if not units:
            return
        quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
        if kill:
            subprocess.run(["systemctl", "kill", "--signal=SIGKILL", *units], **quiet)
        subprocess.run(["systemctl", "stop", *units], **quiet)
        subprocess.run(["systemctl", "disable", "--quiet", *units], **quiet)
        subprocess.run(["systemctl", "reset-failed", *units], **quiet)
        for unit in units:
            # systemctl refuses to disable a unit whose file is gone.
            (SYSTEMD / f"{self.name}.target.wants" / unit).unlink(missing_ok=True)
            Path("/run", self.name, f"{release_of(unit)}.sock").unlink(missing_ok=True)

    def stop_all_but(self, release: str) -> list[str]:
        """Stop the units of every other release; return those that there were."""
        kept = self.units(release) if release else []
        others = [unit for unit in self.known_units() if unit not in kept]
        self.stop(others)
        return others

    def journal(self, release: str, lines: int = 50) -> str:
        """Return the last lines that the units of a release wrote."""
        units = [f"--unit={self.unit(release)}", f"--unit={self.unit(release, '*')}"]
        command = ["journalctl", "--no-pager", "--output=cat", f"--lines={lines}", *units]
        return run(command).strip()

    # -- taking away

    def remove(self, release: str) -> None:
        """Stop a release that nobody is sent to, and delete all that belongs to it."""
        self.stop([unit for unit in self.known_units() if release_of(unit) == release], kill=True)
        folder = self.folder(release)
        # The record first: a folder that is half deleted is then seen to be incomplete.
        (folder / "release.json").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        self.archive(release).unlink(missing_ok=True)

    def remove_incomplete(self) -> list[str]:
        """Remove what an interrupted run left behind; return the releases concerned.

        What a restart has replaced goes too, once nobody works in its folder any more.
        """
        archives = (self.root / "releases").glob("*.tar.gz")
        packed = {path.name.removesuffix(".tar.gz") for path in archives}
        incomplete = sorted({*self.folders(), *packed} - {*self.releases(), self.current()})
        left = [name for name in incomplete if self.manifest(name) or not self.is_in_use(name)]
        for release in left:
            self.remove(release)
        return left

    def is_in_use(self, release: str) -> bool:
        """Tell whether a process works in the folder of a release."""
        folder = self.folder(release).resolve()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                if Path(os.readlink(process / "cwd")).is_relative_to(folder):
                    return True
        return False

    def forget_downloads(self) -> None:
        """Remove the packages that were downloaded: a power cut may have left empty files there."""
        shutil.rmtree(self.cache / "uv", ignore_errors=True)

    def prune(self, keep: int) -> list[str]:
        """Remove releases beyond `keep`, and what only they needed; return them.

        Those that somebody has rolled back from go first, then the oldest; never the current one.
        """
        others = [release for release in self.releases() if release != self.current()]
        others.sort(key=lambda release: (not self.manifest(release).get("rolled_back"), release))
        pruned = others[: max(0, len(others) + 1 - keep)]
        for release in pruned:
            self.remove(release)
        kept = self.releases()
        for dump in (self.root / "dumps").glob("*"):
            if dump.stem < kept[0]:  # that of a release which failed may be needed all the more
                dump.unlink()
        commands = {name for release in kept for name in self.manifest(release)["commands"]}
        for path in SYSTEMD.glob(f"{self.name}-*@.service"):
            if path.name.removeprefix(f"{self.name}-").removesuffix("@.service") not in commands:
                path.unlink()
        return pruned

    # -- running something in a release

    def command_in_release(
        self, release: str, command: list[str], limits: dict[str, str], **environment: str
    ) -> list[str]:
        """Return what runs a command as the application, in its folder, environment and sandbox.

        It has the terminal of whoever runs it, or else their pipes.

        :param limits: further properties of its unit.
        :param environment: variables beside those of the release.
        """
        folder = self.folder(release)
        settings = {
            "User": self.name,
            "Group": self.name,
            "WorkingDirectory": folder / "source",
            "EnvironmentFile": folder / "environment",
            "StateDirectory": self.name,
            "StateDirectoryMode": "0750",
            **limits,
        }
        environment = {"PATH": f"{folder}/venv/bin:/usr/bin:/bin", **environment}
        properties = [f"--property={key}={value}" for key, value in settings.items()]
        variables = [f"--setenv={key}={value}" for key, value in environment.items()]
        unit = f"--unit={self.name}-task-{time.time_ns()}"  # the sandbox is that of APP-*
        wait = ["systemd-run", "--quiet", "--collect", "--pty", "--pipe", "--wait", unit]
        # env finds the command in the release's own PATH; systemd-run would look in root's. And to
        # systemd a $ begins a variable.
        words = [word.replace("$", "$$") for word in command]
        return [*wait, *properties, *variables, "/usr/bin/env", *words]

    def run_in_release(
        self, release: str, command: list[str], timeout_seconds: float, **environment: str
    ) -> str:
        """Run a command as the application, in its folder, environment and sandbox.

        :param environment: variables beside those of the release.
        :returns: what it printed.
        :raises ReleaseError: where it fails or takes too long.
        """
        limit = {"RuntimeMaxSec": str(int(timeout_seconds))}
        command_line = self.command_in_release(release, command, limit, **environment)
        shown, began = " ".join(command), time.monotonic()
        try:
            return run(command_line, shown=shown, timeout=timeout_seconds + 10)
        except ReleaseError:
            if time.monotonic() - began < timeout_seconds:
                raise
            raise ReleaseError(f"{shown} took more than {timeout_seconds:.0f} s.") from None

    def must_import(self, release: str, timeout_seconds: float) -> None:
        """Import a release as gunicorn will, before anything that serves depends on it.

        :raises ReleaseError: where it cannot be imported.
        """
        configuration = self.folder(release) / "gunicorn.conf.py"
        check = ["python", "-m", "gunicorn", "--check-config", "--config", str(configuration)]
        self.run_in_release(release, check, timeout_seconds)


def release_of(unit: str) -> str:
    """Return the release that a unit belongs to."""
    return unit.partition("@")[2].removesuffix(".service")
