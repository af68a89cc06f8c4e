"""One JSON object per line and log record, on standard output."""

import json
import logging
import re
import sys
from datetime import UTC, datetime

from flask import has_request_context, request


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON; `release` is written into each."""

    def __init__(self, release: str):
        super().__init__()
        self.release = release

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for `record`; its time is UTC, in ISO 8601."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "release": self.release,
            "pid": record.process,
        }
        if request_id := _request_id():
            entry["request_id"] = request_id
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(release: str) -> None:
    """Send every record of level INFO or above to standard output as JSON."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter(release))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _request_id() -> str | None:
    """Return what X-Request-ID says, without the characters that no id needs, or None."""
    if not has_request_context():
        return None
    return re.sub(r"[^A-Za-z0-9._-]", "", request.headers.get("X-Request-ID", ""))[:64] or None
