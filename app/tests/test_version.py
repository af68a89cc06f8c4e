"""The version names the release, its git revision and the worker."""

import os


def test_version_is_what_the_environment_says(client):
    assert client.get("/version").json == {
        "application": "webapp",
        "release": "r7",
        "revision": "abc123",
        "pid": os.getpid(),
    }


def test_version_without_a_release(new_app):
    body = new_app().test_client().get("/version").json
    assert (body["release"], body["revision"]) == ("development", "unknown")
