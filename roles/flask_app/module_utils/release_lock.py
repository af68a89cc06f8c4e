"""One run at a time releases an application: /srv/APP/release.lock says who, and what it plans.

A run is several phases, each a process of its own on the host. While a phase is at work it holds
the file with flock(2), so the kernel knows the truth; between phases the file's content counts:
the run that took it, and what it has planned and done.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.releases import ReleaseError, now

# Between two phases of a run lies a network transfer at most.
QUIET_SECONDS = 900
# How long the last phase of a dead run may still be at work on the host.
WAIT_SECONDS = 120


class LockHeldError(ReleaseError):
    """Another run holds the lock; `holder` is who."""

    def __init__(self, app: str, lock: dict, doing: str):
        holder = lock.get("holder", {})
        self.holder = holder
        super().__init__(
            f"{holder.get('user')}@{holder.get('host')} (process {holder.get('pid')}) is releasing "
            f"{app} since {lock.get('taken')}; {doing}.\n"
            f"Seen in: /srv/{app}/release.lock.\nAllowed: one run at a time.\n"
            "Fix: wait until it has ended. If you know that it is gone: "
            "ansible-playbook playbooks/unlock-application.yml"
        )


class ReleaseLock:
    """The lock file, while this process has it to itself."""

    def __init__(self, path: Path, app: str):
        self.path, self.app = path, app
        self.content = {}

    @contextlib.contextmanager
    def alone(self, wait_seconds: float) -> Iterator[ReleaseLock]:
        """Keep every other process from the lock file.

        :raises LockHeldError: where another phase is at work for longer than `wait_seconds`.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._flock(descriptor, time.monotonic() + wait_seconds)
            self.content = self._read()
            yield self
        finally:
            os.close(descriptor)

    def _flock(self, descriptor: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                content = self._read()
                if time.monotonic() > deadline:
                    doing = f"its phase {content.get('phase')} is at work"
                    raise LockHeldError(self.app, content, doing) from None
            time.sleep(0.2)

    def _read(self) -> dict:
        try:
            return json.loads(self.path.read_text() or "{}")
        except ValueError:  # read while it was written
            return {}

    def write(self, **facts) -> None:
        """Add to what stands in the lock."""
        self.content.update(facts, touched=time.time())
        with self.path.open("w") as file:  # in place: a new file would not be the one held
            file.write(json.dumps(self.content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the next run has to know what a power cut interrupted

    def take(self, holder: dict, gone: dict | None) -> str:
        """Make this run the one that releases.

        :param gone: the holder of a lock whose run is known to have ended.
        :returns: why the lock of another run was taken over, or "".
        :raises LockHeldError: where another run may still be at work.
        """
        before = self.content
        reason = ""
        if before and before["holder"] != holder:
            reason = self._why_stale() or ("that run is gone" if gone == before["holder"] else "")
            if not reason:
                raise LockHeldError(self.app, before, f"its last phase was {before.get('phase')}")
            reason = f"took over the lock of {name(before)}, taken {before['taken']}: {reason}"
        self.content = {}
        self.write(holder=holder, taken=now(), boot=boot_id())
        return reason

    def must_belong_to(self, holder: dict) -> None:
        """Refuse to go on where another run has taken over meanwhile."""
        if self.content.get("holder") != holder:
            raise ReleaseError(
                f"This run no longer holds the lock of {self.app}.\n"
                f"Seen in: {self.path}.\nAllowed: the run that took it.\nFix: run again."
            )

    def give_back(self) -> None:
        """Let the next run begin."""
        self.content = {}
        self.path.write_text("")

    def is_of_before_restart(self) -> bool:
        """Tell whether a run that held it went down together with the host."""
        return bool(self.content) and self.content.get("boot") != boot_id()

    def _why_stale(self) -> str:
        if self.is_of_before_restart():
            return "the host was restarted since"
        quiet = time.time() - self.content.get("touched", 0)
        if quiet > QUIET_SECONDS:
            return f"nothing has happened for {quiet / 60:.0f} minutes"
        return ""


def name(lock: dict) -> str:
    """Return how people call the run that holds a lock."""
    holder = lock["holder"]
    return f"{holder['user']}@{holder['host']} (process {holder['pid']})"


def boot_id() -> str:
    """Return what is different after each start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
