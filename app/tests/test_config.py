"""The environment decides everything, and a bad one stops the start with a clear message."""

import stat
import threading

import pytest

from webapp.config import ConfigurationError, from_environment

PRODUCTION = {
    "APP_ENV": "production",
    "SECRET_KEY": "s3cret",
    "DATABASE_URL": "postgresql+psycopg2:///webapp?host=/run/postgresql",
}


@pytest.fixture
def read(tmp_path):
    return lambda **environ: from_environment(environ, tmp_path / "instance")


@pytest.mark.parametrize("missing", ["SECRET_KEY", "DATABASE_URL"])
@pytest.mark.parametrize("absent", [{}, "empty"])
def test_production_refuses_to_start_without(read, missing, absent):
    environ = {name: value for name, value in PRODUCTION.items() if name != missing}
    with pytest.raises(ConfigurationError) as error:
        read(**environ, **({missing: ""} if absent else {}))
    problem, where, allowed, fix = str(error.value).splitlines()
    assert problem.startswith(f"{missing} is not set")
    assert where.startswith("Where: ") and missing in where
    assert allowed.startswith("Allowed: ")
    assert fix.startswith("Fix: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ENV", "prod"),
        ("DATABASE_POOL_SIZE", "0"),  # to SQLAlchemy this is "no limit"
        ("DATABASE_POOL_SIZE", "two"),
        ("DATABASE_POOL_SIZE", "9" * 5000),
        ("DATABASE_MAX_OVERFLOW", "-1"),  # to SQLAlchemy this is "no limit"
        ("DATABASE_POOL_TIMEOUT_SECONDS", "0.5"),
        ("TRUSTED_PROXIES", "yes"),
        ("TRUSTED_PROXIES", "٣"),
        ("PORT", "65536"),
        ("DATABASE_URL", "sqlite:///webapp.db"),
        ("DATABASE_URL", "postgresql+psycopg:///webapp"),
        ("DATABASE_URL", "mysql://webapp"),
        ("DATABASE_URL", "not an address"),
        ("DATABASE_URL", "postgresql://webapp:hunter2@host:port/webapp"),
    ],
)
def test_bad_value_is_refused_in_four_parts(read, name, value):
    with pytest.raises(ConfigurationError) as error:
        read(**PRODUCTION | {name: value})
    problem, where, allowed, fix = str(error.value).splitlines()
    assert problem.startswith(name)
    assert where == f"Where: the environment variable {name}."
    assert (allowed[:9], fix[:5]) == ("Allowed: ", "Fix: ")
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg2"])
def test_postgresql_always_means_psycopg2(read, scheme):
    url = read(DATABASE_URL=f"{scheme}:///webapp?host=/run/postgresql")["SQLALCHEMY_DATABASE_URI"]
    assert url.drivername == "postgresql+psycopg2"
    assert (url.host, url.database, url.query) == (None, "webapp", {"host": "/run/postgresql"})


def test_pool_is_what_the_environment_says(new_app):
    app = new_app(
        **PRODUCTION | {"APP_ENV": "development"},
        DATABASE_POOL_SIZE="4",
        DATABASE_MAX_OVERFLOW="1",
        DATABASE_POOL_TIMEOUT_SECONDS="7",
    )
    with app.app_context():
        pool = app.extensions["sqlalchemy"].engine.pool
    assert (pool.size(), pool._max_overflow, pool.timeout()) == (4, 1, 7)
    assert (pool._pre_ping, pool._recycle) == (True, 1800)


def test_pool_defaults_fit_two_threads(read):
    options = read(**PRODUCTION)["SQLALCHEMY_ENGINE_OPTIONS"]
    assert options == {
        "hide_parameters": True,
        "pool_size": 2,
        "max_overflow": 0,
        "pool_timeout": 5,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        "connect_args": {"connect_timeout": 3},
    }


def test_production_cookies_are_safe_and_nothing_is_written(read, tmp_path):
    config = read(**PRODUCTION)
    assert config["SESSION_COOKIE_SECURE"] is True
    assert config["SESSION_COOKIE_HTTPONLY"] is True
    assert config["SESSION_COOKIE_SAMESITE"] == "Lax"
    assert config["SECRET_KEY"] == "s3cret"
    assert list(tmp_path.iterdir()) == []


def test_development_secret_is_made_once_whoever_is_first(read, tmp_path):
    start = threading.Barrier(8)
    secrets = []

    def worker():
        start.wait()
        secrets.append(read()["SECRET_KEY"])

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = (tmp_path / "instance").iterdir()
    assert set(secrets) == {path.read_text()} and len(secrets) == 8
    assert len(path.read_text()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
