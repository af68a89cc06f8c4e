"""A process of ours dies or hangs: it is back by itself, and only what it had in hand is lost."""

import json
import time

import pytest
from faults import slow_post

testinfra_hosts = ["ansible://application"]

TIMEOUT_SECONDS = 10  # gunicorn_timeout_seconds, in this scenario's inventory
THREADS = 2  # of a worker
# Wait for what was killed, and say how long that took.
BACK = """
began=$(date +%s%N); kill -KILL {pid}
until [ $(pgrep --parent {main} | grep --invert-match --line-regexp {pid} | wc -l) = {count} ]
do sleep 0.01; done
echo $(( ($(date +%s%N) - began) / 1000000 ))
"""


def assert_one_is_new(server, before: list[int], seconds: float = 10) -> None:
    """See that one worker, and no other, was replaced."""
    deadline = time.monotonic() + seconds
    while len(set(before) & set(server.workers())) == len(before) and time.monotonic() < deadline:
        time.sleep(0.5)
    time.sleep(1)
    now = server.workers()
    assert (len(now), len(set(before) & set(now))) == (len(before), len(before) - 1)


def test_a_killed_worker_takes_only_its_own_requests_along(host, server, fault):
    workers, main = server.workers(), server.master()
    with fault("a worker is killed (`kill -9`)") as seen:
        held = [slow_post(server.address, "/slow/3000") for _ in range(4)]
        time.sleep(1)
        seen.begins()
        back = BACK.format(pid=workers[0], main=main, count=len(workers))
        milliseconds = int(server.must(back))
        killed = time.monotonic() - milliseconds / 1000
        seen.note = f"another one after {milliseconds} ms"
        for one in held:
            one.join(30)
    assert milliseconds < 1000
    assert server.master() == main
    assert all(answer.sent <= killed + 0.1 for answer in seen.failed)  # they were in its hands
    finished = [json.loads(one.answer.body) for one in held if one.answer.status == 200]
    assert len(held) - len(finished) + len(seen.failed) <= THREADS
    assert workers[0] not in {one["worker"] for one in finished}


@pytest.mark.parametrize(
    ("what", "signal", "seconds"),
    [("killed (`kill -9`)", "KILL", 3), ("ended (`kill`)", "TERM", 5)],
)
def test_a_master_that_goes_is_back_in_seconds(host, server, fault, what, signal, seconds):
    release = server.release()
    with fault(f"gunicorn's master is {what}") as seen:
        main = server.master()
        seen.begins()
        server.must(f"kill -{signal} {main}")
    assert server.master() not in (0, main)
    assert seen.seconds < seconds
    assert server.release() == release
    sockets = server.must("ls /run/webapp").split()
    assert sorted(sockets) == sorted(["current.sock", release, f"{release}.sock"])


def test_a_master_that_is_killed_again_and_again_is_not_given_up(host, server, fault):
    main = 0
    with fault("… and seven times more, as soon as it is back") as seen:
        seen.begins()
        for _ in range(7):
            deadline, last = time.monotonic() + 15, main
            while (main := server.master()) in (0, last):
                assert time.monotonic() < deadline
            server.must(f"kill -KILL {main}")
        seen.ends()
    assert seen.seconds < 3
    # On a slow machine seven times are too few for systemd to give up.
    limit = "systemctl show --property=StartLimitIntervalUSec --value"
    assert server.must(f"{limit} webapp@{server.release()}") == "0"


def test_a_stuck_worker_is_replaced(host, server, fault):
    before = server.workers()
    with fault("a worker is stuck in one instruction, with Python's lock") as seen:
        seen.begins()
        stuck = slow_post(server.address, "/stuck")
        stuck.join(TIMEOUT_SECONDS + 10)
        seen.ends()
    assert stuck.answer.status == 502
    assert_one_is_new(server, before)
    assert TIMEOUT_SECONDS - 1 <= stuck.answer.seconds < TIMEOUT_SECONDS + 5
    assert seen.served > 100
    assert seen.seconds < 5


def test_a_request_that_only_waits_may_take_longer_than_that(host, server, fault):
    before = server.workers()
    with fault("a request waits for longer than gunicorn's timeout") as seen:
        seen.begins()
        waiting = slow_post(server.address, f"/slow/{(TIMEOUT_SECONDS + 5) * 1000}")
        waiting.join(TIMEOUT_SECONDS + 30)
        seen.ends()
    assert waiting.answer.status == 200
    assert server.workers() == before
    assert seen.failed == []


def test_an_endless_loop_ends(host, server, fault):
    before = server.workers()
    with fault("a request calculates for ever") as seen:
        seen.begins()
        endless = slow_post(server.address, "/endless")
        endless.join(65 + TIMEOUT_SECONDS)  # as long as nginx waits
        seen.ends()
        assert_one_is_new(server, before, seconds=60)
    assert endless.answer.status in (502, 504)
    assert seen.served > 100
    assert seen.failed == []  # whatever else its worker had, it finished


@pytest.mark.parametrize(
    ("what", "signal"), [("killed (`pkill -9 nginx`)", "KILL"), ("ended (`pkill nginx`)", "TERM")]
)
def test_nginx_that_goes_is_back_in_three_seconds(host, server, fault, what, signal):
    main = "systemctl show --property=MainPID --value nginx"
    before = server.must(main)
    with fault(f"nginx is {what}") as seen:
        seen.begins()
        server.must(f"pkill -{signal} nginx")
    assert server.must(main) not in ("0", before)
    assert seen.seconds < 3


def test_a_configuration_broken_by_hand_is_mended_by_the_next_run(host, server, fault, playbook):
    good = server.must("cat /etc/nginx/nginx.conf")
    with fault("nginx's configuration is broken by hand, and `site.yml --tags nginx` run") as seen:
        seen.begins()
        server.must("echo 'this is no directive;' >> /etc/nginx/nginx.conf")
        assert server.run("systemctl reload nginx").returncode != 0
        done = playbook("--tags", "nginx", "--diff")
        seen.ends()
    assert done.returncode == 0, done.stdout
    assert "-this is no directive;" in done.stdout
    assert server.must("cat /etc/nginx/nginx.conf") == good
    server.must("nginx -t")
    assert seen.failed_beyond_a_reload() == []


def test_a_configuration_broken_by_hand_is_mended_while_nginx_is_down(
    host, server, fault, playbook
):
    with fault("… and nginx was restarted before, so it is down until then") as seen:
        seen.begins()
        server.must("echo 'this is no directive;' >> /etc/nginx/nginx.conf")
        assert server.run("systemctl restart nginx").returncode != 0
        done = playbook("--tags", "nginx")
        seen.ends()
    assert done.returncode == 0, done.stdout
    assert seen.seconds < 1
