"""The lock file holds what we ask for, with the hash of every file and no private index."""

import re

import pytest
from conftest import APP
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def requirements(name):
    lines = (APP / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and line[0].isalnum()]


@pytest.fixture(params=["requirements.txt", "requirements-dev.txt"])
def lock(request):
    """Return the entries of a lock file: name to version and hashes."""
    text = (APP / request.param).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert entries
    return {
        canonicalize_name(re.match(r"[\w.-]+", entry)[0]): (
            re.search(r"==([^ ;]+)", entry)[1],
            re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry),
        )
        for entry in entries
    }


def test_lock_satisfies_what_we_ask_for(lock, request):
    name = request.node.callspec.params["lock"].replace(".txt", ".in")
    wanted = requirements(name)
    assert wanted
    for requirement in wanted:
        version, _ = lock[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} but {version} is locked"


def test_every_locked_package_has_hashes(lock):
    assert [name for name, (_, hashes) in lock.items() if len(hashes) < 2] == []  # wheel and sdist


def test_lock_names_no_index_and_no_path(request):
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (APP / name).read_text()
        assert re.findall(r"^\s*(-[^-#]|--(?!hash=)).*|.*(?:://| /|@ ).*", text, re.M) == []
