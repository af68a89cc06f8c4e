"""Seen from another host, three ports are there, and no database."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://application"]
pytestmark = pytest.mark.usefixtures("forgiven")

PROJECT = Path(__file__).parents[3]
GUARD = "/var/lib/slipway/guard"
LIST = "nft --stateless list table inet slipway"
# Rules that let no ssh in.
CLOSED = '{"__firewall_ssh_ports": [9]}'


def reached(said: str) -> set[int]:
    """Return the ports of a scan that answered, be it with a refusal."""
    return {int(port) for port in re.findall(r"(\d+)/(?:open|closed)/tcp", said)}


def without_callers(listed: str) -> str:
    """Return the rules without those who are counted at the moment."""
    return re.sub(r"(set callers\d {[^}]*?)\s*elements = {[^}]*}", r"\1", listed)


def rules(host) -> str:
    """Return the rules in force."""
    return without_callers(host.check_output(LIST))


def start_access(*arguments: str) -> subprocess.Popen:
    """Start the playbook of the firewall as a user would, on the scenario's inventory."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible-playbook", "--inventory", str(inventory), "--tags=firewall", *arguments]
    settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.Popen(
        [*command, str(PROJECT / "playbooks/access.yml")],
        cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | settings,
    )  # fmt: skip


def access(*arguments: str) -> tuple[int, str]:
    """Run it to its end; return its exit code and what it said."""
    run = start_access(*arguments)
    said, _ = run.communicate()
    return run.returncode, said


def test_a_scan_from_outside_reaches_22_80_and_443_only(outside, address):
    scan = f"nmap -p- -Pn -n --min-rate 4000 --max-retries 1 -oG - {address}"
    assert reached(outside(scan, 280).stdout) == {22, 80, 443}


def test_a_scan_over_ipv6_reaches_the_same_ports(host, outside):
    shown = host.check_output("ip -6 -oneline address show dev eth0 scope link")
    local = re.search(r"inet6 (fe80::[0-9a-f:]+)", shown)[1]
    scan = f"nmap -6 -p1-1024,2022,5432,5000-9000 -Pn -n --max-retries 1 -oG - {local}%eth0"
    assert reached(outside(scan, 280).stdout) == {22, 80, 443}


def test_the_database_does_not_answer_even_when_it_listens(host, outside, address):
    listens = "systemd-run --unit listens python3 -m http.server 5432 --bind 0.0.0.0"
    host.check_output("systemctl stop postgresql")
    host.check_output(listens)
    try:
        time.sleep(1)
        refused = outside(f"curl --silent --max-time 5 http://{address}:5432/")
        assert refused.returncode == 28
    finally:
        host.check_output("systemctl stop listens")
        host.check_output("systemctl start postgresql")


def test_a_ping_is_answered(outside, address):
    assert "Host is up" in outside(f"nmap -sn -n -PE --disable-arp-ping {address}").stdout


def test_one_address_that_knocks_too_often_waits(host, outside, address):
    def answered(times: int) -> int:
        """Count the connections that sshd had a word for."""
        knock = f"curl --silent --max-time 0.2 telnet://{address}:22 </dev/null | head -c 4; echo"
        said = outside(f"for n in $(seq {times}); do {knock}; done").stdout
        return sum(bool(line) for line in said.splitlines())

    assert answered(5) == 5
    try:
        assert 20 <= answered(80) <= 45  # the 25 that are left, and one more every 2 s
        assert "10.127.18.9" in host.check_output("nft list set inet slipway callers4")
    finally:
        host.check_output("nft flush set inet slipway callers4")
    assert answered(5) == 5


def test_a_ruleset_without_ssh_is_undone_and_told(host):
    before = rules(host)
    file_before = host.file("/etc/nftables.conf").content_string
    code, said = access("--limit", host.backend.host, "--extra-vars", CLOSED)
    assert code == 2
    assert "Nobody could log in with the new settings, so the old ones are back." in said
    assert rules(host) == before
    assert host.file("/etc/nftables.conf").content_string == file_before


def test_a_ruleset_without_ssh_of_a_killed_run_is_undone_by_the_timer(
    host, outside, address, inside, kill, put_back_by_the_timer
):
    before, file = rules(host), host.file("/etc/nftables.conf").content_string
    seconds = ("--extra-vars", "firewall_guard_seconds=30")
    run = start_access("--limit", host.backend.host, "--extra-vars", CLOSED, *seconds)
    knock = f"curl --silent --max-time 2 telnet://{address}:22 </dev/null | head -c 4"
    deadline = time.monotonic() + 120
    while without_callers(inside(LIST)) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    kill(run)
    assert without_callers(inside(LIST)) != before
    assert outside(knock).stdout == ""
    deadline = time.monotonic() + 45
    while inside(f"ls -d {GUARD} || true") and time.monotonic() < deadline:
        time.sleep(1)
    assert put_back_by_the_timer()
    assert rules(host) == before
    assert host.file("/etc/nftables.conf").content_string == file
    assert outside(knock).stdout == "SSH-"
    assert not host.file(GUARD).exists


def test_a_ruleset_that_the_kernel_refuses_never_counts(host):
    before = rules(host)
    wrong = '{"firewall_rules": [{"port": 1, "protocol": "tcp", "from": ["not-an-address"]}]}'
    code, said = access("--limit", host.backend.host, "--extra-vars", wrong)
    assert code == 2
    assert "did not take the new settings; the old ones are back." in said
    assert rules(host) == before


def test_rules_that_somebody_flushed_come_back(host):
    host.check_output("nft delete table inet slipway")
    assert access("--limit", host.backend.host)[0] == 0
    assert "policy drop" in rules(host)
