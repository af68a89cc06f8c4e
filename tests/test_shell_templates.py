"""Shell scripts that are templates are checked as what they become."""

import re
import subprocess
from pathlib import Path

import pytest

from plugins import ROLES


def is_shell(path: Path) -> bool:
    """Tell whether a template becomes a shell script, by its first line or its name."""
    return path.name.endswith(".sh.j2") or path.read_text().startswith("#!/bin/sh")


SCRIPTS = [path for path in sorted(ROLES.glob("*/templates/*.j2")) if is_shell(path)]


def test_there_are_some():
    assert len(SCRIPTS) >= 3


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    text = re.sub(r"\{\{.* \| comment \}\}", "#", path.read_text())
    text = re.sub(r"\{\{.*?\}\}", "/a/value", text)
    text = re.sub(r"^\{%.*?%\}\n", "", text, flags=re.MULTILINE)
    command = ["shellcheck", "--shell=dash", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
