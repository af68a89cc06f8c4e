"""The doctor tells a person in seconds what is well and what is not, and changes nothing."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://application"]

PROJECT = Path(__file__).parents[2]
INVENTORY = os.environ.get("MOLECULE_INVENTORY_FILE", "")
ASKED = """inventory system memory disk apt clock programs postgresql budget dns ports site
    certificate services updates reboot firewall secrets backup""".split()


@pytest.fixture
def doctor(host):
    """Return a function that runs playbooks/doctor.yml on this host, as a user would."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = ["ansible-playbook", "--inventory", str(Path(INVENTORY).parent)]
        command += ["--limit", f"{host.backend.host},localhost", "playbooks/doctor.yml"]
        settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        return subprocess.run(
            [*command, *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            env=os.environ | settings,
        )

    return run


def test_every_check_has_its_line_within_15_seconds(host, doctor):
    host.check_output("touch /run/stamp")
    began = time.monotonic()
    said = doctor().stdout
    assert time.monotonic() - began < 15
    lines = re.findall(r"^(ok|off|warn|bad) +([a-z]+)  +\S.*$", said, re.MULTILINE)
    assert {check for _, check in lines} == set(ASKED)
    for line in re.findall(r"^(?:warn|bad) .*$", said, re.MULTILINE):
        assert "  Fix: " in line
    assert re.search(r"changed=0 ", said)
    changed = "find /etc /srv /usr /var/lib /var/cache -newer /run/stamp -type f"
    quiet = "! -path '/var/lib/postgresql/*' ! -path '/var/lib/fail2ban/*'"
    assert host.check_output(f"{changed} {quiet}") == ""


def test_a_program_gets_one_line_of_json(host, doctor):
    lines = [line for line in doctor("--extra-vars=doctor_json=true").stdout.splitlines()]
    (document,) = (json.loads(line) for line in lines if line.startswith("{"))
    (one,) = document["hosts"]
    assert one["host"] == host.backend.host
    assert document["worst"] == one["worst"]
    assert {check["check"] for check in one["checks"]} == set(ASKED)
    assert not [line for line in lines if re.match(r"(ok|off|warn|bad)  ", line)]
