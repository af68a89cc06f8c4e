"""Is this process alive, and may it take traffic?"""

from functools import cache

from alembic.script import ScriptDirectory
from flask import Blueprint, Response, current_app
from sqlalchemy import column, inspect, select, table
from sqlalchemy.exc import SQLAlchemyError

from .extensions import db, migrate
from .problems import problem

bp = Blueprint("health", __name__, url_prefix="/health")


@bp.get("/live")
def live() -> dict:
    """Answer without touching anything: the process serves requests."""
    return {"status": "ok"}


@bp.get("/ready")
def ready() -> dict | Response:
    """Answer 200 only if the database answers and its schema is not behind this release.

    A revision that this release does not know was made by a later one, which has migrated but does
    not serve yet, or was rolled back from: what serves goes on serving, and `schema` is `ahead`.
    Otherwise 503, and the member `failed` is `database` or `schema`.
    """
    try:
        found = _revisions_in_database()
    except SQLAlchemyError as error:
        current_app.logger.error("not ready, the database does not answer: %s", error)
        return problem(503, "The database does not answer.", failed="database")
    if not found <= _known_revisions():
        return {"status": "ok", "schema": "ahead"}
    needed = _revisions_of_release()
    if found != needed:
        detail = f"The schema is at revision {_names(found)}; this release needs {_names(needed)}."
        current_app.logger.error("not ready: %s", detail)
        return problem(503, detail, failed="schema")
    return {"status": "ok"}


def _revisions_in_database() -> frozenset[str]:
    if not inspect(db.session.connection()).has_table("alembic_version"):
        return frozenset()
    return frozenset(
        db.session.scalars(select(column("version_num")).select_from(table("alembic_version")))
    )


@cache
def _revisions_of_release() -> frozenset[str]:
    return frozenset(ScriptDirectory.from_config(migrate.get_config()).get_heads())


@cache
def _known_revisions() -> frozenset[str]:
    scripts = ScriptDirectory.from_config(migrate.get_config()).walk_revisions()
    return frozenset(script.revision for script in scripts)


def _names(revisions: frozenset[str]) -> str:
    return ", ".join(sorted(revisions)) or "none"
