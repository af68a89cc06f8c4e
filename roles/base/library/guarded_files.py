#!/usr/bin/python
"""Change what one logs in through, so that the old state comes back unless somebody confirms.

`begin` saves the files, starts a timer that restores them, writes, checks and applies; `confirm`
stops the timer; `restore` does at once what the timer would do later. The action plugin of the same
name logs in anew between the two. The restoring unit is enabled meanwhile: a reboot restores too.
Each step of each run, and the timer's, is alone on the host while it is at work.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import grp
import os
import pwd
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

GUARD = Path("/var/lib/slipway/guard")
TOKEN, SAVED, RESTORE = GUARD / "token", GUARD / "saved", GUARD / "restore"
UNIT = Path("/etc/systemd/system/slipway-guard.service")
WANTED = UNIT.parent / "multi-user.target.wants" / UNIT.name
TIMER = "slipway-guard.timer"
LOCK = Path("/run/slipway-guard.lock")
LOCK_SECONDS = 120  # more than a step takes

UNIT_TEXT = f"""\
# The settings that a run of Slipway has changed and not yet confirmed are put back, by the timer of
# the same name or at the next boot. Confirmed or put back, this unit is gone.
[Unit]
Description=Put back settings that nobody confirmed
DefaultDependencies=no
RequiresMountsFor={GUARD}
After=local-fs.target
Before=nftables.service ssh.service

[Service]
Type=oneshot
# Who may open the lock may hold it.
UMask=0077
# A run that hangs, or waits for ssh, which waits for this unit, does not keep the old state away.
ExecStart=/bin/sh -c 'flock --close --wait 10 {LOCK} sh {RESTORE} \\
    || [ ! -e {RESTORE} ] || sh {RESTORE}'
# Stopped while it waits: a run was faster.
SuccessExitStatus=SIGTERM
"""

RESTORE_HEAD = f"""\
# Put back what stood here before a change that nobody confirmed.
cd {GUARD} || exit 0
[ ! -e token ] || mv token restoring
[ -e restoring ] || exit 0
echo "nobody confirmed the new settings: the old ones come back"
"""
RESTORE_TAIL = f"""\
rm -f {WANTED} {UNIT}
systemctl daemon-reload
cd / && rm -rf {GUARD}
systemctl stop --no-block {TIMER}
"""


class RefusedError(Exception):
    """The host did not take the new settings; its text says why."""


def state(path: Path) -> tuple[str, int, str, str] | None:
    """Return content, mode, owner and group of a file, or None where there is none."""
    if not path.is_file():
        return None
    seen = path.stat()
    owner, group = pwd.getpwuid(seen.st_uid).pw_name, grp.getgrgid(seen.st_gid).gr_name
    return path.read_text(errors="replace"), seen.st_mode & 0o7777, owner, group


def wanted(options: dict, old: tuple[str, int, str, str] | None) -> tuple[str, int, str, str]:
    """Return the content, mode, owner and group that a file shall have.

    :param options: with `keep_lines`, lines that stand in the file stay, and ours are added.
    """
    lines = options["content"].rstrip("\n").splitlines()
    if options["keep_lines"] and old:
        present = old[0].splitlines()
        lines = present + [line for line in lines if line not in present]
    mode, owner, group = int(options["mode"], 8), options["owner"], options["group"]
    return "\n".join(lines) + "\n", mode, owner, group


def difference(path: Path, old: tuple | None, new: tuple) -> dict:
    """Return what changes, in the form that --diff prints."""
    before = old[0].splitlines(keepends=True) if old else []
    after = new[0].splitlines(keepends=True)
    lines = list(difflib.unified_diff(before, after, str(path), str(path)))
    if not lines:
        lines = [f"{path}: mode, owner, group {old[1:]} -> {new[1:]}\n"]
    return {"prepared": "".join(lines)}


def user_is_missing(name: str) -> bool:
    """Tell whether the host lacks a user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return True
    return False


class Guard:
    """One change, from the first look to the moment it is confirmed or taken back."""

    def __init__(self, module: AnsibleModule):
        self.module = module

    def succeeds(self, command: str) -> bool:
        """Tell whether a command ends with 0."""
        return self.module.run_command(command)[0] == 0

    def run(self, command: str | list[str]) -> None:
        """Run a command that must succeed.

        :raises RefusedError: with what it said.
        """
        code, out, error = self.module.run_command(command)
        if code != 0:
            shown = command if isinstance(command, str) else shlex.join(command)
            raise RefusedError(f"{shown} ended with {code}: {(out + error).strip()}")

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other run, and the timer, waiting outside."""
        descriptor = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self.flock(descriptor, time.monotonic() + LOCK_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def flock(self, descriptor: int, deadline: float) -> None:
        """Take the lock; fail where that does not succeed in time."""
        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    self.module.fail_json(
                        msg="Another run has been changing what one logs in through for more than "
                        f"{LOCK_SECONDS} s.\nSeen in: {LOCK}.\nAllowed: one run at a time.\n"
                        "Fix: wait until it has ended (lslocks shows its process), and run again."
                    )
            time.sleep(0.1)

    def another_waits(self) -> bool:
        """Tell whether another run's change is neither confirmed nor restored yet."""
        return RESTORE.exists() and self.succeeds(f"systemctl --quiet is-active {TIMER}")

    def stop_timer(self) -> None:
        """Stop the timer, and what it has started if that still waits for us."""
        self.module.run_command(f"systemctl stop {TIMER} {UNIT.name}")

    def save(self, paths: list[Path], command: str, undo: list[str]) -> str:
        """Save the present files and write the script that puts them back; return a token."""
        shutil.rmtree(GUARD, ignore_errors=True)
        GUARD.mkdir(mode=0o700, parents=True)
        _, output, _ = self.module.run_command(command) if command else (0, "", "")
        SAVED.write_text(output)
        script = RESTORE_HEAD
        for number, path in enumerate(paths):
            name = shlex.quote(str(path))
            if path.exists():
                shutil.copy2(path, GUARD / str(number))
                shutil.chown(GUARD / str(number), path.stat().st_uid, path.stat().st_gid)
                new = shlex.quote(str(path.with_name(f".{path.name}.old")))
                script += f"cp -a {number} {new} && mv -f {new} {name}\n"
            else:
                script += f"rm -f {name}\n"
        RESTORE.write_text(script + "".join(f"{line}\n" for line in undo) + RESTORE_TAIL)
        token = secrets.token_hex(16)
        TOKEN.write_text(token)
        os.sync()
        return token

    def start_timer(self, seconds: int) -> None:
        """Let the saved state come back by itself, after some seconds or at the next boot."""
        UNIT.write_text(UNIT_TEXT)
        WANTED.parent.mkdir(exist_ok=True)
        WANTED.unlink(missing_ok=True)
        WANTED.symlink_to(UNIT)
        self.run("systemctl daemon-reload")
        self.stop_timer()
        after = [f"--on-active={seconds}s", "--timer-property=AccuracySec=100ms"]
        self.run(["systemd-run", "--quiet", *after, f"--unit={UNIT.name}"])

    def write(self, path: Path, new: tuple[str, int, str, str], validate: str) -> None:
        """Put a file in its place by a rename, once its validator accepts it.

        :raises RefusedError: where it does not.
        """
        content, mode, owner, group = new
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        draft = GUARD / "draft"
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(content)
        if validate:
            self.run(validate.replace("%s", str(draft)))
        new_path = path.with_name(f".{path.name}.new")
        shutil.copyfile(draft, new_path)
        shutil.chown(new_path, owner, group)
        new_path.chmod(mode)
        os.replace(new_path, path)

    def begin(self, options: dict) -> dict:
        """Change what differs once another run's change is confirmed or restored.

        That takes `seconds` at most. A run that was killed has left its timer. If that is gone too,
        restore here.
        """
        if self.module.check_mode:
            return self.change(options)
        looks = options["seconds"] + 15
        while True:
            with self.alone():
                if looks == 0 or not self.another_waits():
                    self.restore()
                    return self.change(options)
            looks -= 1
            time.sleep(1)

    def change(self, options: dict) -> dict:
        """Change what differs, under guard; return whether something did, and the token."""
        users = [name for name in options["users"] if user_is_missing(name)]
        changes = {}
        for file in options["files"]:
            path = Path(file["dest"])
            old = state(path)
            new = wanted(file, old)
            if old != new:
                changes[path] = (old, new, file["validate"])
        in_force = not options["in_force"] or self.succeeds(options["in_force"])
        off = self.disabled(options["services"])
        guarded = bool(users or changes or not in_force)
        result = {
            "changed": guarded or bool(off),
            "files": sorted(map(str, changes)),
            "rewritten": sorted(str(path) for path, (old, _, _) in changes.items() if old),
            "guarded": guarded and not self.module.check_mode,
            "diff": [{"prepared": f"user {name}: made\n"} for name in users]
            + [difference(path, old, new) for path, (old, new, _) in changes.items()],
        }
        if self.module.check_mode:
            return result
        try:
            if guarded:
                result["token"] = self.save(list(changes), options["save"], options["undo"])
                self.start_timer(options["seconds"])
                make = ["useradd", "--create-home", "--key=HOME_MODE=0700", "--shell=/bin/bash"]
                for name in users:
                    # "*": no password, and not locked either, so that keys work everywhere.
                    self.run([*make, "--user-group", "--password=*", name])
                for path, (_, new, validate) in changes.items():
                    self.write(path, new, validate)
                for command in [*options["check"], *options["apply"]]:
                    self.run(command)
            else:
                self.enable(off)
        except (OSError, RefusedError) as problem:
            self.restore()
            self.module.fail_json(msg=str(problem), refused=True, **result)
        return result

    def disabled(self, services: list[str]) -> list[str]:
        """Return the services that do not start at boot."""
        question = "systemctl --quiet is-enabled"
        return [service for service in services if not self.succeeds(f"{question} {service}")]

    def enable(self, services: list[str]) -> None:
        """Let services start at boot; only what is confirmed does."""
        for service in services:
            self.run(f"systemctl enable --quiet {service}")

    def confirm(self, token: str, services: list[str]) -> dict:
        """Keep the new settings: stop the timer, forget the old ones."""
        with self.alone():
            return self.forget(token, services)

    def forget(self, token: str, services: list[str]) -> dict:
        """Forget the old settings, unless they are back already; another run's are let be."""
        if self.is_ours(token):
            self.stop_timer()
            if not self.is_ours(token):  # it was at work, and has been stopped
                self.restore()
        if not self.is_ours(token):
            self.module.fail_json(msg="the timer was faster", late=True)
        os.sync()  # whenever the power goes, the old state comes back, or the new one is whole
        TOKEN.unlink()
        WANTED.unlink(missing_ok=True)
        UNIT.unlink(missing_ok=True)
        self.module.run_command("systemctl daemon-reload")
        shutil.rmtree(GUARD)
        self.enable(self.disabled(services))
        return {"changed": True}

    def is_ours(self, token: str) -> bool:
        """Tell whether it is our change that waits to be confirmed."""
        return TOKEN.exists() and TOKEN.read_text() == token

    def take_back(self, token: str) -> dict:
        """Put the saved state back now, unless it is back, and another run's is saved."""
        with self.alone():
            if self.is_ours(token) or not TOKEN.exists():
                self.restore()
        return {"changed": True}

    def restore(self) -> None:
        """Put the saved state back now; nothing where there is none."""
        if RESTORE.exists():
            self.module.run_command(["/bin/sh", str(RESTORE)])


def main() -> None:
    """Do the step that the action plugin asks for."""
    file_options = {
        "dest": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "validate": {"type": "str", "default": ""},
        "keep_lines": {"type": "bool", "default": False},
    }
    commands = {"type": "list", "elements": "str", "default": []}
    module = AnsibleModule(
        argument_spec={
            "step": {"type": "str", "required": True, "choices": ["begin", "confirm", "restore"]},
            "token": {"type": "str", "no_log": False},
            "users": commands,
            "files": {"type": "list", "elements": "dict", "options": file_options, "default": []},
            "save": {"type": "str", "default": ""},
            "check": commands,
            "apply": commands,
            "undo": commands,
            "in_force": {"type": "str", "default": ""},
            "services": commands,
            "seconds": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    guard, options = Guard(module), module.params
    if options["step"] == "begin":
        result = guard.begin(options)
    elif options["step"] == "confirm":
        result = guard.confirm(options["token"], options["services"])
    else:
        result = guard.take_back(options["token"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
