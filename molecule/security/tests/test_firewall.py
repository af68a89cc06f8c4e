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


def reached(said: str) -> set[int]:
    """Return the ports of a scan that answered, be it with a refusal."""
    return {int(port) for port in re.findall(r"(\d+)/(?:open|closed)/tcp", said)}


def rules(host) -> str:
    """Return the rules in force, without those who are counted at the moment."""
    listed = host.check_output("nft --stateless list table inet slipway")
    return re.sub(r"elements = \{[^}]*\}", "", listed)


def access(*arguments: str) -> subprocess.CompletedProcess:
    """Run the playbook of the firewall as a user would, on the scenario's inventory."""
    inventory = Path(os.environ["MOLECULE_INVENTORY_FILE"]).parent
    command = ["ansible-playbook", "--inventory", str(inventory), "--tags=firewall", *arguments]
    settings = {"ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        [*command, str(PROJECT / "playbooks/access.yml")],
        cwd=PROJECT, capture_output=True, text=True, env=os.environ | settings,
    )  # fmt: skip


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
    closed = '{"__firewall_ssh_ports": [9]}'
    done = access("--limit", host.backend.host, "--extra-vars", closed)
    assert done.returncode == 2
    assert "Nobody could log in with the new settings, so the old ones are back." in done.stdout
    assert rules(host) == before
    assert host.file("/etc/nftables.conf").content_string == file_before


def test_a_ruleset_that_the_kernel_refuses_never_counts(host):
    before = rules(host)
    wrong = '{"firewall_rules": [{"port": 1, "protocol": "tcp", "from": ["not-an-address"]}]}'
    done = access("--limit", host.backend.host, "--extra-vars", wrong)
    assert done.returncode == 2
    assert "did not take the new settings; the old ones are back." in done.stdout
    assert rules(host) == before


def test_rules_that_somebody_flushed_come_back(host):
    host.check_output("nft delete table inet slipway")
    done = access("--limit", host.backend.host)
    assert done.returncode == 0
    assert "policy drop" in rules(host)
