"""The backup program judges, compares and chooses as promised; what it runs is tested on hosts."""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "roles/backup/files"))

from slipway_backup import (
    backup,
    common,
    drill,
    obstacles,
    plans,
    restore,
    upgrade,
    watch,
)
from slipway_backup.cluster import is_empty

SETTINGS = common.Settings(
    version=15,
    applications=[],
    repositories=[{"number": 1, "path": "/var/backups/slipway"}],
    full_days=7,
    keep_days=14,
    max_age_hours=26,
    archive_max_minutes=10,
    drill_max_days=9,
    alert_command="",
)


SETTINGS_OF_TWO = dataclasses.replace(
    SETTINGS, repositories=[*SETTINGS.repositories, {"number": 2, "path": ""}]
)


def backup_of(hours_ago: float, label: str = "20261122-010203F") -> dict:
    """Return a backup as pgBackRest tells of it."""
    return {
        "label": label,
        "timestamp": {"stop": int(time.time() - hours_ago * 3600)},
        "database": {"repo-key": 1},
        "info": {"size": 2**20},
    }


@pytest.mark.parametrize(
    ("newest", "last", "state"),
    [
        (backup_of(1), {"result": "ok"}, "ok"),
        (backup_of(25), {"result": "ok"}, "ok"),
        (backup_of(27), {"result": "ok"}, "bad"),
        (backup_of(-0.01), {"result": "ok"}, "ok"),
        (backup_of(-1), {"result": "ok"}, "bad"),
        (backup_of(1), {"result": "failed", "error": "full"}, "bad"),
        (None, {}, "warn"),
        (None, {"result": "ok"}, "bad"),
        (backup_of(1), {"result": "running"}, "bad"),
    ],
)
def test_a_backup_is_judged_by_its_age_and_its_end(newest, last, state):
    assert watch.judge_backup(SETTINGS, newest, last)[0] == state


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({}, True),
        ({"ssh": {"host": "203.0.113.7"}}, False),
        ({"repositories": SETTINGS_OF_TWO.repositories}, False),
    ],
)
def test_a_backup_on_this_disk_alone_is_called_that(changed, warned):
    settings = dataclasses.replace(SETTINGS, **changed)
    said = watch.judge_backup(settings, backup_of(1), {"result": "ok"})[1]
    assert ("only on this machine's disk" in said) == warned


@pytest.mark.parametrize(
    ("of", "days_ago", "due"),
    [("full", 6, False), ("full", 6.6, True), ("diff", 1, True), ("", 0, True)],
)
def test_a_full_backup_is_due_after_its_days(of, days_ago, due):
    made = {"type": of} | backup_of(days_ago * 24)
    assert backup.is_full_due({"backup": [made] if of else []}, 1, SETTINGS.full_days) == due


@pytest.mark.parametrize("last", [{}, {"result": "failed", "error": "full"}])
def test_only_the_first_backup_is_begun_by_the_check(cluster, monkeypatch, last):
    begun = []
    monkeypatch.setattr(common, "LOCK", cluster.with_name("lock"))
    monkeypatch.setattr(common, "info", dict)
    monkeypatch.setattr(watch, "archive_state", lambda settings: {"error": "not asked"})
    monkeypatch.setattr(watch.upgrade, "kept", lambda settings: None)
    monkeypatch.setattr(watch.subprocess, "run", lambda command, **_: begun.append(command))
    common.record("backup.json", last)
    watch.check(SETTINGS)
    first = ["systemctl", "start", "--no-block", "slipway-backup.service"]
    assert begun == ([] if last else [first])


@pytest.mark.parametrize(
    ("answer", "terminal", "goes_on"),
    [("yes", True, True), ("y", True, False), ("", True, False), ("yes", False, False)],
)
def test_a_restore_goes_on_after_a_yes_alone(monkeypatch, answer, terminal, goes_on):
    monkeypatch.setattr(restore.sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr("builtins.input", lambda question: answer)
    with (
        contextlib.nullcontext() if goes_on else pytest.raises(common.BackupError, match="Nothing")
    ):
        restore.confirm()


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_drill_proves_every_repository(cluster, monkeypatch, damaged):
    proved = []

    def prove(settings: common.Settings, repository: dict) -> dict:
        proved.append(repository["number"])
        if repository["number"] == damaged:
            raise common.BackupError("a file is damaged")
        return {"repository": repository["number"]}

    monkeypatch.setattr(common, "LOCK", cluster.with_name("lock"))
    monkeypatch.setattr(drill, "prove", prove)
    monkeypatch.setattr(drill, "remove_scratch", lambda settings: None)
    with contextlib.suppress(common.BackupError):
        drill.run(SETTINGS_OF_TWO)
    told = common.read("drill.json")
    assert proved == ([1] if damaged == 1 else [1, 2])
    assert told["result"] == ("failed" if damaged else "ok")
    assert told.get("error", "") == (f"repository {damaged}: a file is damaged" if damaged else "")


def test_what_was_counted_holds_for_the_backup_in_each_repository(cluster, monkeypatch):
    monkeypatch.setattr(backup, "MEASURED", common.STATE / "measured")
    monkeypatch.setattr(common, "as_postgres", lambda *_, **__: '{"point": "backup-far"}')
    assert backup.measured_at_a_point(["near", "far"]) == "backup-far"
    for label in ("near", "far"):
        assert common.read(f"measured/{label}.json") == {"point": "backup-far"}


def test_a_damaged_file_is_told_although_pgbackrest_ends_well(monkeypatch):
    said = "stanza: main\nstatus: ok\n"
    monkeypatch.setattr(drill, "pgbackrest", lambda *command: said)
    drill.verify(1)
    said = "stanza: main\nstatus: error\n  archiveId: 15-1, total WAL checked: 9\n"
    with pytest.raises(common.BackupError, match=r"(?s)is damaged.*total WAL checked: 9"):
        drill.verify(1)


def test_a_drill_looks_at_tables_indexes_and_pages(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(common, "as_postgres", lambda command, **_: ran.append(command) or "")
    drill.amcheck(SETTINGS, "/run/scratch")
    assert drill.checksums(SETTINGS, tmp_path) == "ok"
    programs = {Path(command[0]).name: command[1:] for command in ran}
    assert programs["pg_amcheck"] == ["--all", "--install-missing", "--host=/run/scratch"]
    assert programs["pg_checksums"] == ["--check", "--pgdata", str(tmp_path)]


@pytest.mark.parametrize(
    ("archive", "state"),
    [
        ({"mode": "on", "command": "pgbackrest x", "waiting": 0, "waiting_seconds": 0}, "ok"),
        ({"mode": "on", "command": "pgbackrest x", "waiting": 1, "waiting_seconds": 599}, "ok"),
        ({"mode": "on", "command": "pgbackrest x", "waiting": 9, "waiting_seconds": 601}, "bad"),
        ({"mode": "on", "command": "true", "waiting": 0, "waiting_seconds": 0}, "bad"),
        ({"mode": "off", "command": "", "waiting": 0, "waiting_seconds": 0}, "bad"),
        ({"error": "PostgreSQL does not answer"}, "bad"),
    ],
)
def test_an_archive_that_stands_still_is_bad(archive, state):
    assert watch.judge_archive(SETTINGS, archive)[0] == state


@pytest.mark.parametrize(
    ("record", "oldest", "state"),
    [
        ({}, None, "ok"),
        ({}, backup_of(24), "ok"),
        ({}, backup_of(10 * 24), "bad"),
        ({"result": "ok", "stopped": common.as_time(time.time() - 3600), "seconds": 4}, None, "ok"),
        ({"result": "ok", "stopped": "2020-01-01T00:00:00Z", "seconds": 4}, None, "bad"),
        ({"result": "failed", "stopped": common.now(), "error": "rows"}, None, "bad"),
    ],
)
def test_a_drill_that_failed_or_is_missing_is_bad(record, oldest, state):
    assert watch.judge_drill(SETTINGS, record, oldest)[0] == state


def measured(rows: int, revision: str = "0001") -> dict:
    """Return what was measured of one database."""
    return {"shop": {"revision": revision, "rows": {"public.users": rows}}}


def test_rows_that_were_not_there_or_are_missing_are_told():
    drill.compare(measured(10), measured(10))
    for rows in (9, 11):
        with pytest.raises(common.BackupError, match=rf"public\.users has {rows} rows, not 10"):
            drill.compare(measured(rows), measured(10))


def test_another_revision_or_a_missing_database_is_told():
    with pytest.raises(common.BackupError, match="revision 0002, not 0001"):
        drill.compare(measured(1, "0002"), measured(1))
    with pytest.raises(common.BackupError, match="shop: missing"):
        drill.compare({}, measured(1))


@pytest.mark.parametrize(
    ("copied", "error", "state"),
    [
        (None, "", "warn"),
        (None, "refused", "bad"),
        (60, "", "ok"),
        (39 * 60, "refused", "ok"),
        (41 * 60, "refused", "bad"),
        (41 * 60, "", "bad"),
    ],
)
def test_a_copy_is_judged_by_its_last_success(copied, error, state):
    settings = dataclasses.replace(SETTINGS, ssh={"host": "192.0.2.7", "minutes": 30})
    last = {"error": error}
    if copied is not None:
        last["copied"] = common.as_time(time.time() - copied)
    assert watch.judge_copy(settings, last)[0] == state


@pytest.mark.parametrize(
    ("now", "most", "state"),
    [
        ({"/srv/a": 3}, {"/srv/a": 9}, "ok"),
        ({"/srv/a": 0}, {"/srv/a": 0}, "ok"),
        ({"/srv/a": 0}, {"/srv/a": 1}, "bad"),
        ({"/srv/a": 1, "/srv/b": 0}, {"/srv/a": 1, "/srv/b": 2}, "bad"),
    ],
)
def test_a_folder_that_lost_all_its_files_is_told(now, most, state):
    assert watch.judge_files({"files": now}, most)[0] == state


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01 12:00:00+00",
        "2026-03-01 12:00",
        "2026-03-01T12:00:00Z",
        "2026-03-01 14:00:00+02:00",
        "2026-03-01 14:00+02",
    ],
)
def test_a_time_is_in_utc_unless_it_says_otherwise(text, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 1.9e9)
    assert plans.parse_time(text) == 1772366400


def test_the_name_of_a_point_tells_its_time():
    assert plans.point_time("before-migration-20260301T120000Z") == 1772366400
    assert plans.point_time("backup-20260228-010203F_20260301-120000D") == 1772366400
    with pytest.raises(common.BackupError, match="no restore point of ours"):
        plans.point_time("yesterday")


def test_the_backup_before_the_moment_is_chosen(monkeypatch):
    known = [backup_of(50, "old"), backup_of(26, "middle"), backup_of(2, "new")]
    monkeypatch.setattr(common, "info", lambda number=0: {"backup": known})
    monkeypatch.setattr(common, "info_of_readable", lambda number=0: {"backup": known})
    monkeypatch.setattr(plans, "must_have_no_spaces", lambda number, label: None)
    monkeypatch.setattr(common, "read", lambda name: {})
    monkeypatch.setattr(common, "measure", lambda: {})
    wanted = plans.Wanted(common.as_time(time.time() - 3 * 3600), "", 0, False)
    assert plans.plan(SETTINGS, wanted).label == "middle"
    assert plans.plan(SETTINGS, plans.Wanted("", "", 0, False)).label == "new"
    early = plans.Wanted(common.as_time(time.time() - 60 * 3600), "", 0, False)
    with pytest.raises(common.BackupError, match="There is no backup from before"):
        plans.plan(SETTINGS, early)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("ERROR: [029]: new backup label '20261126-2F' is not later than latest backup label"
         " '20261127-1F'", "A backup is dated later than now"),
        ("ERROR: [095]: unable to flush", "The passphrase is not the repository's"),
        ("ERROR: [029]: error restoring '/x': actual checksum 'a' does not match expected checksum"
         " 'b'", "A file of the repository is damaged"),
        ("ERROR: [029]: zstd error: [20] Data corruption", "A file of the repository is damaged"),
        ("ERROR: [039]: write: No space left on device", "The disk of the repository is full"),
        ("ERROR: [028]: backup and archive info files exist but do not match the database",
         "backups of another cluster"),
        ("[ProtocolError] HTTP request failed with 403 (Forbidden): <Code>SignatureDoesNotMatch"
         "</Code><Message>The request signature does not match the signature you provided",
         "The storage refuses the access key"),
        ("Fatal: unable to open config file: Stat: Access Denied.",
         "The storage refuses the access key"),
        ("[HostConnectError] unable to connect to 's3:443': [111] Connection refused",
         "The storage does not answer"),
        ('Fatal: Stat: Head "https://s3/": dial tcp 192.0.2.1:443: connect: connection refused',
         "The storage does not answer"),
        ("[CryptoError] unable to find hostname 's3' in certificate common name",
         "The storage's certificate is not trusted"),
        ("x509: certificate signed by unknown authority",
         "The storage's certificate is not trusted"),
    ],
)  # fmt: skip
def test_an_error_of_pgbackrest_gets_its_meaning_and_a_fix(said, meaning):
    explained = common.explained(said)
    assert meaning in explained
    assert said in explained
    assert "Fix:" in explained


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Return the folder of a cluster, with nothing around it that runs."""
    data = tmp_path / "15/main"
    data.parent.mkdir()
    monkeypatch.setattr(common.Settings, "data", property(lambda self: data))
    monkeypatch.setattr(common, "STATE", tmp_path / "state")
    monkeypatch.setattr(common, "run", lambda *arguments, **options: "")
    monkeypatch.setattr(common, "psql", lambda *arguments, **options: "")
    monkeypatch.setattr(restore.subprocess, "run", lambda *arguments, **options: None)
    return data


@pytest.mark.parametrize("killed", ["before", "between"])
def test_the_old_cluster_is_back_wherever_a_restore_was_killed(cluster, killed):
    aside = cluster.with_name("main.replaced-20261122T000000Z")
    old = {"before": cluster, "between": aside}[killed]
    old.mkdir()
    (old / "rows").write_text("old")
    fetched = cluster.with_name("main.restore")
    fetched.mkdir()
    (fetched / "rows").write_text("new")
    journal = {"step": "replacing", "aside": str(aside), "was_running": True}
    common.record("restore.json", journal)
    restore.put_back_interrupted(SETTINGS)
    assert (cluster / "rows").read_text() == "old"
    assert [path.name for path in cluster.parent.glob("main*")] == ["main"]
    assert common.read("restore.json")["step"] == "done"


def test_a_cluster_that_was_found_well_stays_in_its_place(cluster):
    aside = cluster.with_name("main.replaced-20261122T000000Z")
    for path, rows in ((aside, "old"), (cluster, "new")):
        path.mkdir()
        (path / "rows").write_text(rows)
    journal = {"step": "replacing", "aside": str(aside), "was_running": True}
    common.record("restore.json", journal)
    restore.put_back_interrupted(SETTINGS)
    assert (cluster / "rows").read_text() == "new"
    assert (aside / "rows").read_text() == "old"


def test_what_is_kept_aside_is_not_removed_while_a_restore_is_not_over(cluster, monkeypatch):
    monkeypatch.setattr(common, "LOCK", cluster.with_name("lock"))
    aside = cluster.with_name("main.replaced-20261122T000000Z")
    aside.mkdir()
    common.record("restore.json", {"step": "replacing"})
    with pytest.raises(common.BackupError, match="A restore was interrupted"):
        restore.remove_replaced(SETTINGS)
    common.record("restore.json", {"step": "done"})
    assert restore.remove_replaced(SETTINGS) == [f"removed {aside}"]


def test_what_a_restore_has_kept_aside_is_found_after_an_upgrade(cluster):
    aside = cluster.parents[1] / "13" / "main.replaced-20261122T000000Z"
    aside.mkdir(parents=True)
    assert restore.replaced(SETTINGS) == [aside]


def test_a_backup_of_an_abandoned_time_line_is_not_the_latest(monkeypatch):
    known = [backup_of(9, "kept"), backup_of(5, "abandoned")]
    now = time.time()
    past = {"moment": now - 8 * 3600, "since": now - 4 * 3600, "timeline": 2}
    monkeypatch.setattr(common, "info", lambda number=0: {"backup": known})
    monkeypatch.setattr(common, "info_of_readable", lambda number=0: {"backup": known})
    monkeypatch.setattr(plans, "must_have_no_spaces", lambda number, label: None)
    monkeypatch.setattr(common, "measure", lambda: {})
    monkeypatch.setattr(common, "read", lambda name: {"restores": [past]})
    latest = plans.Wanted("", "", 0, False)
    assert plans.plan(SETTINGS, latest).label == "kept"
    known.append(backup_of(3, "since"))
    assert plans.plan(SETTINGS, latest).label == "since"


def test_a_moment_is_looked_for_on_the_time_line_of_its_time(monkeypatch):
    known = [backup_of(9, "kept"), backup_of(5, "abandoned")]
    now = time.time()
    past = {"moment": now - 8 * 3600, "since": now - 4 * 3600, "timeline": 2}
    monkeypatch.setattr(common, "info", lambda number=0: {"backup": known})
    monkeypatch.setattr(common, "info_of_readable", lambda number=0: {"backup": known})
    monkeypatch.setattr(plans, "must_have_no_spaces", lambda number, label: None)
    monkeypatch.setattr(common, "measure", lambda: {})
    monkeypatch.setattr(common, "read", lambda name: {"restores": [past]})
    for hours, label, line in ((4.5, "abandoned", "current"), (3, "kept", "2")):
        wanted = plans.Wanted(common.as_time(now - hours * 3600), "", 0, False)
        plan = plans.plan(SETTINGS, wanted)
        assert plan.label == label
        assert f"--target-timeline={line}" in plan.target


def test_another_clusters_backups_beside_the_chosen_ones_are_refused():
    other = backup_of(5, "other") | {"database": {"repo-key": 2}}
    stanza = {"backup": [backup_of(9, "ours"), other],
              "db": [{"repo-key": 1, "system-id": 7}, {"repo-key": 2, "system-id": 8}]}  # fmt: skip
    with pytest.raises(common.BackupError, match="Repository 2 holds the backups of another"):
        plans.must_be_of_one_cluster(1, stanza)


@pytest.mark.parametrize(("result", "red"), [("ok", False), ("failed", True), ("killed", True)])
def test_how_a_run_ended_is_written_down_whatever_happens(cluster, monkeypatch, result, red):
    monkeypatch.setattr(common, "LOCK", cluster.with_name("lock"))

    def run() -> None:
        with common.recorded("drill.json", 0) as facts:
            facts["size"] = 1
            assert common.read("drill.json")["result"] == "running"
            assert watch.failure(common.read("drill.json"), is_busy=True) == ""
            if result == "failed":
                raise common.BackupError("no")
            if result == "killed":
                raise KeyboardInterrupt

    with contextlib.suppress(common.BackupError, KeyboardInterrupt):
        run()
    assert bool(watch.failure(common.read("drill.json"), is_busy=False)) == red


@pytest.mark.parametrize(
    ("at_work", "red"),
    [([True, False], False), ([False, True], False), ([False, False], True)],
    ids=["ends meanwhile", "begins meanwhile", "was killed"],
)
def test_a_backup_that_ends_or_begins_during_the_check_was_not_killed(
    cluster, monkeypatch, at_work, red
):
    seen = iter(at_work)
    monkeypatch.setattr(watch, "is_at_work", lambda: next(seen, False))
    monkeypatch.setattr(common, "info", dict)
    monkeypatch.setattr(watch, "archive_state", lambda settings: {"error": "not asked"})
    monkeypatch.setattr(watch.upgrade, "kept", lambda settings: None)
    common.record("backup.json", {"result": "running"})
    common.record("restore.json", {"step": "fetching"})
    watch.check(SETTINGS)
    lines = common.read("status.json")["lines"]
    assert ("it was killed" in lines["backup"]["said"]) == red
    assert ("restore" in lines) == red


def test_a_run_that_vanished_is_a_failure():
    assert watch.failure({"result": "running"}, is_busy=False) == "it was killed"


def test_the_repository_whose_newest_backup_is_oldest_is_judged():
    far = SETTINGS_OF_TWO.repositories[1]["number"]
    known = [backup_of(30, "far") | {"database": {"repo-key": far}}, backup_of(2, "near")]
    assert watch.newest_of(SETTINGS_OF_TWO, known)["label"] == "far"
    assert watch.newest_of(SETTINGS_OF_TWO, known[1:]) is None


def test_only_the_log_of_the_same_cluster_comes_along(cluster, monkeypatch, tmp_path):
    copied = []

    def as_postgres(command):
        if command[0] == "cp":
            copied.append(Path(command[2]).name)
        return "Database system identifier:   77\n"

    monkeypatch.setattr(common, "as_postgres", as_postgres)
    log = tmp_path / "old/pg_wal"
    (log / "archive_status").mkdir(parents=True)
    for number, owner in ((1, 77), (2, 78), (3, 77)):
        head = bytes(24) + owner.to_bytes(8, sys.byteorder)
        (log / f"{number:024X}").write_bytes(head)
    (log / "archive_status" / f"{3:024X}.done").touch()
    (log / "00000002.history").touch()
    (tmp_path / "old").rename(cluster)
    restore.take_along(SETTINGS, tmp_path / "new")
    assert copied == [f"{1:024X}"]


def test_a_backup_of_before_an_upgrade_is_not_restored_into_the_new_version():
    old, new = backup_of(30, "old"), backup_of(1, "new")
    old["database"]["id"], new["database"]["id"] = 1, 2
    of_each = [{"repo-key": 1, "id": number, "system-id": 7000 + number} for number in (1, 2)]
    assert common.backups({"backup": [old, new], "db": of_each}) == [new]
    assert common.backups({"backup": [old], "db": of_each[:1]}) == [old]


@pytest.mark.parametrize(
    ("files", "empty"),
    [
        (["1/1259", "1/2619_fsm", "5/PG_VERSION"], True),
        (["1/1259", "5/16390"], False),  # a table in the database postgres
        (["1/1259", "16384/1259"], False),  # a database of its own
        ([], False),  # nobody knows
    ],
)
def test_a_cluster_is_taken_for_empty_only_if_it_holds_nothing(tmp_path, files, empty):
    for name in files:
        path = tmp_path / "base" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert is_empty(tmp_path) == empty


def test_the_version_is_written_where_the_role_writes_it(tmp_path, monkeypatch):
    settings, conf = tmp_path / "settings.json", tmp_path / "pgbackrest.conf"
    settings.write_text('{\n    "full_days": 15,\n    "version": 15\n}\n')
    conf.write_text("repo1-path=/srv/15\n\n[main]\npg1-path=/var/lib/postgresql/15/main\n")
    settings.chmod(0o600)
    conf.chmod(0o640)
    monkeypatch.setattr(common, "SETTINGS", settings)
    monkeypatch.setattr(upgrade, "PGBACKREST", conf)
    assert upgrade.write_settings(SETTINGS, 17).version == 17
    assert settings.read_text() == '{\n    "full_days": 15,\n    "version": 17\n}\n'
    assert conf.read_text().endswith(
        "repo1-path=/srv/15\n\n[main]\npg1-path=/var/lib/postgresql/17/main\n"
    )
    assert (settings.stat().st_mode & 0o777, conf.stat().st_mode & 0o777) == (0o600, 0o640)


def test_a_locale_that_the_system_does_not_know_is_told():
    obstacles.must_have_locale("C.UTF-8")
    with pytest.raises(common.BackupError, match=r"(?s)xx_YY\.UTF-8.*Fix: .*/etc/locale\.gen"):
        obstacles.must_have_locale("xx_YY.UTF-8")


def test_the_rows_that_going_back_loses_are_counted():
    measured = {"webapp": {"revision": "a", "rows": {"public.users": 3, "other.users": 4}}}
    assert upgrade.counted(measured) == {"webapp users": 3, "webapp other.users": 4}


def test_only_roots_own_folders_are_restored_with_the_rights_of_root(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "uploads").symlink_to(tmp_path / "disk")
    shop = {"name": "shop", "folders": ["/etc/shop", "/var/lib/shop", str(tmp_path / "uploads")]}
    settings = dataclasses.replace(SETTINGS, applications=[shop])
    for path in ("/etc/shop", "/var/lib/slipway/backup/measured"):
        assert restore.writer(settings, path) == "root"
    for path in ("/var/lib/shop", str(tmp_path / "uploads"), str(tmp_path / "disk")):
        assert restore.writer(settings, path) == "shop"
    for path in ("/etc", "/etc/shop/sub", "/root", "/var/lib/other"):
        assert restore.writer(settings, path) == ""


def test_a_lost_repository_is_refused_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "STATE", tmp_path)
    monkeypatch.setattr(common, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(common, "info_of_readable", lambda: {"name": "main"})
    monkeypatch.setattr(
        backup, "prepare", lambda settings, stanza: backup.must_not_begin_anew(settings, stanza)
    )
    repository = {"number": 1, "path": "/srv/b", "restic": "/srv/b/files"}
    settings = dataclasses.replace(SETTINGS, repositories=[repository])
    common.record("backup.json", {"repositories": ["/srv/b/files"]})
    for _ in range(2):
        with pytest.raises(common.BackupError, match="has lost its backups"):
            backup.run(settings, full=False)


def test_a_password_that_another_run_has_made_meanwhile_stays(tmp_path):
    path = tmp_path / "files.password"
    backup.make_password(path)
    first = path.read_text()
    assert len(first) > 32
    assert path.stat().st_mode & 0o777 == 0o600
    backup.make_password(path)
    assert path.read_text() == first
    assert list(tmp_path.iterdir()) == [path]
