"""One page for people: the users, a form to add one, and which release and worker answered."""

import os

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from .extensions import db
from .models import NAME_MAX_CHARACTERS, User
from .users import add_user, paginate

bp = Blueprint("pages", __name__)


@bp.get("/")
def index() -> str:
    """Show one page of users, newest first."""
    return _page()


@bp.post("/")
def create() -> Response | tuple[str, int]:
    """Add the user in the form and show the page again, or 400 with the reason on the page."""
    name = request.form.get("name")
    try:
        add_user(name)
    except BadRequest as error:
        return _page(name=name, error=error.description), 400
    return redirect(url_for("pages.index"), 303)


def _page(name: str | None = None, error: str | None = None) -> str:
    return render_template(
        "index.html",
        users=paginate(db.select(User).order_by(User.id.desc())),
        name=name,
        name_max_characters=NAME_MAX_CHARACTERS,
        error=error,
        pid=os.getpid(),
    )
