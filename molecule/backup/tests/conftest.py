"""Shells on the servers, rows written without a pause, and the playbook as people run it."""

import json
import os
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[3]
HOST = PROJECT / "molecule/hosts/host"
EMPTY = """
systemctl stop 'slipway-*.timer' webapp.target postgresql@15-main
d=/var/lib/postgresql/15/main
rm -rf $d $d.replaced-* /var/lib/slipway/backup/*.json /var/backups/slipway /srv/uploads/*
runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb --data-checksums -D $d > /dev/null
systemctl start postgresql@15-main
"""
CONF = "/etc/pgbackrest/pgbackrest.conf"
SETTINGS = "/etc/slipway/backup/settings.json"


def on(
    server: str, command: str, given: bytes | None = None, seconds: float = 300
) -> subprocess.CompletedProcess:
    """Run a shell command on a server."""
    done = subprocess.run(
        [HOST, "exec", server, "bash", "-c", command],
        capture_output=True,
        timeout=seconds,
        **({"stdin": subprocess.DEVNULL} if given is None else {"input": given}),
    )
    done.text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    return done


class Server:
    """A server, and the few questions that all tests ask of it."""

    def __init__(self, name: str, address: str):
        self.name, self.address = name, address

    def run(self, command: str, **options) -> subprocess.CompletedProcess:
        """Run a shell command, whatever comes of it."""
        return on(self.name, command, **options)

    def must(self, command: str, **options) -> str:
        """Run a shell command that has to succeed, and return what it printed."""
        done = self.run(command, **options)
        assert done.returncode == 0, done.text
        return done.stdout.decode().strip()

    def sql(self, query: str) -> str:
        """Ask the application's database."""
        psql = "cd / && runuser -u postgres -- psql --dbname=webapp -qAtX --command"
        return self.must(f'{psql} "{query}"')

    def empty(self) -> None:
        """Make it a server that has just been made: its cluster is its own, no backup exists."""
        self.must(f"set -e; cd /; {EMPTY}")

    def back_up(self) -> None:
        """Make a backup; the first try may end with how one ended that was at work already."""
        self.must("systemctl start slipway-backup || systemctl start slipway-backup")

    def switch_segment(self) -> None:
        """End a segment of PostgreSQL's log which holds something."""
        self.sql("CREATE TABLE nothing (); DROP TABLE nothing")
        self.sql("SELECT pg_switch_wal()")

    def names(self) -> set[str]:
        """Return the names of all users."""
        return set(self.sql("SELECT name FROM users").split())

    def now(self) -> str:
        """Return the time, as the playbook takes it, between two seconds of writing."""
        time.sleep(0.3)
        moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")
        time.sleep(0.3)
        return moment

    def status(self) -> dict:
        """Let the check look, and return what it says."""
        self.run("systemctl start slipway-backup-check.service")
        return json.loads(self.must("slipway-backup status"))

    def is_served(self) -> bool:
        """Tell whether the application answers with its database."""
        try:
            url = f"http://{self.address}/health/ready"
            return urllib.request.urlopen(url, timeout=10).status == 200
        except OSError:
            return False

    def restore(self, **inputs: object) -> subprocess.CompletedProcess:
        """Run the playbook."""
        inputs = {"backup_restore_confirmed": True, **inputs}
        return self.play("playbooks/restore-database.yml", **inputs)

    def settle(self, **inputs: object) -> subprocess.CompletedProcess:
        """Run the role backup of site.yml."""
        return self.play("site.yml", "--tags=backup", **inputs)

    def play(self, playbook: str, *words: str, **inputs: object) -> subprocess.CompletedProcess:
        """Run a playbook on this server."""
        command = ["ansible-playbook", "--inventory"]
        command += [str(Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent)]
        command += ["--limit", f"localhost,{self.name}", "--extra-vars", json.dumps(inputs)]
        settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        settings["ANSIBLE_FORCE_COLOR"] = "0"  # which molecule sets
        done = subprocess.run(
            [*command, *words, playbook],
            cwd=PROJECT,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        done.text = done.stdout + done.stderr
        return done


class Writer(threading.Thread):
    """Writes one row after the other through the site, and remembers which were acknowledged."""

    def __init__(self, server: Server, prefix: str):
        super().__init__(daemon=True)
        self.server, self.prefix = server, prefix
        self.acknowledged: list[tuple[str, float]] = []
        self.sent: dict[str, float] = {}
        self.stopped = threading.Event()

    def run(self) -> None:
        """Write until told otherwise, a quarter of an hour at most."""
        deadline, number = time.monotonic() + 900, 0
        while not self.stopped.is_set() and time.monotonic() < deadline:
            number += 1
            name = f"{self.prefix}{number}"
            self.sent[name] = time.time()
            request = urllib.request.Request(
                f"http://{self.server.address}/users",
                json.dumps({"name": name}).encode(),
                {"Content-Type": "application/json"},
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 (http)
                    if answer.status == 201:
                        self.acknowledged.append((name, time.time()))
            except OSError:
                time.sleep(0.2)
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop, and wait for the last answer."""
        self.stopped.set()
        self.join(30)


def bad(status: dict) -> str:
    """Return what is red, as one text."""
    return "\n".join(
        f"{name}: {line['said']} {line['fix']}"
        for name, line in status["lines"].items()
        if line["state"] == "bad"
    )


def labels(server: Server, number: int) -> list[str]:
    """Return the backups in a repository."""
    info = server.must(
        f"runuser -u postgres -- pgbackrest --stanza=main --repo={number} info --output=json"
    )
    return [one["label"] for one in json.loads(info)[0]["backup"]]


def damage_of(server: Server, table: str, source: str) -> str:
    """Return the command that puts something else in the place of the fourth page of a table."""
    path = server.sql(f"CHECKPOINT; SELECT pg_relation_filepath('{table}')")
    write = f"dd if={source} of=/var/lib/postgresql/15/main/{path} bs=8k seek=3 count=1"
    postgresql = "systemctl {} postgresql@15-main"
    steps = (postgresql.format("stop"), f"{write} conv=notrunc", postgresql.format("start"))
    return f"{' && '.join(steps)} && sleep 1"


def taken_over(spare: Server, kept: Server, **inputs: object) -> dict:
    """Restore, and look whether everything came along; return what the check says afterwards."""
    secret = kept.must("cat /etc/webapp/secret_key")
    status = spare.status()
    assert status["state"] == "bad"
    assert "another cluster" in str(status["lines"])
    done = spare.restore(backup_restore_files=True, **inputs)
    assert done.returncode == 0, done.text
    assert kept.names()
    assert kept.names() <= spare.names()
    assert spare.must("cat /etc/webapp/secret_key") == secret
    assert spare.must("cat /srv/uploads/photo; stat -c %U /srv/uploads/photo") == "picture\nwebapp"
    assert f'SECRET_KEY="{secret}"' in spare.must("cat /srv/webapp/current/environment")
    assert spare.is_served()
    spare.back_up()
    return spare.status()


@pytest.fixture(scope="module")
def kept() -> Server:
    """Return the server, with a backup."""
    server = Server("kept", "127.0.19.11")
    server.must("slipway-backup remove-replaced; systemctl start slipway-backup.service")
    return server


@pytest.fixture(scope="module")
def spare() -> Server:
    """Return the server that takes the place of the other."""
    return Server("spare", "127.0.19.12")


@pytest.fixture
def writer(kept, request) -> Iterator[Callable[[], Writer]]:
    """Return a thread that writes rows into the server's database."""
    thread = Writer(kept, f"{request.node.name.removeprefix('test_')[:20]}{time.time():.0f}n")
    thread.start()
    time.sleep(2)
    yield thread
    thread.stop()


@pytest.fixture
def afterwards(kept) -> Iterator[Callable[[str], None]]:
    """Return a function: a shell command to run on the server when the test is over."""
    commands = []
    yield commands.append
    for command in reversed(commands):
        kept.must(command)
