"""What only a machine of its own can show: its cores, its limits, its swap, its power button."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://application"]

HOST = str(Path(__file__).parents[2] / "hosts" / "host")
READY_WITHIN_SECONDS = 300  # an emulated machine boots in about a minute


def machine(*arguments: str) -> None:
    """Turn the machine on or off, or resize it."""
    subprocess.run([HOST, *arguments], check=True, env=os.environ)


def wait_until_ready(site) -> float:
    """Wait until the application answers; return how many seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < READY_WITHIN_SECONDS:
        try:
            if site.ask("/health/ready").status == 200:
                return time.monotonic() - began
        except OSError:
            pass
        time.sleep(1)
    pytest.fail(f"The application did not answer within {READY_WITHIN_SECONDS} s of the boot.")


def live_workers(host, app) -> int:
    """Count the workers in the process table, without asking systemd or gunicorn."""
    table = host.check_output("ps -u %s -o pid=,ppid=", app).split()
    parents = dict(zip(map(int, table[::2]), map(int, table[1::2]), strict=True))
    return sum(parent in parents for parent in parents.values())


def test_one_core_gets_three_workers(host, app):
    assert host.check_output("nproc --all") == "1"
    assert live_workers(host, app) == 3


def test_the_site_serves_from_postgresql(site, sql):
    number = site.ask("/users", {"name": "Machine"}).json["id"]
    assert sql(f"SELECT name FROM users WHERE id = {number}") == "Machine"


def test_small_memory_gets_swap(host):
    assert host.check_output("swapon --noheadings --show=NAME") == "/swapfile"
    assert host.file("/swapfile").mode == 0o600


def test_the_kernel_enforces_the_memory_limit(host, app, release):
    group = host.service(f"{app}@{release}").systemd_properties["ControlGroup"]
    limit = int(host.file(f"/sys/fs/cgroup{group}/memory.max").content_string)
    assert limit == 128 * (3 + 1) * 2**20


def test_the_sandbox_has_users_of_its_own(host, app, release):
    """Which a container cannot give: the rest of the score is asked of every scenario."""
    analyze = f"systemd-analyze security --no-pager {app}@{release}.service"
    assert float(host.check_output(f"{analyze} | tail --lines=1").split()[6]) <= 1.0


def test_modules_that_nobody_needs_cannot_be_loaded(host):
    assert "install /bin/false" in host.run("modprobe --dry-run --verbose sctp").stdout
    assert host.run("modprobe sctp").rc != 0
    assert host.run("modprobe loop").rc == 0


def test_a_wrong_clock_is_refused(host, playbook):
    host.check_output("timedatectl set-ntp false")
    host.check_output("date --set='+2 hours'")
    try:
        done = playbook()
        assert done.returncode != 0
        assert re.search(r"clock of machine is\s+7[12]\d\d\s+s\s+off", done.stdout)
    finally:
        host.check_output("date --set='-2 hours'")
        host.check_output("timedatectl set-ntp true")


def test_a_reboot_needs_no_human(host, app, site, release):
    host.run("systemctl reboot")
    time.sleep(5)
    machine("start", "machine")
    wait_until_ready(site)
    assert live_workers(host, app) == 3
    assert site.ask("/version").json["release"] == release
    running = host.check_output("systemctl list-units --plain --no-legend '%s@*'", app)
    assert len(running.splitlines()) == 1


def test_the_kernel_keeps_what_it_was_told_after_a_reboot(host):
    for key, value in {
        "kernel.kptr_restrict": 2,
        "kernel.dmesg_restrict": 1,
        "kernel.yama.ptrace_scope": 2,
        "kernel.unprivileged_bpf_disabled": 1,
        "kernel.unprivileged_userns_clone": 0,
        "fs.suid_dumpable": 0,
        "kernel.sysrq": 0,
        "net.core.bpf_jit_harden": 2,
        "dev.tty.ldisc_autoload": 0,
        "fs.protected_fifos": 1,
        "fs.protected_hardlinks": 1,
        "fs.protected_regular": 2,
        "fs.protected_symlinks": 1,
        "net.ipv4.tcp_syncookies": 1,
        "net.ipv4.icmp_echo_ignore_broadcasts": 1,
    }.items():
        assert host.sysctl(key) == value, key
    interfaces = host.check_output("ls /proc/sys/net/ipv4/conf").split()
    assert len(interfaces) >= 4  # all, default, lo and the one to the world
    for interface in interfaces:
        key = f"net.ipv4.conf.{interface}"
        assert host.sysctl(f"{key}.rp_filter") == 1
        assert host.sysctl(f"{key}.log_martians") == 1
        for name in ("accept_redirects", "secure_redirects", "send_redirects"):
            assert host.sysctl(f"{key}.{name}") == 0
        assert host.sysctl(f"{key}.accept_source_route") == 0
        assert host.sysctl(f"net.ipv6.conf.{interface}.accept_redirects") == 0


@pytest.mark.parametrize(("cores", "memory_mib", "workers"), [(2, 2048, 5), (4, 4096, 9)])
def test_a_resized_machine_grows(host, app, site, sql, playbook, cores, memory_mib, workers):
    machine("stop", "machine")
    machine("start", "machine", "--vcpus", str(cores), "--memory-mib", str(memory_mib))
    wait_until_ready(site)
    done = playbook()
    assert done.returncode == 0, done.stdout[-3000:]
    assert host.check_output("nproc --all") == str(cores)
    assert live_workers(host, app) == workers
    seen = int(host.check_output("awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo"))
    buffers = "SELECT pg_size_bytes(current_setting('shared_buffers')) / 1048576"
    assert int(sql(buffers)) == seen // 4
    assert int(sql("SHOW max_parallel_workers")) == cores
    assert site.ask("/health/ready").status == 200
