"""A failure tells the client what it may know, and the log everything."""

import pytest
from flask import url_for


@pytest.fixture
def broken_app(new_app):
    app = new_app()

    @app.get("/boom")
    def boom():
        raise ValueError("the password is hunter2")

    return app


def test_unexpected_error_is_logged_and_not_told(broken_app, is_problem, caplog):
    response = broken_app.test_client().get("/boom")
    is_problem(response, 500)
    assert "hunter2" not in response.text and "Traceback" not in response.text
    assert "ValueError: the password is hunter2" in caplog.text


def test_unknown_path_is_a_404(broken_app, is_problem):
    is_problem(broken_app.test_client().get("/nope"), 404)


@pytest.mark.parametrize(
    ("proxies", "url"),
    [(0, "http://localhost/health/live"), (1, "https://example.org/health/live")],
)
def test_forwarded_headers_count_only_behind_a_proxy(new_app, proxies, url):
    app = new_app(TRUSTED_PROXIES=str(proxies))

    @app.get("/where")
    def where():
        return url_for("health.live", _external=True)

    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "example.org"}
    assert app.test_client().get("/where", headers=headers).text == url
