"""The entry point, started as people and servers start it."""

import json
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from webapp.extensions import upgrade_schema

JSON = {"Content-Type": "application/json"}
GUNICORN = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--bind", "unix:web.sock"]


def production(url):
    return {
        "APP_ENV": "production",
        "SECRET_KEY": "of these tests",
        "DATABASE_URL": url,
        "RELEASE_ID": "20261122T100000",
        "RELEASE_REVISION": "0123abcd",
    }


def test_python_app_py_needs_no_set_up(checkout, serve):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "app.py"]
    with serve(command, serve.tcp(port), checkout, PORT=str(port)) as ask:
        assert ask("GET", "/health/ready")[0] == 200
        assert ask("POST", "/users", '{"name": "Ada"}', JSON)[0] == 201
        assert b"Ada" in ask("GET", "/")[1]
    assert {path.name for path in (checkout / "instance").iterdir()} == {"secret_key", "webapp.db"}


def test_gunicorn_needs_no_set_up_with_many_workers(checkout, serve):
    command = [*GUNICORN, "--workers", "4", "app:app"]
    with serve(command, serve.unix(checkout / "web.sock"), checkout) as ask:
        assert ask("GET", "/health/ready")[0] == 200
        assert "Exception in worker" not in ask.output()


def test_preloaded_workers_share_nothing(checkout, serve, new_database, new_app):
    url = new_database("postgresql")
    upgrade_schema(new_app(DATABASE_URL=url))
    command = [*GUNICORN, "--preload", "--workers", "3", "--threads", "2", "app:app"]
    with serve(command, serve.unix(checkout / "web.sock"), checkout, **production(url)) as ask:
        assert ask("GET", "/health/ready")[0] == 200

        def post(number):
            status, body = ask("POST", "/users", json.dumps({"name": f"user {number}"}), JSON)
            assert status == 201, body
            return json.loads(body)["id"], json.loads(ask("GET", "/version")[1])["pid"]

        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(post, range(120)))
        ids, pids = zip(*answers, strict=True)
        assert len(set(ids)) == 120
        assert len(set(pids)) >= 2
        assert json.loads(ask("GET", "/users")[1])["total"] == 120
    assert not (checkout / "instance").exists()


def start(checkout, *command, **environ):
    return subprocess.run(
        [sys.executable, *command],
        cwd=checkout,
        env=environ,
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.mark.parametrize("preload", [["--preload"], []])
def test_production_without_a_secret_stops_gunicorn_with_the_reason(checkout, preload):
    environ = production("postgresql:///webapp")
    del environ["SECRET_KEY"]
    ended = start(checkout, *GUNICORN[1:], *preload, "app:app", **environ)
    assert ended.returncode in (1, 3)
    assert "SECRET_KEY is not set" in ended.stderr
    assert "\nFix: set SECRET_KEY" in ended.stderr


def test_development_server_refuses_production(checkout):
    ended = start(checkout, "app.py", **production("postgresql:///webapp"))
    assert ended.returncode == 1
    assert "APP_ENV is production" in ended.stderr and "\nFix: " in ended.stderr


def test_production_does_not_migrate_by_itself(checkout, new_database):
    """Importing must not even connect: the server forks afterwards."""
    ended = start(checkout, "-c", "import app", **production("postgresql:///x?host=/nonexistent"))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_production_logs_json_lines(checkout):
    program = (
        "import app\n"
        "@app.app.get('/boom')\n"
        "def boom(): raise ValueError('boom\\nboom')\n"
        "headers = {'X-Request-ID': 'id-1'}\n"
        "app.app.test_client().get('/boom', headers=headers)\n"
        "app.app.test_client().get('/health/ready')\n"
    )
    ended = start(checkout, "-c", program, **production("postgresql://u:hunter2@/x?host=/nowhere"))
    boom, ready = map(json.loads, ended.stdout.splitlines())
    assert boom["level"] == ready["level"] == "ERROR"
    assert boom["release"] == "20261122T100000"
    assert boom["request_id"] == "id-1" and "request_id" not in ready
    assert "ValueError: boom\nboom" in boom["exception"]
    assert "hunter2" not in ended.stdout + ended.stderr
    assert ended.stderr == ""
