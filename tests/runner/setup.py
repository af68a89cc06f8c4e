"""Set-up: Debian packages, the tools in .venv, the app's own virtualenv."""

import glob
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import CACHE, ROOT, VENV
from .processes import stream
from .report import Problem, say, step

# Who needs it: {what must be there: the package that brings it}. A path may hold wildcards.
PACKAGES = {
    "tools": {
        "python:ensurepip": "python3-venv",
        "ssh": "openssh-client",
    },
    "containers": {
        "/usr/lib/podman/netavark": "netavark",
        "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
        "gpg": "gpg",
        "iptables": "iptables",
        "mmdebstrap": "mmdebstrap",
        "nft": "nftables",
        "podman": "podman",
    },
    "machines": {
        "mke2fs": "e2fsprogs",
        "qemu-img": "qemu-utils",
        "qemu-system-x86_64": "qemu-system-x86",
    },
    "lint": {
        "shellcheck": "shellcheck",
    },
    "pages": {
        "jq": "jq",
    },
    "pictures": {
        "dot": "graphviz",
    },
    "app": {  # and what the tests of make check run
        "rsync": "rsync",
        "/usr/lib/postgresql/*/bin/initdb": "postgresql",
    },
    "browser": {
        "chromedriver": "chromium-driver",
        "chromium": "chromium",
    },
}
# Needed by one scenario alone, which only `make test-all` runs.
RARELY = {"docs": "pages", "ops": "browser"}
# Who draws asks for "pictures".
EVERYTHING = [group for group in PACKAGES if group not in {"pictures", *RARELY.values()}]
# Where cgroups are mixed, molecule/hosts/containers.conf asks for this runtime.
if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
    PACKAGES["containers"]["runc"] = "runc"

APP_VENV = CACHE / "app-venv"
LOG = CACHE / "setup.log"
NETWORK_IS_DOWN = re.compile(
    r"temporary failure (in name resolution|resolving)|could not (connect|resolve)|dns error"
    r"|name or service not known|network is unreachable|connection (refused|timed out)"
    r"|error sending request|no route to host|proxyerror|tunnel error",
    re.IGNORECASE,
)
# PostgreSQL comes without the database that Debian would make and start on port 5432.
INSTALL = """
folder=/etc/postgresql-common/createcluster.d
trap 'rm "$folder/slipway.conf"; rmdir --parents --ignore-fail-on-non-empty "$folder"' EXIT
trap 'exit 130' INT TERM
mkdir --parents "$folder"
echo 'create_main_cluster = off' >"$folder/slipway.conf"
apt-get -o DPkg::Lock::Timeout=300 update || true  # Old lists may do.
export DEBIAN_FRONTEND=noninteractive
apt-get -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@"
"""
LOCKED = "# ---- locked by `make lock`: what those bring along ----\n"


def prepare(*groups):
    """Install what these groups need, and the tools. It is quick when all is there."""
    wanted = missing(groups)
    if wanted:
        install(wanted)
        still = missing(groups)
        if still:
            names = " ".join(still)
            raise Problem(
                f"apt-get installed {names}, but {', '.join(still.values())} is not there.",
                f"check PATH={os.environ['PATH']}, then: apt-get install --reinstall {names}",
            )
    make_virtualenv(VENV, ROOT / "requirements.txt")


def missing(groups):
    """Return {package: what it would bring} for whatever is not there."""
    return {
        package: thing
        for group in groups
        for thing, package in PACKAGES[group].items()
        if not is_there(thing)
    }


def is_there(thing):
    """Tell whether a program, a file or a module of Python exists."""
    if thing.startswith("python:"):
        return importlib.util.find_spec(thing.removeprefix("python:")) is not None
    if thing.startswith("/"):
        return bool(glob.glob(thing))
    return shutil.which(thing, path=environment()["PATH"]) is not None


def install(packages):
    """Install Debian packages, and nothing they merely recommend."""
    names = " ".join(packages)
    if not shutil.which("apt-get"):
        raise Problem(
            f"{', '.join(packages.values())}: not installed, and this computer has no apt-get.",
            f"install what Debian calls {names}, or use Debian 12 or 13.",
        )
    command = as_root(f"installing {names}", "sh", "-ec", INSTALL, "install", *packages)
    with step(f"Installing with apt-get: {names}"):
        if stream(command, LOG, env=environment()) != 0:
            raise failure(f"apt-get could not install {names}", f"sudo apt-get install {names}")


def make_virtualenv(folder, *requirements):
    """Make a virtualenv hold exactly the packages of these files."""
    python = getattr(sys, "_base_executable", sys.executable)
    origin = f"{folder} {python} {sys.version}\n"
    wanted = origin + hashlib.sha256(b"".join(f.read_bytes() for f in requirements)).hexdigest()
    stamp = folder / "slipway-recipe"
    found = stamp.read_text() if stamp.exists() else ""
    if found == wanted:
        return
    name = folder.relative_to(ROOT)
    uv = VENV / "bin/uv"
    if not found.startswith(origin):
        with step(f"Making {name} with Python {sys.version.split()[0]}"):
            call([python, "-m", "venv", "--clear", folder], f"cannot make {name}")
            if folder == VENV:
                version = re.search(r"^uv==\S+", requirements[0].read_text(), re.MULTILINE)[0]
                pip = [folder / "bin/python", "-m", "pip", "--disable-pip-version-check"]
                call([*pip, "install", version], f"pip could not install {version}")
    files = [file.relative_to(ROOT) for file in requirements]
    with step(f"Installing {' and '.join(map(str, files))} into {name}"):
        call([uv, "pip", "sync", "--python", folder / "bin/python", *files], "uv failed")
    stamp.write_text(wanted)


def call(command, what):
    """Run a step of the set-up, or say what is wrong with it."""
    if stream(list(map(str, command)), LOG, env=environment()) != 0:
        raise failure(what, "make setup")


def failure(what, again):
    """Return the Problem of a failed download; its cause is in the log."""
    if NETWORK_IS_DOWN.search(LOG.read_text(errors="replace")):
        return Problem(
            f"{what}: no network.",
            "connect this computer; behind a proxy, set http_proxy and https_proxy.",
        )
    return Problem(f"{what}; its own message is above.", f"mend that, then: {again}")


def lock():
    """Write the lower half of requirements.txt: the pins of what the upper half brings along."""
    prepare("tools")
    file = ROOT / "requirements.txt"
    chosen = file.read_text().partition(LOCKED)[0]
    command = [
        VENV / "bin/uv", "pip", "compile", "--universal", "--python-version=3.11", "--no-header",
        "--no-annotate", "-",
    ]  # fmt: skip
    done = subprocess.run(command, input=chosen, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Problem("uv could not resolve requirements.txt.", "read its message above.")
    pins = [line for line in done.stdout.splitlines() if line not in chosen.splitlines()]
    file.write_text(chosen + LOCKED + "\n".join(pins) + "\n")


def environment():
    """Return the environment of every tool: .venv first, this project's ansible.cfg, UTF-8."""
    # With it, each ansible-playbook would compile Ansible anew: 1.5 s.
    given = {name: os.environ[name] for name in os.environ if name != "PYTHONDONTWRITEBYTECODE"}
    return given | {
        "PATH": f"{VENV}/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "LC_ALL": "C.UTF-8",  # Ansible refuses others, and ssh brings names that do not exist here.
        "PYTHONUNBUFFERED": "1",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "true",
    }


def as_root(purpose, *command):
    """Return the command as root runs it; without a terminal sudo must not ask."""
    if os.geteuid() == 0:
        return list(command)
    if not shutil.which("sudo"):
        raise Problem(
            f"{purpose} needs root, and there is no sudo.",
            "run make as root, or let root install sudo and allow you to use it.",
        )
    return ["sudo", *([] if sys.stdin.isatty() else ["--non-interactive"]), *command]


def need_root_without_questions():
    """Refuse a sudo that asks for a password: Ansible's workers have no terminal to answer on."""
    if os.geteuid() == 0:
        return
    as_root("making test hosts")
    if subprocess.run(["sudo", "--non-interactive", "true"], capture_output=True).returncode != 0:
        raise Problem(
            "making test hosts needs root many times, and sudo asks for a password.",
            "sudo make test, or allow your user sudo without a password; make check needs neither.",
        )


def clean():
    """Remove what this project ever made on this computer, except Debian packages."""
    if shutil.which("podman"):
        with step("Removing all test hosts, their images and their caches"):
            subprocess.run([ROOT / "molecule/hosts/host", "purge"], check=True)
    for path in (VENV, CACHE, *ROOT.glob(".*_cache"), ROOT / ".ansible"):
        if path.exists():
            say(f"Removing {path.relative_to(ROOT)}")
            shutil.rmtree(path)
