"""Runs migrations on the database of the current Flask application (`flask db …`)."""

from alembic import context
from flask import current_app
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

db = current_app.extensions["migrate"].db

# One process at a time on SQLite; on PostgreSQL do not stop all traffic by queueing for a lock.
# Unless whoever migrates has set a limit of his own, as with PGOPTIONS.
WAIT_5_S = (
    "SELECT set_config('lock_timeout', '5s', false) WHERE current_setting('lock_timeout') = '0'"
)
FIRST_STATEMENT = {"sqlite": "BEGIN IMMEDIATE", "postgresql": WAIT_5_S}

# No pool: a server that forks later must not inherit a connection.
engine = create_engine(
    db.engine.url,
    poolclass=NullPool,
    connect_args=current_app.config["SQLALCHEMY_ENGINE_OPTIONS"].get("connect_args", {}),
)

with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=db.metadata,
        render_as_batch=True,  # SQLite cannot alter a column in place
        transactional_ddl=True,
    )
    with context.begin_transaction():
        connection.exec_driver_sql(FIRST_STATEMENT[engine.dialect.name])
        context.run_migrations()
