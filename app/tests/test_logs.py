"""A log record is one line of JSON, whatever is in it."""

import json
import logging
import os
from datetime import datetime, timedelta

import pytest

from webapp.logs import JsonFormatter


@pytest.fixture
def format_record():
    def run(message, *values, **options):
        record = logging.LogRecord("web", logging.WARNING, "f.py", 1, message, values, None)
        record.__dict__.update(options)
        line = JsonFormatter(release="r7").format(record)
        assert len(line.splitlines()) == 1
        return json.loads(line)

    return run


def test_record_says_when_what_and_who(format_record):
    entry = format_record("two\nlines\u2028 of %s", "\ud83d", created=1_700_000_000.5)
    when = datetime.fromisoformat(entry.pop("time"))
    assert (when.timestamp(), when.utcoffset()) == (1_700_000_000.5, timedelta(0))
    assert entry == {
        "level": "WARNING",
        "logger": "web",
        "message": "two\nlines\u2028 of \ud83d",
        "release": "r7",
        "pid": os.getpid(),
    }


def test_exception_is_in_the_record(format_record):
    try:
        raise ValueError("boom")
    except ValueError as error:
        entry = format_record("failed", exc_info=(type(error), error, error.__traceback__))
    assert entry["exception"].endswith("ValueError: boom")


@pytest.mark.parametrize(
    ("header", "request_id"),
    [("a-B_3.c", "a-B_3.c"), ('x"}{ y', "xy"), ("z" * 500, "z" * 64), ("é", None), ("", None)],
)
def test_request_id_is_taken_from_the_header(format_record, app, header, request_id):
    with app.test_request_context(headers={"X-Request-ID": header}):
        assert format_record("x").get("request_id") == request_id
