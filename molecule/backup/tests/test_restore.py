"""What was acknowledged comes back; what cannot be restored is refused and changes nothing."""

import json
import time

import pytest
from conftest import bad, damage_of

testinfra_hosts = ["ansible://kept"]


def test_a_dropped_table_comes_back_as_it_was_right_before(host, kept, writer):
    time.sleep(3)
    moment, noted = kept.now(), time.time() - 0.3
    kept.sql("DROP TABLE users")
    done = kept.restore(backup_restore_time=moment)
    assert done.returncode == 0, done.text
    assert "LOST: all that was written" in done.text
    names = kept.names()
    before = {name for name, when in writer.acknowledged if when < noted}
    after = {name for name, when in writer.sent.items() if noted < when < noted + 5}
    assert len(before) > 20
    assert before <= names
    assert after
    assert not after & names
    assert kept.is_served()
    assert kept.must("ls -d /var/lib/postgresql/15/main.replaced-*")


def test_a_lost_disk_of_the_database_costs_a_minute_at_most(host, kept, writer, capsys):
    """With its own log gone too, what was not archived is lost: no more than archive_timeout."""
    time.sleep(75)
    kept.must("pkill -9 -o -u postgres postgres; rm -rf /var/lib/postgresql/15/main")
    lost_at = time.time()
    began = time.monotonic()
    done = kept.restore()
    took = time.monotonic() - began
    assert done.returncode == 0, done.text
    names = kept.names()
    lost = [when for name, when in writer.acknowledged if name not in names and when < lost_at]
    kept_rows = [when for name, when in writer.acknowledged if name in names and when < lost_at]
    seconds = lost_at - max(kept_rows)
    with capsys.disabled():
        print(f"\n{len(lost)} rows of the last {seconds:.1f} s were lost, restored in {took:.1f} s")
    assert seconds < 65
    assert all(lost_at - when < 65 for when in lost)


def test_nothing_is_lost_while_the_log_is_still_there(host, kept, writer):
    time.sleep(3)
    kept.must("pkill -9 -o -u postgres postgres; sleep 0.5")
    kept.must("mv /var/lib/postgresql/15/main/global /root/global.$RANDOM")
    crashed = time.time()
    done = kept.restore()
    assert done.returncode == 0, done.text
    before = {name for name, when in writer.acknowledged if when < crashed}
    assert before
    assert before <= kept.names()


def test_a_restore_point_undoes_what_came_after_it(host, kept):
    time.sleep(2)
    rows = kept.sql("SELECT count(*) FROM users")
    point = kept.must("slipway-backup point before-a-mistake")
    time.sleep(1.1)
    kept.sql("DELETE FROM users")
    done = kept.restore(backup_restore_point=point)
    assert done.returncode == 0, done.text
    assert kept.sql("SELECT count(*) FROM users") == rows


def test_a_moment_that_an_earlier_restore_left_out_can_still_be_had(host, kept):
    first, second, third = (f"{name}{time.time():.0f}" for name in ("first", "second", "third"))
    moments = []
    for name in (first, second, third):
        kept.sql(f"INSERT INTO users (name) VALUES ('{name}')")
        time.sleep(1.1)
        moments.append(kept.now())
        time.sleep(1.1)
    done = kept.restore(backup_restore_time=moments[0])
    assert done.returncode == 0, done.text
    assert {first, second, third} & kept.names() == {first}
    done = kept.restore(backup_restore_time=moments[1])
    assert done.returncode == 0, done.text
    assert {first, second, third} & kept.names() == {first, second}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"backup_restore_time": "2020-01-01 00:00"}, "There is no backup from before 2020-01-01"),
        ({"backup_restore_time": "2100-01-01"}, "2100-01-01 lies ahead"),
        ({"backup_restore_time": "tomorrow"}, "'tomorrow' is no time"),
        ({"backup_restore_point": "anything"}, "'anything' is no restore point of ours"),
        ({"backup_restore_confirmed": False}, "Nothing was done"),
    ],
)
def test_what_cannot_be_restored_is_refused_before_anything_stops(host, kept, inputs, said):
    pid = kept.must("systemctl show --value --property=MainPID postgresql@15-main")
    done = kept.restore(**inputs)
    assert done.returncode != 0
    assert said in done.text
    assert "Fix:" in done.text
    assert kept.must("systemctl show --value --property=MainPID postgresql@15-main") == pid


def test_a_restore_that_fails_halfway_puts_the_old_cluster_back(host, kept):
    names = kept.names()
    point = time.strftime("never-named-%Y%m%dT%H%M%SZ", time.gmtime())
    done = kept.restore(backup_restore_point=point)
    assert done.returncode != 0
    assert "The archive ends before the target" in done.text
    assert kept.names() == names
    assert kept.is_served()


def test_a_cluster_that_somebody_starts_during_a_restore_is_not_replaced(host, kept):
    """As site.yml does, which finds it stopped: what it writes from then on has to stay."""
    names, kept_aside = kept.names(), kept.must("ls /var/lib/postgresql/15")
    unit = "postgresql@15-main"
    kept.must("systemd-run --unit=slipway-restore slipway-backup restore --yes")
    kept.must(
        "timeout 60 sh -c 'until grep -q replacing /var/lib/slipway/backup/restore.json; "
        f"do sleep 0.02; done; while systemctl is-active --quiet {unit}; do sleep 0.02; done'; "
        f"systemctl start {unit}; while systemctl is-active --quiet slipway-restore; "
        "do sleep 0.2; done"
    )
    said = kept.must("journalctl --unit=slipway-restore --output=cat")
    kept.must("systemctl reset-failed slipway-restore")
    assert "started while its database was restored: nothing was replaced" in said
    assert kept.names() == names
    assert kept.is_served()
    assert kept.must("ls /var/lib/postgresql/15") == kept_aside


def test_rows_that_cannot_be_read_are_not_put_in_the_place_of_those_that_serve(
    host, kept, afterwards
):
    afterwards("systemctl start slipway-backup || systemctl start slipway-backup")
    afterwards("cd / && runuser -u postgres -- psql --dbname=webapp -qc 'DROP TABLE broken'")
    kept.sql("CREATE TABLE broken AS SELECT n, repeat('x', 500) FROM generate_series(1, 900) n")
    kept.must(damage_of(kept, "broken", "/dev/urandom"))
    names, kept_aside = kept.names(), kept.must("ls /var/lib/postgresql/15")
    assert kept.run("systemctl start slipway-backup").returncode != 0
    done = kept.restore()
    assert done.returncode != 0
    assert "invalid page in block 3" in done.text
    assert kept.names() == names
    assert kept.is_served()
    assert kept.must("ls /var/lib/postgresql/15") == kept_aside


@pytest.mark.parametrize(
    ("step", "seen"),
    [
        ("fetching", "true"),
        ("replacing", "true"),
        ("starting", "true"),
        ("starting", "pgrep --exact restic"),  # PostgreSQL serves, the files come back
    ],
)
def test_a_killed_restore_is_red_and_succeeds_when_run_again(host, kept, step, seen):
    names = kept.names()
    command = "slipway-backup restore --yes --files"
    kept.must(f"systemd-run --unit=slipway-restore --collect {command}")
    kept.must(
        f"timeout 60 sh -c 'until grep -q {step} /var/lib/slipway/backup/restore.json; "
        f"do sleep 0.02; done; until {seen}; do sleep 0.02; done'; "
        "systemctl kill --signal=KILL slipway-restore; sleep 1"
    )
    assert "interrupted" in json.dumps(kept.status()["lines"])
    kept.must("systemctl start postgresql@15-main webapp.target")  # as a boot does
    since = f"since{time.time():.0f}"
    kept.sql(f"INSERT INTO users (name) VALUES ('{since}')")
    done = kept.restore(backup_restore_files=True)
    assert done.returncode == 0, done.text
    assert kept.names() == names | {since}
    assert kept.is_served()
    kept.must("while systemctl is-active --quiet slipway-backup; do sleep 1; done")
    assert not bad(kept.status())
