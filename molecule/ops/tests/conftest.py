"""What the tests of ./ops share: the load of the scenario deploy, and a page of the site."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "deploy/tests"))

from load import Load

ADDRESS = "127.0.20.13"


@pytest.fixture
def address() -> str:
    """Return where the server is."""
    return ADDRESS


@pytest.fixture
def load() -> type[Load]:
    """Return the class whose clients never stop asking."""
    return Load
