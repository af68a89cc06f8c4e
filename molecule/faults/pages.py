"""What a broken application does: pages that prepare.yml adds to the sample application."""

import os
import re
import time

from flask import Blueprint

bp = Blueprint("faults", __name__)
kept = []


@bp.route("/slow/<int:milliseconds>", methods=["GET", "POST"])
def slow(milliseconds: int) -> dict:
    """Wait, as for somebody else's answer."""
    time.sleep(milliseconds / 1000)
    return {"milliseconds": milliseconds, "worker": os.getpid()}


@bp.post("/endless")
def endless() -> dict:
    """Calculate for ever; other threads of this worker go on."""
    while True:
        pass


@bp.post("/stuck")
def stuck() -> dict:
    """Calculate for ever in one instruction, with the lock that every thread of Python needs."""
    return {"found": re.match(r"(a+)+$", "a" * 64 + "b")}


@bp.get("/leak/<int:mib>")
def leak(mib: int) -> dict:
    """Take memory, and never give it back."""
    kept.append(b"\1" * (mib * 2**20))
    return {"mib": sum(map(len, kept)) // 2**20}
