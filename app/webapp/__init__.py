"""The web application: users, the health of the service, and which release answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from . import health, logs, pages, problems, users, version
from .extensions import db, forget_connections_after_fork, give_back_connection, migrate


def create_app(config: Mapping[str, Any]) -> Flask:
    """Build the application from a configuration made by `config.from_environment`.

    Opens no database connection, so a server may import it once and fork afterwards.
    """
    if config["APP_ENV"] == "production":
        logs.configure(release=config["RELEASE_ID"])

    app = Flask(__name__)
    app.config.from_mapping(config)

    db.init_app(app)
    give_back_connection(app)
    migrate.init_app(app, db, directory=Path(app.root_path).parent / "migrations")
    with app.app_context():
        forget_connections_after_fork(db.engine)

    problems.register(app)
    for feature in (health, version, users, pages):
        app.register_blueprint(feature.bp)

    if proxies := config["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=proxies, x_proto=proxies, x_host=proxies)
    return app
