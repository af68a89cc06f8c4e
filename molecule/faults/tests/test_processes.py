"""A process of ours dies or hangs: it is back by itself, and only what it had in hand is lost."""

import time

from faults import slow_post

testinfra_hosts = ["ansible://application"]

TIMEOUT_SECONDS = 10  # gunicorn_timeout_seconds, in this scenario's inventory
# Wait for what was killed, and say how long that took.
BACK = """
began=$(date +%s%N); kill -KILL {pid}
until [ $(pgrep --parent {main} | grep --invert-match --line-regexp {pid} | wc -l) = {count} ]
do sleep 0.01; done
echo $(( ($(date +%s%N) - began) / 1000000 ))
"""


def test_a_killed_worker_takes_only_its_own_requests_along(host, server, fault):
    workers, main = server.workers(), server.master()
    with fault("a worker is killed (`kill -9`)") as seen:
        seen.begins()
        back = BACK.format(pid=workers[0], main=main, count=len(workers))
        milliseconds = int(server.must(back))
        killed = time.monotonic() - milliseconds / 1000
    seen.note = f"another one after {milliseconds} ms"
    assert milliseconds < 1000
    assert server.master() == main
    assert all(answer.sent <= killed + 0.1 for answer in seen.failed)  # they were in its hands
    assert len(seen.failed) <= len(seen.load.clients) + 1
    assert seen.seconds < 1


def test_a_killed_master_is_back_in_three_seconds(host, server, fault):
    release = server.release()
    with fault("gunicorn's master is killed (`kill -9`)") as seen:
        main = server.master()
        seen.begins()
        server.must(f"kill -KILL {main}")
    assert seen.seconds < 3
    assert server.release() == release
    sockets = server.must("ls /run/webapp").split()
    assert sorted(sockets) == sorted(["current.sock", release, f"{release}.sock"])


def test_a_master_that_is_killed_again_and_again_is_not_given_up(host, server, fault):
    with fault("… and seven times more, as soon as it is back") as seen:
        seen.begins()
        for _ in range(7):
            deadline = time.monotonic() + 15
            while not (main := server.master()):
                assert time.monotonic() < deadline
            server.must(f"kill -KILL {main}")
            time.sleep(0.1)
        seen.ends()
    assert seen.seconds < 3


def test_a_stuck_worker_is_replaced(host, server, fault):
    before = server.workers()
    with fault("a worker is stuck in one instruction, with Python's lock") as seen:
        seen.begins()
        stuck = slow_post(server.address, "/stuck")
        stuck.join(TIMEOUT_SECONDS + 10)
        seen.ends()
    assert stuck.answer.status == 502
    assert len(server.workers()) == len(before)
    assert len(set(before) & set(server.workers())) == len(before) - 1
    assert TIMEOUT_SECONDS - 1 <= stuck.answer.seconds < TIMEOUT_SECONDS + 5
    assert seen.seconds < 1


def test_an_endless_loop_ends(host, server, fault):
    before = server.workers()
    with fault("a request calculates for ever") as seen:
        seen.begins()
        endless = slow_post(server.address, "/endless")
        endless.join(65 + TIMEOUT_SECONDS)  # as long as nginx waits
        seen.ends()
    assert endless.answer.status in (502, 504)
    assert len(server.workers()) == len(before)
    assert len(set(before) & set(server.workers())) == len(before) - 1
    assert seen.failed == []  # whatever else its worker had, it finished


def test_killed_nginx_is_back(host, server, fault):
    with fault("nginx is killed (`pkill -9 nginx`)") as seen:
        seen.begins()
        server.must("pkill -KILL nginx")
    assert seen.seconds < 3


def test_a_configuration_broken_by_hand_is_mended_by_the_next_run(host, server, fault, playbook):
    good = server.must("cat /etc/nginx/nginx.conf")
    with fault("nginx's configuration is broken by hand, and `site.yml` run") as seen:
        seen.begins()
        server.must("echo 'this is no directive;' >> /etc/nginx/nginx.conf")
        assert server.run("systemctl reload nginx").returncode != 0
        done = playbook("--tags", "nginx", "--diff")
    assert done.returncode == 0, done.stdout
    assert "-this is no directive;" in done.stdout
    assert server.must("cat /etc/nginx/nginx.conf") == good
    server.must("nginx -t")
    assert seen.failed == []


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
