"""From environment variables to Flask configuration; nothing else reads the environment."""

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

CONNECT_TIMEOUT_SECONDS = 3
POOL_RECYCLE_SECONDS = 1800
MAX_BODY_BYTES = 16 * 1024


class ConfigurationError(Exception):
    """The environment does not describe a service that may start."""

    def __init__(self, problem: str, *, where: str, allowed: str, fix: str):
        super().__init__(f"{problem}\nWhere: {where}\nAllowed: {allowed}\nFix: {fix}")


def from_environment(environ: Mapping[str, str], instance: Path) -> dict[str, Any]:
    """Return the Flask configuration that `environ` describes; an empty variable is an unset one.

    `instance` is the folder for the development secret and the SQLite file; production leaves it
    alone. Raises ConfigurationError for a missing secret or a value that is not allowed.
    """
    values = {name: value for name, value in environ.items() if value}
    app_env = values.get("APP_ENV", "development")
    if app_env not in ("development", "production"):
        raise ConfigurationError(
            f"APP_ENV is {app_env!r}.",
            where="the environment variable APP_ENV.",
            allowed="development, production.",
            fix="set APP_ENV to one of these.",
        )
    production = app_env == "production"
    if production:
        secret_key = _required(values, "SECRET_KEY", "at least 32 random characters")
        database_url = _required(values, "DATABASE_URL", "a PostgreSQL address")
    else:
        secret_key = values.get("SECRET_KEY") or _development_secret(instance)
        database_url = values.get("DATABASE_URL") or f"sqlite:///{instance / 'webapp.db'}"
    url = _database_url(database_url, production)

    return {
        "APP_ENV": app_env,
        "MAX_CONTENT_LENGTH": MAX_BODY_BYTES,
        "PORT": _number(values, "PORT", 5000, 1, 65535),
        "RELEASE_ID": values.get("RELEASE_ID", "development"),
        "RELEASE_REVISION": values.get("RELEASE_REVISION", "unknown"),
        "SECRET_KEY": secret_key,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "SESSION_COOKIE_SECURE": production,
        "SQLALCHEMY_DATABASE_URI": url,
        "SQLALCHEMY_ENGINE_OPTIONS": _engine_options(values, url),
        "TRUSTED_PROXIES": _number(values, "TRUSTED_PROXIES", 0, 0, 10),
    }


def _required(values: Mapping[str, str], name: str, allowed: str) -> str:
    if name not in values:
        raise ConfigurationError(
            f"{name} is not set, and production has no default for it.",
            where=f"the environment variable {name}, with APP_ENV=production.",
            allowed=f"{allowed}.",
            fix=f"set {name} in the environment of the service.",
        )
    return values[name]


def _number(values: Mapping[str, str], name: str, default: int, minimum: int, maximum: int) -> int:
    text = values.get(name, str(default))
    if text.isascii() and text.isdigit() and len(text) < 10 and minimum <= int(text) <= maximum:
        return int(text)
    raise ConfigurationError(
        f"{name} is {text!r}.",
        where=f"the environment variable {name}.",
        allowed=f"a whole number from {minimum} to {maximum}.",
        fix=f"set {name} to such a number, or unset it for the default of {default}.",
    )


def _database_url(text: str, production: bool) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        url = None  # not quoted in the message: it may hold a password
    if url and url.drivername in ("postgres", "postgresql", "postgresql+psycopg2"):
        return url.set(drivername="postgresql+psycopg2")
    if url and url.get_backend_name() == "sqlite" and not production:
        return url
    raise ConfigurationError(
        f"DATABASE_URL is for {url.drivername}." if url else "DATABASE_URL is not an address.",
        where="the environment variable DATABASE_URL.",
        allowed="postgresql+psycopg2://… (in development also sqlite:///…).",
        fix="set DATABASE_URL, for example to postgresql+psycopg2:///webapp?host=/run/postgresql.",
    )


def _engine_options(values: Mapping[str, str], url: URL) -> dict[str, Any]:
    pool = {
        "pool_size": _number(values, "DATABASE_POOL_SIZE", 2, 1, 100),
        "max_overflow": _number(values, "DATABASE_MAX_OVERFLOW", 0, 0, 100),
        "pool_timeout": _number(values, "DATABASE_POOL_TIMEOUT_SECONDS", 5, 1, 300),
    }
    if url.get_backend_name() == "sqlite":
        return {}
    return pool | {
        "hide_parameters": True,  # names are not for the logs
        "pool_pre_ping": True,
        "pool_recycle": POOL_RECYCLE_SECONDS,
        "connect_args": {"connect_timeout": CONNECT_TIMEOUT_SECONDS},
    }


def _development_secret(instance: Path) -> str:
    path = instance / "secret_key"
    if not path.exists():
        instance.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=instance) as draft:  # mode 0600
            draft.write(secrets.token_hex(32))
            draft.flush()
            try:
                os.link(draft.name, path)  # whole or not at all, whichever worker is first
            except FileExistsError:
                pass
    return path.read_text()
