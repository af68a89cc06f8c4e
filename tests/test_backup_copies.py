"""The copy of the backups on another machine: the real rsync, into a folder that stands for it."""

import dataclasses
import getpass
import sys
import threading
import time
from pathlib import Path

import pytest

from test_backup_program import SETTINGS

sys.path.insert(0, str(Path(__file__).parents[1] / "roles/backup/files"))

from slipway_backup import common, elsewhere

SSH = {"host": "192.0.2.7", "port": 22, "user": "copy", "path": "/"}


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return settings whose other machine is a folder here; rsync is the real one."""
    settings = dataclasses.replace(
        SETTINGS, ssh=SSH, repositories=[{"number": 1, "path": str(tmp_path / "here")}]
    )
    (tmp_path / "there").mkdir()
    backups = tmp_path / "here/pgbackrest/backup/main"
    (backups / "20261122-010203F").mkdir(parents=True)
    (backups / "20261122-010203F/bundle").write_text("rows")
    (backups / "backup.info").write_text("20261122-010203F")
    monkeypatch.setattr(elsewhere, "place", lambda settings, name="": f"{tmp_path}/there/{name}")
    monkeypatch.setattr(elsewhere, "LOCK", tmp_path / "copy.lock")
    monkeypatch.setattr(common, "LOCK", tmp_path / "lock")
    monkeypatch.setattr(common, "STATE", tmp_path / "state")
    elsewhere.mark(settings, 77)
    return settings


def test_while_a_backup_is_made_its_list_is_not_copied(machine, tmp_path):
    with common.alone(0):
        elsewhere.copy(machine)
    there = tmp_path / "there/pgbackrest/backup/main"
    assert (there / "20261122-010203F/bundle").read_text() == "rows"
    assert not (there / "backup.info").exists()
    elsewhere.copy(machine)
    assert (there / "backup.info").exists()


def test_a_copy_waits_for_the_one_at_work(machine, tmp_path):
    with elsewhere.one_at_a_time(0):
        other = threading.Thread(target=elsewhere.copy, args=[machine])
        other.start()
        time.sleep(0.5)
        assert other.is_alive()
        assert not (tmp_path / "there/pgbackrest").exists()
    other.join(10)
    assert (tmp_path / "there/pgbackrest/backup/main/backup.info").exists()


def test_what_expired_goes_from_the_copy_but_not_when_all_is_gone(machine, tmp_path):
    elsewhere.copy(machine)
    there = tmp_path / "there/pgbackrest/backup/main"
    (tmp_path / "here/pgbackrest/backup/main/20261122-010203F/bundle").unlink()
    elsewhere.copy(machine)
    assert not (there / "20261122-010203F/bundle").exists()
    (tmp_path / "here/pgbackrest/backup/main/backup.info").unlink()
    elsewhere.copy(machine)
    assert (there / "backup.info").exists()


def test_a_folder_keeps_its_mode_when_it_is_copied_and_fetched(machine, tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.chmod(0o755)
    there.chmod(0o700)
    elsewhere.copy(machine)
    assert there.stat().st_mode & 0o777 == 0o700
    (here / "pgbackrest").rename(tmp_path / "lost")
    monkeypatch.setattr(elsewhere, "OWNERS", dict.fromkeys(elsewhere.OWNERS, getpass.getuser()))
    elsewhere.fetch(machine)
    assert here.stat().st_mode & 0o777 == 0o755
    assert (here / "pgbackrest/backup/main/20261122-010203F/bundle").read_text() == "rows"


def test_the_copy_of_another_cluster_is_left_alone(machine, tmp_path):
    elsewhere.copy(machine)
    elsewhere.mark(machine, 78)
    with pytest.raises(common.BackupError, match="is of another cluster"):
        elsewhere.copy(machine)
    assert common.read("copy.json")["result"] == "failed"
    assert elsewhere.is_anothers(machine, 78)
    assert not elsewhere.is_anothers(machine, 77)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("copy@h: Permission denied (publickey).", "refuses the key"),
        ("Host key verification failed.", "is not the one it should be"),
        ("bash: line 1: rsync: command not found", "has no rsync"),
        ("ssh: connect to host h port 22: Connection timed out", "does not answer"),
        ("rsync: [receiver] write failed: No space left on device (28)", "is full"),
    ],
)
def test_an_error_of_ssh_or_rsync_gets_its_meaning(said, meaning):
    settings = dataclasses.replace(SETTINGS, ssh=SSH)
    explained = elsewhere.explained(settings, f"rsync ended with 255:\n{said}")
    assert f"The {'disk of the ' if 'full' in meaning else ''}other machine {meaning}" in explained
    assert said in explained
    assert "Fix:" in explained
