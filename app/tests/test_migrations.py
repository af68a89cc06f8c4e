"""The migrations make exactly the tables of the models, and can be taken back."""

import os
import sys
from subprocess import run

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import inspect

from webapp.extensions import db, migrate, upgrade_schema


def test_migrations_make_exactly_the_models(app, backend):
    # SQLite has no identity columns, and Alembic would take that for a difference.
    options = {"compare_server_default": backend == "postgresql"}
    with app.app_context(), db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, db.metadata) == []
        command.check(migrate.get_config())


def test_ids_are_64_bits_and_given_by_postgresql(app, backend):
    with app.app_context():
        (key,) = (c for c in inspect(db.engine).get_columns("users") if c["name"] == "id")
    expected = {"sqlite": ("INTEGER", False), "postgresql": ("BIGINT", True)}[backend]
    assert (str(key["type"]), bool(key.get("identity"))) == expected


def test_up_down_up(empty_app):
    def tables():
        db.engine.dispose()
        return set(inspect(db.engine).get_table_names())

    with empty_app.app_context():
        command.upgrade(migrate.get_config(), "head")
        assert tables() == {"alembic_version", "users"}
        command.downgrade(migrate.get_config(), "base")
        assert tables() == {"alembic_version"}
        command.upgrade(migrate.get_config(), "head")
        assert tables() == {"alembic_version", "users"}
    assert empty_app.test_client().post("/users", json={"name": "Ada"}).status_code == 201


def test_failed_migration_leaves_nothing(empty_app, monkeypatch):
    def break_off(operations, table, *columns, **options):
        original(operations, table, *columns, **options)
        raise RuntimeError("power cut")

    original = Operations.create_table
    monkeypatch.setattr(Operations, "create_table", break_off)
    with pytest.raises(RuntimeError, match="power cut"):
        upgrade_schema(empty_app)
    with empty_app.app_context():
        assert "users" not in inspect(db.engine).get_table_names()


def test_flask_db_upgrade_in_production(checkout, new_database):
    environ = {
        "APP_ENV": "production",
        "DATABASE_URL": new_database("postgresql"),
        "PATH": os.environ["PATH"],
        "SECRET_KEY": "of these tests",
    }

    def flask_db(*arguments):
        return run(
            [sys.executable, "-m", "flask", "db", *arguments],
            cwd=checkout,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        ).stdout

    assert "Running upgrade" in flask_db("upgrade")
    assert flask_db("current").endswith("\n0001 (head)\n")
