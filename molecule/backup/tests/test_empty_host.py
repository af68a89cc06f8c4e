"""A lost server is rebuilt on an empty one, from the repository and its passphrase alone."""

import json

import pytest
from conftest import CONF, SETTINGS, Server

testinfra_hosts = ["ansible://spare"]
DATA = "/var/lib/postgresql/15/main"
EMPTY = f"""
systemctl stop webapp.target postgresql@15-main
rm -rf {DATA} {DATA}.replaced-* /var/lib/slipway/backup/*.json /var/backups/slipway
runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb --data-checksums -D {DATA} > /dev/null
systemctl start postgresql@15-main
"""


@pytest.fixture
def spare():
    """Return a server that has just been made: its cluster is its own, and no backup exists."""
    server = Server("spare", "127.0.19.12")
    server.must(f"set -e; cd /; {EMPTY}")
    return server


@pytest.fixture
def packed(kept) -> bytes:
    """Return the repository of the lost server, with all that it had last."""
    kept.must("echo picture > /srv/uploads/photo; chown webapp: /srv/uploads/photo")
    kept.must(
        "systemctl start slipway-backup; runuser -u postgres -- pgbackrest --stanza=main check"
    )
    return kept.run("tar -C /var/backups/slipway -c .").stdout


def taken_over(spare: Server, kept: Server, **inputs: object) -> dict:
    """Restore, and look whether everything came along; return what the check says afterwards."""
    secret = kept.must("cat /etc/webapp/secret_key")
    status = spare.status()
    assert status["state"] == "bad"
    assert "another cluster" in str(status["lines"])
    done = spare.restore(backup_restore_files=True, **inputs)
    assert done.returncode == 0, done.text
    assert kept.names() <= spare.names()
    assert spare.must("cat /etc/webapp/secret_key") == secret
    assert spare.must("cat /srv/uploads/photo; stat -c %U /srv/uploads/photo") == "picture\nwebapp"
    assert f'SECRET_KEY="{secret}"' in spare.must("cat /srv/webapp/current/environment")
    assert spare.is_served()
    spare.must("while systemctl is-active --quiet slipway-backup; do sleep 1; done")
    return spare.status()


def test_an_empty_server_takes_over_from_the_repository_alone(host, kept, spare, packed):
    spare.must("mkdir /var/backups/slipway; tar -C /var/backups/slipway -x", given=packed)
    spare.must("slipway-backup prepare")
    assert taken_over(spare, kept)["state"] != "bad"


def test_an_empty_server_takes_over_from_its_second_repository(host, kept, spare, packed):
    """As where the second one is S3: the first is on a disk that is gone with the old server."""
    second = "/var/backups/second"
    spare.must(f"rm -rf {second}; mkdir {second}; tar -C {second} -x", given=packed)
    before = spare.must(f"sed -i /^repo2-/d {CONF}; cat {CONF}").partition("[main]")
    lines = [line.replace("repo1-", "repo2-").replace("/var/backups/slipway", second)
             for line in before[0].splitlines() if line.startswith("repo1-")]  # fmt: skip
    conf = before[0] + "\n".join(lines) + "\n\n" + "".join(before[1:]) + "\n"
    spare.must(f"cat > {CONF}", given=conf.encode())
    settings = json.loads(spare.must(f"cat {SETTINGS}"))
    (first, *_) = settings["repositories"]
    other = {"number": 2, "path": second, "restic": f"{second}/files"}
    settings["repositories"] = [first, first | other]
    spare.must(f"cat > {SETTINGS}", given=json.dumps(settings).encode())
    assert "another cluster" in spare.must("slipway-backup prepare")
    assert taken_over(spare, kept, backup_restore_repository=2)["state"] != "bad"
    assert spare.must("ls /var/backups/slipway/pgbackrest/backup/main")
