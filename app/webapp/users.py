"""The `users` resource: create one, show one, list them by page."""

import unicodedata

from flask import Blueprint, request, url_for
from flask_sqlalchemy.pagination import Pagination
from sqlalchemy import Select
from werkzeug.exceptions import BadRequest, NotFound

from .extensions import db
from .models import ID_MAX, NAME_MAX_CHARACTERS, User

PAGE_MAX = 10**9
PER_PAGE_DEFAULT = 20
PER_PAGE_MAX = 100

bp = Blueprint("users", __name__, url_prefix="/users")


@bp.post("")
def create() -> tuple[dict, int, dict]:
    """Create the user in the JSON body; answer 201 with the id that the database gave."""
    user = add_user(_json_object().get("name"))
    return _represent(user), 201, {"Location": url_for("users.show", user_id=user.id)}


@bp.get("/<user_id>")
def show(user_id: str) -> dict:
    """Answer with one user, or 404 if there is none with this id."""
    number = _whole_number(user_id, ID_MAX)
    user = db.session.get(User, number) if number else None
    if user is None:
        raise NotFound("There is no user with this id.")
    return _represent(user)


@bp.get("")
def index() -> dict:
    """Answer with one page of users, oldest first."""
    page = paginate(db.select(User).order_by(User.id))
    return {
        "items": [_represent(user) for user in page.items],
        "page": page.page,
        "per_page": page.per_page,
        "total": page.total,
        "pages": page.pages,
    }


def add_user(name: object) -> User:
    """Store a user called `name`, without the white space around it, and return it.

    Raises BadRequest unless that leaves a string of 1 to 80 characters, none a control character.
    """
    if not isinstance(name, str):
        raise BadRequest("The name is missing or not a string.")
    name = name.strip()
    if not 1 <= len(name) <= NAME_MAX_CHARACTERS:
        raise BadRequest(f"The name must have 1 to {NAME_MAX_CHARACTERS} characters.")
    # PostgreSQL cannot store NUL (Cc), nor UTF-8 encode half a surrogate pair (Cs).
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
        raise BadRequest("The name must not contain control characters.")
    user = User(name=name)
    db.session.add(user)
    db.session.commit()
    return user


def paginate(query: Select) -> Pagination:
    """Return the page of `query` that the parameters `page` and `per_page` ask for.

    Raises BadRequest if one of them is not a number in its range.
    """
    return db.paginate(
        query,
        page=_parameter("page", 1, PAGE_MAX),
        per_page=_parameter("per_page", PER_PAGE_DEFAULT, PER_PAGE_MAX),
        error_out=False,
    )


def _json_object() -> dict:
    try:
        body = request.get_json()
    except (BadRequest, RecursionError):
        raise BadRequest("The body is not valid JSON.") from None
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.")
    return body


def _parameter(name: str, default: int, maximum: int) -> int:
    number = _whole_number(request.args.get(name, str(default)), maximum)
    if number is None:
        raise BadRequest(f"{name} must be a whole number from 1 to {maximum}.")
    return number


def _whole_number(text: str, maximum: int) -> int | None:
    digits = text.isascii() and text.isdigit() and len(text) <= len(str(maximum))
    return int(text) if digits and 1 <= int(text) <= maximum else None


def _represent(user: User) -> dict:
    return {"id": user.id, "name": user.name}
