"""The least that a WSGI server can serve: what it costs without Flask."""


def app(environ, start_response):
    """Answer with the same bytes as /health/live."""
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "16")])
    return [b'{"status":"ok"}\n']
