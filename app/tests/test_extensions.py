"""Connections heal after a restart of the database, and never cross a fork."""

import os

import pytest
from sqlalchemy import text

from webapp.extensions import db, upgrade_schema


@pytest.fixture
def on_postgresql(new_database, new_app):
    app = new_app(DATABASE_URL=new_database("postgresql"), DATABASE_POOL_SIZE="1")
    upgrade_schema(app)
    return app


def backend_pid():
    with db.engine.connect() as connection:
        return connection.scalar(text("SELECT pg_backend_pid()"))


def test_lost_connection_is_replaced_unseen(on_postgresql, new_app):
    client = on_postgresql.test_client()
    assert client.get("/users").status_code == 200
    url = on_postgresql.config["SQLALCHEMY_DATABASE_URI"].render_as_string(hide_password=False)
    with on_postgresql.app_context():
        pid = backend_pid()
    with new_app(DATABASE_URL=url).app_context():
        db.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
    assert client.get("/users").status_code == 200
    with on_postgresql.app_context():
        assert backend_pid() != pid


def test_connection_that_dies_under_a_finished_answer_harms_nobody(on_postgresql, new_app, caplog):
    url = on_postgresql.config["SQLALCHEMY_DATABASE_URI"].render_as_string(hide_password=False)

    @on_postgresql.get("/last")
    def last():
        pid = db.session.scalar(text("SELECT pg_backend_pid()"))
        with new_app(DATABASE_URL=url).app_context():
            db.session.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
        return {"pid": pid}

    client = on_postgresql.test_client()
    assert client.get("/last").status_code == 200
    assert "died" in caplog.text
    assert client.get("/users").status_code == 200  # the one place in the pool is free


def test_child_opens_its_own_connection(on_postgresql):
    with on_postgresql.app_context():
        parent = backend_pid()
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                os.write(writer, str(backend_pid()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as pipe:
            answer = pipe.read()
        os.waitpid(child, 0)
        assert answer.isdigit() and int(answer) != parent
        assert backend_pid() == parent


def test_making_an_application_opens_no_connection(on_postgresql, new_app):
    url = on_postgresql.config["SQLALCHEMY_DATABASE_URI"].render_as_string(hide_password=False)
    app = new_app(DATABASE_URL=url)
    with app.app_context():
        assert db.engine.pool.checkedin() == db.engine.pool.checkedout() == 0
        upgrade_schema(app)
        assert db.engine.pool.checkedin() == db.engine.pool.checkedout() == 0


def test_full_pool_is_a_503(new_app, new_database, is_problem):
    app = new_app(
        DATABASE_URL=new_database("postgresql"),
        DATABASE_POOL_SIZE="1",
        DATABASE_POOL_TIMEOUT_SECONDS="1",
    )
    with app.app_context(), db.engine.connect():
        is_problem(app.test_client().get("/users"), 503)
