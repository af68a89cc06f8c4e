"""The application of app/, and what only a benchmark asks of it.

It lies beside app.py on the host, so `bench_app:app` is to servers what `app:app` is.
"""

import os
import time

from app import app
from sqlalchemy import NullPool, create_engine
from webapp.extensions import db

SLEEP_SECONDS = 0.2

application = app.wsgi_app


def with_sleep(environ, start_response):
    """Answer /sleep after a while, as a page does that asks another service; pass on the rest."""
    if environ["PATH_INFO"] != "/sleep":
        return application(environ, start_response)
    time.sleep(SLEEP_SECONDS)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
    return [b"ok\n"]


app.wsgi_app = with_sleep

if os.environ.get("BENCH_POOL") == "none":
    with app.app_context():
        url = app.config["SQLALCHEMY_DATABASE_URI"]
        db.engines[None] = create_engine(url, poolclass=NullPool)
