"""What the app's tests try of gunicorn's hooks in a container holds on the server, too."""

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
TRIED = PROJECT / "app/gunicorn.container.py"
TEMPLATE = PROJECT / "roles/gunicorn/templates/gunicorn.conf.py.j2"


def function(path: Path, name: str) -> str:
    """Return the text of a function."""
    return re.search(rf"^def {name}\(.*?(?=^\S|\Z)", path.read_text(), re.MULTILINE | re.DOTALL)[0]


@pytest.mark.parametrize("name", ["pre_fork", "post_fork"])
def test_both_have_the_same_hook(name):
    assert function(TEMPLATE, name).strip() == function(TRIED, name).strip()
