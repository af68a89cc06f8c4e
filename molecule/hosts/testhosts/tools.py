"""What images, containers and machines share: messages, the cache, ports, ssh."""

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slipway"
SSH_KEY = CACHE / "id_ed25519"
SSH_OPTIONS = (
    "-o", "BatchMode=yes",
    "-o", "ConnectTimeout=15",
    "-o", "IdentitiesOnly=yes",
    "-o", "LogLevel=ERROR",
    "-o", "StrictHostKeyChecking=no",
    "-o", "UserKnownHostsFile=/dev/null",
)  # fmt: skip

_started = time.monotonic()


class Problem(Exception):
    """What is wrong, and the one thing to do about it."""

    def __init__(self, what, fix):
        super().__init__(what)
        self.fix = fix


def progress(message):
    """Say what happens next, with the seconds since the start."""
    print(f"[{time.monotonic() - _started:6.1f} s] {message}", file=sys.stderr, flush=True)


def need(command, package):
    """Refuse to go on without a program."""
    if not shutil.which(command, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        raise Problem(f"{command} is not installed.", f"apt-get install {package}")


def as_root(*command):
    """Return the command as root runs it; without a terminal sudo must not ask."""
    if os.geteuid() == 0:
        return list(command)
    need("sudo", "sudo, or run this as root")
    return ["sudo", *([] if sys.stdin.isatty() else ["--non-interactive"]), *command]


@contextlib.contextmanager
def lock(name):
    """Let one process at a time do this; several hosts are made in parallel."""
    locks = CACHE / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    with open(locks / name, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def public_key():
    """Return our public key; the pair is made once per user."""
    with lock("ssh-key"):
        if not SSH_KEY.exists():
            need("ssh-keygen", "openssh-client")
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "slipway", "-f", SSH_KEY],
                check=True,
            )
    return SSH_KEY.with_suffix(".pub").read_text().strip()


def connection(name, settings):
    """Return how to reach a host, in the words of molecule's instance config."""
    return {
        "instance": name,
        "address": settings["address"],
        "port": settings["ssh_port"],
        "user": "root",
        "identity_file": str(SSH_KEY),
    }


def ssh_command(settings, *remote):
    """Return the command that runs a command on a host."""
    port = str(settings["ssh_port"])
    return [
        "ssh", *SSH_OPTIONS, "-i", str(SSH_KEY), "-p", port, f"root@{settings['address']}", *remote,
    ]  # fmt: skip


def ports_of(settings):
    """Return (address, port, port on the host) for everything that is published."""
    address = settings["address"]
    yield address, settings["ssh_port"], 22
    yield address, 80, 80
    yield address, 443, 443
    for published in filter(None, settings["publish"].split(",")):
        extra_address, port, inside = published.split(":")
        yield extra_address, int(port), int(inside)


def check_ports(settings):
    """Refuse before anything is created when a port is already taken."""
    for address, port, inside in ports_of(settings):
        if _port_is_taken(address, port):
            other = "choose another address"
            if inside == 22:
                other += ", or another --ssh-port (ssh_port of the platform)"
            raise Problem(
                f"{address}:{port} is already in use on this machine.",
                f"see who listens with: ss -ltnp 'sport = :{port}'; stop that, or {other}.",
            )


def _port_is_taken(address, port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except PermissionError:  # a port below 1024, and we are not root: ask by calling it
            return probe.connect_ex((address, port)) == 0
        except OSError:
            return True
    return False


def wait_until_ready(name, settings, seconds, still_running, log):
    """Return when ssh answers and systemd has started everything; refuse a degraded host."""
    deadline = time.monotonic() + seconds
    said = time.monotonic()
    state = ""
    while state == "":
        if not still_running():
            raise Problem(f"{name} stopped while it was starting.", f"read {log}")
        if time.monotonic() > deadline:
            raise Problem(f"{name} did not answer ssh within {seconds} s.", f"read {log}")
        if time.monotonic() - said > 10:
            said = time.monotonic()
            progress(f"{name}: waiting for ssh, {deadline - said:.0f} s left")
        if _ssh_listens(settings):
            seconds_left = max(1, deadline - time.monotonic())
            state = _ask(settings, seconds_left, "is-system-running", "--wait")
        else:
            time.sleep(0.3)
    if state == "degraded":
        failed = _ask(settings, 30, "list-units", "--state=failed", "--plain", "--no-legend")
        units = ", ".join(line.split()[0] for line in failed.splitlines())
        raise Problem(
            f"{name} started, but these units failed: {units}.",
            f"see why with: host exec {name} journalctl --boot --priority=warning",
        )
    if state != "running":
        raise Problem(f"{name} is '{state}' instead of 'running'.", f"read {log}")


def _ssh_listens(settings):
    """Say whether sshd greets; a port alone may be open before the host is there."""
    address = settings["address"], settings["ssh_port"]
    try:
        with socket.create_connection(address, timeout=3) as caller:
            return caller.recv(4) == b"SSH-"
    except OSError:
        return False


def _ask(settings, seconds, *systemctl):
    """Return what systemctl on the host prints; nothing when ssh does not answer (yet)."""
    try:
        answer = subprocess.run(
            ssh_command(settings, "systemctl", *systemctl),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return ""
    return answer.stdout.strip()
