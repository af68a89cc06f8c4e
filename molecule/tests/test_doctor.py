"""The doctor tells a person in seconds what is well and what is not, and changes nothing."""

import json
import re
import time

from runs import changed

testinfra_hosts = ["ansible://application"]
SECONDS = 15

ASKED = (
    "inventory system memory disk apt clock programs postgresql budget dns ports site certificate "
    "services updates reboot firewall secrets backup alerts"
)


def test_every_check_has_its_line_within_15_seconds(host, run_doctor):
    host.check_output("touch /run/stamp")
    took = [SECONDS]
    while took[-1] >= SECONDS and len(took) < 5:  # one of them must have the machine for itself
        began = time.monotonic()
        said = run_doctor().stdout
        took.append(time.monotonic() - began)
    assert took[-1] < SECONDS, took
    lines = re.findall(r"^(ok|off|warn|bad) +([a-z]+)  +\S.*$", said, re.MULTILINE)
    assert {check for _, check in lines} == set(ASKED.split())
    for line in re.findall(r"^(?:warn|bad) .*$", said, re.MULTILINE):
        assert "  Fix: " in line
    assert changed(said) == 0
    newer = "find /etc /srv /usr /var/lib /var/cache -newer /run/stamp -type f"
    quiet = "! -path '/var/lib/postgresql/*' ! -path '/var/lib/fail2ban/*'"
    quiet += " ! -path '/var/lib/slipway/backup/*' ! -path '/var/lib/prometheus/*'"
    quiet += " ! -path '/var/lib/slipway/metrics/*'"
    assert host.check_output(f"{newer} {quiet}") == ""


def test_a_program_gets_one_line_of_json(host, run_doctor):
    lines = run_doctor("--extra-vars=doctor_json=true").stdout.splitlines()
    (document,) = (json.loads(line) for line in lines if line.startswith("{"))
    (one,) = document["hosts"]
    assert one["host"] == host.backend.host
    assert document["worst"] == one["worst"]
    assert {check["check"] for check in one["checks"]} == set(ASKED.split())
    assert not [line for line in lines if re.match(r"(ok|off|warn|bad)  ", line)]
