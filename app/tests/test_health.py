"""Live says that the process runs; ready says that it may take traffic."""

import socket
import time

import pytest
from sqlalchemy import text

from webapp import health
from webapp.extensions import db, upgrade_schema

# Nothing listens there, whoever is asked.
DOWN = "postgresql://webapp:hunter2@/webapp?host=/nonexistent"


def test_ready_when_the_schema_is_at_head(client):
    response = client.get("/health/ready")
    assert (response.status_code, response.json) == (200, {"status": "ok"})


def test_not_ready_before_the_migrations(empty_app, is_problem):
    client = empty_app.test_client()
    body = is_problem(client.get("/health/ready"), 503)
    assert body["failed"] == "schema"
    assert body["detail"] == "The schema is at revision none; this release needs 0001."
    upgrade_schema(empty_app)
    assert client.get("/health/ready").status_code == 200


def test_ready_when_a_later_release_has_migrated(empty_app):
    upgrade_schema(empty_app)
    with empty_app.app_context():
        db.session.execute(text("UPDATE alembic_version SET version_num = 'f00'"))
        db.session.commit()
    answer = empty_app.test_client().get("/health/ready")
    assert (answer.status_code, answer.json) == (200, {"status": "ok", "schema": "ahead"})


def test_not_ready_behind_this_release(app, is_problem, monkeypatch):
    monkeypatch.setattr(health, "_revisions_of_release", lambda: frozenset({"0002"}))
    body = is_problem(app.test_client().get("/health/ready"), 503)
    assert body["failed"] == "schema"
    assert body["detail"] == "The schema is at revision 0001; this release needs 0002."


def test_live_touches_nothing(new_app):
    assert new_app(DATABASE_URL=DOWN).test_client().get("/health/live").json == {"status": "ok"}


def test_not_ready_without_a_database(new_app, is_problem):
    response = new_app(DATABASE_URL=DOWN).test_client().get("/health/ready")
    assert is_problem(response, 503)["failed"] == "database"
    assert "hunter2" not in response.text and "nonexistent" not in response.text


def test_silent_database_costs_three_seconds_at_most(new_app, is_problem):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://webapp@127.0.0.1:{silent.getsockname()[1]}/webapp"
        started = time.monotonic()
        is_problem(new_app(DATABASE_URL=url).test_client().get("/health/ready"), 503)
    assert time.monotonic() - started < 4.5


@pytest.mark.parametrize("path", ["/", "/users", "/users/1"])
def test_every_other_endpoint_answers_503_without_a_database(new_app, is_problem, path):
    response = new_app(DATABASE_URL=DOWN).test_client().get(path)
    is_problem(response, 503)
    assert response.headers["Retry-After"] == "1"
    assert "hunter2" not in response.text and "nonexistent" not in response.text
