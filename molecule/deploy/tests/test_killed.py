"""A run that is killed leaves the old release serving, and the next run needs no help."""

import json
import os
import time

import pytest
from conftest import on_server, releases, running, wait_for_phase
from runs import changed

testinfra_hosts = ["ansible://server"]
PHASES = ["plan", "build", "migrate", "start", "switch"]


@pytest.mark.parametrize("phase", PHASES)
def test_a_killed_run_needs_no_help(host, phase, good, start, kill, play, load, current):
    good.change()
    process = start()
    wait_for_phase(phase)
    kill(process)
    output = play()
    # What has begun to start is switched to by the server itself, which gives the lock back.
    assert "that run is gone" in output or phase in ("start", "switch")
    serving = current()
    assert running() == [serving]
    assert serving == max(name for name in releases())
    for name in releases():  # neither archives nor what was half made
        assert on_server(f"grep -c switched /srv/webapp/releases/{name}/release.json") == "1"
    assert on_server("cat /srv/webapp/release.lock") == ""
    assert changed(play()) == 0


def test_the_second_of_two_deploys_says_who_is_first(host, spoilt, start, play, current):
    spoilt.append("app.py", "\n\ntime.sleep(5)\n")  # so that the second comes while it is at work
    first = start(source=spoilt)
    wait_for_phase("build")
    output = play(fails=True)
    user = os.environ.get("USER", "root")
    assert f"{user}@{os.uname().nodename} (process {first.pid}) is releasing webapp" in output
    assert "playbooks/unlock-application.yml" in output
    printed, _ = first.communicate(timeout=120)
    assert first.returncode == 0, printed
    assert current() in printed


def test_one_command_gives_back_the_lock_of_a_run_elsewhere(host, good, start, kill, play):
    good.change()
    process = start()
    wait_for_phase("migrate")
    kill(process)
    time.sleep(2)  # its phase on the server ends
    lock = json.loads(on_server("cat /srv/webapp/release.lock"))
    lock["holder"] |= {"computer": "another", "host": "laptop", "user": "ana"}
    text = json.dumps(lock).replace("'", "")
    on_server(f"echo '{text}' > /srv/webapp/release.lock")
    assert "ana@laptop" in play(fails=True)
    assert "It was locked by ana@laptop" in play("unlock-application")
    play()


def test_a_lock_from_before_a_restart_is_stale(host, good, start, kill, play):
    good.change()
    process = start()
    wait_for_phase("migrate")
    kill(process)
    time.sleep(2)  # its phase on the server ends
    lock = json.loads(on_server("cat /srv/webapp/release.lock"))
    lock["holder"]["computer"] = "another"
    lock["boot"] = "an earlier one"
    on_server(f"echo '{json.dumps(lock)}' > /srv/webapp/release.lock")
    on_server("touch /var/cache/webapp/uv/half-written")  # as a power cut may have left it
    assert "the host was restarted since" in play()
    assert "half-written" not in on_server("ls -A /var/cache/webapp/uv || true")
