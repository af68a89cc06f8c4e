"""A repository in a storage that speaks S3, which fails, refuses, and is all that is left."""

import json

import pytest
from conftest import Server, bad, labels, on, taken_over

testinfra_hosts = ["ansible://kept"]
S3 = {
    "endpoint": "storage.example.org",
    "region": "eu",
    "bucket": "backups",
    "access_id": "server",
    "access_secret": "of-the-throwaway-storage",
    "uri_style": "path",
    "timeout_seconds": 2,
}
LOG = "runuser -u postgres -- pgbackrest --stanza=main repo-ls --recurse archive/main"


@pytest.fixture(scope="module")
def stored(kept) -> Server:
    """Return the server with a second repository."""
    done = kept.settle(backup_s3=S3)
    assert done.returncode == 0, done.text
    kept.must("systemctl start slipway-backup")
    yield kept
    on("storage", "systemctl start seaweedfs")
    done = kept.settle()
    assert done.returncode == 0, done.text
    kept.must("systemctl start slipway-backup")


def wait_for_segment(server: Server, number: int) -> None:
    """End a segment, and wait until a repository has it."""
    segment = server.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    server.switch_segment()
    list_ = f"{LOG} --repo={number}"
    server.must(f"cd /; timeout 90 sh -c 'until {list_} | grep {segment}; do sleep 1; done'")


def test_both_repositories_get_log_backup_and_files(host, stored):
    wait_for_segment(stored, 2)
    assert labels(stored, 1)
    assert labels(stored, 2)
    stored.must("systemctl start slipway-drill || journalctl -u slipway-drill -n 30 -o cat")
    drill = json.loads(stored.must("cat /var/lib/slipway/backup/drill.json"))
    assert drill["result"] == "ok", drill
    assert drill["repository"] == 2
    assert drill["compared"] is True
    assert drill["files"] > 1
    status = stored.status()
    assert status["state"] != "bad", status["lines"]
    assert "only on this machine" not in status["lines"]["backup"]["said"]


def test_wrong_credentials_are_told_by_site_yml_and_turn_red(host, stored):
    try:
        done = stored.settle(backup_s3=S3 | {"access_secret": "another"})
        said = bad(stored.status())
    finally:
        mended = stored.settle(backup_s3=S3)
    assert done.returncode != 0
    assert "The storage refuses the access key" in done.text
    assert "The storage refuses the access key" in said
    assert stored.is_served()
    assert mended.returncode == 0, mended.text
    assert not bad(stored.status())


def test_a_storage_that_is_away_turns_red_and_all_else_goes_on(host, stored, writer):
    before = labels(stored, 1)
    on("storage", "systemctl stop seaweedfs")
    wait_for_segment(stored, 1)
    assert "The storage does not answer" in bad(stored.status())
    assert stored.run("systemctl start slipway-backup").returncode != 0
    assert len(labels(stored, 1)) > len(before)
    assert stored.is_served()
    writer.stop()
    assert {name for name, _ in writer.acknowledged} <= stored.names()


def test_a_restore_does_not_wait_for_the_storage_that_is_away(host, stored):
    on("storage", "systemctl stop seaweedfs")
    names = stored.names()
    try:
        said = stored.must("slipway-backup restore --yes")
    finally:
        on("storage", "systemctl start seaweedfs")
    assert names
    assert names <= stored.names()
    assert "The storage does not answer" in said
    stored.back_up()
    wait_for_segment(stored, 2)
    assert not bad(stored.status())


def test_an_empty_server_takes_over_from_the_storage_alone(host, stored, spare):
    stored.must("echo picture > /srv/uploads/photo; chown webapp: /srv/uploads/photo")
    stored.must("systemctl start slipway-backup")
    wait_for_segment(stored, 2)
    spare.empty()
    try:
        done = spare.settle(backup_s3=S3, backup_local=False)
        assert done.returncode == 0, done.text
        assert spare.run("ls /var/backups/slipway").returncode != 0
        assert not bad(taken_over(spare, stored))
    finally:
        spare.must("rm -f /var/lib/slipway/backup/*.json")
        spare.settle()
