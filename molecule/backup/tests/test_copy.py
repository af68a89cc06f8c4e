"""The repository is copied to another machine, by a key that can do nothing else, and back."""

import json

import pytest
from conftest import SETTINGS, bad

testinfra_hosts = ["ansible://kept"]
THERE = "/var/lib/slipway-copies/copy-of-kept"
SSH = "-i /etc/slipway/backup/ssh_key -o UserKnownHostsFile=/etc/slipway/backup/known_hosts"
NAME = "copy-of-kept@10.127.19.12"
# What cannot change meanwhile: the archive goes on.
SUMS = "for d in pgbackrest/backup files; do find $d -type f; done | sort | xargs sha256sum"


@pytest.fixture
def changed(kept, afterwards):
    """Return a function that changes a setting of the program until the test is over."""

    def change(**values: object) -> None:
        settings = json.loads(kept.must(f"cat {SETTINGS}")) | values
        kept.must(f"cat > {SETTINGS}", given=json.dumps(settings).encode())

    kept.must(f"cp -a {SETTINGS} /root/settings")
    afterwards(f"cp -a /root/settings {SETTINGS}; slipway-backup copy")
    return change


def test_the_copy_is_the_repository(host, kept, spare):
    kept.must("slipway-backup copy")
    assert kept.status()["lines"]["copy"]["state"] == "ok"
    assert "only on this machine" not in kept.status()["lines"]["backup"]["said"]
    here = kept.must(f"cd /var/backups/slipway; {SUMS}")
    for part in ("backup.info", "/bundle/", "files/snapshots/", "files/data/"):
        assert part in here
    assert spare.must(f"cd {THERE}/copy; {SUMS}") == here


def test_a_segment_is_there_with_the_next_copy(host, kept, spare):
    segment = kept.sql("SELECT pg_walfile_name(pg_current_wal_lsn())")
    kept.switch_segment()
    find = f"find . -name '{segment}*' ! -name '*.tmp' | grep ."
    kept.must(f'cd /var/backups/slipway; timeout 60 sh -c "until {find}; do sleep 0.5; done"')
    kept.must("systemctl start slipway-copy")
    assert spare.run(f"cd {THERE}/copy; {find}").returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        f"ssh {SSH} {NAME} id",
        f"ssh {SSH} {NAME} 'rsync --server --sender -e.LsfxCIvu . ../.ssh/'",
        f"rsync -e 'ssh {SSH}' {NAME}:/../../../../etc/passwd /run/",
        f"ssh {SSH} -W 127.0.0.1:22 {NAME}",
        f"scp {SSH} /etc/hostname {NAME}:/tmp/",
        f"sftp {SSH} -b /dev/null {NAME}",
    ],
)
def test_the_key_can_copy_and_nothing_else(host, kept, command):
    kept.must(f"rsync -e 'ssh {SSH}' {NAME}:/cluster.json /run/")
    done = kept.run(f"timeout 20 {command} < /dev/null")
    assert done.returncode not in (0, 124), done.text
    assert "uid=" not in done.text
    assert "SSH-2.0" not in done.text


def test_a_machine_that_does_not_answer_turns_red_and_the_backup_goes_on(host, kept, changed):
    ssh = json.loads(kept.must(f"cat {SETTINGS}"))["ssh"]
    changed(ssh=ssh | {"port": 9})
    assert kept.run("systemctl start slipway-copy").returncode != 0
    assert "copy" not in bad(kept.status())  # a line may break for some minutes
    kept.must("systemctl start slipway-backup")
    changed(archive_max_minutes=0, ssh=ssh | {"port": 9, "minutes": 0})
    assert "The other machine does not answer" in bad(kept.status())


def test_a_key_that_is_refused_is_told(host, kept, spare, afterwards):
    spare.must(f"mv {THERE}/.ssh/authorized_keys /root/")
    try:
        done = kept.run("slipway-backup copy")
    finally:
        spare.must(f"mv /root/authorized_keys {THERE}/.ssh/")
    assert done.returncode != 0
    assert "The other machine refuses the key of this host" in done.text
    assert "Fix:" in done.text
    kept.must("slipway-backup copy")


def test_the_copy_of_another_cluster_is_not_written_over(host, kept, spare):
    mark = f"{THERE}/copy/cluster.json"
    spare.must(f"cp -a {mark} /root/mark; echo '{{\"system\": 1}}' > {mark}")
    before = spare.must(f"cd {THERE}/copy; {SUMS}")
    kept.must("systemctl start slipway-backup")
    try:
        done = kept.run("slipway-backup copy")
        assert spare.must(f"cd {THERE}/copy; {SUMS}") == before
    finally:
        spare.must(f"cp -a /root/mark {mark}")
    assert done.returncode != 0
    assert "is of another cluster" in done.text
    kept.must("slipway-backup copy")


def test_a_damaged_copy_fails_the_drill_and_can_be_repaired(host, kept, spare):
    kept.must("slipway-backup copy")
    find = f"find {THERE}/copy/pgbackrest/backup -path '*/bundle/*' -type f"
    path = spare.must(f"{find} -printf '%s %p\\n' | sort -n | tail -1").split()[1]
    spare.must(f"touch -r {path} /root/times; printf damage | dd of={path} seek=9 conv=notrunc")
    spare.must(f"touch -r /root/times {path}")
    kept.must("slipway-backup copy")  # sees nothing: time and size are the same
    assert kept.run("systemctl start slipway-drill").returncode != 0
    said = bad(kept.status())
    assert "The copy on the other machine is damaged" in said
    assert path.removeprefix(f"{THERE}/copy/") in said
    kept.must("slipway-backup copy --repair")
    kept.must("systemctl start slipway-drill")
    assert not bad(kept.status())


def test_an_empty_server_takes_over_from_the_copy_alone(host, kept, afterwards):
    """The same name in the inventory: site.yml lets the key of the new server in."""
    kept.must("echo picture > /srv/uploads/photo; chown webapp: /srv/uploads/photo")
    kept.must("systemctl start slipway-backup")
    kept.sql("INSERT INTO users (name) VALUES ('after-the-backup')")
    kept.switch_segment()
    kept.must("runuser -u postgres -- pgbackrest --stanza=main check; slipway-backup copy")
    secret, names = kept.must("cat /etc/webapp/secret_key"), kept.names()
    kept.empty()
    kept.must("rm /etc/slipway/backup/ssh_key*; echo other > /etc/webapp/secret_key")
    done = kept.settle()
    assert done.returncode == 0, done.text
    assert kept.run("systemctl start slipway-backup").returncode != 0
    assert "another cluster" in bad(kept.status())
    done = kept.restore(backup_restore_fetch=True, backup_restore_files=True)
    assert done.returncode == 0, done.text
    assert "after-the-backup" in names
    assert names == kept.names()
    assert kept.must("cat /etc/webapp/secret_key") == secret
    assert kept.must("cat /srv/uploads/photo; stat -c %U /srv/uploads/photo") == "picture\nwebapp"
    assert kept.is_served()
    kept.back_up()
    kept.must("slipway-backup copy")
    assert not bad(kept.status())
    done = kept.run("slipway-backup fetch")
    assert done.returncode != 0
    assert "The repository here holds backups" in done.text
