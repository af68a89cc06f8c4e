"""What beginners read first is quoted on the pages as the tools say it today."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
# A Python that has nothing but its standard library.
BARE = [sys.executable, "-I", "-S"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["/bin/bash", "-c", "PATH=/nowhere; gunicorn app:app"], "gunicorn: command not found"),
        ([*BARE, "-m", "gunicorn", "app:app"], "No module named gunicorn"),
        ([*BARE, "-c", "import psycopg2"], "No module named 'psycopg2'"),
        ([*BARE, "-c", "import psycopg"], "No module named 'psycopg'"),
    ],
)
def test_a_page_quotes_what_the_tool_says(command, message):
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert message in (DOCS / "troubleshooting.md").read_text()


def test_beginners_errors_come_before_ours():
    headings = [
        line
        for line in (DOCS / "troubleshooting.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    assert headings[0] == "## The beginners' classics"
