"""Without -i only the user's own inventories are used; what is pinned needs no download."""

import json
import os
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[1]
SETTINGS = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}


def run(*command: str, **environment: str) -> str:
    """Run a tool in the project's folder; it must succeed."""
    done = subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | SETTINGS | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hosts(*options: str) -> set[str]:
    """Return the hosts that Ansible finds."""
    return set(json.loads(run("ansible-inventory", *options, "--list"))["_meta"]["hostvars"])


def test_without_an_option_no_example_is_a_host():
    for shipped in ("demo", "example", "staging"):
        found = hosts("-i", f"inventory/{shipped}")
        assert found
        assert not found & hosts()


def test_the_pinned_package_brings_the_collections(tmp_path):
    said = run("ansible-galaxy", "install", "-r", "requirements.yml", HOME=str(tmp_path))
    assert "Nothing to do" in said
