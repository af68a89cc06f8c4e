"""A lost server is rebuilt on an empty one, from the repository and its passphrase alone."""

from conftest import Server

testinfra_hosts = ["ansible://spare"]


def test_an_empty_server_takes_over_from_the_repository_alone(host, kept):
    spare = Server("spare", "127.0.19.12")
    secret = kept.must("cat /etc/webapp/secret_key")
    assert spare.must("cat /etc/webapp/secret_key") != secret
    kept.must("echo picture > /srv/uploads/photo; chown webapp: /srv/uploads/photo")
    kept.must(
        "systemctl start slipway-backup; runuser -u postgres -- pgbackrest --stanza=main check"
    )
    names = kept.names()
    packed = kept.run("tar -C /var/backups -c slipway").stdout
    spare.must("rm -rf /var/backups/slipway; tar -C /var/backups -x", given=packed)
    spare.must("slipway-backup prepare")
    status = spare.status()
    assert status["state"] == "bad"
    assert "another cluster" in str(status["lines"])
    done = spare.restore(backup_restore_files=True)
    assert done.returncode == 0, done.text
    assert names <= spare.names()
    assert spare.must("cat /etc/webapp/secret_key") == secret
    assert spare.must("cat /srv/uploads/photo; stat -c %U /srv/uploads/photo") == "picture\nwebapp"
    assert f'SECRET_KEY="{secret}"' in spare.must("cat /srv/webapp/current/environment")
    assert spare.is_served()
    spare.must("while systemctl is-active --quiet slipway-backup; do sleep 1; done")
    assert spare.status()["state"] != "bad"
