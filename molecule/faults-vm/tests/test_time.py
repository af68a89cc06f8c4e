"""The clock jumps. What it leaves behind, a backup from the future, stays: so this comes last."""

import time
from pathlib import Path

import pytest
from pages import commands_below

testinfra_hosts = ["ansible://application"]

MONITORING = Path(__file__).parents[3] / "docs/monitoring.md"
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


@pytest.fixture
def newest_sample(watch):
    """Return a function: the time of the newest sample that Prometheus can be asked for."""

    def newest() -> float:
        rows = watch.ask("/api/v1/query?query=max(timestamp(up))").get("result")
        return float(rows[0]["value"][1]) if rows else 0

    return newest


def test_a_clock_that_jumps_a_day_ahead_and_back_restarts_nothing(
    host, server, fault, clock, watch, newest_sample
):
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
    now = int(server.must("date +%s"))
    assert watch.until(lambda: newest_sample() > now, 300), "Prometheus takes no samples"
    assert ("NoSamples", "") not in watch.firing()


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


def test_what_is_too_old_for_prometheus_is_said_and_mended_as_its_page_tells(
    host, server, clock, watch, newest_sample
):
    """The clock was ahead for longer than samples are kept."""
    clock(20 * DAY_SECONDS)
    ahead = int(server.must("date +%s"))
    assert watch.until(lambda: newest_sample() > ahead, 300)
    clock(-20 * DAY_SECONDS)
    assert watch.fires("NoSamples", "", 900), watch.firing()
    server.must(commands_below(MONITORING.read_text(), "A clock that was ahead"))
    assert watch.clears("NoSamples", "", 600), watch.firing()
    assert newest_sample() < ahead
