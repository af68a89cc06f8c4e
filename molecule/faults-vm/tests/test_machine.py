"""Faults of a whole machine: its memory, its disk, its clock, its power."""

import time

import pytest

testinfra_hosts = ["ansible://application"]

# One connection stays with one worker: it alone is guilty.
LEAK = """
import http.client, socket
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/webapp/current.sock")
for number in range(100):
    try:
        connection.request("GET", "/leak/64")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        break
print(number)
"""
MUCH = "INSERT INTO users (name) SELECT repeat('x', 80) FROM generate_series(1, 100000)"


def kernel_killed(host, since: str) -> str:
    """Return what the kernel's OOM killer has said since then."""
    say = f"journalctl --dmesg --no-pager --since=@{since} --grep='Killed process|oom-kill'"
    return host.check_output(say)


def test_a_leak_takes_only_the_guilty_worker_along(host, server, fault):
    before, main = server.workers(), server.master()
    server.must(f"cat > /run/leak.py <<'END'\n{LEAK}END")
    with fault("a worker leaks until `MemoryMax` (VM)") as seen:
        since = server.must("date +%s")
        seen.begins()
        number = int(server.must("python3 /run/leak.py", seconds=300))
        seen.ends()
    assert 5 < number < 40
    assert "webapp@" in kernel_killed(host, since)
    assert server.master() == main
    assert len(set(before) & set(server.workers())) == len(before) - 1
    assert len(server.workers()) == len(before)


def test_the_oom_killer_is_survived(host, server, fault):
    with fault("the kernel's OOM killer strikes three times (VM)") as seen:
        since = server.must("date +%s")
        seen.begins()
        for _ in range(3):
            server.must("echo f > /proc/sysrq-trigger")  # as when memory is short
            time.sleep(10)
        seen.ends()
    killed = kernel_killed(host, since)
    assert killed.count("Killed process") == 3, killed
    for unit in ("nginx", "postgresql@15-main", f"webapp@{server.release()}"):
        assert server.must(f"systemctl is-active {unit}") == "active"


def test_a_clock_that_jumps_a_day_disturbs_nobody(host, server, fault):
    server.must("timedatectl set-ntp false")
    release = server.release()
    with fault("the clock jumps a day ahead, and back (VM)") as seen:
        seen.begins()
        server.must("date --set='+1 day'")
        time.sleep(30)
        server.must("date --set='-1 day'")
        time.sleep(10)
        seen.ends()
    server.must("timedatectl set-ntp true")
    assert seen.failed == []
    assert server.release() == release
    assert server.must("systemctl --failed --plain --no-legend") == ""


def test_a_full_disk_is_over_when_there_is_space(host, server, fault):
    with fault("the disk is full (VM)") as seen:
        seen.begins()
        server.must("fallocate --length $(df --output=avail -B1 / | tail --lines=1) /filling")
        psql = f'cd / && runuser -u postgres -- psql --dbname=webapp -qAtX --command "{MUCH}"'
        assert server.run(psql).returncode != 0
        time.sleep(20)
        server.must("rm /filling")
        seen.ends()
    assert {answer.status for answer in seen.failed} <= {503}
    server.sql("VACUUM users")


@pytest.mark.parametrize("how", ["cut_power", "reboot"])
def test_a_boot_in_the_middle_of_a_deploy_needs_no_human(host, server, fault, start_deploy, how):
    before = server.release()
    what = {"cut_power": "the power is cut", "reboot": "the machine reboots"}[how]
    with fault(f"{what} in the middle of a deploy (VM)") as seen:
        deploy = start_deploy()
        began = 'until grep -q \'"phase": "build"\' /srv/webapp/release.lock; do sleep 0.1; done'
        server.must(began, seconds=300)
        seen.begins()
        getattr(server, how)()
        deploy.kill()
        deploy.communicate()
    assert server.release() == before
    running = "systemctl list-units --plain --no-legend --state=running 'webapp@*'"
    assert len(server.must(running).splitlines()) == 1
    again = start_deploy()
    output, _ = again.communicate(timeout=600)
    assert again.returncode == 0, output
    assert server.release() > before


@pytest.mark.parametrize("how", ["cut_power", "reboot"])
def test_a_boot_in_the_middle_of_a_backup_needs_no_human(host, server, fault, how):
    what = {"cut_power": "the power is cut", "reboot": "the machine reboots"}[how]
    with fault(f"{what} in the middle of a backup (VM)") as seen:
        server.must("systemctl start --no-block slipway-backup.service")
        server.must("until pgrep --full 'pgbackrest.* backup' >/dev/null; do sleep 0.1; done")
        seen.begins()
        getattr(server, how)()
    server.must("systemctl start slipway-backup.service", seconds=600)
    show = "systemctl show --property=Result --value slipway-backup.service"
    assert server.must(show) == "success"
