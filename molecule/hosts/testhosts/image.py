"""The fresh VPS that every test host starts as, made from the distribution's own packages."""

import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path

from . import container
from .tools import CACHE, Problem, as_root, lock, need, progress

SUITES = ("bookworm", "trixie")

PLAIN_VPS = (
    "ca-certificates",
    "dbus",
    "iproute2",
    "libpam-systemd",
    "openssh-server",
    "python3",
    "sudo",
    "systemd-sysv",
)

# What a virtual machine has in addition: a kernel, a disk to check, a network card.
MACHINE = (
    "e2fsprogs",
    "initramfs-tools",
    "linux-image-cloud-amd64",
    "systemd-resolved",
    "udev",
)

# Every host makes its own ssh host keys when it starts for the first time.
HOST_KEYS_UNIT = """\
[Unit]
Description=Make the ssh host keys
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
"""

ETHERNET = """\
[Match]
Type=ether

[Network]
DHCP=yes
"""


def write(path, text, hook="customize"):
    """Return the mmdebstrap hook that writes a file into the image."""
    return f"--{hook}-hook=cat >\"$1{path}\" <<'END'\n{text}END\n"


def recipe(suite, packages=PLAIN_VPS, hooks=()):
    """Return the mmdebstrap arguments of a plain VPS."""
    return [
        "--variant=apt",
        f"--include={','.join(packages)}",
        # The machine's own, which mmdebstrap copies in so that apt works.
        '--customize-hook=rm -f "$1/etc/hostname" "$1/etc/resolv.conf"',
        '--customize-hook=rm -f "$1"/etc/ssh/ssh_host_*_key*',
        write("/etc/systemd/system/ssh-host-keys.service", HOST_KEYS_UNIT),
        '--customize-hook=chroot "$1" systemctl --quiet enable ssh-host-keys.service',
        *hooks,
        suite,
    ]


def machine_recipe(suite):
    """Return the mmdebstrap arguments of the same VPS as a virtual machine."""
    hooks = (
        # A small initrd, because it is unpacked at every boot: just the way to the disk.
        '--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d"',
        write("/etc/initramfs-tools/conf.d/modules", "MODULES=list\n", hook="essential"),
        '--essential-hook=mkdir -p "$1/usr/share/initramfs-tools/modules.d"',
        write(
            "/usr/share/initramfs-tools/modules.d/disk",
            "ext4\nvirtio_blk\nvirtio_pci\n",
            hook="essential",
        ),
        write("/etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n"),
        write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"),
        write("/etc/systemd/network/ethernet.network", ETHERNET),
        '--customize-hook=chroot "$1" systemctl --quiet enable systemd-networkd.service',
        '--customize-hook=ln -s ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"',
    )
    return recipe(suite, sorted(PLAIN_VPS + MACHINE), hooks)


def digest(arguments):
    """Return what changes whenever the recipe does."""
    return hashlib.sha256(json.dumps(arguments).encode()).hexdigest()[:16]


def make_root(what, arguments, target):
    """Run mmdebstrap, one line per step."""
    need("mmdebstrap", "mmdebstrap debian-archive-keyring")
    progress(f"{what}: making a fresh Debian with mmdebstrap, about a minute")
    log = []
    with subprocess.Popen(
        as_root("mmdebstrap", *arguments, str(target)),
        stderr=subprocess.PIPE, text=True,
    ) as mmdebstrap:  # fmt: skip
        for line in mmdebstrap.stderr:
            log.append(line)
            if line.startswith("I: ") and line.endswith("...\n"):
                progress(f"{what}: {line[3:].strip()}")
    if mmdebstrap.returncode != 0:
        raise Problem(
            f"mmdebstrap could not make {what}:\n{''.join(log[-15:])}",
            "read that; most often the Debian mirror does not answer: apt-get update",
        )


def ensure_container_image(suite):
    """Build localhost/slipway-SUITE unless it exists and is from this recipe."""
    name = f"localhost/slipway-{suite}"
    arguments = recipe(suite)
    with lock(f"image-{suite}"):
        if container.image_recipe(name) == digest(arguments):
            return name
        with tempfile.TemporaryDirectory(prefix="slipway-") as directory:
            tarball = Path(directory) / "root.tar"
            make_root(name, arguments, tarball)
            progress(f"{name}: importing into podman")
            container.import_image(name, tarball, digest(arguments))
        progress(f"{name}: done")
    return name


# Runs as root in the new image's directory, so that the files on the disk have their owners.
MAKE_DISK = """\
set -e
mke2fs -q -t ext4 -d root disk.raw 8G
cp root/boot/vmlinuz-* vmlinuz
cp root/boot/initrd.img-* initrd.img
rm -r root
chown "$1" ."""


def ensure_machine_image(suite):
    """Return the directory with disk.raw, vmlinuz and initrd.img, made from this recipe."""
    arguments = machine_recipe(suite)
    images = CACHE / "vm-images"
    ready = images / f"{suite}-{digest([*arguments, MAKE_DISK])}"
    with lock(f"vm-image-{suite}"):
        if ready.exists():
            return ready
        for outdated in images.glob(f"{suite}-*"):
            remove(outdated)
        building = images / f"{suite}-building"
        building.mkdir(parents=True)
        make_root(f"{suite} vm", arguments, building / "root")
        progress(f"{suite} vm: writing the disk")
        need("mke2fs", "e2fsprogs")
        owner = f"{os.getuid()}:{os.getgid()}"
        subprocess.run(
            as_root("sh", "-c", f"{MAKE_DISK} disk.raw vmlinuz initrd.img", "sh", owner),
            cwd=building, stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        building.rename(ready)
        progress(f"{suite} vm: done")
    return ready


def remove(directory):
    """Remove an image, or what an interrupted build left, which is root's."""
    subprocess.run(as_root("rm", "-rf", str(directory)), check=True)


def purge_machine_images():
    """Remove the disks of all suites."""
    for directory in (CACHE / "vm-images").glob("*"):
        remove(directory)
