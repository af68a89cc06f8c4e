"""Entry point: `python app.py` for development, `gunicorn app:app` everywhere."""

import os
from pathlib import Path

from webapp import create_app
from webapp.config import from_environment
from webapp.extensions import upgrade_schema

app = create_app(
    from_environment(os.environ, instance=Path(__file__).parent.resolve() / "instance")
)
development = app.config["APP_ENV"] == "development"

if development:
    upgrade_schema(app)

if __name__ == "__main__":
    if not development:
        raise SystemExit(
            "python app.py starts Flask's development server, but APP_ENV is production.\n"
            "Where: the environment of this process.\n"
            "Allowed: python app.py with APP_ENV=development.\n"
            "Fix: start `gunicorn app:app`, or unset APP_ENV."
        )
    app.run(port=app.config["PORT"], debug=development)
