"""Which release answers, and which of its workers."""

import os

from flask import Blueprint, current_app

bp = Blueprint("version", __name__)


@bp.get("/version")
def show() -> dict:
    """Return the release, its git revision and the process id of this worker."""
    return {
        "application": "webapp",
        "release": current_app.config["RELEASE_ID"],
        "revision": current_app.config["RELEASE_REVISION"],
        "pid": os.getpid(),
    }
