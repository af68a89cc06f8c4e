"""Test hosts as virtual machines: qemu with user networking, one directory per machine."""

import getpass
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import image
from .tools import (
    CACHE,
    Problem,
    as_root,
    check_ports,
    lock,
    need,
    ports_of,
    progress,
    public_key,
    ssh_command,
    wait_until_ready,
)

MACHINES = CACHE / "vm"
QEMU = "qemu-system-x86_64"
STOP_SECONDS = 120

KVM = ("-accel", "kvm", "-cpu", "host")
# Emulated, a machine boots a fifth faster without the newest instructions to translate, and
# again without the kernel's defences against a processor that is not there.
EMULATION = ("-accel", "tcg,thread=multi", "-cpu", "Nehalem")
KERNEL_OPTIONS = "root=/dev/vda rw console=ttyS0 quiet"
KEY_CREDENTIAL = "io.systemd.credential:ssh.authorized_keys.root"


def find():
    """Return {name: (settings, state)} of our machines."""
    return {
        file.parent.name: (
            json.loads(file.read_text()),
            "running" if pid_of(file.parent.name) else "exited",
        )
        for file in MACHINES.glob("*/settings.json")
    }


def create(name, settings):
    """Create a machine and wait until it is ready."""
    source = image.ensure_machine_image(settings["suite"])
    need(QEMU, "qemu-system-x86")
    directory = MACHINES / name
    with lock("ports"):
        check_ports(settings)
        shutil.rmtree(directory, ignore_errors=True)  # what an interrupted create left
        directory.mkdir(parents=True)
        # A copy and not an overlay: it is sparse, so as quick, and after a power cut
        # a raw file holds exactly what the machine had written.
        for file in ("vmlinuz", "initrd.img", "disk.raw"):
            subprocess.run(
                ["cp", "--sparse=always", "--reflink=auto", source / file, directory / file],
                check=True,
            )
        boot(name, settings)
    wait(name, settings)
    subprocess.run(
        ssh_command(settings, "hostnamectl", "hostname", name),
        stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip


def boot(name, settings):
    """Start a machine's qemu, which goes on by itself."""
    directory = MACHINES / name
    kvm = can_use_kvm()
    (directory / "settings.json").write_text(json.dumps(settings))
    progress(
        f"{name}: booting a {settings['suite']} vm with {settings['vcpus']} vCPU and "
        f"{settings['memory_mib']} MiB on {settings['address']}, "
        + ("with KVM" if kvm else "emulated, about a minute")
    )
    forwards = "".join(
        f",hostfwd=tcp:{address}:{port}-:{inside}" for address, port, inside in ports_of(settings)
    )
    command = [
        QEMU,
        *("-name", f"slipway-{name}", "-nodefaults", "-no-user-config", "-machine", "q35"),
        *(KVM if kvm else EMULATION),
        *("-smp", str(settings["vcpus"]), "-m", f"{settings['memory_mib']}M"),
        *("-kernel", f"{directory}/vmlinuz", "-initrd", f"{directory}/initrd.img"),
        *("-append", KERNEL_OPTIONS if kvm else f"{KERNEL_OPTIONS} mitigations=off"),
        *("-drive", f"file={directory}/disk.raw,format=raw,if=virtio,cache=unsafe,discard=unmap"),
        *("-nic", f"user,model=virtio-net-pci{forwards}"),
        *("-device", "virtio-rng-pci"),
        # systemd gives root our key, if there is none yet.
        *("-smbios", f"type=11,value={KEY_CREDENTIAL}={public_key()}"),
        *("-display", "none", "-serial", f"file:{directory}/console.log"),
        "-daemonize",
    ]
    if os.geteuid() != 0:  # root only for the ports below 1024
        command = as_root(*command, "-runas", getpass.getuser())
    started = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if started.returncode != 0:
        raise Problem(
            f"qemu could not start {name}:\n{started.stderr.strip()}",
            f"repeat it by hand: {shlex.join(command)}",
        )


def can_use_kvm():
    """Say whether the processor lends its virtualization; /dev/kvm alone does not prove it."""
    flags = Path("/proc/cpuinfo").read_text().split()
    return ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.W_OK)


def wait(name, settings):
    """Wait until a machine is ready."""
    wait_until_ready(
        name, settings,
        seconds=60 if can_use_kvm() else 600,
        still_running=lambda: pid_of(name),
        log=MACHINES / name / "console.log",
    )  # fmt: skip


def pid_of(name):
    """Return the process id of a machine's qemu, found by what it was started with."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_text().split("\0")
        except OSError:  # it ended just now
            continue
        if f"slipway-{name}" in command and f"{MACHINES / name}/vmlinuz" in command:
            return int(process.name)
    return None


def start(name, settings):
    """Start a machine unless it runs, and wait until it is ready."""
    if pid_of(name) is None:
        with lock("ports"):
            check_ports(settings)
            boot(name, settings)
    wait(name, settings)


def stop(name, settings):
    """Shut a machine down."""
    if pid_of(name) is None:
        return
    progress(f"{name}: shutting down")
    subprocess.run(ssh_command(settings, "systemctl", "poweroff"), stdin=subprocess.DEVNULL)
    if not ended(name, STOP_SECONDS):
        raise Problem(f"{name} did not shut down within {STOP_SECONDS} s.", f"host kill {name}")


def kill(name):
    """Cut a machine's power."""
    pid = pid_of(name)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        ended(name, 10)


def ended(name, seconds):
    """Wait until a machine's qemu is gone; say whether it is."""
    deadline = time.monotonic() + seconds
    while pid_of(name) and time.monotonic() < deadline:
        time.sleep(0.1)
    return pid_of(name) is None


def destroy(name):
    """Remove a machine and its disk."""
    kill(name)
    shutil.rmtree(MACHINES / name)


def exec_command(_name, settings, command):
    """Return the command that runs a command on a machine."""
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    return ssh_command(settings, *terminal, "--", shlex.join(command))
