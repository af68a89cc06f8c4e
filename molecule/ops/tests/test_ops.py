"""What people do every day: ./ops does it, and says how it ended."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from runs import changed

testinfra_hosts = ["ansible://database"]
PROJECT = Path(__file__).parents[3]
COMPLETE = "cd /srv/shop/releases && ls -d */release.json | cut --delimiter=/ --fields=1"
SCRIPT = """\
import getpass, os
from sqlalchemy import text
from webapp.extensions import db
print("IS", os.environ["RELEASE_ID"], getpass.getuser(), os.getcwd())
print("ASKED", db.session.execute(text("select current_database()")).scalar())
try:
    open("/srv/shop/here", "w")
except OSError as error:
    print("DENIED", error.strerror)

"""


@pytest.fixture
def ops(run_ops):
    """Return a function that runs ./ops and expects an exit code."""

    def run(*arguments: str, code: int = 0, **options: object) -> str:
        done = run_ops(*arguments, **options)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def current(host):
    """Return a function that tells which release serves."""
    return lambda app="shop": host.check_output(f"basename $(readlink /srv/{app}/current)")


@pytest.fixture
def site_users(host):
    """Return a function that counts the users of the shop."""
    count = "cd / && runuser -u postgres -- psql -At shop -c 'SELECT count(*) FROM users'"
    return lambda: int(host.check_output(count))


def status_of(ops, app: str, **options) -> dict:
    """Return what the status says of an application."""
    said = ops("-l", app, "status", "--json", **options)
    document = json.loads(next(line for line in said.splitlines() if line.startswith("{")))
    return next(one for one in document["hosts"][0]["apps"] if one["app"] == app)


def ask(address: str, path: str = "/health/ready") -> tuple[int, str, str]:
    """Return status, Retry-After and body of a page."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.status, answer.headers["Retry-After"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"], error.read().decode()


# -- to look


def test_the_status_has_every_application_and_its_certificate(ops):
    said = ops("--json", "status")
    (one,) = json.loads(said.splitlines()[0])["hosts"]
    assert {app["app"]: app["serves"] for app in one["apps"]} == {"shop": True, "blog": True}
    (certificate,) = one["machine"]["certificates"]
    assert (certificate["app"], certificate["days"] > 21) == ("blog", True)


def test_limit_shows_one_application(ops):
    said = ops("-l", "blog", "status")
    assert "\nblog\n" in said
    assert "\nshop\n" not in said


def test_the_status_counts_requests_of_each_application(ops, address):
    window = ["--", "-e", "status_window_seconds=60"]
    before = json.loads(ops("--json", "status", *window).splitlines()[0])["hosts"][0]["apps"]
    for _ in range(50):
        assert ask(address, "/health/live")[0] == 200
        assert ask(address, "/users/999999")[0] == 404
    after = json.loads(ops("--json", "status", *window).splitlines()[0])["hosts"][0]["apps"]
    grown = [new["requests"]["count"] - old["requests"]["count"]
             for old, new in zip(before, after, strict=True)]  # fmt: skip
    assert grown[0] in range(80, 101)  # those of before may be out of the window meanwhile
    assert grown[1] <= 0
    assert after[0]["requests"]["window_seconds"] == 60


def test_a_worker_that_is_missing_fails_the_status(host, ops, current):
    unit = f"shop@{current()}"
    main = host.check_output(f"systemctl show --property=MainPID --value {unit}")
    host.check_output(f"kill -TTOU {main}; sleep 3")  # one worker fewer
    try:
        assert "shop on shop has 1 of 2 workers" in ops("-l", "shop", "status", code=2)
    finally:
        host.check_output(f"kill -TTIN {main}; sleep 3")
    assert status_of(ops, "shop")["workers"] == {"alive": 2, "promised": 2}


def test_an_application_that_is_down_fails_the_status(host, ops):
    host.check_output("systemctl stop blog.target")
    try:
        assert "blog on harbour is down" in ops("status", code=2)
    finally:
        host.check_output("systemctl start blog.target")
        host.check_output("sleep 5")
    assert status_of(ops, "blog")["serves"]


def test_an_application_that_runs_but_refuses_fails_the_status(host, ops):
    """Without its database it lives, and answers 503."""
    host.check_output("systemctl stop postgresql@17-main")
    try:
        said = ops("-l", "blog", "status", code=2)
        assert "blog on blog does not pass its health check" in said
        assert ": ITS HEALTH CHECK FAILS" in said
        assert "IT IS DOWN" not in said
    finally:
        host.check_output("systemctl start postgresql@17-main")
        host.check_output("sleep 5")
    assert status_of(ops, "blog")["healthy"]


def test_a_host_that_cannot_be_reached_is_told_by_4(ops):
    assert "UNREACHABLE" in ops("-l", "shop", "status", "--", "-e", "ansible_port=1", code=4)


def test_an_interrupted_word_is_told_by_99_or_130(run_ops):
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    command = ["env", "--default-signal=INT"]  # whoever starts tests with & ignores it
    command += [str(PROJECT / "ops"), "-i", inventory, "-l", "blog", "logs", "--json"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, process_group=0, **quiet) as running:
        time.sleep(1)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(60) in (99, 130)


def test_a_word_that_there_is_not_is_told_by_64(ops):
    assert "Fix: ./ops --help" in ops("dance", code=64)


def test_releases_come_as_json(ops, current):
    rows = [json.loads(line) for line in ops("releases", "--json").splitlines()]
    assert {row["app"]: row["releases"][0]["release"] for row in rows} == {
        "shop": current("shop"),
        "blog": current("blog"),
    }


def test_the_doctor_examines_the_machine_once_and_ends_as_it_finds_it(run_ops):
    done = run_ops("--json", "doctor")
    document = json.loads(done.stdout)
    (one,) = document["hosts"]
    assert document["worst"] == one["worst"]
    assert done.returncode == {"warn": 1, "bad": 2}.get(one["worst"], 0)


# -- logs


def test_logs_show_the_application_and_its_commands(ops):
    said = ops("-l", "blog", "logs", "--lines", "400")
    assert "Booting worker with pid" in said
    assert re.search(r"tick-\d+", said)
    assert "tick-" not in ops("-l", "shop", "logs")


def test_logs_can_be_cut_by_release_time_and_number(ops, current):
    lines = ops("-l", "blog", "logs", "--json", "--lines", "7").splitlines()
    assert len([json.loads(line) for line in lines]) == 7
    recent = ops("-l", "blog", "logs", "--json", "--since", "5 sec ago").splitlines()
    ticks = [int(row["MESSAGE"].removeprefix("tick-")) for row in map(json.loads, recent)
             if row["MESSAGE"].startswith("tick-")]  # fmt: skip
    assert ticks
    assert min(ticks) > time.time() - 60
    of_release = ops("-l", "blog", "logs", "--release", current("blog"))
    assert "Booting worker" in of_release
    nobody = ops("-l", "blog", "logs", "--release", "20200101T000000Z-0123456")
    assert "Booting worker" not in nobody


def test_follow_shows_what_is_written_from_now_on(run_ops):
    inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
    command = [str(PROJECT / "ops"), "-i", inventory, "-l", "blog", "follow", "--lines", "1"]
    began = time.time()
    pipes = {"stdout": subprocess.PIPE, "stdin": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, **pipes) as follow:
        lines = [follow.stdout.readline() for _ in range(4)]
        follow.terminate()
    ticks = [int(tick) for tick in re.findall(r"tick-(\d+)", "".join(lines))]
    assert max(ticks) > began


# -- sessions and commands


def test_the_shell_is_that_of_the_release_and_in_its_sandbox(ops, current):
    said = ops("-l", "shop", "shell", input=SCRIPT)
    assert f"IS {current()} shop /srv/shop/releases/{current()}/source" in said
    assert "ASKED shop" in said
    assert "DENIED Read-only file system" in said


def test_psql_is_the_applications_own(ops):
    said = ops("-l", "blog", "psql", input="select current_user, current_database()\\g\n\\q\n")
    assert re.search(r"blog +\| blog", said)


def test_a_session_comes_in_as_whom_the_inventory_names(ops):
    more = ["--", "-e", "ansible_user=admin"]
    said = ops("-l", "blog", "psql", *more, input="\\! echo came as $SUDO_USER\n\\q\n")
    assert "came as admin" in said


def test_a_session_wants_one_application(ops):
    assert "This inventory has several applications: shop, blog." in ops("shell", code=2)
    assert "name one with --limit" in ops("-l", "application", "shell", code=64)


def test_a_flask_command_runs_in_the_release(host, ops):
    revision = host.check_output(
        "runuser -u postgres -- psql -At shop -c 'select version_num from alembic_version'"
    )
    assert f"{revision} (head)" in ops("-l", "shop", "flask", "db", "current")


def test_a_flask_command_gets_its_words_as_they_are(ops):
    said = ops("-l", "shop", "flask", "no-such", "pa$$word", "${SECRET_KEY}", code=2)
    assert "No such command 'no-such'" in said
    script = ["run", "--port", "${SECRET_KEY}"]
    assert "'${SECRET_KEY}' is not a valid integer" in ops("-l", "shop", "flask", *script, code=2)


def test_a_word_that_is_for_nobody_does_not_end_well(ops):
    assert "harbour is nothing that restart is for" in ops("-l", "harbour", "restart", code=64)
    assert "shop is nothing that backup is for" in ops("-l", "shop", "backup", code=64)


def test_a_flask_command_that_fails_is_told_by_2(ops):
    said = ops("-l", "shop", "flask", "nonsense", "with a space", code=2)
    assert "flask nonsense with a space ended with 2" in said
    assert "No such command 'nonsense'" in said
    more = ["--", "-e", "flask_app_run_timeout_seconds=1"]
    slow = ops("-l", "shop", "flask", "run", "--port", "5999", *more, code=2)
    assert "flask run --port 5999 took more than 1 s." in slow


# -- restart


def test_a_restart_loses_no_request(host, ops, current, load, address):
    before, kept = current(), host.check_output(COMPLETE).split()
    with load(address) as clients:
        time.sleep(0.5)
        ops("-l", "shop", "restart")
    assert clients.failed() == []
    assert len(clients.answers) > 50
    assert current() != before
    assert current().rpartition("-")[2] == before.rpartition("-")[2]
    after = host.check_output(COMPLETE).split()
    assert sorted({*after} ^ {*kept}) == sorted([before, current()])
    log = json.loads(host.check_output("tail --lines=1 /var/log/slipway/shop.log"))
    assert (log["action"], log["restarted_from"]) == ("restarted", before)
    print(f"a restart: {clients.summary()}")


def test_a_deploy_after_a_restart_has_nothing_to_do(ops, current):
    ops("-l", "shop", "deploy")
    ops("-l", "shop", "restart")
    before = current()
    assert re.search(r"shop .*failed=0", ops("-l", "shop", "deploy"))
    assert current() == before


def test_a_restart_that_fails_leaves_what_serves(host, ops, current, address):
    before = current()
    settings = f"/srv/shop/releases/{before}/gunicorn.conf.py"
    host.check_output(f"cp {settings} /run/kept; echo 'import nothing_of_this_name' >> {settings}")
    try:
        said = ops("-l", "shop", "restart", code=2)
    finally:
        host.check_output(f"cp /run/kept {settings}")
    assert "nothing_of_this_name" in said
    assert f"Serving: {before}." in said
    assert current() == before
    assert ask(address)[0] == 200
    assert host.check_output("ls -A /srv/shop/releases").split().count(before) == 1
    assert host.file("/srv/shop/release.lock").content_string == ""


def test_a_rollback_of_the_only_release_says_that_there_is_none_before(ops, current):
    before = current("blog")
    assert "There is no earlier release of blog" in ops("-l", "blog", "rollback", code=2)
    assert current("blog") == before


def test_unlock_gives_back_the_lock_of_a_run_elsewhere(host, ops, afterwards):
    boot = host.check_output("cat /proc/sys/kernel/random/boot_id")
    ana = {"user": "ana", "host": "laptop", "pid": 7, "started": "", "computer": "another"}
    lock = {"holder": ana, "taken": "2026-11-26T09:00:00Z", "phase": "build", "boot": boot}
    afterwards("true > /srv/shop/release.lock")
    content = json.dumps(lock | {"touched": time.time()})
    host.check_output("echo %s > /srv/shop/release.lock", content)
    assert "ana@laptop (process 7) is releasing shop" in ops("-l", "shop", "restart", code=2)
    assert "It was locked by ana@laptop" in ops("-l", "shop", "unlock")
    assert host.file("/srv/shop/release.lock").content_string == ""
    assert "It was not locked." in ops("-l", "shop", "unlock")


def test_what_users_notice_wants_a_choice(ops):
    for word in ("restart", "rollback", "unlock", "begin-maintenance"):
        assert "This inventory has several applications: shop, blog." in ops(word, code=2)


# -- maintenance


def test_the_maintenance_page_takes_the_place_of_one_site(ops, address):
    ops("-l", "shop", "begin-maintenance", "--message", "Back at <noon>.")
    try:
        status, again, body = ask(address)
        assert (status, again) == (503, "300")
        assert "Back at &lt;noon&gt;." in body
        assert ask(address, "/static/style.css")[0] == 200
        assert status_of(ops, "shop")["maintenance"] is True
        assert status_of(ops, "blog")["maintenance"] is False
        assert "ON: visitors see its page" in ops("status")
        ops("-l", "shop", "restart")  # the gate does not come by nginx
    finally:
        ops("-l", "shop", "end-maintenance")
    assert ask(address) == (200, None, '{"status":"ok"}\n')


def test_a_page_of_ones_own_is_shown_by_https_too(ops, address, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<h1>Đang bảo trì</h1>")
    ops("-l", "blog", "begin-maintenance", "--page", str(page))
    try:
        status, said, headers = ask_https(address, "blog.example.org")
    finally:
        ops("-l", "blog", "end-maintenance")
    assert (status, said) == (503, "<h1>Đang bảo trì</h1>\n")
    assert "max-age" in headers["Strict-Transport-Security"]
    assert ask_https(address, "blog.example.org")[0] == 200


def ask_https(address: str, name: str) -> tuple[int, str, dict]:
    """Return status, body and headers of the first page of a site with a certificate of its own."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPConnection(address, timeout=20)
    with (
        socket.create_connection((address, 443)) as plain,
        tls.wrap_socket(plain, server_hostname=name) as connection.sock,
    ):
        connection.request("GET", "/", headers={"Host": name})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.headers)


# -- certificates


def test_no_ca_is_asked_where_none_is_wanted(host, ops):
    pem = "/etc/slipway/tls/blog/fullchain.pem"
    before = host.file(pem).sha256sum
    assert changed(ops("certificates")) == 0
    assert host.file(pem).sha256sum == before


# -- backup


def test_a_backup_is_made_and_the_status_tells_its_age(host, ops):
    ops("-l", "harbour", "backup")
    made = json.loads(host.check_output("cat /var/lib/slipway/backup/backup.json"))
    assert made["result"] == "ok"
    line = r"backup +0 minutes old, of \d+ MiB, only on this machine's disk; no drill yet"
    assert re.search(line, ops("status"))


def test_a_backup_that_fails_says_why(host, ops):
    conf = "/etc/pgbackrest/pgbackrest.conf"
    host.check_output(f"cp -a {conf} /run/conf; echo nonsense >> {conf}")
    try:
        said = ops("-l", "harbour", "backup", code=2)
    finally:
        host.check_output(f"cp -a /run/conf {conf}; systemctl start slipway-backup")
    assert "nonsense" in said


def test_a_restore_shows_what_would_be_lost_and_brings_it_back(host, ops, site_users):
    before = site_users()
    assert "LOST:" in ops("-l", "harbour", "restore", "--", "--check")
    point = host.check_output("slipway-backup point before-a-mistake")
    time.sleep(1.1)
    host.check_output("cd / && runuser -u postgres -- psql -q shop -c 'DELETE FROM users'")
    ops("-l", "harbour", "restore", "--point", point, "--yes")
    assert site_users() == before
