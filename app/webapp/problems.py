"""Every error as problem details (RFC 9457): what went wrong, and nothing about our insides."""

from collections.abc import Iterable
from http import HTTPStatus

from flask import Flask, Response, current_app, json
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError, TimeoutError
from werkzeug.exceptions import HTTPException


def register(app: Flask) -> None:
    """Answer every HTTP error of `app` with problem details, and a lost database with 503.

    Flask itself turns an unexpected exception into a logged InternalServerError.
    """
    app.register_error_handler(HTTPException, _http_error)
    for unavailable in (InterfaceError, OperationalError, TimeoutError):
        app.register_error_handler(unavailable, _database_unavailable)


def problem(
    status: int, detail: str, headers: Iterable[tuple[str, str]] = (), **members: str
) -> Response:
    """Return a response of media type application/problem+json, extended by `members`."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail} | members
    response = Response(json.dumps(body), status, mimetype="application/problem+json")
    response.headers.extend(headers)
    return response


def _http_error(error: HTTPException) -> Response:
    headers = [(name, value) for name, value in error.get_headers() if name != "Content-Type"]
    return problem(error.code, error.description, headers)


def _database_unavailable(error: SQLAlchemyError) -> Response:
    current_app.logger.error("the database is unavailable: %s", error)
    return problem(503, "The database is unavailable; try again.", [("Retry-After", "1")])
