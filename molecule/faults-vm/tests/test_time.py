"""The clock jumps. What it leaves behind, a backup from the future, stays: so this comes last."""

import time

import pytest

testinfra_hosts = ["ansible://application"]

DAY_SECONDS = 86400
POSTMASTER = "head --lines=1 /var/lib/postgresql/15/main/postmaster.pid"


@pytest.fixture
def clock(server):
    """Return a function that puts the clock so many seconds ahead or back; nobody keeps it."""
    server.must("systemctl stop systemd-timesyncd")
    ahead = []

    def jump(seconds: int) -> None:
        server.must(f"date --set=@$(($(date +%s) + {seconds}))")
        ahead.append(seconds)

    yield jump
    server.must(f"date --set=@$(($(date +%s) - {sum(ahead)}))")
    server.must("systemctl start systemd-timesyncd")


def test_a_clock_that_jumps_a_day_ahead_and_back_restarts_nothing(host, server, fault, clock):
    """Each daily timer is due at that moment, so the machine has much to do."""
    before = server.master(), server.workers(), server.must(POSTMASTER)
    with fault("the clock jumps a day ahead, and back after a minute", within=900) as seen:
        seen.begins()
        clock(DAY_SECONDS)
        time.sleep(60)
        clock(-DAY_SECONDS)
        seen.ends()
    assert (server.master(), server.workers(), server.must(POSTMASTER)) == before
    assert {answer.status for answer in seen.failed} <= {503}


def test_a_backup_from_the_future_is_red_and_said(host, server, clock):
    clock(3 * DAY_SECONDS)
    server.must("until slipway-backup run; do sleep 5; done", 1200)
    clock(-3 * DAY_SECONDS)
    check = server.run("slipway-backup check")
    assert check.returncode == 1
    assert "the newest is dated 3 days from now" in check.stderr
    again = server.run("slipway-backup run", 600)
    assert again.returncode == 1
    assert "A backup is dated later than now" in again.stderr
    assert "Fix: " in again.stderr
