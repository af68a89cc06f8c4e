"""Whatever breaks a backup is told in one message, turns red, and is green once mended."""

import json

import pytest
from conftest import CONF, SETTINGS, bad, damage_of, labels

testinfra_hosts = ["ansible://kept"]


@pytest.mark.parametrize("wrong", ["another-passphrase-than-that", ""])
def test_a_wrong_or_missing_passphrase_is_told(host, kept, afterwards, wrong):
    kept.must(f"cp -a {CONF} /root/conf")
    afterwards(f"cp -a /root/conf {CONF}; systemctl start slipway-backup")
    change = f"s/^repo1-cipher-pass=.*/repo1-cipher-pass={wrong}/" if wrong else "/cipher/d"
    kept.must(f"sed -i '{change}' {CONF}")
    done = kept.restore()
    assert done.returncode != 0
    assert "The passphrase is not the repository's" in done.text
    assert kept.is_served()
    assert kept.run("systemctl start slipway-backup").returncode != 0
    assert "passphrase" in bad(kept.status())


def test_an_archiver_that_stopped_turns_red(host, kept, afterwards):
    archive = "/var/lib/postgresql/15/main/pg_wal/archive_status"
    reload_ = "runuser -u postgres -- psql -qc 'SELECT pg_reload_conf()' > /dev/null"
    afterwards(f"cd / && runuser -u postgres -- psql -qc 'ALTER SYSTEM RESET ALL' && {reload_}")
    kept.must(
        "cd / && runuser -u postgres -- psql -qc "
        f"\"ALTER SYSTEM SET archive_command = 'false # pgbackrest'\" && {reload_}; sleep 1"
    )
    kept.switch_segment()
    kept.must(f"timeout 30 sh -c 'until ls {archive}/*.ready; do sleep 0.2; done'")
    assert "archive" not in bad(kept.status())
    kept.must(f"touch -d '6 minutes ago' {archive}/*.ready")
    status = kept.status()
    assert "the archive stands still" in bad(status)
    kept.must(f"cd / && runuser -u postgres -- psql -qc 'ALTER SYSTEM RESET ALL' && {reload_}")
    kept.must(f"timeout 90 sh -c 'while ls {archive}/*.ready; do sleep 1; done'")
    assert kept.status()["lines"]["archive"]["state"] == "ok"


def test_an_archive_command_that_lies_turns_red(host, kept, afterwards):
    reload_ = "runuser -u postgres -- psql -qc 'SELECT pg_reload_conf()' > /dev/null"
    afterwards(f"cd / && runuser -u postgres -- psql -qc 'ALTER SYSTEM RESET ALL' && {reload_}")
    kept.must(
        "cd / && runuser -u postgres -- psql -qc "
        f"\"ALTER SYSTEM SET archive_command = 'true'\" && {reload_}; sleep 1"
    )
    assert "PostgreSQL does not archive" in bad(kept.status())


def test_a_full_repository_loses_nothing_and_goes_on_by_itself(host, kept, writer, afterwards):
    archive = "/var/lib/postgresql/15/main/pg_wal/archive_status"
    path = "/var/backups/slipway"
    kept.must(
        f"size=$(($(du -sm {path} | cut -f1) + 6))m; mount -t tmpfs -o size=$size tmpfs /mnt && "
        f"cp -a {path}/. /mnt && mount --bind /mnt {path} && umount /mnt"
    )
    afterwards(f"! mountpoint -q {path} || umount {path}; systemctl start slipway-backup")
    kept.run(f"dd if=/dev/zero of={path}/ballast bs=1M")
    kept.switch_segment()
    done = kept.run("systemctl start slipway-backup; journalctl -u slipway-backup -n 20 -o cat")
    assert "The disk of the repository is full" in done.text
    assert "The disk of the repository is full" in bad(kept.status())
    assert kept.is_served()
    writer.stop()
    assert {name for name, _ in writer.acknowledged} <= kept.names()
    kept.must(f"ls {archive}/*.ready && touch -d '6 minutes ago' {archive}/*.ready")
    assert "the archive stands still" in bad(kept.status())
    kept.must(f"umount {path}")
    kept.must(f"timeout 120 sh -c 'while ls {archive}/*.ready; do sleep 1; done'")
    kept.must("systemctl start slipway-backup")
    assert not bad(kept.status())


def test_backups_are_kept_by_count_where_that_is_asked_for(host, kept):
    """The scenario sets 3; by age is what the role has of itself, and other scenarios see."""
    conf = kept.must(f"grep ^repo1-retention-full {CONF}").splitlines()
    assert conf == ["repo1-retention-full=3", "repo1-retention-full-type=count"]
    made = []
    for _ in range(4):
        kept.must("slipway-backup run --full", seconds=600)
        fulls = [label for label in labels(kept, 1) if label.endswith("F")]
        made.append(fulls[-1])
    assert fulls == made[1:]


def test_a_stale_backup_turns_red(host, kept, afterwards):
    kept.must(f"cp -a {SETTINGS} /root/settings")
    afterwards(f"cp -a /root/settings {SETTINGS}")
    kept.must(f'sed -i \'s/"max_age_hours": 30/"max_age_hours": 0/\' {SETTINGS}')
    assert "the newest is" in bad(kept.status())


def test_red_calls_the_alert_once_and_green_again(host, kept, afterwards):
    kept.status()
    kept.must("rm -f /run/alerts")
    kept.must(f"cp -a {SETTINGS} /root/settings")
    kept.must(f'sed -i \'s/"max_age_hours": 30/"max_age_hours": 0/\' {SETTINGS}')
    kept.status()
    kept.status()
    kept.must(f"cp -a /root/settings {SETTINGS}")
    kept.status()
    said = kept.must("grep -E '^backup is' /run/alerts").splitlines()
    assert said == ["backup is RED", "backup is well again"]


def test_a_drill_proves_the_newest_backup(host, kept):
    kept.must("systemctl start slipway-drill")
    drill = json.loads(kept.must("cat /var/lib/slipway/backup/drill.json"))
    assert drill["result"] == "ok"
    assert drill["checksums"] == "ok"
    assert drill["rows"]["webapp"] > 0
    assert kept.run("ls /var/lib/slipway/backup/drill").returncode != 0
    assert "took" in kept.status()["lines"]["drill"]["said"]


def test_a_damaged_index_fails_the_drill(host, kept, afterwards):
    afterwards("systemctl start slipway-drill")
    afterwards("systemctl start slipway-backup || systemctl start slipway-backup")
    afterwards("cd / && runuser -u postgres -- psql --dbname=webapp -qc 'DROP TABLE indexed'")
    kept.sql("CREATE TABLE indexed AS SELECT n FROM generate_series(1, 9000) n")
    kept.sql("CREATE INDEX broken ON indexed (n)")
    kept.must(damage_of(kept, "broken", "/dev/zero"))  # such a page has no checksum
    kept.back_up()
    assert kept.run("systemctl start slipway-drill").returncode != 0
    said = bad(kept.status())
    assert "The restored database is damaged" in said
    assert "broken" in said


def test_rows_that_are_missing_fail_the_drill(host, kept, afterwards):
    label = json.loads(kept.must("cat /var/lib/slipway/backup/backup.json"))["label"]
    path = f"/var/lib/slipway/backup/measured/{label}.json"
    measured = json.loads(kept.must(f"cp {path} /root/measured; cat {path}"))
    afterwards(f"cp /root/measured {path}; systemctl start slipway-drill")
    measured["databases"]["webapp"]["rows"]["public.users"] += 1
    kept.must(f"cat > {path}", given=json.dumps(measured).encode())
    assert kept.run("systemctl start slipway-drill").returncode != 0
    said = bad(kept.status())
    assert "The restored database is not what was backed up" in said
    assert "public.users has" in said


def test_a_backup_whose_counts_are_gone_is_proved_without_them(host, kept, afterwards):
    folder = "/var/lib/slipway/backup/measured"
    afterwards(f"cp -a /root/measured/. {folder}; systemctl start slipway-drill")
    kept.must(f"rm -rf /root/measured; cp -a {folder} /root/measured; rm {folder}/*")
    kept.must("systemctl start slipway-drill || journalctl -u slipway-drill -n 30 -o cat")
    drill = json.loads(kept.must("cat /var/lib/slipway/backup/drill.json"))
    assert drill["result"] == "ok", drill
    assert drill["compared"] is False


def test_rows_that_come_and_go_meanwhile_do_not_fail_the_drill(host, kept, afterwards):
    """Three clients never pause; the counts are those of one moment, and the drill finds it."""
    afterwards("systemctl stop churn-1 churn-2 churn-3; systemctl start slipway-backup")
    afterwards("cd / && runuser -u postgres -- psql --dbname=webapp -qc 'DROP TABLE churn'")
    kept.sql("CREATE TABLE churn AS SELECT generate_series(1, 20000) AS n")
    change = (
        "INSERT INTO churn SELECT 1 FROM generate_series(1, (random() * 50)::int); "
        "DELETE FROM churn WHERE ctid IN (SELECT ctid FROM churn LIMIT (random() * 50)::int);"
    )
    kept.must("cat > /run/churn.sql", given=f"{change}\n".encode())
    for number in (1, 2, 3):
        kept.must(
            f"systemd-run --unit=churn-{number} --uid=postgres --property=WorkingDirectory=/ "
            "sh -c 'while psql --dbname=webapp -qf /run/churn.sql; do :; done'"
        )
    kept.must("systemctl start slipway-backup")
    label = json.loads(kept.must("cat /var/lib/slipway/backup/backup.json"))["label"]
    path = f"/var/lib/slipway/backup/measured/{label}.json"
    counted = json.loads(kept.must(f"cat {path}"))["databases"]["webapp"]["rows"]["public.churn"]
    assert counted != int(kept.sql("SELECT count(*) FROM churn"))
    kept.must("systemctl is-active churn-1 churn-2 churn-3")
    kept.must("systemctl start slipway-drill || journalctl -u slipway-drill -n 30 -o cat")
    drill = json.loads(kept.must("cat /var/lib/slipway/backup/drill.json"))
    assert drill["result"] == "ok", drill
    assert drill["compared"] is True


def test_uploads_that_vanished_are_told_until_they_are_back(host, kept, afterwards):
    kept.must("echo picture > /srv/uploads/photo; systemctl start slipway-backup")
    assert "/srv/uploads 1" in kept.status()["lines"]["files"]["said"]
    kept.must("mv /srv/uploads/photo /root/photo")
    afterwards("mv /root/photo /srv/uploads/photo; systemctl start slipway-backup")
    kept.must("systemctl start slipway-backup")
    assert "backed up without a file: /srv/uploads (once 1)" in bad(kept.status())
    kept.must("systemctl start slipway-backup")  # it stays so the next day
    assert "backed up without a file" in bad(kept.status())
    kept.must("slipway-backup accept-empty")
    assert not bad(kept.status())


def test_a_tablespace_is_told_by_the_backup_and_refused_by_a_restore(host, kept, afterwards):
    afterwards("rm -rf /srv/space; systemctl start slipway-backup")
    kept.must("install -d -o postgres -g postgres /srv/space")
    kept.sql("CREATE TABLESPACE space LOCATION '/srv/space'")
    afterwards("cd / && runuser -u postgres -- psql -qc 'DROP TABLESPACE space'")
    assert kept.run("systemctl start slipway-backup").returncode != 0
    assert "does not bring back tablespaces" in bad(kept.status())
    done = kept.restore()
    assert done.returncode != 0
    assert "does not bring back tablespaces" in done.text
    assert kept.is_served()


def test_a_killed_drill_turns_red(host, kept, afterwards):
    afterwards("systemctl start slipway-drill")
    record = "/var/lib/slipway/backup/drill.json"
    kept.must("systemctl start --no-block slipway-drill")
    kept.must(f"timeout 60 sh -c 'until grep -q running {record}; do sleep 0.05; done'")
    kept.must("systemctl kill --signal=KILL slipway-drill; sleep 1")
    assert "the last drill failed: it was killed" in bad(kept.status())


def test_a_repository_that_lost_its_backups_is_told_and_not_begun_anew(host, kept, afterwards):
    path = "/var/backups/slipway"
    kept.must(f"mount -t tmpfs tmpfs {path}")  # as where a disk was not mounted
    afterwards(f"! mountpoint -q {path} || umount {path}; systemctl start slipway-backup")
    assert "a repository has none, although one was made" in bad(kept.status())
    assert kept.run("systemctl start slipway-backup").returncode != 0
    assert "The repository has lost its backups" in bad(kept.status())
    assert kept.run(f"ls {path}/pgbackrest/backup/main").returncode != 0


def test_a_damaged_file_of_the_repository_fails_the_drill(host, kept, afterwards):
    label = kept.must("ls /var/backups/slipway/pgbackrest/backup/main | grep 'F$' | tail -1")
    # A bundle of many files: half of them, as those that have changed since are not needed.
    full = f"/var/backups/slipway/pgbackrest/backup/main/{label}"
    path = kept.must(
        f"find {full} -type f -path '*/bundle/*' -printf '%s %p\\n' | sort -n | tail -1"
    )
    size, path = path.split()
    kept.must(f"cp -a {path} /root/sound")
    afterwards(f"cp -a /root/sound {path}; systemctl start slipway-drill")
    half = int(size) // 2048
    damage = f"dd if=/dev/urandom of={path} bs=1k seek={half // 2} count={half} conv=notrunc"
    kept.must(damage)
    assert kept.run("systemctl start slipway-drill").returncode != 0
    assert "A file of the repository is damaged" in bad(kept.status())
    done = kept.restore()
    assert done.returncode != 0
    assert "a file of it is damaged" in done.text
    assert kept.is_served()


def test_a_damaged_segment_of_the_log_fails_the_drill(host, kept, afterwards):
    segment = kept.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    kept.switch_segment()
    archive = "/var/backups/slipway/pgbackrest/archive/main"
    kept.must(f"timeout 90 sh -c 'until find {archive} | grep {segment}-; do sleep 1; done'")
    path = kept.must(f"find {archive} -name '{segment}-*'")
    kept.must(f"cp -a {path} /root/sound")
    afterwards(f"cp -a /root/sound {path}; systemctl start slipway-drill")
    kept.must(f"dd if=/dev/urandom of={path} bs=64 seek=1 count=1 conv=notrunc")
    assert kept.run("systemctl start slipway-drill").returncode != 0
    assert "A file of the repository is damaged" in bad(kept.status())


def test_a_backup_that_was_never_looked_at_is_told_by_the_doctor(host, kept, run_doctor):
    kept.status()
    assert " backup " in run_doctor().stdout
    kept.must("touch -d '2 days ago' /var/lib/slipway/backup/status.json")
    assert "nobody has looked at it" in run_doctor().stdout
    kept.status()
