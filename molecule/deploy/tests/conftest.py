"""A source that can be spoilt, the playbooks as a user calls them, and load that never stops."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from load import Load

PROJECT = Path(__file__).parents[3]
ADDRESS = "127.0.17.1"
SSH = ["ssh", "-p", "2222", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
       "-o", "LogLevel=ERROR", f"root@{ADDRESS}"]  # fmt: skip
SLOW = """
import time


@app.get("/slow/<int:seconds>")
def slow(seconds):
    time.sleep(seconds)
    return {"slept": seconds}
"""


def on_server(command: str, seconds: float = 60) -> str:
    """Run a shell command on the server, without the second that Ansible takes for it."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    key = ["-i", str(Path(cache, "slipway/id_ed25519"))]
    done = subprocess.run(
        [*SSH[:1], *key, *SSH[1:], command], capture_output=True, text=True, timeout=seconds
    )
    return done.stdout.strip()


class Source:
    """A copy of the sample application, with a slow page, which each test may change."""

    def __init__(self, path: Path):
        self.path = path
        ignored = shutil.ignore_patterns("__pycache__", ".pytest_cache", "instance")
        shutil.copytree(PROJECT / "app", path, ignore=ignored)
        self.append("app.py", SLOW)
        self.number = 0

    def append(self, name: str, text: str) -> None:
        """Add text to a file."""
        with (self.path / name).open("a") as file:
            file.write(text)

    def change(self) -> None:
        """Make it another source, which does the same."""
        self.number += 1
        (self.path / "number.txt").write_text(f"{self.number} {time.time()}\n")


@pytest.fixture(scope="session")
def good(tmp_path_factory) -> Source:
    """Return the source that works."""
    return Source(tmp_path_factory.mktemp("source") / "app")


@pytest.fixture
def spoilt(good, tmp_path) -> Source:
    """Return a copy of it that may be spoilt."""
    copy = Source(tmp_path / "app")
    copy.change()
    return copy


@pytest.fixture
def start(good) -> Callable[..., subprocess.Popen]:
    """Return a function that starts a playbook on one application, as a user would."""

    def run(
        name: str = "deploy-application", source: Source = good, limit: str = "webapp", **inputs
    ) -> subprocess.Popen:
        inventory = str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)
        command = ["ansible-playbook", "--inventory", inventory, f"playbooks/{name}.yml"]
        if limit == "webapp":
            inputs.setdefault("site_app_source", str(source.path))
        command += ["--limit", limit, "--extra-vars", json.dumps(inputs)]
        settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.Popen(
            command,
            cwd=PROJECT,
            env=os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return run


@pytest.fixture
def play(start) -> Callable[..., str]:
    """Return a function that runs a playbook to its end and returns what it printed."""

    def run(*arguments, fails: bool = False, **options) -> str:
        process = start(*arguments, **options)
        output, _ = process.communicate(timeout=300)
        assert bool(process.returncode) == fails, output
        return output

    return run


@pytest.fixture
def load() -> Iterator[Load]:
    """Put load on the server during the whole test; every request of it must succeed."""
    with Load(ADDRESS) as load:
        time.sleep(0.5)
        yield load
    print(load.summary())
    assert load.failed() == []
    assert len(load.answers) > 50


@pytest.fixture
def current() -> Callable[[], str]:
    """Return a function that tells which release serves."""
    return lambda name="webapp": on_server(f"basename $(readlink /srv/{name}/current)")


def running(name: str = "webapp") -> list[str]:
    """Return the releases of which an instance runs."""
    units = on_server(
        f"systemctl list-units --plain --no-legend --state=running '{name}@*' | cut -d' ' -f1"
    )
    return [unit.partition("@")[2].removesuffix(".service") for unit in units.split()]


def releases(name: str = "webapp") -> list[str]:
    """Return the folders of releases, and whatever else lies beside them."""
    return on_server(f"ls -A /srv/{name}/releases").split()


def wait_for_phase(phase: str) -> None:
    """Return once a run on the server has begun a phase."""
    began = on_server(
        f'timeout 60 sh -c \'until grep -q "\\"phase\\": \\"{phase}\\"" '
        "/srv/webapp/release.lock; do sleep 0.01; done; echo began'",
        seconds=70,
    )
    assert began == "began"
