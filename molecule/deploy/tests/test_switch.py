"""Users notice nothing of a deploy: no request fails, and the release changes at one moment."""

import json
import time

from conftest import ADDRESS, on_server, releases, running
from load import Load, slow_request, slow_upload
from runs import changed

testinfra_hosts = ["ansible://server"]
DEPLOYS = 10


def test_ten_deploys_lose_no_request(host, good, play, load, current):
    served = []
    for _ in range(DEPLOYS):
        good.change()
        slow = slow_request(ADDRESS, "/slow/3")  # in flight while the release changes
        time.sleep(0.2)
        output = play()
        assert "To go back: ansible-playbook playbooks/rollback-application.yml" in output
        assert "Seconds: build " in output
        assert slow.result().status == 200
        served.append(current())
        assert running() == [served[-1]]
    assert len(set(served)) == DEPLOYS
    # The watcher saw each release once, in order: nothing flipped back.
    assert load.releases()[-DEPLOYS:] == served
    assert len(load.releases()) in (DEPLOYS, DEPLOYS + 1)
    print(f"{DEPLOYS} deploys: {load.summary()}")


def test_every_worker_runs_in_the_new_release(host, current):
    release = current()
    main = on_server(f"systemctl show --property=MainPID --value webapp@{release}")
    workers = on_server(f"pgrep --parent {main}").split()
    assert workers
    for pid in workers:
        cwd = on_server(f"runuser -u webapp -- readlink /proc/{pid}/cwd")
        assert cwd == f"/srv/webapp/releases/{release}/source"
        assert f"/releases/{release}/venv/" in on_server(f"tr '\\0' ' ' < /proc/{pid}/cmdline")


def test_exactly_so_many_releases_are_kept(host, current):
    kept = releases()
    assert len(kept) == 5  # the default of flask_app_keep_releases
    assert current() == max(kept)


def test_long_requests_in_flight_finish(host, good, play, load):
    good.change()
    play()
    good.change()
    slow = slow_request(ADDRESS, "/slow/20")
    body = json.dumps({"name": "Trần Thị Chậm"}).encode()
    upload = slow_upload(ADDRESS, "/users", body, seconds=15)
    time.sleep(0.2)
    play()
    assert slow.result().status == 200
    assert json.loads(slow.result().body) == {"slept": 20}
    assert upload.result().status == 201


# As nginx does: a request in flight while the connections are let go, and at once the next one.
NEXT_REQUEST = """
import glob, http.client, socket, subprocess
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect("/run/webapp/current.sock")
connection.request("GET", "/slow/1")
for worker in glob.glob("/proc/[0-9]*/cmdline"):
    if b"-m\\0gunicorn" in open(worker, "rb").read():
        subprocess.run(["kill", "-URG", worker.split("/")[2]])
answer = connection.getresponse()
print(answer.status, answer.read(), answer.getheader("Connection"))
"""


def test_a_connection_that_is_let_go_says_so(host, current):
    """Else nginx sends a POST on it while it is closed, which it may not send again: a 502."""
    said = on_server(f"python3 - <<'END'\n{NEXT_REQUEST}END")
    assert said.startswith("200"), said
    assert said.endswith("close"), said


def test_nginx_closes_what_it_does_not_use_before_a_switch_is_due(host, good, play, current):
    good.change()
    play()  # an instance that keeps connections
    release = current()
    look = f"ss -xH state established | grep -c {release}.sock"
    with Load(ADDRESS):
        time.sleep(1)
        assert int(on_server(look)) > 0
    time.sleep(0.7)  # LET_GO_SECONDS in release_switch.py
    assert int(on_server(look)) == 0


def test_a_knob_is_released_like_code(host, play, load, current):
    before = current()
    play(gunicorn_workers=3)
    after = current()
    assert after != before
    assert load.releases()[-2:] == [before, after]
    main = on_server(f"systemctl show --property=MainPID --value webapp@{after}")
    assert len(on_server(f"pgrep --parent {main}").split()) == 3
    play()  # back to the default


def test_what_runs_is_not_released_again(host, play, current):
    before = current()
    output = play()
    assert changed(output) == 0
    assert current() == before


def test_small_machines_release_one_after_the_other(host, good, play, current):
    """Low memory: connections wait in the kernel while one instance stops and the next starts."""
    play(gunicorn_generations=1)
    count = "systemctl list-units --plain --no-legend --state=running 'webapp@*' | wc -l"
    on_server(f"nohup sh -c 'while sleep 0.05; do {count}; done > /run/counted' >/dev/null 2>&1 & ")
    with Load(ADDRESS) as load:
        good.change()
        play(gunicorn_generations=1)
    on_server("pkill -f 'while sleep 0.05'")
    counted = {int(line) for line in on_server("cat /run/counted").split()}
    assert load.failed() == []
    assert counted <= {0, 1}
    assert load.releases()[-1] == current()
    assert max(answer.seconds for answer in load.answers) < 10
    print(f"low memory: {load.summary()}")
    play()
    assert on_server("ls /etc/systemd/system/webapp.s*") == ""
