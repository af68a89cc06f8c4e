"""The backup runs by the clock, as often and long as promised; another timer judges it."""

import json

import pytest

testinfra_hosts = ["ansible://database"]


@pytest.fixture
def conf(host) -> dict[str, str]:
    """Return pgBackRest's settings as it reads them."""
    lines = host.check_output("cat /etc/pgbackrest/pgbackrest.conf").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def timer(host, name: str, setting: str) -> str:
    """Return a property of a timer as systemd has understood it."""
    return host.check_output("systemctl show --value --property=%s %s.timer", setting, name)


def test_all_three_timers_wait_for_their_time(host, knob):
    for name in ("slipway-backup", "slipway-backup-check", "slipway-drill"):
        assert host.service(f"{name}.timer").is_enabled
        assert timer(host, name, "ActiveState") == "active"
    calendar = timer(host, "slipway-backup", "TimersCalendar")
    assert f"OnCalendar={knob('backup_schedule', '*-*-* 02:30')}:00" in calendar
    delay = timer(host, "slipway-backup", "RandomizedDelayUSec")
    assert delay == f"{knob('backup_random_delay_minutes', 30)}min"
    calendar = timer(host, "slipway-drill", "TimersCalendar")
    assert f"OnCalendar={knob('backup_drill_schedule', 'Sun *-*-* 04:00')}:00" in calendar
    waits = timer(host, "slipway-backup-check", "TimersMonotonic")
    assert "OnActiveUSec=5min" in waits  # and then lets the first backup be made
    assert f"OnUnitInactiveUSec={knob('backup_check_minutes', 10)}min" in waits


def test_a_drill_cannot_take_the_memory_of_the_site(host, knob):
    properties = "MemoryMax,Nice,IOSchedulingClass"
    shown = host.check_output("systemctl show --property=%s slipway-drill.service", properties)
    mib = knob("backup_drill_memory_max_mib", 512)
    bounds = {f"MemoryMax={mib * 2**20}", "Nice=19", "IOSchedulingClass=3"}  # idle
    assert set(shown.splitlines()) == bounds


def test_postgresql_hands_its_log_to_the_repository(host, sql, knob):
    assert sql("SHOW archive_mode") == "on"
    seconds = knob("postgresql_archive_timeout_seconds", 60)
    assert sql("SELECT setting FROM pg_settings WHERE name = 'archive_timeout'") == str(seconds)
    assert host.run("runuser -u postgres -- pgbackrest --stanza=main check").rc == 0


def test_a_backup_is_kept_as_long_as_promised(conf, knob):
    by_count = knob("backup_keep_full", 0)
    assert conf["repo1-retention-full"] == str(by_count or knob("backup_keep_days", 14))
    assert conf["repo1-retention-full-type"] == ("count" if by_count else "time")
    assert conf["compress-type"] == knob("backup_compression", "zst")
    assert conf["process-max"] == str(knob("backup_processes", 1))
    assert conf["repo1-path"] == knob("backup_path", "/var/backups/slipway") + "/pgbackrest"


def test_the_settings_of_the_program_are_the_inventorys(host, knob, app):
    settings = json.loads(host.check_output("cat /etc/slipway/backup/settings.json"))
    assert settings["full_days"] == knob("backup_full_days", 7)
    assert settings["keep_days"] == knob("backup_keep_days", 14)
    assert settings["max_age_hours"] == knob("backup_max_age_hours", 26)
    assert settings["archive_max_minutes"] == knob("backup_archive_max_minutes", 10)
    assert settings["drill_max_days"] == knob("backup_drill_max_days", 9)
    (one,) = settings["applications"]
    folders = [f"/etc/{app}", f"/var/lib/{app}", *knob("site_app_writable_directories", [])]
    assert one == {"name": app, "folders": folders}


def test_secrets_of_the_backup_are_for_root(host):
    for name in ("passphrase", "s3.json"):
        file = host.file(f"/etc/slipway/backup/{name}")
        assert (file.user, file.mode) == ("root", 0o600)
    assert host.file("/etc/pgbackrest/pgbackrest.conf").mode == 0o640


def test_a_backup_is_made_and_then_told(host, sql, app):
    host.check_output("systemctl start slipway-backup.service")
    host.check_output("systemctl start slipway-backup-check.service")
    status = json.loads(host.check_output("slipway-backup status"))
    assert status["state"] == "ok", status["lines"]
    assert status["backup"]["result"] == "ok"
    measured = host.check_output(
        "cat /var/lib/slipway/backup/measured/%s.json", status["backup"]["label"]
    )
    rows = json.loads(measured)["databases"][app]["rows"]
    assert rows["public.users"] == int(sql("SELECT count(*) FROM users"))
