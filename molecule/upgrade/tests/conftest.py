"""Rows that are written without a pause, the steps that the page tells, and moments to kill at."""

import itertools
import json
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pages import commands_below

PROJECT = Path(__file__).parents[3]
PAGE = PROJECT / "docs/upgrading.md"
ADDRESS = "127.0.23.1"
JOURNAL = "/var/lib/slipway/backup/upgrade.json"


class Writer(threading.Thread):
    """Writes one row after the other through the site; remembers which were acknowledged, when."""

    def __init__(self, prefix: str):
        super().__init__(daemon=True)
        self.prefix = prefix
        self.acknowledged: list[tuple[str, float]] = []
        self.refused: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        """Write until told otherwise, half an hour at most."""
        deadline, number = time.monotonic() + 1800, 0
        while not self.stopped.is_set() and time.monotonic() < deadline:
            number += 1
            name = f"{self.prefix}{number}"
            body = json.dumps({"name": name}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"http://{ADDRESS}/users", body, headers)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    assert answer.status == 201
                    self.acknowledged.append((name, time.monotonic()))
            except OSError as error:
                self.refused.append(str(error))
                time.sleep(0.1)
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop, and wait for the last answer."""
        self.stopped.set()
        self.join(40)

    @property
    def names(self) -> set[str]:
        """Return the names that were acknowledged."""
        return {name for name, _ in self.acknowledged}

    @property
    def longest_gap(self) -> float:
        """Return the longest time between two acknowledged rows."""
        times = [when for _, when in self.acknowledged]
        return max(after - before for before, after in itertools.pairwise(times))


@pytest.fixture
def writer(request) -> Iterator[Writer]:
    """Return a thread that writes."""
    thread = Writer(f"{request.node.name.removeprefix('test_')[:20]}{time.time():.0f}n")
    thread.start()
    time.sleep(2)
    yield thread
    thread.stop()


@pytest.fixture
def names(sql) -> Callable[[], set[str]]:
    """Return a function: the names of all users in the database."""
    return lambda: set(sql("SELECT name FROM users").split())


@pytest.fixture
def serving(sql, site) -> Callable[[], int]:
    """Return a function: the version of PostgreSQL from which the site answers."""

    def version() -> int:
        assert site.ask("/health/ready").status == 200
        return int(sql("SHOW server_version_num")) // 10000

    return version


@pytest.fixture
def upgrade(run_ops) -> Callable:
    """Return a function: ./ops upgrade-database, by default without a question."""

    def run(*arguments: str, yes: bool = True) -> subprocess.CompletedProcess:
        words = ["upgrade-database", *(["--yes"] if yes else []), *arguments]
        done = run_ops(*words, stdin=subprocess.DEVNULL, timeout=900)
        done.text = done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def afterwards(host) -> Iterator[Callable[[str], None]]:
    """Return a function: a shell command to run on the host when the test is over."""
    commands = []
    yield commands.append
    for command in reversed(commands):
        host.check_output("bash -c %s", command)


def steps_of_the_page(heading: str) -> str:
    """Return the commands below a heading of docs/upgrading.md."""
    return commands_below(PAGE.read_text(), heading)


def bring_to(host, step: str, *properties: str) -> None:
    """Begin the upgrade in its unit, and return once it is at a step."""
    options = " ".join(f"--property='{one}'" for one in properties)
    run = f"systemd-run --unit=slipway-upgrade --collect {options} slipway-backup upgrade --yes"
    host.check_output("bash -c %s", run)
    wait = f"""until grep -qs '"step": "{step}"' {JOURNAL}; do sleep 0.02; done"""
    host.check_output("timeout 200 bash -c %s", wait)
    if step == "copying":
        host.check_output("timeout 60 bash -c 'until pgrep pg_upgrade$; do sleep 0.02; done'")


def kill(host) -> None:
    """Kill all of that unit, as the kernel does, and return once nothing of it is left.

    After `systemctl kill --signal=KILL` systemd 257 runs no ExecStopPost=.
    """
    group = host.check_output("systemctl show --value --property=ControlGroup slipway-upgrade")
    host.run("kill -KILL $(cat /sys/fs/cgroup%s/cgroup.procs)", group)
    state = "systemctl show --value --property=ActiveState slipway-upgrade"
    wait = f"until {state} | grep -Eq 'inactive|failed'; do sleep 0.2; done"
    host.check_output("timeout 120 bash -c %s", wait)
