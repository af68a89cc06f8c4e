"""Every test that takes `app` runs on SQLite and on a real PostgreSQL.

PostgreSQL is TEST_DATABASE_URL, whose user must be allowed to create databases, or a private
server that lives as long as the test run.
"""

import contextlib
import http.client
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text

from webapp import create_app
from webapp.config import from_environment
from webapp.extensions import db, upgrade_schema
from webapp.models import User

APP = Path(__file__).parents[1]
BINARIES = "/usr/lib/postgresql"


@contextlib.contextmanager
def private_postgresql():
    """Yield the URL of a server on a Unix socket, running as nobody important."""
    versions = sorted(Path(BINARIES).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not versions:
        pytest.fail(
            f"There is no PostgreSQL server for the tests.\nWhere: {BINARIES}/*/bin.\n"
            "Allowed: any supported PostgreSQL, or TEST_DATABASE_URL.\n"
            "Fix: apt-get install postgresql",
            pytrace=False,
        )
    identity = {}
    folder = Path(tempfile.mkdtemp(prefix="webapp-postgresql-"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        postgres = pwd.getpwnam("postgres")
        os.chown(folder, postgres.pw_uid, postgres.pw_gid)
        identity = {"user": postgres.pw_uid, "group": postgres.pw_gid, "extra_groups": []}

    def run(command, *arguments):
        subprocess.run(
            [versions[-1].with_name(command), "--pgdata", folder / "data", *arguments],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
            **identity,
        )

    try:
        run(
            "initdb",
            "--auth=trust",
            "--username=tests",
            "--encoding=UTF8",
            "--no-sync",
            "--locale=C.UTF-8",
        )
        run(
            "pg_ctl",
            "start",
            "--wait",
            "--log",
            folder / "log",
            "--options",
            f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off",
        )
        try:
            yield f"postgresql:///postgres?host={folder}&user=tests"
        finally:
            run("pg_ctl", "stop", "--mode=immediate")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgresql():
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
    else:
        with private_postgresql() as url:
            yield url


@pytest.fixture(scope="session")
def new_database(postgresql, tmp_path_factory):
    """Return a function that makes an empty database and returns its URL."""
    with contextlib.ExitStack() as cleanup:

        def make(backend):
            name = f"tests_{uuid4().hex}"
            if backend == "sqlite":
                return f"sqlite:///{tmp_path_factory.mktemp(name)}/webapp.db"
            url = make_url(postgresql)
            server = create_engine(
                url.set(drivername="postgresql+psycopg2"), isolation_level="AUTOCOMMIT"
            )
            with server.connect() as connection:
                connection.execute(text(f"CREATE DATABASE {name}"))

            def drop():
                with server.connect() as connection:
                    connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
                server.dispose()

            cleanup.callback(drop)
            return url.set(database=name).render_as_string(hide_password=False)

        yield make


@pytest.fixture(scope="session")
def new_app(tmp_path_factory):
    """Return a function that makes an application from environment variables."""
    with contextlib.ExitStack() as cleanup:

        def make(**environ):
            app = create_app(from_environment(environ, tmp_path_factory.mktemp("instance")))

            def dispose():
                with app.app_context():
                    db.engine.dispose()

            cleanup.callback(dispose)
            return app

        yield make


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(request):
    return request.param


@pytest.fixture(scope="session")
def migrated_app(backend, new_database, new_app):
    app = new_app(DATABASE_URL=new_database(backend), RELEASE_ID="r7", RELEASE_REVISION="abc123")
    upgrade_schema(app)
    return app


@pytest.fixture
def app(migrated_app):
    """Return an application whose database is at head and holds no user."""
    with migrated_app.app_context():
        db.session.execute(db.delete(User))
        db.session.commit()
    return migrated_app


@pytest.fixture
def client(app):
    return app.test_client()


@pytest.fixture
def empty_app(backend, new_database, new_app):
    """Return an application whose database has no table."""
    return new_app(DATABASE_URL=new_database(backend))


@pytest.fixture
def is_problem():
    """Return a function that checks a response to be the problem details of a status."""

    def check(response, status):
        assert response.status_code == status, response.text
        assert response.content_type == "application/problem+json"
        assert response.json["type"] == "about:blank"
        assert response.json["status"] == status
        assert response.json["title"] and response.json["detail"]
        return response.json

    return check


@pytest.fixture
def checkout(tmp_path):
    """Return a copy of the application, so that what a server writes stays out of this one."""
    copy = tmp_path / "app"
    shutil.copytree(APP, copy, ignore=shutil.ignore_patterns("tests", "instance", "__pycache__"))
    return copy


class UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))


@pytest.fixture
def serve():
    """Return a context manager that runs a server process and yields its HTTP client."""

    @contextlib.contextmanager
    def run(command, connection, cwd, **environ):
        log = tempfile.TemporaryFile("w+")
        environ = {"PATH": os.environ["PATH"]} | environ
        server = subprocess.Popen(
            command, cwd=cwd, env=environ, stdout=log, stderr=log, start_new_session=True
        )

        def ask(method, path, body=None, headers=None):
            line = connection()
            with contextlib.closing(line):
                line.request(method, path, body, headers or {})
                response = line.getresponse()
                return response.status, response.read()

        def output():
            log.seek(0)
            return log.read()

        ask.output = output
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    ask("GET", "/health/live")
                    break
                except (OSError, http.client.HTTPException):
                    gone = server.poll() is not None or time.monotonic() > deadline
                    assert not gone, f"the server does not answer:\n{output()}"
                    time.sleep(0.05)
            yield ask
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(20)
            log.close()

    run.unix = lambda path: lambda: UnixConnection(path)
    run.tcp = lambda port: lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    return run
