"""The database and its migrations, made once and bound to an application by `create_app`."""

import os
import weakref

from alembic import command
from flask import Flask
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, MetaData
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """Declares the tables; every constraint has a name, so that a migration can drop it."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(model_class=Base)
migrate = Migrate()


def forget_connections_after_fork(engine: Engine) -> None:
    """Let every forked child open its own connections and leave those of its parent alone."""
    reference = weakref.ref(engine)

    def forget() -> None:
        if (engine := reference()) is not None:
            engine.dispose(close=False)

    os.register_at_fork(after_in_child=forget)


def give_back_connection(app: Flask) -> None:
    """End each request's session, also when its connection died after the answer was made.

    Call it after `db.init_app`, whose own teardown comes after this one, and would raise: the
    answer that is made already would be thrown away for a 500.
    """

    @app.teardown_appcontext
    def end(_: BaseException | None) -> None:
        try:
            db.session.close()
        except SQLAlchemyError as error:
            app.logger.warning("the connection died after the answer was made: %s", error)


def upgrade_schema(app: Flask) -> None:
    """Migrate the database of `app` to the newest revision.

    Raises alembic.util.CommandError if the database is at a revision this release does not know.
    """
    with app.app_context():
        command.upgrade(migrate.get_config(), "head")
