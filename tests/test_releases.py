"""A release is what was planned, and its folder stays while somebody works there."""

import subprocess
from pathlib import Path

import pytest

from plugins import load

releases = load("flask_app/module_utils/releases.py", "ansible.module_utils.releases")
load("flask_app/module_utils/virtualenvs.py", "ansible.module_utils.virtualenvs")
release_build = load("flask_app/module_utils/release_build.py")


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Make an application on a host without systemd, with a configuration."""
    app = releases.Application("shop")
    app.root, app.configuration = tmp_path / "srv", tmp_path / "etc"
    app.configuration.mkdir()
    (app.configuration / "environment").write_text('A="1"\n')
    (app.configuration / "gunicorn.conf.py").write_text("workers = 1\n")
    (app.root / "releases").mkdir(parents=True)
    monkeypatch.setattr(app, "known_units", lambda: [])
    monkeypatch.setattr(app, "owner", lambda: (0, 0))
    return app


@pytest.fixture
def planned(app, monkeypatch) -> dict:
    """Plan a release whose source and virtualenv cost nothing."""
    for name in ("install_uv", "run", "put_on_disk"):
        monkeypatch.setattr(release_build, name, lambda *_, **__: None)
    monkeypatch.setattr(release_build, "make_virtualenv", lambda *_: {})
    monkeypatch.setattr(release_build.os, "chown", lambda *_: None)
    app.archive("1").touch()
    names = ("environment", "gunicorn.conf.py")
    hashes = {name: releases.text_hash(app.configuration / name) for name in names}
    source = {"revision": "abc", "version": ""}
    return {
        "release": "1",
        "settings": {"source": source, "python": "python3", "commands": {}},
        "fingerprint": {"python": "3", **hashes},
        "holder": {},
    }


def test_a_release_has_the_settings_that_were_planned(app, planned):
    release_build.build(app, planned)
    assert (app.folder("1") / "gunicorn.conf.py").read_text() == "workers = 1\n"
    assert (app.folder("1") / "environment").read_text().startswith('A="1"\nRELEASE_ID="1"\n')


@pytest.mark.parametrize("name", ["environment", "gunicorn.conf.py"])
def test_settings_that_changed_since_the_plan_are_not_released(app, planned, name):
    (app.configuration / name).write_text("of an older checkout\n")
    with pytest.raises(releases.ReleaseError, match=rf"{name} .*\nSeen in: .*\nAllowed: .*\nFix: "):
        release_build.build(app, planned)
    assert not (app.folder("1") / "release.json").exists()


def test_the_folder_of_a_restarted_release_stays_while_somebody_works_there(app):
    source = app.folder("1") / "source"
    source.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"], cwd=source) as command:
        try:
            assert app.remove_incomplete() == []
            assert source.exists()
        finally:
            command.kill()
    assert app.remove_incomplete() == ["1"]
    assert not app.folder("1").exists()


def test_what_a_killed_run_had_started_is_removed_all_the_same(app):
    source = app.folder("1") / "source"
    source.mkdir(parents=True)
    app.record("1", release="1")
    with subprocess.Popen(["sleep", "60"], cwd=source) as gunicorn:
        try:
            assert app.remove_incomplete() == ["1"]
        finally:
            gunicorn.kill()
    assert not Path(app.folder("1")).exists()
