"""The demo: the real site.yml on a throwaway host of this computer."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from . import ROOT, setup
from .report import Problem, say, step

HOST = ROOT / "molecule/hosts/host"
# inventory/demo says so too; port 22 may belong to this computer's own sshd.
NAME, ADDRESS, SSH_PORT, SUITE = "demo", "127.0.11.1", "2222", "bookworm"
READY_SECONDS = 10


def up(port):
    """Make the host, converge it, and say what to type next."""
    setup.prepare("tools", "containers")
    site = f"http://127.0.0.1:{port}"
    if NAME not in hosts():
        refuse_busy_port(port)
    with step(f"Making the host {NAME} ({SUITE}), or starting it"):
        publish = f"127.0.0.1:{port}:80"
        command = [
            HOST, "create", NAME, "--suite", SUITE, "--address", ADDRESS,
            "--ssh-port", SSH_PORT, "--publish", publish,
        ]  # fmt: skip
        made = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if made.returncode != 0:
            sys.exit(made.returncode)  # It has told the problem and the fix, too.
    with step("ansible-playbook -i inventory/demo site.yml"):
        command = ["ansible-playbook", "-i", "inventory/demo", "site.yml"]
        if subprocess.run(command, cwd=ROOT, env=setup.environment()).returncode != 0:
            raise Problem(
                "ansible-playbook stopped; the failed task above says why.",
                "mend that and run make demo again: it goes on where it stopped.",
            )
    wait_until_ready(site)
    say(next_steps(site, json.loads(made.stdout)))


def hosts():
    """Return the names of the test hosts there are."""
    listed = subprocess.run([HOST, "list"], stdout=subprocess.PIPE, text=True)
    if listed.returncode != 0:
        sys.exit(listed.returncode)  # It has told the problem and the fix itself.
    return [line.split()[0] for line in listed.stdout.splitlines()]


def refuse_busy_port(port):
    """Stop before anything is made when another program serves there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Problem(
                f"port {port} of this computer is in use: {error.strerror}.",
                f"stop its program (sudo ss -ltnp 'sport = :{port}' names it), "
                f"or take another: make demo DEMO_PORT={port + 1}",
            ) from None


def wait_until_ready(site):
    """Return when the app says that it and its database are there."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{site}/health/ready", timeout=5):  # noqa: S310
                return
        except (OSError, urllib.error.HTTPError) as error:
            if time.monotonic() > deadline:
                raise Problem(
                    f"{site}/health/ready does not answer 200: {error}.",
                    f"read the log: {HOST.relative_to(ROOT)} exec {NAME} journalctl -n 50",
                ) from None
            time.sleep(0.5)


def next_steps(site, connection):
    """Return what to type next."""
    ssh = f"ssh -i {connection['identity_file']} -p {connection['port']}"
    options = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no"
    return f"""
Ready: {site}

  Look      curl {site}/version
  Write     curl --json '{{"name": "Ada"}}' {site}/users
  Log in    {ssh} {options} {connection["user"]}@{connection["address"]}
  Change    edit something in app/, then: make demo
  Remove    make demo-down
"""


def down():
    """Remove the host and its disk."""
    done = subprocess.run([HOST, "destroy", NAME])
    if done.returncode == 0:
        say("Its image and the tools stay for the next time; make clean removes them too.")
    return done.returncode
