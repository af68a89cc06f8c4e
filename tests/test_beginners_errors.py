"""What beginners read first is quoted on the pages as the tools say it today."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
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


def test_a_build_of_psycopg2_without_pg_config_says_what_the_pages_quote(tmp_path):
    (version,) = re.findall(
        r"^psycopg2-binary==(\S+)", (ROOT / "app/requirements.txt").read_text(), re.MULTILINE
    )
    # pip asks psycopg2's setup.py what it is, and that asks pg_config; nothing is in its PATH.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=psycopg2"]
    done = subprocess.run(
        [*command, f"--dest={tmp_path}", f"psycopg2=={version}"],
        env=os.environ | {"PATH": "/nowhere"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "Error: pg_config executable not found." in said
    assert "install the PyPI 'psycopg2-binary' package instead" in said
    for page in ("troubleshooting.md", "vi/README.md", "vi/gunicorn-psycopg2.md"):
        assert "pg_config executable not found" in (DOCS / page).read_text()


def classics() -> list[str]:
    """Return the paragraphs of the beginners' classics, each as one line."""
    _, _, section = (
        (DOCS / "troubleshooting.md").read_text().partition("## The beginners' classics")
    )
    return [" ".join(text.split()) for text in section.partition("\n## ")[0].split("\n\n")]


@pytest.mark.parametrize(
    ("message", "ways_out"),
    [
        # psycopg2's setup.py
        (
            "`Error: pg_config executable not found`",
            ["use `psycopg2-binary`", "libpq-dev gcc", "`flask_app_psycopg2: source`"],
        ),
        ("The same in `docker build`", ["name `psycopg2-binary` in the requirements"]),
        # runc and crun
        (
            '`exec: "gunicorn": executable file not found in $PATH`',
            ["not among the requirements that the image installs"],
        ),
        # libpq
        (
            '`connection to server at "127.0.0.1", port 5432 failed: Connection refused`',
            ["that is the container itself", "the name of its service"],
        ),
    ],
)
def test_what_a_page_quotes_has_its_way_out(message, ways_out):
    (paragraph,) = [text for text in classics() if f"**{message}" in text]
    _, _, after = paragraph.partition(message)
    assert [one for one in ways_out if one not in after] == []


def test_our_image_brings_what_the_page_says_that_it_brings():
    (paragraph,) = [text for text in classics() if "docker build" in text]
    assert "[app/Containerfile](../app/Containerfile) brings both packages" in paragraph
    packages = (ROOT / "app/requirements.txt").read_text()
    for name in ("gunicorn", "psycopg2-binary"):
        assert f"\n{name}==" in f"\n{packages}"


def test_beginners_errors_come_before_ours():
    headings = [
        line
        for line in (DOCS / "troubleshooting.md").read_text().splitlines()
        if line.startswith("## ")
    ]
    assert headings[0] == "## The beginners' classics"
