"""Applications that we did not write are served from inventory alone, and live side by side."""

import http.client
import json
import time

import pytest
from conftest import ADDRESS, on_server, releases

testinfra_hosts = ["ansible://server"]
OTHERS = ["money", "echo", "fit"]


def ask(name: str, method: str, path: str, body: object = None, **headers: str) -> tuple:
    """Ask one of the applications by its domain; return status and what it said."""
    connection = http.client.HTTPConnection(ADDRESS, timeout=30)
    headers |= {"Host": f"{name}.example.org", "Content-Type": "application/json"}
    connection.request(method, path, body and json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if text[:1] in ("{", "[", '"') else text


def test_an_application_factory_with_migrations(host, sql):
    project = {
        "name": "Trip",
        "id": f"trip{time.time_ns()}",
        "password": "p4ssw0rd",
        "contact_email": "ann@example.org",
        "default_currency": "EUR",
    }
    status, answer = ask("money", "POST", "/api/projects", project)
    assert status == 201, answer
    assert sql(f"SELECT name FROM project WHERE id = '{project['id']}'", "money") == "Trip"


def test_a_single_file_without_a_database(host, sql):
    status, answer = ask("echo", "GET", "/get")
    assert status == 200
    assert answer["headers"]["Host"] == "echo.example.org"
    assert sql("SELECT count(*) FROM pg_database WHERE datname = 'echo'", "postgres") == "0"


def test_a_header_that_the_application_sets_is_not_doubled():
    connection = http.client.HTTPConnection(ADDRESS, timeout=30)
    path = "/response-headers?X-Frame-Options=DENY"
    connection.request("GET", path, headers={"Host": "echo.example.org"})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.headers.get_all("X-Frame-Options") == ["DENY"]
    assert answer.headers.get_all("X-Content-Type-Options") == ["nosniff"]


@pytest.fixture
def fit_token(host):
    """Return the token of a user of the diary."""
    name = f"ann{time.time_ns() % 10**9}"
    run = (
        "cd /srv/fit/current/source && set -a && . ../environment && "
        "PATH=/srv/fit/current/venv/bin:$PATH HOME=/var/lib/fit runuser -u fit -- ftcli"
    )
    create = f"users create {name} --email {name}@example.org --password pw12345678"
    on_server(f"{run} {create}")
    login = {"email": f"{name}@example.org", "password": "pw12345678"}
    status, answer = ask("fit", "POST", "/api/auth/login", login)
    assert status == 200, answer
    return {"Authorization": f"Bearer {answer['auth_token']}"}


def test_a_worker_does_what_was_asked_over_http(host, fit_token):
    status, answer = ask("fit", "POST", "/api/auth/account/export/request", **fit_token)
    assert status == 200, answer
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        _, answer = ask("fit", "GET", "/api/auth/account/export", **fit_token)
        if answer["request"]["status"] == "successful":
            return
        time.sleep(0.5)
    raise AssertionError(answer)


def test_a_worker_belongs_to_its_release_and_starts_at_boot(host, current):
    unit = f"fit-worker@{current('fit')}.service"
    assert on_server(f"systemctl is-active {unit}") == "active"
    assert on_server(f"systemctl is-enabled {unit}") == "enabled"
    pid = on_server(f"systemctl show --property=MainPID --value {unit}")
    assert on_server(f"ps -o user= -p {pid}") == "fit"


def test_a_scheduled_command_runs_in_the_release(host):
    assert on_server("systemctl is-active fit-clean.timer") == "active"
    on_server("systemctl start fit-clean.service")
    assert on_server("systemctl show --property=Result --value fit-clean.service") == "success"


@pytest.mark.parametrize("name", OTHERS)
def test_every_application_has_its_own_user_and_folders(host, name):
    assert on_server(f"id -un {name}") == name
    assert on_server(f"stat -c %U /var/lib/{name}") == name
    for other in set(OTHERS) - {name}:
        read = f"runuser -u {name} -- cat /srv/{other}/current/environment"
        assert on_server(f"{read} 2>/dev/null") == ""


def test_a_deploy_leaves_the_other_applications_alone(host, good, play):
    others = "pgrep -u money,echo,fit | sort"
    before = on_server(others)
    good.change()
    play()
    assert on_server(others) == before
    assert len(before.split()) >= 3 * len(OTHERS)


def test_a_command_that_changes_is_released(host, play, current):
    before = current("fit")
    commands = {"worker": {"command": "dramatiq fittrackee.tasks:broker --processes 1 --threads 1"}}
    play(limit="fit", flask_app_commands=commands)
    after = current("fit")
    assert after != before
    assert on_server(f"systemctl is-active fit-worker@{after}") == "active"
    assert on_server(f"systemctl is-active fit-worker@{before}") != "active"
    assert on_server("ls /etc/systemd/system/fit-clean.* 2>/dev/null") == ""


def test_a_command_that_dies_stops_the_release(host, play, current):
    before, folders = current("fit"), releases("fit")
    commands = {"worker": {"command": "sh -c 'echo no queue here; exit 3'"}}
    output = play(limit="fit", flask_app_commands=commands, fails=True)
    assert "fit-worker@" in output
    assert "no queue here" in output
    assert (current("fit"), releases("fit")) == (before, folders)
    assert ask("fit", "GET", "/api/ping")[0] == 200
