"""Whoever releases is known by when their process was started, wherever they look from."""

import os

from plugins import load

release = load("flask_app/action_plugins/release.py")


def test_a_run_of_another_time_zone_or_language_is_not_held_for_gone(monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    holder = release.holder()
    assert holder["started"]
    monkeypatch.setenv("TZ", "America/New_York")
    monkeypatch.delenv("LC_ALL")
    assert not release.is_gone(holder)


def test_a_process_that_is_no_more_is_gone():
    holder = release.holder()
    assert release.is_gone({**holder, "pid": os.getpid(), "started": "some other time"})
