"""A lost server is rebuilt on an empty one, from the repository and its passphrase alone."""

import json

import pytest
from conftest import CONF, SETTINGS, bad, taken_over

testinfra_hosts = ["ansible://spare"]


@pytest.fixture
def packed(kept) -> bytes:
    """Return the repository of the lost server, with all that it had last."""
    kept.must("echo picture > /srv/uploads/photo; chown webapp: /srv/uploads/photo")
    kept.must(
        "systemctl start slipway-backup; runuser -u postgres -- pgbackrest --stanza=main check"
    )
    return kept.run("tar -C /var/backups/slipway -c .").stdout


def test_an_empty_server_takes_over_from_the_repository_alone(host, kept, spare, packed):
    spare.empty()
    spare.must("mkdir /var/backups/slipway; tar -C /var/backups/slipway -x", given=packed)
    spare.must("slipway-backup prepare")
    assert not bad(taken_over(spare, kept))


def test_an_empty_server_takes_over_from_its_second_repository(host, kept, spare, packed):
    """The first one is on a disk that is gone with the old server."""
    spare.empty()
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
    assert not bad(taken_over(spare, kept, backup_restore_repository=2))
    assert spare.must("ls /var/backups/slipway/pgbackrest/backup/main")
