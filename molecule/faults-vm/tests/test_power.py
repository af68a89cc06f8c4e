"""The machine goes down in the middle of a release or of a backup: it comes back, and goes on."""

import json
import time

import pytest
from faults import Run, Server, new_source

testinfra_hosts = ["ansible://application"]

DEPLOY = "playbooks/deploy-application.yml"
DOWN = {"its power is cut": Server.cut_power, "it is rebooted": Server.reboot}
BACKUP = "[p]gbackrest backup"
COMES_BACK_SECONDS = 900  # an emulated machine boots for minutes
# A release takes so long there that the kernel would have written all of it. A fast one has not.
WRITE_LATE = "sysctl --quiet vm.dirty_expire_centisecs=360000 vm.dirty_writeback_centisecs=360000"


def backups(server) -> list[str]:
    """Return the labels of the backups that are in the repository."""
    info = "cd / && runuser -u postgres -- pgbackrest info --stanza=main --output=json"
    return [one["label"] for one in json.loads(server.must(info))[0]["backup"]]


def test_what_was_released_serves_after_a_power_cut(host, server, fault):
    """The kernel writes a file half a minute after a program did, but its name after 5 s."""
    before, boot = server.release(), server.boot()
    new_source()
    server.must(WRITE_LATE)
    output, code = Run(DEPLOY).result()
    assert code == 0, output
    release = server.release()
    with fault(
        "a release was made, and some seconds later the power is cut", within=COMES_BACK_SECONDS
    ) as seen:
        time.sleep(6)
        seen.begins()
        server.cut_power()
    assert server.boot() != boot
    assert before < release == server.release()


@pytest.mark.parametrize(
    ("how", "phase"),
    [("its power is cut", "Start it"), ("it is rebooted", "Build it")],
)
def test_a_release_that_the_machine_went_down_in_is_made_by_the_next_run(
    host, server, fault, how, phase
):
    before, boot = server.release(), server.boot()
    with fault(f"a release is made, and {how}", within=COMES_BACK_SECONDS) as seen:
        new_source()
        run = Run(DEPLOY)
        run.wait_for(f"TASK [flask_app : phases | {phase}")
        time.sleep(0.5)
        assert server.release() == before  # so it is in the middle
        seen.begins()
        DOWN[how](server)
        run.kill()
    assert server.boot() != boot
    assert server.release() == before
    output, code = Run(DEPLOY).result()
    assert code == 0, output
    assert server.release() > before
    assert server.must("cat /srv/webapp/release.lock") == ""


@pytest.mark.parametrize("how", DOWN)
def test_a_backup_that_the_machine_went_down_in_is_made_by_the_next_one(host, server, fault, how):
    before, boot = backups(server), server.boot()
    with fault(f"a backup is made, and {how}", within=COMES_BACK_SECONDS) as seen:
        server.must("systemctl start --no-block slipway-backup")
        server.must(f"until pgrep --full '{BACKUP}' >/dev/null; do sleep 0.1; done", 600)
        seen.begins()
        DOWN[how](server)
    assert server.boot() != boot
    for unit in ("slipway-backup", "slipway-drill"):  # the drill restores it, and counts
        server.must(f"systemctl start {unit} || ! journalctl --boot --unit={unit}", 1200)
    assert set(before) < set(backups(server))
    server.must("slipway-backup check")
