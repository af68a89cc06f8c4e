"""A scenario that collects less than its hosts and files promise fails."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MOLECULE = Path(__file__).parents[1] / "molecule"
SCENARIO = """
platforms:
  - {name: one, groups: [application]}
  - {name: two, groups: [application]}
"""
TEST = """
testinfra_hosts = ["ansible://application"]


def test_it(host):
    pass
"""


OF_NO_HOST = """
def test_nobody():
    pass
"""


@pytest.fixture
def scenario(tmp_path) -> Path:
    """Make a scenario with two hosts and two files of tests."""
    copy = tmp_path / "molecule"
    tests = copy / "pair/tests"
    tests.mkdir(parents=True)
    for name in ("conftest.py", "runs.py"):
        shutil.copy(MOLECULE / name, copy)
    (tests.parent / "molecule.yml").write_text(SCENARIO)
    for name in ("test_a.py", "test_b.py"):
        (tests / name).write_text(TEST)
    (tests / "test_c.py").write_text(OF_NO_HOST)
    return tests


def collect(tests: Path, hosts: str, *options: str) -> subprocess.CompletedProcess:
    """Collect the tests, as Molecule's verifier calls pytest."""
    inventory = tests.parent / "hosts.ini"
    inventory.write_text(f"[application]\n{hosts}\n")
    found = {"MOLECULE_INVENTORY_FILE": str(inventory), "MOLECULE_SCENARIO_NAME": "pair"}
    found |= {"MOLECULE_SCENARIO_DIRECTORY": str(tests.parent), "PYTEST_ADDOPTS": ""}
    connection = ["--connection=ansible", f"--ansible-inventory={inventory}"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *connection, *options, tests],
        cwd=tests.parents[1], env=os.environ | found, capture_output=True, text=True,
    )  # fmt: skip


def test_all_that_was_promised_is_enough(scenario):
    done = collect(scenario, "one\ntwo")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_host_that_is_missing_is_told(scenario):
    done = collect(scenario, "one")
    assert done.returncode != 0
    assert "test_a.py collected 1 tests, 2 were promised." in done.stdout + done.stderr


def test_a_file_that_was_left_out_is_told(scenario):
    done = collect(scenario, "one\ntwo", f"--ignore={scenario / 'test_b.py'}")
    assert done.returncode != 0
    assert "Not collected at all: ['test_b.py']" in done.stdout + done.stderr
