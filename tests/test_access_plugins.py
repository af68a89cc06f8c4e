"""What runs on the computer of the person who deploys, around a change of access."""

import subprocess
from pathlib import Path

import pytest

from plugins import load

ROOT = Path(__file__).parents[1]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJxP4VQ5bmh3pY6zvF0kdrV0Vt0X6b1c3Q2Y5a7B9dEf"

guarded_files = load("base/action_plugins/guarded_files.py")
session = load("base/action_plugins/session.py")


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        (KEY, True),
        (f"{KEY} ann@laptop", True),
        (f'from="192.0.2.0/24",no-pty {KEY} ann', True),
        ("sk-ssh-ed25519@openssh.com AAAAGnNr", True),
        ("# a comment", False),
        (f"# {KEY}", False),
        ("", False),
        (f'no-pty,command="echo Please login as debian" {KEY}', False),
    ],
)
def test_keys_that_may_do_anything_are_taken_and_others_are_not(line, taken):
    assert session.is_open(line) is taken


class Connection:
    """The ssh connection of Ansible, as far as the plugin asks it."""

    def __init__(self, known_hosts: Path):
        self.known_hosts = known_hosts

    def get_option(self, name: str) -> str:
        """Return an option's value."""
        return {"host": "192.0.2.10"}[name]

    def _build_command(self, binary: str, _subsystem: str, *words: str) -> list[str]:
        files = [f"UserKnownHostsFile={self.known_hosts}", "GlobalKnownHostsFile=/dev/null"]
        options = [word for file in files for word in ("-o", file)]
        return [binary, "-F", "/dev/null", *options, *words]


@pytest.fixture
def introduce(tmp_path):
    """Return a function: the lines of known_hosts after the host has moved from 22 to 2022."""

    def run(*lines: str, hashed: bool = False) -> list[str]:
        file = tmp_path / "known_hosts"
        file.write_text("".join(f"{line}\n" for line in lines))
        if hashed:
            subprocess.run(["ssh-keygen", "-H", "-f", file], check=True, capture_output=True)
        before = len(file.read_text().splitlines())
        action = guarded_files.ActionModule.__new__(guarded_files.ActionModule)
        action.introduce(Connection(file), 22, 2022)
        return file.read_text().splitlines()[before:]

    return run


@pytest.mark.parametrize("hashed", [False, True])
def test_the_key_that_was_accepted_counts_on_the_new_port(introduce, hashed):
    assert introduce(f"192.0.2.10 {KEY}", hashed=hashed) == [f"[192.0.2.10]:2022 {KEY}"]


def test_a_key_that_nobody_accepted_is_not_made_up(introduce):
    assert introduce(f"192.0.2.11 {KEY}") == []


def test_a_key_that_is_known_on_the_new_port_stays_as_it_is(introduce):
    other = KEY.replace("JxP4", "KyQ5")
    assert introduce(f"192.0.2.10 {KEY}", f"[192.0.2.10]:2022 {other}") == []
