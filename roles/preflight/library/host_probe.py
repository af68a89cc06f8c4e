#!/usr/bin/python
"""Look at a host without changing it: apt, clock, disk, ports and database clusters."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
import socket
import struct
import time
from pathlib import Path
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule

APT_LOCKS = [
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
]
FIRST_BOOT = Path("/run/cloud-init")
PORT_OF_SCHEME = {"http": 80, "https": 443}
LISTENING = "0A"  # state column of /proc/net/tcp


def lock_holder(path: str) -> str:
    """Name who holds an apt lock.

    :param path: a lock file of apt or dpkg.
    :returns: `PID COMMAND`, or "" where nobody does.
    """
    if not os.path.exists(path):
        return ""
    request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    with open(path, "rb") as lock:
        answer = struct.unpack("hhqqi", fcntl.fcntl(lock, fcntl.F_GETLK, request))
    if answer[0] == fcntl.F_UNLCK:
        return ""
    command = Path(f"/proc/{answer[4]}/comm")
    return f"{answer[4]} {command.read_text().strip() if command.exists() else '?'}"


def apt_users() -> list[str]:
    """Name everybody who uses apt now: holders of its locks, and a first boot under way."""
    ended = any((FIRST_BOOT / end).exists() for end in ("result.json", "disabled"))
    booting = FIRST_BOOT.exists() and not ended
    return [holder for holder in map(lock_holder, APT_LOCKS) if holder] + ["cloud-init"] * booting


def wait_for_apt(seconds: int) -> str:
    """Wait until nobody uses apt, at most some seconds; return who still does, or ""."""
    deadline = time.monotonic() + seconds
    while users := apt_users():
        if time.monotonic() >= deadline:
            return users[0]
        time.sleep(2)
    return ""


def unreachable_sources(module: AnsibleModule, proxy: str) -> list[str]:
    """List the apt servers (or the proxy before them) that accept no connection within 5 s."""
    _, output, _ = module.run_command(["apt-get", "update", "--print-uris"])
    sources = [line.split("'")[1] for line in output.splitlines() if line.startswith("'")]
    targets = map(urlsplit, [proxy] if proxy else sources)
    unreachable = {}
    for target in targets:
        if target.scheme not in PORT_OF_SCHEME or target.hostname in unreachable:
            continue
        try:
            port = target.port or PORT_OF_SCHEME[target.scheme]
            socket.create_connection((target.hostname, port), timeout=5).close()
        except OSError as error:
            unreachable[target.hostname] = f"{target.hostname}: {error}"
    return sorted(unreachable.values())


def listeners(ports: list[int]) -> list[dict]:
    """Tell who listens on the given TCP ports: port, user and, as far as it shows, command."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == LISTENING and port in ports:
                command = command_of(f"socket:[{fields[9]}]", int(fields[7]))
                found[port] = {"port": port, "user": user_name(int(fields[7])), "command": command}
    return list(found.values())


def command_of(listener: str, uid: int) -> str:
    """Return the name of the program of a user that holds a socket, or "?" where it is hidden."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            held = process.stat().st_uid == uid and any(
                os.readlink(descriptor) == listener for descriptor in (process / "fd").iterdir()
            )
            if held:
                return (process / "comm").read_text().strip()
        except OSError:
            continue  # it has just ended, or may not be looked into
    return "?"


def user_name(uid: int) -> str:
    """Return the name of a user id, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def home_of(user: str) -> str:
    """Return the home folder of a user, or "" where there is none of this name."""
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return ""


def clusters() -> list[dict]:
    """Return version, name and port of each PostgreSQL cluster of Debian's."""
    found = []
    for path in sorted(Path("/etc/postgresql").glob("*/*/postgresql.conf")):
        port = re.search(r"^\s*port\s*=\s*(\d+)", path.read_text(errors="replace"), re.MULTILINE)
        where = {"version": path.parts[-3], "name": path.parts[-2]}
        found.append({**where, "port": int(port[1]) if port else 5432})
    return found


def main() -> None:
    """Answer with what was seen; nothing is judged here."""
    module = AnsibleModule(
        argument_spec={
            "apt_wait_seconds": {"type": "int", "required": True},
            "http_proxy": {"type": "str", "default": ""},
            "user": {"type": "str", "required": True},
            "ports": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    module.exit_json(
        changed=False,
        apt_user=wait_for_apt(module.params["apt_wait_seconds"]),
        apt_unreachable=unreachable_sources(module, module.params["http_proxy"]),
        epoch_seconds=time.time(),
        disk_free_mib={
            path: shutil.disk_usage(path).free // 2**20
            for path in ("/", "/srv", "/var")
            if os.path.isdir(path)
        },
        listeners=listeners(module.params["ports"]),
        home=home_of(module.params["user"]),
        postgresql_clusters=clusters(),
    )


if __name__ == "__main__":
    main()
