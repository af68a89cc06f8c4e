"""Test hosts as containers: rootful podman, with systemd as process 1."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

from . import image
from .tools import (
    Problem,
    check_ports,
    lock,
    ports_of,
    progress,
    public_key,
    wait_until_ready,
)

PODMAN = str(Path(__file__).parents[1] / "podman")
NETWORK = "slipway"
# On the machine a host is 127.0.x.y; among the hosts the same one is 10.127.x.y.
SUBNET, GATEWAY = "10.127.0.0/16", "10.127.0.1"
START_SECONDS = 60
GIVE_KEY = 'umask 077; mkdir -p ~root/.ssh; echo "$1" >~root/.ssh/authorized_keys'


def podman(*arguments, check=True):
    """Run podman and return what it prints."""
    done = subprocess.run([PODMAN, *arguments], capture_output=True, text=True)
    if check and done.returncode != 0:
        what, _, fix = done.stderr.strip().partition("\nFix: ")  # from the wrapper
        raise Problem(
            what.removeprefix("Problem: ") if fix else f"podman {arguments[0]} failed:\n{what}",
            fix or f"repeat it by hand: {PODMAN} {shlex.join(arguments)}",
        )
    return done.stdout.strip()


def image_recipe(name):
    """Return which recipe an image is from; None if there is no such image."""
    images = podman("images", f"--filter=reference={name}", "--format=json")
    return next((i["Labels"].get("slipway.recipe") for i in json.loads(images)), None)


def import_image(name, tarball, recipe):
    """Make an image of a root file system, in place of the one before."""
    podman(
        "import", "--quiet", "--change=CMD /sbin/init", f"--change=LABEL slipway.recipe={recipe}",
        str(tarball), name,
    )  # fmt: skip
    podman("image", "prune", "--force", "--filter=label=slipway.recipe")  # the replaced one


def find():
    """Return {name: (settings, state)} of our containers, and of nobody else's."""
    listed = podman("ps", "--all", "--filter=label=slipway.host", "--format=json")
    found = {}
    for one in json.loads(listed or "[]"):
        settings = {"kind": "container", "vcpus": None}
        settings |= json.loads(one["Labels"]["slipway.settings"])
        found[one["Labels"]["slipway.host"]] = (settings, one["State"])
    return found


def create(name, settings):
    """Create a container and wait until it is ready."""
    image_name = image.ensure_container_image(settings["suite"])
    ensure_network()
    with lock("ports"):
        check_ports(settings)
        progress(f"{name}: starting a {settings['suite']} container on {settings['address']}")
        try:
            podman("run", *run_arguments(name, settings), image_name, "/sbin/init")
        except Problem:
            podman("rm", "--force", f"slipway-{name}", check=False)
            raise
    podman("exec", f"slipway-{name}", "sh", "-c", GIVE_KEY, "sh", public_key())
    wait(name, settings)


def run_arguments(name, settings):
    """Yield the arguments of podman run."""
    yield "--detach"
    yield f"--name=slipway-{name}"
    yield f"--hostname={name}"
    yield f"--label=slipway.host={name}"
    yield f"--label=slipway.settings={json.dumps(settings, sort_keys=True)}"
    yield f"--network={NETWORK}:ip={settings['address'].replace('127.0.', '10.127.')}"
    for address, port, inside in ports_of(settings):
        yield f"--publish={address}:{port}:{inside}"
    if settings["memory_mib"] and memory_can_be_limited():
        yield f"--memory={settings['memory_mib']}m"
    yield "--shm-size=2g"  # a machine has half of its memory; podman's 64 MB stop parallel queries
    yield "--systemd=always"
    # What hardened units need: their own mounts. nftables needs the second one; to tell the kernel
    # which pages of another process it may take needs the last two.
    yield "--cap-add=SYS_ADMIN,NET_ADMIN,SYS_NICE,SYS_PTRACE"
    yield "--security-opt=apparmor=unconfined"


def ensure_network():
    """Create the network that joins the hosts, unless it is there."""
    with lock("network"):
        networks = podman("network", "ls", "--filter=label=slipway.network", "--quiet")
        if NETWORK not in networks.split():
            podman(
                "network", "create", "--disable-dns", f"--subnet={SUBNET}", f"--gateway={GATEWAY}",
                "--label=slipway.network=1", NETWORK,
            )  # fmt: skip


def memory_can_be_limited():
    """Ask podman, and say so if not."""
    if "memory" in podman("info", "--format={{.Host.CgroupControllers}}"):
        return True
    progress("note: containers get no memory limit on this machine; a vm does")
    return False


def wait(name, settings):
    """Wait until a container is ready."""
    wait_until_ready(
        name, settings, START_SECONDS,
        still_running=lambda: find()[name][1] == "running",
        log=f"{PODMAN} exec slipway-{name} journalctl --boot",
    )  # fmt: skip


def start(name, settings):
    """Start a container, and wait until it is ready."""
    podman("start", f"slipway-{name}")
    wait(name, settings)


def stop(name, _settings):
    """Shut a container down."""
    podman("stop", "--time=30", f"slipway-{name}")


def kill(name):
    """Kill all that runs in a container, at once."""
    podman("stop", "--time=0", f"slipway-{name}")  # SIGKILL; after `kill` its address stays taken


def destroy(name):
    """Remove a container."""
    podman("rm", "--force", "--time=0", "--volumes", f"slipway-{name}")


def exec_command(name, _settings, command):
    """Return the command that runs a command in a container."""
    terminal = ["--tty"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    return [PODMAN, "exec", "--interactive", *terminal, f"slipway-{name}", *command]


def purge():
    """Remove all images, the network and the mount namespace."""
    images = podman("images", "--filter=label=slipway.recipe", "--quiet").split()
    if images:
        podman("rmi", "--force", *images)
    networks = podman("network", "ls", "--filter=label=slipway.network", "--quiet").split()
    if networks:
        podman("network", "rm", *networks)
    podman("leave-namespace")
